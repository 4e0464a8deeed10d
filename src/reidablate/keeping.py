"""Which weights and features outlive their scores: `keep` of a preset, and the record of what was removed.

`all` keeps those of every run, `last` those of the last seed of each cell and data set, `none` none. Where the preset
asks for diagnostics, those of the first seed stay too. Scores, histories and provenance always stay, so a run whose
weights were removed is finished all the same. To score it on another data set or under a new protocol it must be
trained again.
"""

from pathlib import Path

from pydantic import BaseModel

from reidablate.artifacts import only_writer, read_record, sha256_file, write_json
from reidablate.errors import UserError
from reidablate.runs import Metrics, Provenance
from reidablate.study import Run, Study

RECORD = "removed.json"
REMOVABLE = ("model.safetensors", "features.npz")


class _Record(BaseModel):
    provenance_sha256: str  # of the provenance.json of the very run whose files were removed
    removed: list[str]


def removed(folder: Path) -> frozenset[str]:
    """Returns the files that were removed on purpose from the folder of a finished run or transfer."""
    try:
        record = read_record(folder / RECORD, _Record)
        same = record.provenance_sha256 == sha256_file(folder / "provenance.json")
    except (UserError, OSError):
        return frozenset()
    return frozenset(record.removed) if same else frozenset()


def is_kept(study: Study, run: Run) -> bool:
    """Returns whether the preset keeps the weights and features of a run."""
    if study.preset.diagnose != "none" and run.seed == min(study.planned[run.dataset][run.cell]):
        return True
    if study.preset.keep != "last":
        return study.preset.keep == "all"
    return run.seed == max(study.planned[run.dataset][run.cell])


def is_scored(folder: Path) -> bool:
    """Returns whether the scores in the folder of a run or transfer are of the features that its provenance names."""
    try:
        made = read_record(folder / "provenance.json", Provenance)
        metrics = read_record(folder / "metrics.json", Metrics)
    except UserError:
        return False
    if made.status == "diverged":
        return metrics.status == "diverged"
    return metrics.features_sha256 is not None and metrics.features_sha256 == made.sha256.get("features.npz")


def surplus(study: Study, run: Run) -> list[Path]:
    """Returns the files of a run that its preset does not keep and that nothing in the study needs any more."""
    if is_kept(study, run):
        return []
    folder = study.root / run.id
    elsewhere = [study.root / transfer.id for transfer in study.transfers if transfer.run == run]
    if not all(map(is_scored, (folder, *elsewhere))) or not all(_of_run(folder, there) for there in elsewhere):
        return []
    files = [folder / name for name in REMOVABLE] + [there / "features.npz" for there in elsewhere]
    return [path for path in files if path.is_file()]


def _of_run(folder: Path, transfer: Path) -> bool:
    """Returns whether a transfer was made with the weights that the run has now."""
    run = read_record(folder / "provenance.json", Provenance)
    there = read_record(transfer / "provenance.json", Provenance).transfer
    return there is not None and there.weights_sha256 == run.sha256.get("model.safetensors")


def release(study: Study, scored: Path) -> None:
    """Removes what a run does not keep, once it is scored everywhere; does nothing before.

    Args:
        study: The plan.
        scored: The folder of a run or transfer whose scores were just written.
    """
    made = read_record(scored / "provenance.json", Provenance)
    run = Run(dataset=made.dataset, cell=made.cell, seed=made.seed)
    if run in study.runs:
        with only_writer(study.root / run.id, f"release {run.id}"):
            for path in surplus(study, run):
                remove(path)


def remove(path: Path) -> None:
    """Removes a file of a run on purpose: first it is recorded, so that a killed call leaves no run in doubt."""
    folder = path.parent
    names = sorted({path.name, *removed(folder)})
    write_json(folder / RECORD, {"provenance_sha256": sha256_file(folder / "provenance.json"), "removed": names})
    path.unlink(missing_ok=True)
