"""Recomputes what follows from a study's per-query rows, and compares it value by value with the study's own tables."""

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidablate import places
from reidablate.artifacts import read_json, read_record, read_table, write_table
from reidablate.errors import shortened
from reidablate.metrics.protocol import Scores
from reidablate.metrics.registry import known_metrics
from reidablate.report.render import render_report
from reidablate.runs import Provenance
from reidablate.stats.pipeline import STATISTICS, write_statistics
from reidablate.study import Run
from reidablate.tables.aggregate import ALSO_CSV

NOT_DERIVED = (
    "history, camera_pairs, cross_domain, imported, tuning and floors follow from no rows of queries and were checked "
    "by their checksums alone"
)
_KEYS = ("dataset", "cell", "reference", "claim", "seed", "side", "metric", "slice_by", "slice", "family")
_RECORDED = ("status", "data_fingerprint", "synthetic", "code_hash", "weights_sha256", "num_parameters", "device")
_NOT_OF_ROWS = {"num_invalid"}  # queries without a score have no row


def differences(results: Path, study: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """Yields (file, what is wrong with it, empty if it follows) of every file that is worked out again.

    They are the table of scores, from the rows of the queries; the statistics, from both; the table of runs, from
    their provenance; the `.csv` of each table; and the report with its exports. Nothing of the study is executed.

    Args:
        results: `results/<preset>` of an unpacked study.
        study: Its top folder.
        scratch: An empty folder.
    """
    tables = results / "tables"
    metrics, queries = read_table(tables / "metrics.parquet"), read_table(tables / "queries.parquet")
    about = read_json(tables / "study.json")
    yield "tables/metrics.parquet", _scores(metrics, queries, about)
    yield "tables/runs.parquet", _runs(read_table(tables / "runs.parquet"), results)
    again = scratch / results.name
    shutil.copytree(tables, again / "tables", ignore=shutil.ignore_patterns("statistics.json", "*.csv", ".*"))
    for name in STATISTICS:
        (again / "tables" / f"{name}.parquet").unlink(missing_ok=True)
    write_statistics(again, study)
    for name in STATISTICS:
        old, new = (read_table(folder / f"{name}.parquet") for folder in (tables, again / "tables"))
        yield f"tables/{name}.parquet", first_difference(old, new)
    for name in (*STATISTICS, *ALSO_CSV):
        write_table(read_table(tables / f"{name}.parquet"), again / "tables" / f"{name}.csv")
        yield f"tables/{name}.csv", _first_line(tables / f"{name}.csv", again / "tables" / f"{name}.csv")
    if (study / places.TEMPLATES).is_dir():
        return  # templates are programs, and no program of a packed study is run
    render_report(again, scratch / "none", again / "report" / "index.html")
    for path in sorted((again / "report").rglob("[!.]*.*")):
        file = path.relative_to(again)
        if path.suffix == ".parquet":
            yield file.as_posix(), first_difference(read_table(results / file), read_table(path))
        elif path.suffix != ".json":
            yield file.as_posix(), _first_line(results / file, path)


def first_difference(said: pd.DataFrame, found: pd.DataFrame) -> str:
    """Returns the first value in which two tables differ, in words; empty if they are equal, missing values too."""
    if list(said.columns) != list(found.columns):
        return f"has the columns {', '.join(said.columns)}; {', '.join(found.columns)} follow"
    if len(said) != len(found):
        return f"has {len(said)} rows; {len(found)} follow"
    for name in found.columns:
        ours, theirs = said[name], found[name]
        equal = (ours.isna() & theirs.isna()).to_numpy() | (ours.eq(theirs).fillna(False)).to_numpy(bool)
        if not equal.all():
            row = int(np.flatnonzero(~equal)[0])
            where = "/".join(str(said[key].iloc[row]) for key in _KEYS if key in said.columns)
            return f"row {row} ({where}): {name} is {_shown(ours.iloc[row])}; {_shown(theirs.iloc[row])} follows"
    return ""


def _shown(value: Any) -> str:
    return "missing" if value is None or value is pd.NA or value != value else shortened(value, 80)


def _scores(metrics: pd.DataFrame, queries: pd.DataFrame, about: Mapping[str, Any]) -> str:
    own = [metric.name for metric in known_metrics(about) if metric.use is not None]
    key = ["dataset", "cell", "seed", "side"]
    known: dict[Any, dict[str, float]] = {run: _summary(rows, own) for run, rows in queries.groupby(key, sort=False)}
    listed = set(metrics[key].itertuples(index=False, name=None))
    for dataset, cell, seed, side, name, value in metrics[[*key, "metric", "value"]].itertuples(index=False, name=None):
        if name in _NOT_OF_ROWS:
            continue
        where = f"{dataset}/{cell}/seed{seed} {side}: {name} is {value}"
        found = known.get((dataset, cell, seed, side), {}).get(name)
        if found is None:
            return f"{where}, and no row of queries.parquet gives it"
        if found != value:
            return f"{where}; {found} follows"
    if lost := [run for run in known if run not in listed]:
        dataset, cell, seed, side = lost[0]
        return f"lacks the scores of {dataset}/{cell}/seed{seed} {side}"
    return ""


def _summary(rows: pd.DataFrame, own: Collection[str]) -> dict[str, float]:
    """Returns the scores of one run and side, with those of the study's own metrics that have a column."""
    scores = Scores({str(name): rows[name].to_numpy() for name in rows}, num_invalid=0)
    return scores.summary() | scores.means(name for name in own if name in rows)


def _runs(runs: pd.DataFrame, results: Path) -> str:
    """Returns the first value of a finished run that is not its provenance's, in words; imported runs have none."""
    for row in runs[runs["status"].eq("finished")].to_dict("records"):
        run = Run(dataset=row["dataset"], cell=row["cell"], seed=row["seed"])
        path = results / run.id / "provenance.json"
        if not path.is_file():
            continue
        made = read_record(path, Provenance)
        for name in (
            "status",
            "data_fingerprint",
            "synthetic",
            "code_hash",
            "weights_sha256",
            "num_parameters",
            "device",
        ):
            said, found = row[name], getattr(made, name)
            if not (said == found or (found is None and pd.isna(said))):
                return f"{run.id}: {name} is {_shown(said)}; {_shown(found)} follows"
    return ""


def _first_line(said: Path, found: Path) -> str:
    """Returns the first line in which two texts differ, in words; empty if they are equal."""
    if not said.is_file():
        return "is missing"
    ours, theirs = (path.read_bytes().split(b"\n") for path in (said, found))
    if ours == theirs:
        return ""
    short = min(len(ours), len(theirs))
    at = next((i for i in range(short) if ours[i] != theirs[i]), short)
    column = 0
    if at < short:
        pairs = zip(ours[at], theirs[at], strict=False)
        column = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours[at]), len(theirs[at])))
    parts = (_around(lines, at, column) for lines in (ours, theirs))
    return "line {}: '{}'; '{}' follows".format(at + 1, *parts)


def _around(lines: list[bytes], at: int, column: int) -> str:
    line = lines[at] if at < len(lines) else b""
    return shortened(line[max(column - 20, 0) : column + 40].decode("utf-8", "replace"), 80)
