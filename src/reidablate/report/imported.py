"""Runs of other code bases beside the runs of a study: scored here, trained elsewhere.

Three or more runs of one name are compared with a cell and judged like the study's own. Fewer are a reference and no
more: they have no interval and enter no comparison.
"""

import datetime
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, RootModel, model_validator

from reidablate import provenance
from reidablate.artifacts import only_writer, read_record, read_table, sha256_file, write_json, write_record
from reidablate.cell_files import check_name
from reidablate.data.index import read_index
from reidablate.errors import UserError
from reidablate.external import ANOTHER
from reidablate.integrity import broken_files
from reidablate.metrics.distances import DistanceName
from reidablate.metrics.files import (
    Options,
    protocol_of,
    read_file,
    read_image_names,
    score_retrieval,
    write_queries,
)
from reidablate.metrics.matching import camid_shift, index_rows
from reidablate.metrics.own import OwnMetrics
from reidablate.metrics.protocol import Scores
from reidablate.planned import PlannedCell
from reidablate.runs import QUERY_COLUMNS, SIDES
from reidablate.stats.contrasts import MIN_SEEDS
from reidablate.study import Run, Study, latest_study

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


def find_results(folder: Path = Path("results")) -> Path:
    """Returns the one `results/<preset>` that holds a study.

    Raises:
        UserError: There is none, or more than one.
    """
    found = sorted(plans.parent for plans in folder.glob("*/plans"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"there is no study in {folder}; run snakemake first, or give its results/<preset>.")
    raise UserError(f"there are several studies ({', '.join(map(str, found))}); give one of them.")


@dataclass(frozen=True)
class Origin:
    """Where the features or distances of one run come from.

    Attributes:
        features: The file that is scored.
        given: The file that the user gave: that one, or weights that it was extracted with.
    """

    features: Path
    given: Path


def import_runs(
    name: str,
    runs: Sequence[Origin],
    *,
    dataset: str,
    results: Path,
    reference: str | None = None,
    distance: DistanceName = "cosine",
) -> str:
    """Scores runs of another code base into a study and returns the line that sums them up.

    Three or more are compared with a cell and judged like a cell of the study; fewer are reference rows.

    It writes `imported/<dataset>/<name>/` with `metrics.json`, `queries.parquet` and `provenance.json`, those of
    several runs in a folder `seed<k>` each, all of them or none; an import of that name is replaced. Deleting the
    folder takes the import back.

    Args:
        name: What the tables call it.
        runs: One a seed, `.npz` or `.mat` files as `metrics.files` reads them. Where they are judged every query must
            be known: by `query_names`, or by standing in the order of the index.
        dataset: The data set of the study whose query and gallery the files hold.
        results: The study's `results/<preset>`.
        reference: The cell that they are compared with; the study's baseline without one.
        distance: How features are compared.

    Raises:
        UserError: The name is not safe or a cell's; the study has no such data set or reference, or its index is not
            built; a file is given twice, holds other images than the index, or cannot be scored.
    """
    study = latest_study(results)
    _check_name(name, study)
    judged = len(runs) >= MIN_SEEDS
    if reference is not None and not judged:
        raise UserError(
            f"--reference {reference} is for {MIN_SEEDS} or more files, which have an interval; leave it out."
        )
    index = read_index(results / "data" / study.dataset(dataset).name / "index")
    facts = {
        "name": name,
        "dataset": dataset,
        "imported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data_fingerprint": index.summary["fingerprint"],
        "versions": provenance.versions(),
        "own_metrics": {metric.name: metric.code for metric in study.metrics},
    }
    if judged:
        facts["reference"] = study.cell(reference or baseline(study)).name
    options = Options(distance=distance)
    own = OwnMetrics(study.metrics)
    scored = [_score(run, index.frame, options, own, dataset=dataset, judged=judged) for run in runs]
    for line in own.failures.values():
        print(f"reidablate: {line}", file=sys.stderr)
    digests = [one.facts["source_sha256"] for one in scored]
    if twice := [run.given for run, digest in zip(runs, digests, strict=True) if digests.count(digest) > 1]:
        raise UserError(f"{twice[0]} and {twice[1]} are the same file; give a file a run.")
    folder = results / FOLDER / dataset
    with only_writer(folder, f"import of {name}"), _replaced(folder, name) as fresh:
        if len(scored) == 1:
            _write(fresh, scored[0], facts)
        else:
            for seed, one in enumerate(scored):
                _write(fresh / f"seed{seed}", one, {})
            write_record(fresh / "provenance.json", {**facts, "runs": [one.facts for one in scored]})
    return _line(name, dataset, scored, facts.get("reference"))


@dataclass(frozen=True)
class _Scored:
    """The scores of one run by side, and where they come from."""

    scores: dict[str, Scores]
    facts: dict[str, Any]
    own: OwnMetrics

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        return {side: result.summary() | result.means(self.own.names) for side, result in self.scores.items()}


def _score(
    run: Origin, frame: pd.DataFrame, options: Options, own: OwnMetrics, *, dataset: str, judged: bool
) -> _Scored:
    path = run.features
    problems = read_file(path, options.distance)
    labels, names = next(iter(problems.values())).labels, read_image_names(path)
    shift = camid_shift(labels, names, frame, path=path, dataset=dataset)
    facts: dict[str, Any] = {"source": str(run.given.resolve()), "source_sha256": sha256_file(run.given)}
    facts |= {"camid_shift": shift, "protocol": protocol_of(problems, options)}
    if judged:  # queries are paired with the study's, so they are called as there; one feature counts on both sides
        rows = index_rows(labels, names, frame, path=path, dataset=dataset)["query"]
        labels = replace(
            labels,
            query_names=frame.loc[frame["split"] == "query", "name"].to_numpy(str)[rows],
            query_camids=labels.query_camids + shift,
            gallery_camids=labels.gallery_camids + shift,
        )
        first = next(iter(problems.values()))
        problems = {side: replace(problems.get(side, first), labels=labels) for side in SIDES}
    scores = {side: score_retrieval(problem, options, own) for side, problem in problems.items()}
    return _Scored(scores, facts, own)


@contextmanager
def _replaced(folder: Path, name: str) -> Iterator[Path]:
    """Yields a fresh folder that takes the place of `folder / name` when the block ends well."""
    fresh, old = folder / f".{name}.new", folder / f".{name}.old"
    if old.exists() and not (folder / name).exists():  # the last import died between its two renames
        old.rename(folder / name)
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    yield fresh
    if (folder / name).exists():
        (folder / name).rename(old)
    fresh.rename(folder / name)
    shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, scored: _Scored, facts: Mapping[str, Any]) -> None:
    write_queries(scored.scores, folder / "queries.parquet", without=scored.own.failures)
    write_json(folder / "metrics.json", scored.summary)
    write_record(folder / "provenance.json", {**facts, **scored.facts}, ["queries.parquet", "metrics.json"])


def _line(name: str, dataset: str, scored: Sequence[_Scored], reference: str | None) -> str:
    sides = scored[0].summary
    found = []
    for side in dict.fromkeys(sides):
        values = [one.summary[side] for one in scored if side in one.summary]
        m_ap, rank1 = (100 * sum(value[key] for value in values) / len(values) for key in ("mAP", "rank1"))
        found.append(f"mAP {m_ap:.2f}, Rank-1 {rank1:.2f} ({side})")
    what = f" (means of {len(scored)})" if len(scored) > 1 else ""
    judged = f", judged against {reference}" if reference else ""
    return (
        f"{name} on {dataset}{what}: {', '.join(found)}; the next snakemake call puts it into tables and report{judged}"
    )


def baseline(study: Study) -> str:
    """Returns the first cell of the study that this package trains and that extends no other."""
    own = [cell.name for cell in study.cells if not cell.external and not cell.tunes]
    if not own:
        raise UserError("the study has no cell of its own to compare with; name one with --reference.")
    return next((name for name in own if study.cell(name).extends is None), own[0])


def _check_name(name: str, study: Study) -> None:
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
                _check_name(folder.name, study)
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
