"""Which pages of diagnostics a study should have, which of them are to be made, and where they lie.

A page is of the first seed of a cell on a data set, beside that seed of its first reference. It is made again when the
weights or scores of either change, as their records tell.
"""

from pathlib import Path
from typing import Any

from reidablate.artifacts import read_json
from reidablate.errors import UserError
from reidablate.integrity import broken_files, sha256_cached
from reidablate.needs import Needs
from reidablate.study import Run, Study

PAGES_VERSION = 2  # raised by a release that shows something else on them


def pages_folder(results: Path) -> Path:
    """Returns where the pages of `results/<preset>` lie, in a folder for each data set."""
    return results / "report" / "diagnostics"


def page_of(study: Study, run: Run) -> Path:
    """Returns the page of a run; that of another than the first seed names its seed."""
    seed = "" if run.seed == min(study.planned[run.dataset][run.cell]) else f"_seed{run.seed}"
    return pages_folder(study.root) / run.dataset / f"{run.cell}{seed}.html"


def first_runs(study: Study) -> list[Run]:
    """Returns the first seed of each planned cell and data set that has a page.

    Those of another code base have none, and no candidates of tuned cells: a page shows the test set.
    """
    return [
        Run(dataset=dataset.name, cell=cell.name, seed=min(seeds))
        for dataset in study.datasets
        for cell in study.cells
        if (seeds := study.planned.get(dataset.name, {}).get(cell.name)) and not cell.external and not cell.tunes
    ]


def compared_runs(study: Study, run: Run) -> tuple[Run | None, list[Run]]:
    """Returns the run of the first reference with the same seed, if planned, and the first of another kind of network.

    The latter, of `timm/` and on the same data set, is what the representations of transformers are also compared with.
    """
    planned, cell = study.planned[run.dataset], study.cell(run.cell)
    kinds = {c.name: c.config.model.backbone for c in study.cells if planned.get(c.name) and not c.external}
    references = [r for r in cell.references[:1] if r in kinds and run.seed in planned[r]]
    reference = Run(dataset=run.dataset, cell=references[0], seed=run.seed) if references else None
    others = {name for name, kind in kinds.items() if kind.startswith("timm/") and kind != kinds[run.cell]}
    found = [r for r in first_runs(study) if r.cell in others and r.dataset == run.dataset] if others else []
    return reference, found[:1]


def compared_there(study: Study, run: Run) -> tuple[Run | None, list[Run]]:
    """Returns those of `compared_runs` that are finished and have their weights."""
    reference, others = compared_runs(study, run)
    there = [r for r in ([reference] if reference else []) + others if _has_network(study, r)]
    return reference if reference in there else None, [other for other in others if other in there]


def _has_network(study: Study, run: Run) -> bool:
    files = ("model.safetensors", "features.npz", "queries.parquet", "metrics.json", "provenance.json")
    folder = study.root / run.id
    if not all((folder / name).is_file() for name in files):
        return False
    try:
        return bool(read_json(folder / "metrics.json").get("status") == "finished")
    except UserError:
        return False


def made_of(study: Study, run: Run, detail: str) -> dict[str, Any]:
    """Returns what the page of a run depends on, as it is now."""
    reference, others = compared_there(study, run)
    runs = [run, *([reference] if reference else []), *others]
    return {
        "version": PAGES_VERSION,
        "detail": detail,
        "blur_faces": study.settings.report.blur_faces,
        "runs": {r.id: sha256_cached(study.root / r.id / "provenance.json") for r in runs},
    }


def pages_to_make(study: Study, needs: Needs) -> list[Run]:
    """Returns the runs whose pages this call makes: those that it asks for and that stand, or will."""
    if study.preset.diagnose == "none":
        return []
    asked, made = set(study.asked_runs), {*needs.train, *needs.evaluate}
    return [
        run
        for run in first_runs(study)
        if run in asked and (run in made or run in needs.stands) and not _is_right(study, run, made)
    ]


def _is_right(study: Study, run: Run, made: set[Any]) -> bool:
    """Whether the page of a run is there and of what there is, or cannot be made any more."""
    reference, others = compared_runs(study, run)
    if made & {run, reference, *others}:
        return False
    if not (study.root / run.id / "model.safetensors").is_file():
        return True
    return is_of(page_of(study, run), made_of(study, run, study.preset.diagnose))


def is_of(page: Path, wanted: dict[str, Any]) -> bool:
    """Returns whether a page is whole and of what it should be."""
    record = page.with_suffix(".json")
    if broken_files(page.parent, records=[record.name]) or not page.is_file():
        return False
    try:
        return bool(read_json(record).get("made_of") == wanted)
    except (UserError, AttributeError):
        return False
