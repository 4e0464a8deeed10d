"""The per-query table as aligned arrays: a block for each run, in one order of queries, so that runs can be subtracted.

Shapes: M metrics (the order of `METRICS`), Q queries.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain
from operator import and_
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reidablate.errors import reading
from reidablate.metrics.registry import SHIPPED, Metric
from reidablate.runs import SIDES
from reidablate.stats.paired import Array

Queries = pd.DataFrame | Iterable[pd.DataFrame]
"""The table `queries`, whole or in parts that hold all rows of a data set and feature side."""

METRICS = tuple(metric.name for metric in SHIPPED)
_WORDS = ["dataset", "side", "cell", "query"]
_BATCH_ROWS = 2**16
_NOT_COMPARED = {"average_precision_optimistic", "average_precision_pessimistic"}


@dataclass(frozen=True)
class QueryFile:
    """The table `queries` on disk, read anew by each pass in parts of one data set and feature side.

    A hundred cells with ten seeds have millions of rows, most of whose bytes are words; so no pass holds them all.
    """

    path: Path

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Yields the rows of each data set and feature side, words as categories in alphabetical order."""
        names = [name for name in self._names if name not in _NOT_COMPARED]
        if not {*_WORDS} <= {*names}:  # of a study without scores
            return
        for row in self._read(["dataset", "side"]).drop_duplicates().itertuples(index=False):
            yield _in_order(self._read(names, dataset=str(row.dataset), side=str(row.side)))  # and keeps none

    def has_values(self, column: str) -> bool:
        """Returns whether any query has a value in a column, which may not be there."""
        return column in self._names and bool(self._read([column])[column].notna().any())

    @property
    def _names(self) -> list[str]:
        with self._reading():
            return list(pq.read_schema(self.path).names)

    def _read(self, columns: list[str], **rows: str) -> pd.DataFrame:
        """Returns some columns of the rows that have these words, with no more than a batch of other rows in memory."""
        with self._reading(), pq.ParquetFile(self.path, read_dictionary=_WORDS) as file:
            chosen = reduce(and_, (pc.field(name) == word for name, word in rows.items()), pc.scalar(True))
            batches = file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
            parts = [pa.Table.from_batches([batch]).filter(chosen) for batch in batches]
            table = pa.concat_tables(parts) if parts else file.read(columns)
            del parts
            frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
        pa.default_memory_pool().release_unused()
        return frame

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "a Parquet table", remedy="run the same command again, which makes it again")


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a frame whose words are in alphabetical order, as those of columns of text are."""
    words = {name: frame[name].cat.reorder_categories(sorted(frame[name].cat.categories)) for name in _WORDS}
    return frame.assign(**words)


@dataclass(frozen=True)
class Layout:
    """The queries of a run in one order, by name, identity and camera; runs with the same queries share one object."""

    pids: NDArray[np.int64]
    columns: pd.DataFrame  # camid, num_positives and whatever else describes a query, one row a query


@dataclass(frozen=True)
class RunScores:
    """The scores of one run on one feature side."""

    layout: Layout
    values: Array  # (M, Q), fractions


@dataclass(frozen=True)
class RunStatus:
    """What became of one run; `scores` is None unless it finished and left a sound per-query table."""

    status: str
    scores: RunScores | None
    problem: str | None


def metric_values(frame: pd.DataFrame, metrics: Sequence[Metric] = SHIPPED) -> Array:
    """Returns the per-query value of every metric, (M, Q), from columns of the per-query table."""
    return np.stack([metric.values(frame) for metric in metrics])


def split_runs(
    queries: pd.DataFrame, metrics: Sequence[Metric] = SHIPPED
) -> Iterator[tuple[tuple[str, str], dict[tuple[str, int], RunScores]]]:
    """Yields ((dataset, side), {(cell, seed): scores}) for every data set and feature side of the per-query table.

    Queries that stand twice under one name, identity and camera are told apart by their order in the table.

    Args:
        queries: The table `queries`; further numeric or text columns are kept in the layouts.
        metrics: The metrics, in the order of the scores.
    """
    if queries.empty:
        return
    left = {"dataset", "side", "cell", "seed", "query", "pid", *(metric.column for metric in metrics)}
    described = [column for column in queries.columns if column not in left]
    for whole, rows_of in queries.groupby(["dataset", "side"], sort=False, observed=True).indices.items():
        part = queries if len(rows_of) == len(queries) else queries.iloc[np.sort(rows_of)]
        dataset, side = cast(tuple[str, str], whole)
        names = pd.factorize(part["query"], sort=True)[0]
        pids = part["pid"].to_numpy(np.int64)
        camids = part["camid"].to_numpy(np.int64)
        layouts: dict[bytes, Layout] = {}
        runs: dict[tuple[str, int], RunScores] = {}
        groups = part.groupby(["cell", "seed"], sort=False, observed=True).indices
        for run, found in groups.items():
            cell, seed = cast(tuple[str, int], run)
            rows = np.sort(found)
            rows = rows[np.lexsort((camids[rows], pids[rows], names[rows]))]
            key = np.stack([names[rows], pids[rows], camids[rows]]).tobytes()
            if key not in layouts:
                layouts[key] = Layout(pids[rows], part[described].iloc[rows].reset_index(drop=True))
            runs[str(cell), int(seed)] = RunScores(layouts[key], metric_values(part.iloc[rows], metrics))
        yield (str(dataset), str(side)), runs


class ScoreBook:
    """Every run of every data set with its status and scores; a row of the per-query table without a run is ignored."""

    def __init__(self, queries: Queries, runs: pd.DataFrame, metrics: Sequence[Metric] = SHIPPED) -> None:
        parts = [queries] if isinstance(queries, pd.DataFrame) else queries
        scores = dict(chain.from_iterable(map(partial(split_runs, metrics=metrics), parts)))
        self.datasets: list[str] = list(dict.fromkeys(map(str, runs["dataset"]))) if len(runs) else []
        self._runs: dict[tuple[str, str, str], dict[int, RunStatus]] = {}
        if not len(runs):
            return
        for row in runs.to_dict("records"):
            dataset, cell, seed = str(row["dataset"]), str(row["cell"]), int(row["seed"])
            for side in SIDES:
                found = scores.get((dataset, side), {}).get((cell, seed))
                entry = _judged(str(row["status"]), found, seed, row.get("epoch"))
                self._runs.setdefault((dataset, side, cell), {})[seed] = entry

    def runs(self, dataset: str, side: str, cell: str) -> dict[int, RunStatus]:
        """Returns the planned runs of a cell by seed, empty when there are none."""
        return dict(sorted(self._runs.get((dataset, side, cell), {}).items()))


def _judged(status: str, scores: RunScores | None, seed: int, epoch: Any) -> RunStatus:
    """Returns a run's status with the reason why its scores cannot be used, if so."""
    if status == "diverged":
        known = epoch is not None and not pd.isna(epoch)
        return RunStatus(status, None, f"seed {seed} diverged" + (f" at epoch {int(epoch)}" if known else ""))
    if status != "finished":
        return RunStatus("missing", None, f"seed {seed} has not been run")
    if scores is None:
        return RunStatus("missing", None, f"seed {seed} left no per-query scores on this feature side")
    if not np.isfinite(scores.values).all():
        return RunStatus("missing", None, f"seed {seed} has per-query scores that are not finite")
    return RunStatus("finished", scores, None)


def finished_seeds(runs: Mapping[int, RunStatus]) -> list[int]:
    """Returns the seeds that have scores."""
    return [seed for seed, run in runs.items() if run.scores is not None]


def count(runs: Mapping[int, RunStatus], status: str) -> int:
    """Returns how many runs have a status."""
    return sum(run.status == status for run in runs.values())


def numbers(seeds: Sequence[int]) -> str:
    """Returns a list of seeds as words: "seed 3", "seeds 0 and 2", "seeds 0, 1 and 2"."""
    words = [str(seed) for seed in seeds]
    return f"seed {words[0]}" if len(words) == 1 else f"seeds {', '.join(words[:-1])} and {words[-1]}"
