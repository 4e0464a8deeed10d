"""A study on a real Slurm, as docs/operations.md says: the tables of one machine, whatever happens to its jobs."""

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import slurm
from reidablate.artifacts import read_json
from support import BASE, ROOT

pytestmark = pytest.mark.slow

RESULTS = Path("results/tiny")
PLUGIN = "snakemake_executor_plugin_slurm"
RUNS = [f"market1501/{cell}/seed{seed}" for cell in ("naive_triplet", "p1") for seed in (0, 1)]
PATIENCE_S = 300.0  # for what takes a quarter of it


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    if why := slurm.missing():
        pytest.skip(why)
    if importlib.util.find_spec(PLUGIN) is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed; pip install 'reidablate[slurm]'")
    with slurm.cluster() as environment:
        yield environment


def documented() -> list[str]:
    """Returns the command of the section on clusters, with the option for a Slurm that keeps no accounts."""
    section = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## On a cluster")[2]
    (command,) = re.findall(r"^snakemake --profile profiles/slurm .*", section, re.MULTILINE)
    (without_accounts,) = re.findall(r"`(--slurm-status-command \w+)`", section)
    words = shlex.split(command)
    assert words[-2:] == ["--config", "preset=quickstart"]
    return [*words[:-2], *without_accounts.split(), "--config", *BASE]


class Trainings:
    """The trainings of the study in a folder; each stops itself when it is about to save its first epoch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stopped(self) -> dict[str, Path]:
        """Returns the folders in /proc of those that have stopped themselves, by the name of their run."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (entry / "cmdline").read_text().split("\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if "train" in words[2:3] and state == "T" and (entry / "cwd").resolve() == self._folder:
                    given = dict(itertools.pairwise(words))
                    found[f"{given['--dataset']}/{given['--cell']}/seed{given['--seed']}"] = entry
        return found

    def resume(self, *names: str) -> None:
        """Lets those go on that have stopped themselves, or some of them."""
        for name, entry in self.stopped().items():
            if not names or name in names:
                with suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGCONT)


def environment_of(process: Path) -> dict[str, str]:
    return dict(word.split("=", 1) for word in (process / "environ").read_text().split("\0") if "=" in word)


def is_pending(process: Path, number: signal.Signals) -> bool:
    """Returns whether a signal waits for a stopped process."""
    masks = re.findall(r"^(?:SigPnd|ShdPnd):\s+(\w+)$", (process / "status").read_text(), re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def hasten(job: str, cluster: dict[str, str]) -> None:
    """Lets a requeued job start in seconds, where Slurm waits for two minutes."""

    def is_pending_again() -> bool:
        asked = subprocess.run(["squeue", "-h", "-o", "%T", "-j", job], env=cluster, capture_output=True, check=True)
        return asked.stdout.strip() == b"PENDING"

    slurm.wait_until(is_pending_again, PATIENCE_S, "the requeued job is not pending")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+2"], env=cluster, check=True)


def text_of(log: Path) -> str:
    """Returns what a log says, nothing while it is not there: Snakemake removes it before it starts the job again."""
    try:
        return log.read_text()
    except FileNotFoundError:
        return ""


def digest(folder: Path) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("reidablate"), "report", RESULTS, "--digest"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_jobs_that_are_cancelled_preempted_and_told_of_their_end_go_on_to_the_same_tables(
    finished: Path, cluster: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    shutil.copytree(finished / RESULTS / "pretrain", folder / RESULTS / "pretrain")  # not trained again
    watch = os.pathsep.join([str(Path(__file__).parent / "watch"), *filter(None, [os.environ.get("PYTHONPATH")])])
    stop = {"WATCH_LOG": str(tmp_path / "watch.log"), "WATCH_STOP": "train", "WATCH_AT": "/state/"}
    environment = {**cluster, **stop, "PYTHONPATH": watch}
    said = tmp_path / "said.txt"
    with said.open("w") as stream:
        call = subprocess.Popen(
            documented(), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
        )  # fmt: skip
    trainings = Trainings(folder)

    def wait_for(condition: Callable[[], object], otherwise: str) -> None:
        def holds() -> object:
            assert call.poll() is None, "the call has ended"
            return condition()

        slurm.wait_until(holds, PATIENCE_S, otherwise)

    try:
        wait_for(lambda: len(trainings.stopped()) == len(RUNS), "not all trainings have begun")
        begun = trainings.stopped()
        given = {name: environment_of(process) for name, process in begun.items()}
        assert sorted(begun) == RUNS
        assert sorted(of["CUDA_VISIBLE_DEVICES"] for of in given.values()) == ["0", "1", "2", "3"]
        cancelled, preempted, warned, _ = RUNS
        jobs = {name: of["SLURM_JOB_ID"] for name, of in given.items()}
        for command in (
            ["scancel", jobs[cancelled]],
            ["scontrol", "requeue", jobs[preempted]],
            ["scancel", "--signal=USR1", jobs[warned]],
        ):
            subprocess.run(command, check=True, env=cluster)
        wait_for(lambda: is_pending(begun[warned], signal.SIGUSR1), "SIGUSR1 does not arrive")
        trainings.resume(warned)
        ends = {cancelled: "SIGTERM", preempted: "SIGTERM", warned: "SIGUSR1"}
        for name, number in ends.items():
            log = folder / RESULTS / "logs" / "train" / f"{name}.log"
            words = f"{name} was stopped by {number} after epoch 1, step "
            wait_for(lambda: words in text_of(log) + said.read_text(), f"{name} is not saved")  # noqa: B023
        hasten(jobs[preempted], cluster)

        def ended() -> bool:
            trainings.resume()
            return call.poll() is not None

        slurm.wait_until(ended, PATIENCE_S, "the call has not ended")
    finally:
        print(said.read_text())
        call.kill()
        call.wait()
    assert call.returncode == 0
    assert digest(folder) == digest(finished)
    for name in RUNS:
        last = (folder / RESULTS / "logs" / "train" / f"{name}.log").read_text()
        assert ("goes on after epoch 1" in last) == (name in ends)
        assert len(read_json(folder / RESULTS / name / "provenance.json")["gpus"]) == 1
