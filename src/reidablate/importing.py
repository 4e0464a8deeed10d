"""Importing runs of other code bases into a study: scored here, trained elsewhere.

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

from reidablate import provenance
from reidablate.artifacts import only_writer, sha256_file, write_json, write_record
from reidablate.data.index import read_index
from reidablate.errors import UserError
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
from reidablate.runs import SIDES
from reidablate.stats.contrasts import MIN_SEEDS
from reidablate.study import Study, latest_study
from reidablate.tables.imported import FOLDER, check_import_name


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
    check_import_name(name, study)
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
