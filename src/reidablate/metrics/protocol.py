"""The evaluation of person re-identification: which gallery images count for a query, and how the answer is scored.

For each query the gallery images with pid -1 (junk) and those of the query's own pid *and* camid are ignored; those of
its pid under another camid are positives; all others, distractors (pid 0) included, are negatives. A query without a
positive is invalid: left out of every mean, and counted.

Distances are Euclidean between L2-normalised features, which is the order of cosine similarity, and they are *exact*.
Each component of a normalised feature is rounded to a whole number of steps of 2^-25; products and sums of such
numbers stay below 2^53, so float64 holds every intermediate result without rounding, whatever the order of summation.
Hence equal features tie, a feature is at distance zero from itself, and no block size, number of threads or BLAS
changes a single bit. The rounding moves a distance by about 1e-8, less than one float32 matrix product does.

Memory is bounded by the block size, whatever Q and G; besides it only the labels and a few numbers a query are held.

Legend: Q queries, V valid queries, G gallery images, D feature, P pairs of a query and a gallery image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reidablate.errors import UserError
from reidablate.metrics.ranking import (
    FloatArray,
    IntArray,
    PositiveRanks,
    average_precision,
    average_precision_trapezoid,
    cmc,
    first_hit,
    inverse_negative_penalty,
    rank_positives,
)

JUNK_PID = -1
BLOCK_SIZE = 4096
# Rows worked on together, few enough to stay in the processor's cache: a tile of 256 x 4,096 distances has 8 MB.
ROWS_AT_ONCE = 256
PAIRS_AT_ONCE = 1024
STEPS_PER_UNIT = 2.0**25
CMC_RANKS = (1, 5, 10, 20)
# Directions this close in every component are one up to float32 noise: the network has collapsed.
CONSTANT_WITHIN = 1e-6
# Below this length the squares of a float64 feature underflow.
SHORTEST = 1e-150


@dataclass(frozen=True)
class Scores:
    """Scores of every valid query, in fractions.

    Attributes:
        queries: A row a valid query, in the order given: query, pid, camid, average_precision,
            average_precision_trapezoid, average_precision_optimistic, average_precision_pessimistic,
            inverse_negative_penalty, first_hit_rank (1-based), num_positives.
        num_invalid: Queries without a positive; no score includes them.
    """

    queries: pd.DataFrame
    num_invalid: int

    def summary(self) -> dict[str, float]:
        """Returns the means over valid queries (fractions), with the numbers of valid and of invalid queries.

        `mAP` is the step sum under the written tie policy; `mAP_optimistic` and `mAP_pessimistic` bound it over all
        orders of ties, and equal it where no positive ties with a negative.
        """
        means = self.queries.mean(numeric_only=True)
        curve = cmc(self.queries["first_hit_rank"].to_numpy(), max(CMC_RANKS))
        return {
            "mAP": float(means["average_precision"]),
            "mAP_trapezoid": float(means["average_precision_trapezoid"]),
            "mAP_optimistic": float(means["average_precision_optimistic"]),
            "mAP_pessimistic": float(means["average_precision_pessimistic"]),
            "mINP": float(means["inverse_negative_penalty"]),
            **{f"rank{k}": float(curve[k - 1]) for k in CMC_RANKS},
            "num_queries": len(self.queries),
            "num_invalid": self.num_invalid,
        }


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

    Raises:
        UserError: A feature is NaN, infinite or of no length; all features of a side are the same; lengths do not
            match; an id is no whole number; a side is empty; or no query has a positive.
    """
    queries, gallery = _numbers("query_features", query_features), _numbers("gallery_features", gallery_features)
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query_features have {queries.shape[1]} columns and gallery_features {gallery.shape[1]}; "
            "score features of one network."
        )
    pids, camids = (query_pids, gallery_pids), (query_camids, gallery_camids)
    labels = _labels((len(queries), len(gallery)), pids=pids, camids=camids, names=query_names)
    _check_block_size(block_size)
    _check_features("query_features", queries)
    _check_features("gallery_features", gallery)
    return _score(FeatureDistances(queries, gallery), labels, block_size)


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
    """
    matrix = _numbers("distances", distances)
    pids, camids = (query_pids, gallery_pids), (query_camids, gallery_camids)
    labels = _labels(matrix.shape, pids=pids, camids=camids, names=query_names)
    _check_block_size(block_size)
    _check_distances(matrix)
    return _score(GivenDistances(matrix), labels, block_size)


def fixed_point(features: npt.NDArray[Any]) -> FloatArray:
    """Returns the directions (N, D) of features as whole numbers of steps of 2^-25, held in float64.

    A row's result depends on that row alone, not on the array it stands in.
    """
    # C order, and NumPy's own row sum rather than BLAS or einsum: its order of summation depends on D only.
    steps = np.array(features, dtype=np.float64, order="C")
    steps *= STEPS_PER_UNIT / np.sqrt(np.square(steps).sum(axis=1, keepdims=True))
    np.rint(steps, out=steps)
    return steps


@dataclass(frozen=True)
class FeatureDistances:
    """Exact squared Euclidean distances between directions, in units of 2^-50.

    One matrix product gives |x|^2 + |y|^2 - 2 x.y, with (-2x, |x|^2, 1) on one side and (y, 1, |y|^2) on the other.
    Every partial sum of it is a whole number of at most (|x| + |y|)^2, which is 2^52 up to rounding.
    """

    query_features: npt.NDArray[Any]
    gallery_features: npt.NDArray[Any]

    def queries(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the rows (-2x, |x|^2, 1) of these queries."""
        x = fixed_point(self.query_features[indices])
        return np.column_stack((-2 * x, np.square(x).sum(axis=1), np.ones(len(x))))

    def gallery(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the rows (y, 1, |y|^2) of these gallery images."""
        y = fixed_point(self.gallery_features[indices])
        return np.column_stack((y, np.ones(len(y)), np.square(y).sum(axis=1)))

    def between(self, queries: npt.NDArray[Any], gallery: npt.NDArray[Any]) -> FloatArray:
        """Returns the distances (queries, gallery) of prepared rows, in a fresh array."""
        product: FloatArray = queries @ gallery.T
        return product


@dataclass(frozen=True)
class GivenDistances:
    """Distances read from a matrix (Q, G); an image is prepared as its index."""

    matrix: npt.NDArray[Any]

    def queries(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the indices."""
        return indices

    def gallery(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the indices."""
        return indices

    def between(self, queries: npt.NDArray[Any], gallery: npt.NDArray[Any]) -> FloatArray:
        """Returns the distances (queries, gallery) in a fresh array."""
        given: FloatArray = self.matrix[np.ix_(queries, gallery)].astype(np.float64)
        return given


Distances = FeatureDistances | GivenDistances


@dataclass(frozen=True)
class _Labels:
    query_pids: IntArray
    gallery_pids: IntArray
    query_camids: IntArray
    gallery_camids: IntArray
    query_names: npt.NDArray[np.str_]


def _score(distances: Distances, labels: _Labels, block_size: int) -> Scores:
    gallery = np.flatnonzero(labels.gallery_pids != JUNK_PID)
    by_pid = np.argsort(labels.gallery_pids[gallery], kind="stable")
    pids = labels.gallery_pids[gallery[by_pid]]
    low, high = (pids.searchsorted(labels.query_pids, side=side) for side in ("left", "right"))
    tables = []
    for block in _query_blocks(labels.query_pids, high - low, block_size):
        size = high[block] - low[block]
        row = np.repeat(np.arange(len(block)), size)
        column = by_pid[np.arange(len(row)) + np.repeat(high[block] - np.cumsum(size), size)]
        positive = labels.gallery_camids[gallery[column]] != labels.query_camids[block[row]]
        valid = np.unique(row[positive])
        if valid.size:
            kept = np.isin(row, valid)
            pairs = _Pairs(valid.searchsorted(row[kept]), column[kept], positive[kept])
            tables.append(_table(labels, block[valid], _rank(distances, block[valid], gallery, pairs, block_size)))
    if not tables:
        raise UserError(
            "no query has a positive, a gallery image of its pid under another camid; "
            "check that query and gallery name pids and camids alike."
        )
    queries = pd.concat(tables).sort_index(ignore_index=True)
    return Scores(queries, num_invalid=len(labels.query_pids) - len(queries))


def _query_blocks(query_pids: IntArray, num_pairs: IntArray, block_size: int) -> Iterator[IntArray]:
    """Yields the indices of all queries, at most `block_size` at a time and with no more pairs than a tile has entries.

    A single query may have more. They go by identity, so that positives which queries share are prepared together.
    """
    order = np.argsort(query_pids, kind="stable")
    pairs_before = np.concatenate(([0], np.cumsum(num_pairs[order])))
    start = 0
    while start < len(order):
        full = int(pairs_before.searchsorted(pairs_before[start] + ROWS_AT_ONCE * block_size, side="right")) - 1
        stop = min(max(full, start + 1), start + block_size)
        yield order[start:stop]
        start = stop


@dataclass(frozen=True)
class _Pairs:
    """The pairs (P,) of a query and a gallery image of one pid, query after query, positives and same-camera ones."""

    row: IntArray
    column: IntArray
    positive: npt.NDArray[np.bool_]


def _rank(distances: Distances, queries: IntArray, gallery: IntArray, pairs: _Pairs, block_size: int) -> PositiveRanks:
    """Returns the ranks of the positives: row i of `pairs` is query `queries[i]`, column j is image `gallery[j]`."""
    row, column = pairs.row[pairs.positive], pairs.column[pairs.positive]
    distance = np.empty(len(row))
    for chunk in _slices(len(row), PAIRS_AT_ONCE):
        near, i = np.unique(row[chunk], return_inverse=True)
        far, j = np.unique(column[chunk], return_inverse=True)
        block = distances.between(distances.queries(queries[near]), distances.gallery(gallery[far]))
        distance[chunk] = block[i, j]
    order = np.lexsort((column, distance, row))
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    tiles = _tiles(distances, queries, gallery, pairs, block_size)
    return rank_positives(tiles, distances=distance[order], columns=column[order], starts=starts)


def _tiles(
    distances: Distances, queries: IntArray, gallery: IntArray, pairs: _Pairs, block_size: int
) -> Iterator[tuple[int, int, FloatArray]]:
    """Yields first row, first column and distances of each tile, with infinity at all `pairs`."""
    prepared = distances.queries(queries)
    for columns in _slices(len(gallery), block_size):
        block = distances.gallery(gallery[columns])
        for rows in _slices(len(queries), ROWS_AT_ONCE):
            tile = distances.between(prepared[rows], block)
            own = slice(*pairs.row.searchsorted((rows.start, rows.stop)))
            row, column = pairs.row[own] - rows.start, pairs.column[own] - columns.start
            inside = (column >= 0) & (column < len(block))
            tile[row[inside], column[inside]] = np.inf
            yield rows.start, columns.start, tile


def _table(labels: _Labels, queries: IntArray, ranks: PositiveRanks) -> pd.DataFrame:
    starts = ranks.starts
    return pd.DataFrame(
        {
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
        },
        index=queries,
    )


def _slices(length: int, block_size: int) -> Iterator[slice]:
    return (slice(start, min(start + block_size, length)) for start in range(0, length, block_size))


def _numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise UserError(f"{name} is {matrix.dtype} of shape {matrix.shape}; give a matrix of real numbers.")
    return matrix


def _labels(
    shape: tuple[int, ...],
    *,
    pids: tuple[npt.ArrayLike, npt.ArrayLike],
    camids: tuple[npt.ArrayLike, npt.ArrayLike],
    names: npt.ArrayLike | None,
) -> _Labels:
    num_queries, num_gallery = shape
    for side, number in (("query", num_queries), ("gallery", num_gallery)):
        if number == 0:
            raise UserError(f"the {side} side is empty; give at least one {side} image.")
    texts = np.asarray(np.arange(num_queries) if names is None else names).astype(np.str_)
    if texts.shape != (num_queries,):
        raise UserError(f"query_names has shape {texts.shape}, not ({num_queries},); give one name a query.")
    return _Labels(
        query_pids=_ids("query_pids", pids[0], num_queries),
        gallery_pids=_ids("gallery_pids", pids[1], num_gallery),
        query_camids=_ids("query_camids", camids[0], num_queries),
        gallery_camids=_ids("gallery_camids", camids[1], num_gallery),
        query_names=texts,
    )


def _ids(name: str, values: npt.ArrayLike, length: int) -> IntArray:
    ids = np.asarray(values)
    if ids.shape != (length,):
        raise UserError(f"{name} has shape {ids.shape}, not ({length},); give one id an image.")
    if ids.dtype.kind not in "iu":
        raise UserError(f"{name} holds {ids.dtype} such as {ids[0]}; give whole numbers of an integer type.")
    return ids.astype(np.int64)


def _check_block_size(block_size: int) -> None:
    if block_size < 1:
        raise UserError(f"block_size is {block_size}; give a positive number of images.")


def _check_features(name: str, features: npt.NDArray[Any]) -> None:
    constant = len(features) > 1
    for rows in _slices(len(features), ROWS_AT_ONCE):
        block = features[rows].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            length = np.sqrt(np.square(block).sum(axis=1))
        unusable = np.flatnonzero(~((length > SHORTEST) & (length < np.inf)))
        if unusable.size:
            raise UserError(
                f"row {rows.start + unusable[0]} of {name} has the length {length[unusable[0]]}, from NaN, infinity or "
                "nothing but zeros; the network diverged or the file is damaged, extract the features again."
            )
        if constant:
            shift = fixed_point(block) - fixed_point(features[:1])
            constant = bool(np.abs(shift).max() <= CONSTANT_WITHIN * STEPS_PER_UNIT)
    if constant:
        raise UserError(
            f"{name} are constant, all {len(features)} rows have one direction and every ranking is a tie; "
            "the network collapsed, train it again."
        )


def _check_distances(distances: npt.NDArray[Any]) -> None:
    nearest, farthest = np.inf, 0.0
    for i, row in enumerate(distances):
        low, high = float(row.min()), float(row.max())
        if not (low >= 0 and high < np.inf):
            raise UserError(
                f"row {i} of distances holds {high if low >= 0 else low}; "
                "give finite distances of at least 0, for a cosine similarity s as 1 - s."
            )
        nearest, farthest = min(nearest, low), max(farthest, high)
    if distances.shape[1] > 1 and nearest == farthest:
        raise UserError(f"distances are constant, all are {nearest}; every ranking is a tie, compute them again.")
