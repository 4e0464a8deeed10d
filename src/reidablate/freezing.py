"""Declaring a study before its runs: what was planned then, and what was added afterwards.

A comparison confirms something only if it was chosen before its scores were seen. `reidablate freeze` records the plan;
from then on every comparison that is not exactly as recorded is exploratory and belongs to a family of its own.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidablate import __version__
from reidablate.artifacts import content_hash, only_writer, read_record, write_record
from reidablate.config import Section
from reidablate.errors import UserError
from reidablate.planned import PlannedCell
from reidablate.study import Selection, Study

FILE = "frozen.json"
Later = dict[str, dict[str, dict[str, str]]]
"""{data set: {cell: {reference: why the comparison is exploratory}}}."""


class Contrast(Section):
    """A declared comparison."""

    cell: str
    reference: str
    primary: bool


class Frozen(Section):
    """The file `results/<preset>/frozen.json`.

    Attributes:
        frozen: When, in UTC.
        version: The release that wrote it.
        runs: Every planned run.
        identities: {data set: {cell: hash of what its runs compute}}.
        contrasts: Every declared comparison.
        deltas: {data set: {metric: largest difference that does not matter, in points}}.
        looks: Most seeds of a study that adds them in looks; `runs` then has all that it may take.
        sha256: That of this record; see `artifacts.write_record`.
    """

    frozen: str
    version: str
    runs: Selection
    identities: dict[str, dict[str, str]]
    contrasts: list[Contrast]
    deltas: dict[str, dict[str, float]]
    looks: int | None = None
    sha256: dict[str, str] = {}

    @property
    def hash(self) -> str:
        """The hash that names what was declared, whenever that was."""
        return content_hash(self.model_dump(exclude={"frozen", "version", "sha256"}, exclude_none=True))


def freeze(study: Study) -> str:
    """Writes `frozen.json` for a study of which no run has a score yet, and returns the line that says so.

    Raises:
        UserError: It is frozen already, or a run has been scored.
    """
    path = study.root / FILE
    if path.exists():
        raise UserError(f"{path} is there already: a study is frozen once; start another with --config results=FOLDER.")
    if scored := [run.id for run in study.runs if (study.root / run.id / "metrics.json").is_file()]:
        raise UserError(
            f"{scored[0]} has been scored already ({len(scored)} in all), and a study is frozen before its runs; "
            "start another with --config results=FOLDER."
        )
    record = Frozen(
        frozen=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        version=__version__,
        runs=_possible(study),
        looks=study.looks,
        identities=_identities(study),
        contrasts=_contrasts(study.cells),
        deltas=_deltas(study),
    )
    with only_writer(study.root, "freeze"):
        write_record(path, record.model_dump(mode="json"))
    return (
        f"frozen as {record.hash}: comparisons declared: {len(record.contrasts)}, on {', '.join(record.runs)}; runs: "
        f"{len(study.runs)}. What is added from now on is exploratory. Publish this hash to prove the date."
    )


def read_frozen(root: Path) -> Frozen | None:
    """Returns what was declared before the runs, None where nothing was.

    Raises:
        UserError: The record is damaged or was edited.
    """
    path = root / FILE
    return read_record(path, Frozen) if path.exists() else None


def describe(frozen: Frozen, study: Study) -> dict[str, Any]:
    """Returns what the tables hold of it: `hash`, `frozen`, and every comparison that was added `later`, with why."""
    return {"hash": frozen.hash, "frozen": frozen.frozen, "later": _later(frozen, study)}


def notice(about: Mapping[str, Any]) -> str:
    """Returns the line of the report on a study that was frozen."""
    pairs = {(cell, name) for of in about["later"].values() for cell, names in of.items() for name in names}
    added = "none was added later"
    if pairs:
        added = f"added or changed later, and so exploratory: {len(pairs)}"
    return f"Its comparisons were declared on {about['frozen'][:10]}, before its runs (hash {about['hash']}); {added}."


def _later(frozen: Frozen, study: Study) -> Later:
    declared = {(one.cell, one.reference): one.primary for one in frozen.contrasts}
    identities, deltas = _identities(study), _deltas(study)
    found: Later = {}
    for dataset, of in study.planned.items():
        then = frozen.identities.get(dataset, {})
        for contrast in _contrasts(study.cells):
            pair = (contrast.cell, contrast.reference)
            changed = [name for name in pair if then.get(name) != identities[dataset].get(name)]
            grown = _entering(of, pair) - _entering(frozen.runs.get(dataset, {}), pair)
            why = ""
            if pair not in declared or not then:
                why = "it was declared later"
            elif changed:
                why = f"the configuration of {' and '.join(changed)} was changed later"
            elif study.looks != frozen.looks:
                why = "the rule by which seeds are added was changed later"
            elif grown:
                why = f"seed {', '.join(map(str, sorted(grown)))} was added later"
            elif deltas.get(dataset) != frozen.deltas.get(dataset):
                why = "the largest difference that does not matter was changed later"
            elif contrast.primary != declared[pair]:
                why = "whether it is primary was changed later"
            if why:
                found.setdefault(dataset, {}).setdefault(contrast.cell, {})[contrast.reference] = why
    return found


def _possible(study: Study) -> Selection:
    """Returns every run that a study may have: as planned or, where seeds are added in looks, up to their cap."""
    if study.looks is None:
        return study.planned
    most = {cell.name: [cell.seed_offset + k for k in range(study.looks)] for cell in study.cells}
    return {dataset: {cell: most[cell] for cell in of} for dataset, of in study.planned.items()}


def _entering(runs: Mapping[str, list[int]], pair: tuple[str, str]) -> set[int]:
    """Returns the seeds that enter a comparison: those of both cells, or, if they share none, those of either."""
    cell, reference = (set(runs.get(name, ())) for name in pair)
    return cell & reference or cell | reference


def _identities(study: Study) -> dict[str, dict[str, str]]:
    return {
        dataset: {cell.name: _identity(study, cell, dataset) for cell in study.cells if cell.name in of}
        for dataset, of in study.planned.items()
    }


def _identity(study: Study, cell: PlannedCell, dataset: str) -> str:
    """Returns what a cell is before its runs: a tuned one is its candidates, and not yet the best of them."""
    if not cell.candidates:
        return cell.identity_on(dataset)
    return content_hash([study.cell(name).identity_on(dataset) for name in cell.candidates])


def _contrasts(cells: list[PlannedCell]) -> list[Contrast]:
    return [
        Contrast(cell=cell.name, reference=name, primary=cell.primary)
        for cell in cells
        for name in dict.fromkeys(cell.references)
    ]


def _deltas(study: Study) -> dict[str, dict[str, float]]:
    return {d.name: {str(metric): delta for metric, delta in d.delta.items()} for d in study.datasets}
