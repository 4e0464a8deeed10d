"""Contrasts within parts of the test set: where does a difference come from?

The same interval, test and verdict as for the whole test set, over the queries of one slice. Slices are a look inside
a result rather than a result: Holm runs over all slices of one kind and all contrasts of a group.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidablate.errors import UserError
from reidablate.metrics.registry import SHIPPED
from reidablate.stats.conclude import Recipes, finish
from reidablate.stats.contrast_columns import COLUMNS
from reidablate.stats.contrasts import declared_contrasts, match, measure
from reidablate.stats.guard import Guard
from reidablate.stats.looked import Looked
from reidablate.stats.scores import METRICS, Queries, ScoreBook

SLICE_COLUMNS: dict[str, tuple[str, str]] = {
    **COLUMNS,
    "slice_by": ("string", "What the test set is cut by: camera, camera_pair, num_positives or occluded_share."),
    "slice": ("string", "The part, in words."),
}
"""Type and meaning of every column of the table of slices."""

_OCCLUDED_EDGES = (0.0, 0.2, 0.4, 1.0)


def slice_table(
    queries: Queries,
    runs: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    *,
    deltas: Mapping[str, Mapping[str, float]],
    headline_side: str,
    borrowed: Collection[str] = (),
    least_seeds: int = 0,
    metrics: Sequence[str] = ("mAP",),
    looked: Looked | None = None,
    recipes: Recipes | None = None,
) -> pd.DataFrame:
    """Returns a row for every data set, declared contrast, slice and metric on the headline side.

    Arguments as for `contrast_table`; slices exist for the columns that the table `queries` has. Its `camid` is the
    query's camera. A table that scores a query once per gallery camera names the two in a column `camera_pair`.

    Raises:
        UserError: A metric is unknown.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise UserError(f"metric '{unknown[0]}' is unknown; use some of {', '.join(METRICS)}.")
    wanted = [metric for metric in SHIPPED if metric.name in metrics]
    book, guard = ScoreBook(queries, runs, wanted), Guard(runs, cells)
    lines = []
    for dataset in book.datasets:
        for fields in declared_contrasts(cells):
            start = {"dataset": dataset, "side": headline_side, "headline": True, "delta_borrowed": dataset in borrowed}
            start |= fields | (looked.fields(dataset, fields) if looked else {})
            found, base = match(book, guard, start, least_seeds=least_seeds)
            if found is None:
                continue
            for kind, parts in slices(found.layout.columns).items():
                for label, keep in parts.items():
                    base.fields |= {"slice_by": kind, "slice": label}
                    lines += measure(found, base, wanted, deltas.get(dataset, {}), keep)
    keys = ("dataset", "metric", "slice_by")
    looks = looked.looks if looked else None
    return finish(lines, family=keys, pool=(*keys, "slice"), columns=SLICE_COLUMNS, looks=looks, recipes=recipes)


def slices(columns: pd.DataFrame) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Returns {kind: {label: queries of the slice}} for every kind of slice that the columns allow.

    Within a kind every query with a known value is in exactly one slice, and no slice is empty.

    Args:
        columns: One row a query; `camid`, `camera_pair`, `num_positives` and `occluded_share` are read where present.
    """
    makers: dict[str, tuple[str, Callable[[pd.Series], dict[str, NDArray[np.bool_]]]]] = {
        "camera": ("camid", lambda column: _levels(column, "camera {}")),
        "camera_pair": ("camera_pair", lambda column: _levels(column, "cameras {}")),
        "num_positives": ("num_positives", _thirds),
        "occluded_share": ("occluded_share", _shares),
    }
    found = {kind: make(columns[name]) for kind, (name, make) in makers.items() if name in columns}
    return {kind: {label: keep for label, keep in parts.items() if keep.any()} for kind, parts in found.items()}


def _levels(column: pd.Series, label: str) -> dict[str, NDArray[np.bool_]]:
    return {label.format(level): (column == level).to_numpy(bool) for level in sorted(column.dropna().unique())}


def _thirds(column: pd.Series) -> dict[str, NDArray[np.bool_]]:
    """Returns up to three slices of whole numbers, cut where about a third of the queries lies on each side."""
    values = column.to_numpy(np.float64)
    cuts = np.unique(np.floor(np.quantile(values, [1 / 3, 2 / 3])))
    edges = [values.min() - 1, *(cut for cut in cuts if values.min() <= cut < values.max()), values.max()]
    parts = {}
    for low, high in pairwise(edges):
        first, last = int(low) + 1, int(high)
        label = f"{first} positives" if first == last else f"{first} to {last} positives"
        parts[label.removesuffix("s") if label == "1 positives" else label] = (values > low) & (values <= high)
    return parts


def _shares(column: pd.Series) -> dict[str, NDArray[np.bool_]]:
    """Returns slices by the occluded share of the query, a fraction; unknown shares are in none."""
    values = column.to_numpy(np.float64, na_value=np.nan)
    parts = {"not occluded": values <= 0}
    for low, high in pairwise(_OCCLUDED_EDGES):
        parts[f"{100 * low:.0f} to {100 * high:.0f} % occluded"] = (values > low) & (values <= high)
    return parts
