"""One run of another code base: its command under our lease, its output in our log, its features under our checks."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd

from reidablate.artifacts import only_writer, write_npz, write_record, write_table
from reidablate.data.index import read_index
from reidablate.engine.devices import lease
from reidablate.engine.stopping import StopSignal
from reidablate.errors import UserError, plain, reason, shortened
from reidablate.external import FEATURES, PlannedExternal, code_sha256
from reidablate.metrics.matching import matched_features
from reidablate.runs import EXTERNAL_FILES, NO_WEIGHTS, Identity, Provenance, differs, state_folder
from reidablate.study import Study

POLL_S = 0.2
GRACE_S = 10.0
"""From the request to end until the command is killed."""
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_TAIL_BYTES = 4096


def run_external(study: Study, *, dataset: str, cell: str, seed: int, gpus: int | None = None) -> str:
    """Writes the features and the provenance of a run of another code base and returns the line that sums it up.

    A run that is complete already is left alone; an interrupted one begins anew, in a fresh folder.

    Args:
        study: The plan.
        dataset: Name of a data set of the plan.
        cell: Name of a cell of the plan with an `external` section.
        seed: The run's seed.
        gpus: GPUs that the scheduler granted, None when started by hand.

    Raises:
        UserError: The plan has no such run; the code files are not those that it was planned with; the command fails,
            takes too long or cannot be started; or its features are not there, of other images, or not finite.
        SystemExit: The process was told to stop.
    """
    run = study.planned_run(dataset=dataset, cell=cell, seed=seed, gpus=gpus)
    external, out = study.cell(cell).external, study.root / run.id
    if external is None:
        raise UserError(f"{cell} is no cell of another code base; start its runs with `reidablate train`.")
    index = read_index(study.data_folder(dataset) / "index")
    fingerprint = str(index.summary["fingerprint"])
    planned = Identity(configuration=external.identity, data=fingerprint, weights=NO_WEIGHTS, seed=seed)
    with only_writer(out, run.id), lease(study.gpus_per_run, device=study.settings.device) as leased:
        if not differs(out, planned, removed={"model.safetensors"}):
            return f"{run.id}: complete already"
        if code_sha256(external.code, Path(), run.id) != external.code_sha256:
            raise UserError(f"{run.id}: external.code has changed since the study was planned; run snakemake again.")
        started = time.perf_counter()
        with _scratch(out) as folder:
            words = external.arguments(data=study.dataset(dataset).root.resolve(), seed=seed, out=folder)
            _say(run.id, f"on {', '.join(leased) or 'the CPU'}: {external.command}")
            environment = {"OMP_NUM_THREADS": str(study.preset.execution.threads_here), **os.environ}
            run_command(words, name=run.id, limit_s=external.time_limit_s, environment=environment)
            wall_s = time.perf_counter() - started
            features = _features(folder, index.frame, run.id, dataset)
            write_npz(out / FEATURES, features)
        # What it logs is its own affair; the table of histories has no row of it.
        write_table(pd.DataFrame({"epoch": pd.Series(dtype="int64")}), out / "history.parquet")
        known = {"data_fingerprint": fingerprint, "synthetic": bool(index.summary["synthetic"]), "wall_s": wall_s}
        made = _record(study, external, dataset=dataset, cell=cell, seed=seed, gpus=list(leased), **known)
        write_record(out / "provenance.json", made.facts(), EXTERNAL_FILES[:-1])
    return f"{run.id}: {len(features['query_pids'])} queries, {len(features['gallery_pids'])} gallery images"


def run_command(words: Sequence[str], *, name: str, limit_s: float, environment: Mapping[str, str]) -> None:
    """Runs a command to its end, with its output on our standard error.

    It has a process group of its own, which ends with the command's time, with ours, and when we are told to stop.

    Args:
        words: The program and its arguments.
        name: What the sentences begin with.
        limit_s: Seconds after which it is stopped.
        environment: Its environment.

    Raises:
        UserError: It cannot be started, fails, or takes too long.
        SystemExit: We were told to stop.
    """
    with StopSignal() as stop:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        except OSError as error:
            raise UserError(
                f"{name}: the external command cannot be started ({reason(error)}: {words[0]}); correct "
                "external.command, or the PATH."
            ) from None
        assert process.stdout is not None
        tail = _Tail(process.stdout)
        deadline = time.monotonic() + limit_s
        try:
            while process.poll() is None and not stop.came and time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
            late = process.poll() is None and not stop.came
        finally:
            _end(process)
        last = tail.last_line()
    if stop.number is not None:
        _say(name, f"stopped by {signal.Signals(stop.number).name}; the same command runs it again from the beginning")
        raise SystemExit(128 + stop.number)
    if late:
        raise UserError(f"{name}: the external command took longer than external.time_limit_s ({limit_s:g} s){last}.")
    if process.returncode:
        raise UserError(f"{name}: the external command ended with status {process.returncode}{last}.")


class _Tail:
    """Passes a command's output on as it comes and remembers its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._end = stream, b""
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), 65536):
                sys.stderr.write(chunk.decode(errors="replace"))
                sys.stderr.flush()
                self._end = (self._end + chunk)[-_TAIL_BYTES:]

    def last_line(self) -> str:
        """Returns the last line as the end of a sentence, empty where there was no output."""
        self._thread.join(GRACE_S)  # a grandchild that was let go may keep the pipe open
        lines = [line.strip() for line in self._end.decode(errors="replace").splitlines() if line.strip()]
        return f"; its last line: {plain(shortened(lines[-1]))}" if lines else "; it printed nothing"


def _die_with_parent() -> None:
    """Asks the kernel, where it can, to kill the command when we are killed, so that it does not keep a GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends what is left of a command's process group, first with a request."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
            return


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """Yields a fresh folder in the run's state, where a command that outlived its run does no harm."""
    state = state_folder(out)
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    yield Path(tempfile.mkdtemp(dir=state)).resolve()
    shutil.rmtree(state, ignore_errors=True)


def _features(folder: Path, frame: pd.DataFrame, name: str, dataset: str) -> dict[str, Any]:
    path = folder / FEATURES
    if not path.is_file():
        left = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise UserError(f"{name}: the external command left {left} in {{out}} and no {FEATURES}; write it there.")
    try:
        return matched_features(path, frame, dataset=dataset)
    except UserError as error:
        raise UserError(f"{name}: {str(error).replace(f'{folder}/', '')}") from None


def _record(study: Study, external: PlannedExternal, **known: Any) -> Provenance:
    """Returns the provenance as far as it is known; of another code base that is little."""
    unknown = (
        "epoch", "reason", "code_hash", "git_commit", "git_dirty", "weights", "weights_sha256", "device", "threads",
        "precision", "num_parameters", "images_per_s", "device_s", "peak_memory_bytes",
    )  # fmt: skip
    run = " ".join(f"--{key} {known[key]}" for key in ("dataset", "cell", "seed"))
    return Provenance.model_validate(
        {
            "status": "finished",
            "config": {"model": {"test_feature": study.base_config().model.test_feature}},
            "config_hash": external.identity,
            "external": external.model_dump(),
            "versions": {},
            "command": f"reidablate external --plan {study.path} {run}",
            **known,
            **dict.fromkeys(unknown),
        }
    )


def _say(name: str, sentence: str) -> None:
    print(f"{name}: {sentence}", file=sys.stderr, flush=True)
