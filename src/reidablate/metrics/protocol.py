"""The evaluation of person re-identification: which gallery images count for a query, and how the answer is scored.

For each query the gallery images with pid -1 (junk) and those of the query's own pid *and* camid are ignored; those of
its pid under another camid are positives; all others, distractors (pid 0) included, are negatives. A query without a
positive is invalid: left out of every mean, and counted.

Distances are Euclidean between L2-normalised features, which is the order of cosine similarity, or between features as
they are. Both are exact: see `distances`. Most negatives are counted by an estimate of their distance that is too far
from every positive's to be wrong; only the others get their exact one, so the result is the same.

Memory is bounded by the block size, whatever Q and G; besides it only the labels and a few numbers a query are held.

Legend: Q queries, V valid queries, G gallery images, D feature, P pairs of a query and a gallery image.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reidablate.errors import UserError
from reidablate.metrics.checks import Labels, check_distances, check_features, check_labels
from reidablate.metrics.distances import (
    DistanceName,
    Distances,
    Estimates,
    GivenDistances,
    Product,
    feature_distances,
    numpy_product,
)
from reidablate.metrics.own import OwnMetrics
from reidablate.metrics.ranking import (
    FloatArray,
    IntArray,
    PositiveRanks,
    Tally,
    average_precision,
    average_precision_trapezoid,
    cmc,
    first_hit,
    inverse_negative_penalty,
)

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]
JUNK_PID = -1
BLOCK_SIZE = 8192
# Rows of a tile, and columns where its distances are exact: 32 MB of estimates, 16 MB of distances.
ROWS_AT_ONCE, EXACT_COLUMNS = 1024, 2048
PAIRS_AT_ONCE = 1024
# Where more than this share of a tile stays open, its exact distances are computed as a whole.
OPEN_SHARE = 1024
PAIRS_A_QUERY = 64
CMC_RANKS = (1, 5, 10, 20)


@dataclass(frozen=True)
class Scores:
    """Scores of every valid query, in fractions.

    Attributes:
        columns: Arrays (V,) with an entry a valid query, in the order given: query, pid, camid, average_precision,
            average_precision_trapezoid, average_precision_optimistic, average_precision_pessimistic,
            inverse_negative_penalty, first_hit_rank (1-based), num_positives.
        num_invalid: Queries without a positive; no score includes them.
    """

    columns: dict[str, npt.NDArray[Any]]
    num_invalid: int

    @cached_property
    def queries(self) -> "pd.DataFrame":
        """The columns as a data frame."""
        import pandas as pd  # as long to import as a small retrieval takes to score

        return pd.DataFrame(self.columns)

    def summary(self) -> dict[str, float]:
        """Returns the means over valid queries (fractions), with the numbers of valid and of invalid queries.

        `mAP` is the step sum under the written tie policy; `mAP_optimistic` and `mAP_pessimistic` bound it over all
        orders of ties, and equal it where no positive ties with a negative.
        """
        curve = cmc(self.columns["first_hit_rank"], max(CMC_RANKS))
        return {
            "mAP": float(self.columns["average_precision"].mean()),
            "mAP_trapezoid": float(self.columns["average_precision_trapezoid"].mean()),
            "mAP_optimistic": float(self.columns["average_precision_optimistic"].mean()),
            "mAP_pessimistic": float(self.columns["average_precision_pessimistic"].mean()),
            "mINP": float(self.columns["inverse_negative_penalty"].mean()),
            **{f"rank{k}": float(curve[k - 1]) for k in CMC_RANKS},
            "num_queries": len(self.columns["query"]),
            "num_invalid": self.num_invalid,
        }

    def means(self, names: Iterable[str]) -> dict[str, float]:
        """Returns the means over valid queries of further columns."""
        return {name: float(self.columns[name].mean()) for name in names}


def score(
    query_features: npt.ArrayLike,
    gallery_features: npt.ArrayLike,
    *,
    query_pids: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike,
    query_names: npt.ArrayLike | None = None,
    block_size: int = BLOCK_SIZE,
    product: Product = numpy_product,
    own: OwnMetrics | None = None,
    distance: DistanceName = "cosine",
) -> Scores:
    """Returns the scores of a retrieval by features.

    Args:
        query_features: (Q, D) numbers of any precision, also memory-mapped or strided; they need no normalisation.
        gallery_features: (G, D), likewise; its order decides ties.
        query_pids: (Q,) whole numbers.
        gallery_pids: (G,) whole numbers; -1 is junk.
        query_camids: (Q,) whole numbers.
        gallery_camids: (G,) whole numbers.
        query_names: (Q,) names for the table; without them the queries are numbered from "0".
        block_size: Queries and gallery images handled at a time. It changes time and memory, never a score.
        product: What multiplies matrices, such as `engine.matrix_product.on_device("cuda")`. It changes time, never a
            score.
        own: Metrics of a study's own, each of which adds a column.
        distance: `cosine` compares directions, `euclidean` features as they are.

    Raises:
        UserError: A feature is NaN, infinite or, by cosine, of no length; by Euclidean distance, one is far longer than
            the others; all features of a side are the same; lengths do not match; an id is no whole number; a side is
            empty; or no query has a positive.

    >>> found = score(
    ...     [[1.0, 0.0]], [[1.0, 0.1], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]],
    ...     query_pids=[7], query_camids=[0], gallery_pids=[8, 7, 7, 7], gallery_camids=[1, 1, 2, 0],
    ... )  # the last image is of the query's own camera, the first one of another person
    >>> round(found.summary()["mAP"], 4)  # (1/2 + 2/3) / 2
    0.5833
    """
    queries, gallery = check_features(query_features, gallery_features, distance)
    pids, camids = (query_pids, gallery_pids), (query_camids, gallery_camids)
    labels = check_labels((len(queries), len(gallery)), pids=pids, camids=camids, names=query_names)
    source = feature_distances(queries, gallery, product, distance)
    return score_by(source, labels, block_size=block_size, own=own)


def score_distances(
    distances: npt.ArrayLike,
    *,
    query_pids: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike,
    query_names: npt.ArrayLike | None = None,
    block_size: int = BLOCK_SIZE,
) -> Scores:
    """Returns the scores of a retrieval by given distances (Q, G), which are never changed; see `score`.

    Any non-negative numbers do, and only their order within a query matters: squared distances score the same.

    Raises:
        UserError: As `score`; also a distance that is negative, as a similarity would be.

    >>> found = score_distances(
    ...     [[0.1, 0.3, 0.2]],
    ...     query_pids=[7], query_camids=[0], gallery_pids=[8, 7, 7], gallery_camids=[1, 1, 2],
    ... )
    >>> found.summary()["rank1"], found.summary()["rank5"]
    (0.0, 1.0)
    """
    matrix = check_distances(distances)
    pids, camids = (query_pids, gallery_pids), (query_camids, gallery_camids)
    labels = check_labels(matrix.shape, pids=pids, camids=camids, names=query_names)
    return score_by(GivenDistances(matrix), labels, block_size=block_size)


def score_by(
    distances: Distances,
    labels: Labels,
    *,
    block_size: int = BLOCK_SIZE,
    own: OwnMetrics | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Returns the scores of a retrieval by any source of distances.

    Args:
        distances: Of queries and gallery images.
        labels: Of both.
        block_size: Queries and gallery images handled at a time.
        own: Metrics of a study's own.
        progress: Told now and then how many pairs are compared, and of how many.

    Raises:
        UserError: No query has a positive, or the block size is not positive.
    """
    if block_size < 1:
        raise UserError(f"block_size is {block_size}; give a positive number of images.")
    gallery = np.flatnonzero(labels.gallery_pids != JUNK_PID)
    by_pid = np.argsort(labels.gallery_pids[gallery], kind="stable")
    pids = labels.gallery_pids[gallery[by_pid]]
    low, high = (pids.searchsorted(labels.query_pids, side=side) for side in ("left", "right"))
    tables = []
    told = _Told(progress, len(labels.query_pids) * len(gallery))
    for block in _query_blocks(labels.query_pids, high - low, block_size):
        size = high[block] - low[block]
        row = np.repeat(np.arange(len(block)), size)
        column = by_pid[np.arange(len(row)) + np.repeat(high[block] - np.cumsum(size), size)]
        positive = labels.gallery_camids[gallery[column]] != labels.query_camids[block[row]]
        valid = np.unique(row[positive])
        if valid.size:
            kept = np.isin(row, valid)
            pairs = _Pairs(valid.searchsorted(row[kept]), column[kept], positive[kept])
            ranks = _rank(_Task(distances, block[valid], gallery, pairs, told), block_size)
            extra = own.columns(ranks.written, ranks.starts) if own else {}
            tables.append((block[valid], _table(labels, block[valid], ranks) | extra))
        told.add((len(block) - len(valid)) * len(gallery))
    if not tables:
        raise UserError(
            "no query has a positive, a gallery image of its pid under another camid; "
            "check that query and gallery name pids and camids alike."
        )
    order = np.argsort(np.concatenate([queries for queries, _ in tables]))
    columns = {name: np.concatenate([table[name] for _, table in tables])[order] for name in tables[0][1]}
    return Scores(columns, num_invalid=len(labels.query_pids) - len(order))


def _query_blocks(query_pids: IntArray, num_pairs: IntArray, block_size: int) -> Iterator[IntArray]:
    """Yields the indices of all queries, at most `block_size` at a time and with `PAIRS_A_QUERY` pairs each on average.

    A single query may have more. They go by identity, so that positives which queries share are prepared together.
    """
    order = np.argsort(query_pids, kind="stable")
    pairs_before = np.concatenate(([0], np.cumsum(num_pairs[order])))
    start = 0
    while start < len(order):
        full = int(pairs_before.searchsorted(pairs_before[start] + PAIRS_A_QUERY * block_size, side="right")) - 1
        stop = min(max(full, start + 1), start + block_size)
        yield order[start:stop]
        start = stop


@dataclass(frozen=True)
class _Pairs:
    """The pairs (P,) of a query and a gallery image of one pid, query after query, positives and same-camera ones."""

    row: IntArray
    column: IntArray
    positive: npt.NDArray[np.bool_]


def _rank(task: "_Task", block_size: int) -> PositiveRanks:
    """Returns the ranks of the positives."""
    distances, queries, gallery, pairs = task.distances, task.queries, task.gallery, task.pairs
    row, column = pairs.row[pairs.positive], pairs.column[pairs.positive]
    distance = _pair_distances(distances, queries[row], gallery[column])
    order = np.lexsort((column, distance, row))
    tally = Tally(distance[order], column[order], np.flatnonzero(np.diff(row, prepend=-1)))
    if distances.estimates is None:
        for tile in task.tiles(list(_slices(len(queries), ROWS_AT_ONCE)), slice(0, len(gallery)), block_size):
            tally.add(*tile)
            task.told.add(tile[2].size)
    else:
        _count_by_estimates(task, distances.estimates, tally, block_size)
    return tally.ranks()


def _count_by_estimates(task: "_Task", estimates: Estimates, tally: Tally, block_size: int) -> None:
    """Counts all negatives, most of them by an estimate of their distance alone."""
    windows = estimates.windows(tally.distances)
    prepared = estimates.queries(task.queries)
    too_open: dict[int, slice] = {}  # rows whose estimates leave too much open, in this block and so in all others
    for columns in _slices(len(task.gallery), block_size):
        block = estimates.gallery(task.gallery[columns])
        for rows in _slices(len(task.queries), ROWS_AT_ONCE):
            if rows.start in too_open:
                continue
            tile = task.negatives(rows, columns, estimates.between(prepared[rows], block))
            still_open = tally.add_estimates(rows.start, tile, windows, at_most=len(tile) + tile.size // OPEN_SHARE)
            if still_open is None:
                too_open[rows.start] = rows
                continue
            positive, column = still_open[0], still_open[1] + columns.start
            query = tally.starts.searchsorted(positive, side="right") - 1
            found = _pair_distances(task.distances, task.queries[query], task.gallery[column])
            tally.add_pairs(positive, column, found)
        for exact in task.tiles(list(too_open.values()), columns, block_size):
            tally.add(*exact)
        task.told.add(len(task.queries) * (columns.stop - columns.start))


def _pair_distances(distances: Distances, queries: IntArray, gallery: IntArray) -> FloatArray:
    """Returns the distances (P,) of pairs (P,), few at a time so that they share images."""
    found = np.empty(len(queries))
    for chunk in _slices(len(queries), PAIRS_AT_ONCE):
        near, i = np.unique(queries[chunk], return_inverse=True)
        far, j = np.unique(gallery[chunk], return_inverse=True)
        found[chunk] = distances.between(distances.queries(near), distances.gallery(far))[i, j]
    return found


class _Told:
    """How many pairs are compared, told to whoever wants to know."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, pairs: int) -> None:
        self._done += pairs
        if self._progress is not None:
            self._progress(self._done, self._total)


@dataclass(frozen=True)
class _Task:
    """What is compared: row i of `pairs` is query `queries[i]`, column j is gallery image `gallery[j]`."""

    distances: Distances
    queries: IntArray
    gallery: IntArray
    pairs: _Pairs
    told: _Told

    def tiles(self, rows: list[slice], columns: slice, block_size: int) -> Iterator[tuple[int, int, FloatArray]]:
        """Yields first row, first column and distances of the negatives of each tile of this part."""
        prepared = [self.distances.queries(self.queries[down]) for down in rows]
        for across in _slices(columns.stop, min(block_size, EXACT_COLUMNS), columns.start) if rows else ():
            block = self.distances.gallery(self.gallery[across])
            for down, queries in zip(rows, prepared, strict=True):
                tile = self.negatives(down, across, self.distances.between(queries, block))
                yield down.start, across.start, tile

    def negatives(self, rows: slice, columns: slice, tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the tile of this part with infinity at all pairs."""
        own = slice(*self.pairs.row.searchsorted((rows.start, rows.stop)))
        row, column = self.pairs.row[own] - rows.start, self.pairs.column[own] - columns.start
        inside = (column >= 0) & (column < columns.stop - columns.start)
        tile[row[inside], column[inside]] = np.inf
        return tile


def _table(labels: Labels, queries: IntArray, ranks: PositiveRanks) -> dict[str, npt.NDArray[Any]]:
    starts = ranks.starts
    return {
        "query": labels.query_names[queries],
        "pid": labels.query_pids[queries],
        "camid": labels.query_camids[queries],
        "average_precision": average_precision(ranks.written, starts),
        "average_precision_trapezoid": average_precision_trapezoid(ranks.written, starts),
        "average_precision_optimistic": average_precision(ranks.optimistic, starts),
        "average_precision_pessimistic": average_precision(ranks.pessimistic, starts),
        "inverse_negative_penalty": inverse_negative_penalty(ranks.written, starts),
        "first_hit_rank": first_hit(ranks.written, starts),
        "num_positives": np.diff(starts, append=len(ranks.written)),
    }


def _slices(stop: int, size: int, start: int = 0) -> Iterator[slice]:
    return (slice(first, min(first + size, stop)) for first in range(start, stop, size))
