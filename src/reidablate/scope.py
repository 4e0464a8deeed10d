"""What a study has planned, kept beside its results: it grows with every call and loses a cell with its file.

A call for fewer cells, data sets or seeds limits what is run. It makes no planned run disappear from the tables.
"""

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from reidablate.artifacts import read_json, read_record, write_record
from reidablate.config import Section
from reidablate.errors import UserError, shortened
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
        sha256: That of this record; see `artifacts.write_record`.
    """

    format: int = FORMAT
    ablations: str
    results: str
    runs: Selection
    palette: list[str]
    last_plan: str
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
    return Scope(ablations=own, results=results, runs=study.planned, palette=study.palette, last_plan=study.hash)


def write_scope(study: Study) -> None:
    """Writes what a study has planned, after its plan."""
    scope = Scope(
        ablations=str(study.settings.ablations.resolve()),
        results=str(study.root.resolve()),
        runs=study.planned,
        palette=study.palette,
        last_plan=study.hash,
    )
    write_record(study.root / FILE, scope.model_dump(mode="json"))


def union(first: Selection, second: Selection) -> Selection:
    """Returns the runs of either selection."""
    return {
        dataset: {
            cell: sorted({*first.get(dataset, {}).get(cell, ()), *second.get(dataset, {}).get(cell, ())})
            for cell in first.get(dataset, {}) | second.get(dataset, {})
        }
        for dataset in first | second
    }


def restrict(selection: Selection, *, datasets: Iterable[str], cells: Iterable[str]) -> Selection:
    """Returns the runs of some data sets and cells."""
    datasets, cells = set(datasets), set(cells)
    kept = {
        dataset: {cell: seeds for cell, seeds in of.items() if cell in cells}
        for dataset, of in selection.items()
        if dataset in datasets
    }
    return {dataset: of for dataset, of in kept.items() if of}


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
