"""What a study has planned, kept beside its results: it grows with every call and loses a cell with its file.

A call for fewer cells, data sets or seeds limits what is run. It makes no planned run disappear from the tables.
"""

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from reidablate.artifacts import read_json, read_record, write_record
from reidablate.cells import Cells
from reidablate.config import Section
from reidablate.errors import UserError, shortened
from reidablate.planned import PlannedCell
from reidablate.study import Selection, Study, load_study

FILE = "study.json"
FORMAT = 1


class Scope(Section):
    """The file `results/<preset>/study.json`.

    Attributes:
        format: Version of this file.
        ablations: The folder of cells, absolute; tells another study's results from moved ones.
        results: The folder of the results, absolute.
        runs: Every planned run.
        palette: Cells in the order in which they came.
        last_plan: Hash of the plan of the last call.
        looks: Most seeds of a study that adds them in looks, None where their number is fixed.
        sha256: That of this record; see `artifacts.write_record`.
    """

    format: int = FORMAT
    ablations: str
    results: str
    runs: Selection
    palette: list[str]
    last_plan: str
    looks: int | None = None
    sha256: dict[str, str] = {}


def read_scope(root: Path, ablations: Path) -> Scope | None:
    """Returns what a study has planned so far, None where nothing was.

    Results of version 0.1.0 hold no such file; there it is what all of their plans name. A broken file is written
    again by the next call that runs, from what the last plan names.

    Raises:
        UserError: The file is of a newer version, or the results are those of another study.
    """
    path = root / FILE
    if not path.exists():
        return _of_plans(root, ablations)
    if _is_newer(path):
        raise UserError(f"{path} was written by a newer version of reidablate; install that version or newer.")
    try:
        scope = read_record(path, Scope)
    except UserError as error:
        print(f"reidablate: {shortened(error)} Until then its last plan stands for it.", file=sys.stderr)
        return _of_last_plan(root, ablations)
    other = Path(scope.ablations)
    if scope.results == str(root.resolve()) and other != ablations.resolve() and other.is_dir():
        raise UserError(
            f"{root} holds the results of another study, whose cells are in {other}; "
            "choose another folder with --config results=FOLDER."
        )
    return scope


def _of_plans(root: Path, ablations: Path) -> Scope | None:
    plans = sorted((root / "plans").glob("[!.]*.json"), key=lambda path: path.stat().st_mtime)
    runs: Selection = {}
    palette: list[str] = []
    for path in plans:
        try:
            study = load_study(path)
        except UserError:  # a plan that this version cannot read plans nothing that it could run
            continue
        runs = union(runs, study.planned)
        palette += [name for name in study.palette if name not in palette]
    if not runs:
        return None
    own, results = str(ablations.resolve()), str(root.resolve())
    return Scope(ablations=own, results=results, runs=runs, palette=palette, last_plan=plans[-1].stem)


def _is_newer(path: Path) -> bool:
    with suppress(UserError):
        found = read_json(path)
        return isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > FORMAT
    return False


def _of_last_plan(root: Path, ablations: Path) -> Scope | None:
    plans = sorted((root / "plans").glob("[!.]*.json"), key=lambda path: path.stat().st_mtime)
    if not plans:
        return None
    study = load_study(plans[-1])
    own, results = str(ablations.resolve()), str(root.resolve())
    return Scope(
        ablations=own,
        results=results,
        runs=study.planned,
        palette=study.palette,
        last_plan=study.hash,
        looks=study.looks,
    )


def write_scope(study: Study) -> None:
    """Writes what a study has planned, after its plan."""
    scope = Scope(
        ablations=str(study.settings.ablations.resolve()),
        results=str(study.root.resolve()),
        runs=study.planned,
        palette=study.palette,
        last_plan=study.hash,
        looks=study.looks,
    )
    write_record(study.root / FILE, scope.model_dump(mode="json"))


def settle_primary(cells: Iterable[PlannedCell], root: Path) -> tuple[list[PlannedCell], list[str]]:
    """Returns the cells with what was declared of them before a run of theirs was scored, and a line on each change.

    Whoever has seen a score could choose by it. From the first scored run of a cell on, its contrasts are therefore
    primary exactly if they were so in the last of the kept plans that holds the cell: those that are declared later are
    `exploratory`, and a cell that is no longer declared stays primary, as the family would shrink without it.

    Args:
        cells: Cells as their files and the preset declare them.
        root: The folder `results/<preset>`.
    """
    last = None
    with suppress(UserError, AttributeError):  # a broken record is written again by the next call
        last = read_json(root / FILE).get("last_plan")
    plans = (root / "plans").glob("[!.]*.json")
    before: dict[str, list[str]] = {}
    for path in sorted(plans, key=lambda path: (path.stem == last, path.stat().st_mtime_ns)):
        before |= _primary_in(path)
    settled, lines = [], []
    for cell in cells:
        early = before.get(cell.name, [])
        late = [name for name in cell.references if name not in early] if cell.primary or early else []
        if (late or early) and any(root.glob(f"*/{cell.name}/seed*/metrics.json")):
            if late:
                over = f" over {', '.join(late)}" if early else ""
                lines.append(f"{cell.name}{over} was declared primary after a run was scored, so it is exploratory.")
            if not cell.primary:
                lines.append(f"{cell.name} was primary when its first run was scored, so it stays primary.")
            cell = cell.model_copy(update={"primary": True, "exploratory": late})
        settled.append(cell)
    return settled, lines


def _primary_in(plan: Path) -> dict[str, list[str]]:
    """Returns the references of each cell of a plan with which it has primary contrasts, none if it is not readable."""
    try:
        return {
            cell["name"]: [name for name in cell["references"] if name not in cell.get("exploratory", ())]
            if cell.get("primary")
            else []
            for cell in read_json(plan)["cells"]
        }
    except (UserError, KeyError, TypeError):
        return {}


def union(first: Selection, second: Selection) -> Selection:
    """Returns the runs of either selection."""
    return {
        dataset: {
            cell: sorted({*first.get(dataset, {}).get(cell, ()), *second.get(dataset, {}).get(cell, ())})
            for cell in first.get(dataset, {}) | second.get(dataset, {})
        }
        for dataset in first | second
    }


def restrict(selection: Selection, *, datasets: Iterable[str], offsets: Mapping[str, int]) -> Selection:
    """Returns the runs of some data sets and cells, of each cell those of its first seed and the ones that follow it.

    Args:
        selection: Any runs.
        datasets: Names of data sets.
        offsets: The first seed of each cell. Where it was changed, the runs from the old one are no longer planned.
    """
    datasets = set(datasets)
    kept = {
        dataset: {cell: _following(seeds, offsets[cell]) for cell, seeds in of.items() if cell in offsets}
        for dataset, of in selection.items()
        if dataset in datasets
    }
    kept = {dataset: {cell: seeds for cell, seeds in of.items() if seeds} for dataset, of in kept.items()}
    return {dataset: of for dataset, of in kept.items() if of}


def _following(seeds: list[int], first: int) -> list[int]:
    return [seed for number, seed in enumerate(sorted(s for s in seeds if s >= first)) if seed == first + number]


def last_planned(scope: Scope, root: Path, cells: Cells) -> list[PlannedCell]:
    """Returns the cells of a study that cannot be used any more as the last call planned them.

    Their file has a mistake, or that of a cell that they need. Their finished runs stay in tables and report.

    Args:
        scope: What the study has planned.
        root: `results/<preset>`.
        cells: The cells of the study's folder.
    """
    planned = cells_of(scope.runs)
    faults = {name: fault for name in planned if name not in cells and (fault := cells.why_broken(name))}
    if not faults:
        return []
    try:
        last = load_study(root / "plans" / f"{scope.last_plan}.json")
    except UserError:  # it is gone or of another version; the fault itself is named either way
        return []
    found = {cell.name: cell for cell in last.cells if cell.name in faults}
    there = {*cells, *found} & planned
    return [
        cell.model_copy(
            update={
                "references": [name for name in cell.references if name in there],
                "unread": cells.broken[faults[name].cause].sentence,
            }
        )
        for name, cell in found.items()
    ]


def unread_notices(unread: list[PlannedCell]) -> list[str]:
    """Returns a line that names the cells of `last_planned`, if there are any."""
    names = ", ".join(cell.name for cell in unread)
    return [f"Finished runs are shown as they were last planned, and none is added, of {names}."] if unread else []


def cells_of(selection: Selection) -> set[str]:
    """Returns the names of the cells that a selection holds."""
    return {cell for of in selection.values() for cell in of}


def in_words(selection: Mapping[str, Mapping[str, list[int]]]) -> list[str]:
    """Returns a line a data set and cell, such as `market1501/p1 seed 0, 1, 2`."""
    return [
        f"{dataset}/{cell} seed {', '.join(map(str, seeds))}"
        for dataset, of in selection.items()
        for cell, seeds in of.items()
        if seeds
    ]
