"""The per-query table as aligned arrays: one block a run, queries in one order, so that runs can be subtracted.

Shapes: M metrics (the order of `METRICS`), Q queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidablate.metrics.registry import SHIPPED, Metric
from reidablate.runs import SIDES
from reidablate.stats.paired import Array

METRICS = tuple(metric.name for metric in SHIPPED)


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
    left = {"dataset", "side", "cell", "seed", "query", "pid", *(metric.column for metric in metrics)}
    described = [column for column in queries.columns if column not in left]
    for whole, part in queries.groupby(["dataset", "side"], sort=False, observed=True):
        dataset, side = cast(tuple[str, str], whole)
        names = pd.factorize(part["query"], sort=True)[0]
        pids = part["pid"].to_numpy(np.int64)
        camids = part["camid"].to_numpy(np.int64)
        values = metric_values(part, metrics)
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
            runs[str(cell), int(seed)] = RunScores(layouts[key], np.ascontiguousarray(values[:, rows]))
        yield (str(dataset), str(side)), runs


class ScoreBook:
    """Every run of every data set with its status and scores; a row of the per-query table without a run is ignored."""

    def __init__(self, queries: pd.DataFrame, runs: pd.DataFrame, metrics: Sequence[Metric] = SHIPPED) -> None:
        scores = dict(split_runs(queries, metrics)) if len(queries) else {}
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
