"""The runs of other code bases that were imported into a study, as its tables show them.

Three or more runs of one name are compared with a cell and judged like the study's own. Fewer are a reference and no
more: they have no interval and enter no comparison.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, RootModel, model_validator

from reidablate.artifacts import read_record, read_table
from reidablate.cell_files import check_name
from reidablate.errors import UserError
from reidablate.external import ANOTHER
from reidablate.integrity import broken_files
from reidablate.planned import PlannedCell
from reidablate.runs import QUERY_COLUMNS
from reidablate.study import Run, Study

FOLDER = "imported"
GROUP = "other code bases"
IMPORT_COLUMNS = ("dataset", "name", "side", "metric", "value", "source", "sha256", "imported")


class _Source(BaseModel):
    source: str = ""
    source_sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, data: Any) -> Any:
        """That version wrote the SHA-256 of the source alone, as `sha256`."""
        if isinstance(data, dict) and isinstance(data.get("sha256"), str):
            return {"source_sha256": data["sha256"], **data}
        return data


class _Made(_Source):
    imported: str
    data_fingerprint: str
    reference: str | None = None  # of three or more runs
    own_metrics: dict[str, str | None] = {}  # what the study's own metrics among its scores were made of
    runs: list[_Source] = []  # of more than one


class _Sides(RootModel[dict[str, dict[str, float]]]):
    pass


def check_import_name(name: str, study: Study) -> None:
    """Refuses a name that no import into a study can have.

    Raises:
        UserError: It is not safe, or a cell's.
    """
    check_name(name, "the name")
    if name in {cell.name for cell in study.cells}:
        raise UserError(f"'{name}' is a cell of the study; give the import a name of its own, such as their_{name}.")


@dataclass(frozen=True)
class Import:
    """What is known of one import: its folder, its provenance, and the folder and source of each of its runs.

    Attributes:
        outdated: The study's own metrics that were something else when it was scored; their values are left out.
    """

    folder: Path
    made: _Made
    outdated: frozenset[str]

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.folder.name

    @property
    def runs(self) -> list[tuple[Path, _Source]]:
        """The folder of each run's scores and where they come from, seed by seed."""
        if not self.made.runs:
            return [(self.folder, _Source(source=self.made.source, source_sha256=self.made.source_sha256))]
        return [(self.folder / f"seed{seed}", run) for seed, run in enumerate(self.made.runs)]

    def sides(self, place: Path) -> Iterator[tuple[str, str, float]]:
        """Yields side, metric and value of every score of one of its runs."""
        for side, summary in read_record(place / "metrics.json", _Sides).root.items():
            yield from ((side, metric, value) for metric, value in summary.items() if metric not in self.outdated)

    def queries(self, place: Path) -> pd.DataFrame:
        """Returns the table of queries of one of its runs."""
        return read_table(place / "queries.parquet", QUERY_COLUMNS).drop(columns=self.outdated, errors="ignore")


def find_imports(study: Study, fingerprints: Mapping[str, str | None]) -> tuple[dict[str, list[Import]], list[str]]:
    """Returns the imports of each data set of a study, and a line for each that is left out or lacks a metric.

    Args:
        study: The plan.
        fingerprints: What each data set's images are now.
    """
    found: dict[str, list[Import]] = {}
    lines = []
    codes = {metric.name: metric.code for metric in study.metrics}
    for dataset in study.datasets:
        for folder in sorted((study.root / FOLDER / dataset.name).glob("[!.]*/")):
            try:
                check_import_name(folder.name, study)
                made = read_record(folder / "provenance.json", _Made)
                outdated = frozenset(name for name, code in made.own_metrics.items() if codes.get(name) != code)
                one = Import(folder, made, outdated)
                for place, _ in one.runs:
                    if broken := broken_files(place):
                        raise UserError(f"{' and '.join(broken)} damaged; import it again.")
                    read_record(place / "metrics.json", _Sides)
                if one.made.data_fingerprint != fingerprints.get(dataset.name):
                    raise UserError(f"the images of {dataset.name} have changed since; import it again.")
                if one.made.reference:
                    study.cell(one.made.reference)
            except UserError as error:
                lines.append(f"{folder} is left out: {error}")
                continue
            found.setdefault(dataset.name, []).append(one)
            if lacking := [name for name in codes if name in outdated or name not in made.own_metrics]:
                lines.append(f"{folder} has no value of {', '.join(lacking)} as it is now; import it again.")
    return found, lines


def imported_table(found: Mapping[str, Sequence[Import]]) -> pd.DataFrame:
    """Returns the scores of the imports that are reference rows, a row a side and metric."""
    rows = [
        {"dataset": dataset, "name": name, "side": side, "metric": metric, "value": value}
        | {"source": source.source, "sha256": source.source_sha256, "imported": one.made.imported}
        for dataset, imports in found.items()
        for one in imports
        if not one.made.reference
        for seed, (place, source) in enumerate(one.runs)
        for name in [f"{one.name}_{seed}" if one.made.runs else one.name]
        for side, metric, value in one.sides(place)
    ]
    return pd.DataFrame(rows, columns=list(IMPORT_COLUMNS)).astype({"value": "float64"})


@dataclass(frozen=True)
class JudgedRuns:
    """What the imports that are judged add to the tables of a study.

    Attributes:
        cells: Entries of `cells.json`, one a name.
        runs: Rows of the table of runs, with what is known of them.
        metrics: Rows of the table of metrics.
        queries: Rows of the table of queries of each run.
    """

    cells: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    queries: dict[Run, pd.DataFrame]


def judged_runs(study: Study, found: Mapping[str, Sequence[Import]], *, synthetic: Mapping[str, Any]) -> JudgedRuns:
    """Returns what three or more imported runs of one name are in the tables: a cell of another code base.

    Args:
        study: The plan.
        found: Its imports.
        synthetic: Whether each data set is synthetic.

    Raises:
        UserError: Scores of an import are damaged.
    """
    parts = JudgedRuns([], [], [], {})
    references: dict[str, list[str]] = {}
    for dataset, imports in found.items():
        for one in imports:
            if not one.made.reference:
                continue
            references.setdefault(one.name, []).append(one.made.reference)
            for seed, (place, _) in enumerate(one.runs):
                run = Run(dataset=dataset, cell=one.name, seed=seed)
                key = run.model_dump()
                facts = {"status": "finished", "data_fingerprint": one.made.data_fingerprint}
                parts.runs.append({**key, **facts, "synthetic": synthetic.get(dataset)})
                parts.metrics.extend(
                    {**key, "side": side, "metric": metric, "value": value} for side, metric, value in one.sides(place)
                )
                parts.queries[run] = one.queries(place)
    parts.cells.extend(_entry(study, name, list(dict.fromkeys(names))) for name, names in references.items())
    return parts


def _entry(study: Study, name: str, references: list[str]) -> dict[str, Any]:
    """Returns an import as `cells.json` shows a cell."""
    config = study.base_config()
    cell = PlannedCell(
        name=name,
        title=name,
        group=GROUP,
        tier="extended",
        question="",
        notes="Trained elsewhere and imported: its runs and their seeds are its makers' affair.",
        extends=None,
        references=references,
        seed_offset=0,
        declared={},
        differences={reference: {"external": [None, f"{ANOTHER}, imported"]} for reference in references},
        config=config,
        config_hash="imported",
    )
    return cell.model_dump(mode="json") | {"external": {"seeds": "unpaired"}}
