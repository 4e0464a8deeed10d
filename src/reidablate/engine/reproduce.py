"""Repeating one finished run from its own provenance and comparing the outcome bit by bit."""

import dataclasses
import shutil
from pathlib import Path

from reidablate import provenance
from reidablate.artifacts import read_record, sha256_file
from reidablate.config import RunConfig, validate
from reidablate.data.index import read_index
from reidablate.engine.spec import RunSpec
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.keeping import removed
from reidablate.runs import Provenance, Trained

COMPARED = ("model.safetensors", "features.npz")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Whether a repetition gave the same files, and what has changed since the run was made.

    Attributes:
        identical: Every compared file is the same, bit for bit.
        lines: What to print: the command that made the run, each file's verdict, each known difference in code, data,
            weights or machine, and where the sources of other code are kept.
    """

    identical: bool
    lines: tuple[str, ...]


def reproduce_run(run: Path) -> Outcome:
    """Trains a run again in a hidden folder beside it, deleted at the end, and returns how the outcome compares.

    An interrupted repetition goes on where it stopped, like any training.

    Args:
        run: The folder `results/<preset>/<dataset>/<cell>/seed<k>`.

    Raises:
        UserError: The run has no provenance, or its files, data or weights are gone.
    """
    if not run.name.removeprefix("seed").isdecimal():
        raise UserError(f"{run} is no run's folder; give results/<preset>/<dataset>/<cell>/seed<k>.")
    if read_record(run / "provenance.json", Provenance).external:
        raise UserError(f"{run} is a run of another code base, which alone can repeat it; delete the folder to do so.")
    made = read_record(run / "provenance.json", Trained)
    spec = _spec(run, made)
    gone = [name for name in COMPARED if not (run / name).is_file()]
    if set(gone) - removed(run):
        raise UserError(f"{run} lacks {' and '.join(gone)}, so there is nothing to compare with; run snakemake again.")
    before = {name: made.sha256[name] if name in gone else sha256_file(run / name) for name in COMPARED}
    again = run.with_name(f".{run.name}.reproduce")
    train_run(dataclasses.replace(spec, out=again))
    same = {name: digest == sha256_file(again / name) for name, digest in before.items()}
    changes = _changes(made, read_record(again / "provenance.json", Trained))
    shutil.rmtree(again)
    verdicts = [f"{name}: {'identical' if equal else 'DIFFERS'}" for name, equal in same.items()]
    sources = _kept_sources(run.parents[2] / "plans", made.code_hash)
    return Outcome(all(same.values()), (f"made by: {made.command}", *verdicts, *changes, *sources))


def _spec(run: Path, made: Trained) -> RunSpec:
    """Returns the specification that a run's provenance records."""
    root, on_cpu = run.parents[2], made.device == "cpu"
    data = root / "data" / made.dataset
    if read_index(data / "index").summary["fingerprint"] != made.data_fingerprint:
        raise UserError(f"{data} holds other images than {run} was trained on, so no repetition can equal it.")
    return RunSpec(
        config=validate(RunConfig, made.config, where=str(run / "provenance.json")),
        name=f"{made.dataset}/{made.cell}/seed{made.seed}",
        dataset=made.dataset,
        cell=made.cell,
        seed=made.seed,
        data=data,
        out=run,
        weights=None if made.weights == "none" else Path(made.weights),
        gpus=0 if on_cpu else 1,
        device="cpu" if on_cpu else "cuda",
        threads=made.threads,
        workers=min(made.workers, provenance.usable_cores()),
        command=made.command,
        same_code=True,
    )


def _changes(before: Trained, after: Trained) -> list[str]:
    old, new = before.model_dump(), after.model_dump()
    keys = ("code_hash", "data_fingerprint", "weights_sha256", "versions", "machine", "device")
    return [f"changed since: {key} ({old[key]} -> {new[key]})" for key in keys if old[key] != new[key]]


def _kept_sources(plans: Path, code_hash: str) -> list[str]:
    """Returns a line for each kept archive of the code that made a run, where it is not the installed code."""
    archives = [plans / f"sources-{code}.zip" for code in code_hash.split("+") if code != provenance.code_hash()]
    return [
        f"its sources are kept: `python -m zipfile -e {path} src` restores them in a checkout of its version"
        for path in archives
        if path.is_file()
    ]
