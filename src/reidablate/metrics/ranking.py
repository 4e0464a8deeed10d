"""Ranks of the positives of a query, and the scores that follow from them.

No ranking is ever written out. The rank of a positive is its place among the positives of its query plus the number of
negatives before it, and negatives are counted tile by tile.

Tie policy: the gallery is ordered by (distance, gallery index), so equal distances are decided by the order of the
gallery and by nothing else. How much that decides is told by the optimistic ranks (a positive stands before every
negative it ties with) and the pessimistic ones (behind every such negative).

Legend: V queries that have a positive, P positives of all of them together, B gallery images in a tile, K ranks.
The positives of many queries lie in one array, query after query, and `starts` (V,) holds the place of each query's
first one. For a single query leave `starts` out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PositiveRanks:
    """The 1-based ranks (P,) of the positives, rising within each query.

    Attributes:
        written: Ranks under the written tie policy.
        optimistic: Ranks when every tie between a positive and a negative goes to the positive.
        pessimistic: Ranks when every such tie goes to the negative.
        starts: (V,) place of each query's first positive.
    """

    written: IntArray
    optimistic: IntArray
    pessimistic: IntArray
    starts: IntArray


class Tally:
    """Counts the negatives before each positive, tile by tile; a tile is any part of the queries and columns.

    One query has positives in the columns 1 and 4, and four negatives beside them; the one in column 2 ties with the
    second positive and stands before it in the gallery, the one in column 5 ties and stands behind it.

    >>> tally = Tally(np.array([0.2, 0.5]), columns=np.array([1, 4]), starts=np.array([0]))
    >>> tally.add(0, 0, np.array([[0.1, np.inf, 0.5]]))
    >>> tally.add(0, 3, np.array([[0.9, np.inf, 0.5]]))
    >>> ranks = tally.ranks()
    >>> ranks.optimistic, ranks.written, ranks.pessimistic
    (array([2, 3]), array([2, 4]), array([2, 5]))
    """

    def __init__(self, distances: FloatArray, columns: IntArray, starts: IntArray) -> None:
        """Begins with no negative.

        Args:
            distances: (P,) finite distances of the positives; those of a query are in the order of the tie policy.
            columns: (P,) gallery columns of the positives.
            starts: (V,) place of each query's first positive.
        """
        self.distances, self.columns, self.starts = distances, columns, starts
        self.stops = _stops(len(distances), starts)
        self._closer, self._tied, self._tied_before = (np.zeros(len(distances), np.int64) for _ in range(3))

    def add(self, first_query: int, first_column: int, tile: FloatArray) -> None:
        """Counts a tile of distances, (queries, columns) from these on.

        Positives and ignored images hold infinity: only negatives are left.
        """
        for query, row in enumerate(tile, first_query):
            own = slice(self.starts[query], self.stops[query])
            # Only what is no farther than the last positive can stand before one, so no more than that is sorted.
            near = row.compress(row <= self.distances[own.stop - 1])
            if not near.size:
                continue
            near.sort()
            below = near.searchsorted(self.distances[own], side="left")
            level = near.searchsorted(self.distances[own], side="right") - below
            self._closer[own] += below
            if level.any():
                values, columns = self.distances[own], self.columns[own] - first_column
                self._tied[own] += level
                self._tied_before[own] += _count_equal_before(row, values=values, columns=columns)

    def add_estimates(
        self, first_query: int, tile: npt.NDArray[np.float32], windows: npt.NDArray[np.float32], *, at_most: int
    ) -> tuple[IntArray, IntArray] | None:
        """Counts the negatives of a tile as far as estimates of their distances tell.

        Args:
            first_query: The first query of the tile.
            tile: (queries, columns) estimates; positives and ignored images hold infinity.
            windows: (P, 2). A negative with an estimate below the first number is closer than the positive, with one
                that is not below the second number it is farther. Both rise within a query.
            at_most: Number of open pairs that are worth listing.

        Returns:
            The open pairs, whose estimate lies between the two numbers, as places of positives and columns of the
            tile; give them to `add_pairs`. None, and nothing is counted, if there are more than `at_most`.
        """
        own = slice(self.starts[first_query], self.stops[first_query + len(tile) - 1])
        below = np.empty((own.stop - own.start, 2), np.int64)
        for query, row in enumerate(tile, first_query):
            window = windows[self.starts[query] : self.stops[query]]
            near = row.compress(row < window[-1, 1])
            near.sort()
            # For each positive, how many estimates are surely closer, and how many are not surely farther; the
            # difference is open.
            below[self.starts[query] - own.start : self.stops[query] - own.start] = near.searchsorted(window)
        number = below[:, 1] - below[:, 0]
        if number.sum() > at_most:
            return None
        self._closer[own] += below[:, 0]
        unsure = np.flatnonzero(number)
        positives = own.start + unsure
        rows = self.starts.searchsorted(positives, side="right") - 1 - first_query
        found = [
            np.flatnonzero((tile[row] >= low) & (tile[row] < high))
            for row, (low, high) in zip(rows, windows[positives], strict=True)
        ]
        columns = np.concatenate(found) if found else np.empty(0, np.int64)
        return np.repeat(positives, number[unsure]), columns

    def add_pairs(self, positives: IntArray, columns: IntArray, distances: FloatArray) -> None:
        """Counts negatives, each at a distance and in a column, against one positive each."""
        own = self.distances[positives]
        level = distances == own
        before = level & (columns < self.columns[positives])
        for count, mask in ((self._closer, distances < own), (self._tied, level), (self._tied_before, before)):
            count += np.bincount(positives[mask], minlength=len(count))

    def ranks(self) -> PositiveRanks:
        """Returns the ranks that follow from what was counted.

        The positives of a query are in the order of the tie policy, so the i-th of them has i - 1 positives before it.
        """
        optimistic = _place(len(self.distances), self.starts) + self._closer
        return PositiveRanks(optimistic + self._tied_before, optimistic, optimistic + self._tied, self.starts)


def _count_equal_before(row: FloatArray, *, values: FloatArray, columns: IntArray) -> IntArray:
    """Returns for each value how often it stands in `row` (B,) before its column (which may lie outside the row)."""
    levels, level = np.unique(values, return_inverse=True)
    nearest = levels.searchsorted(row)
    equal = np.flatnonzero(levels.take(nearest, mode="clip") == row)
    # One whole number orders by (level, column), so one search counts what is equal and earlier: with b = len(row) the
    # keys level * b + column of a level lie from level * b to level * b + b - 1. A column before the tile becomes 0,
    # which nothing is before; one behind it becomes b, which the whole level is before.
    keys = np.sort(nearest[equal] * len(row) + equal)
    low = level * len(row)
    count: IntArray = keys.searchsorted(low + columns.clip(0, len(row))) - keys.searchsorted(low)
    return count


def average_precision(ranks: IntArray, starts: IntArray | None = None) -> FloatArray:
    """Returns AP (V,) of each query as a step sum, (1/R) sum_i i / r_i over its R positives at ranks r_i, in (0, 1].

    >>> average_precision(np.array([1, 3]))  # (1/1 + 2/3) / 2
    array([0.83333333])
    """
    return _mean(_place(len(ranks), starts) / ranks, starts)


def average_precision_trapezoid(ranks: IntArray, starts: IntArray | None = None) -> FloatArray:
    """Returns AP (V,) of each query by the trapezoid rule of the Market-1501 MATLAB code, in (0, 1].

    (1/R) sum_i (p_i + i / r_i) / 2, where p_i = (i - 1) / (r_i - 1) is the precision just before the i-th positive,
    1 at the head of the list. It never exceeds the step sum (Zheng et al. 2015, evaluation code).

    >>> average_precision_trapezoid(np.array([1, 3]))  # ((1 + 1/1) / 2 + (1/2 + 2/3) / 2) / 2
    array([0.79166667])
    """
    place = _place(len(ranks), starts)
    before = np.divide(place - 1, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
    return _mean((before + place / ranks) / 2, starts)


def inverse_negative_penalty(ranks: IntArray, starts: IntArray | None = None) -> FloatArray:
    """Returns INP (V,) of each query, R / r_R: the precision at its last positive, in (0, 1] (Ye et al. 2021, 4.1).

    >>> inverse_negative_penalty(np.array([1, 3]))
    array([0.66666667])
    """
    stops = _stops(len(ranks), starts)
    return np.diff(stops, prepend=0) / ranks[stops - 1]


def first_hit(ranks: IntArray, starts: IntArray | None = None) -> IntArray:
    """Returns the 1-based rank (V,) of each query's first positive.

    >>> first_hit(np.array([2, 3, 1]), np.array([0, 2]))  # two queries, with positives at 2 and 3, and at 1
    array([2, 1])
    """
    return ranks[:1] if starts is None else ranks[starts]


def cmc(first_hit_rank: IntArray, max_rank: int) -> FloatArray:
    """Returns the cumulative matching characteristic (K,): the share of queries with a hit in the first 1..K ranks.

    The curve never falls. `max_rank` K may exceed the size of the gallery: the curve then ends flat at 1.

    >>> cmc(np.array([1, 3, 3, 9]), max_rank=4)
    array([0.25, 0.25, 0.75, 0.75])
    """
    hits = np.bincount(first_hit_rank, minlength=max_rank + 1)[1 : max_rank + 1]
    return np.cumsum(hits) / len(first_hit_rank)


def _stops(num_positives: int, starts: IntArray | None) -> IntArray:
    return np.append(np.empty(0, np.int64) if starts is None else starts[1:], num_positives)


def _place(num_positives: int, starts: IntArray | None) -> IntArray:
    """Returns (P,) the 1-based place of each positive among those of its query."""
    stops = _stops(num_positives, starts)
    sizes = np.diff(stops, prepend=0)
    return np.arange(1, num_positives + 1) - np.repeat(stops - sizes, sizes)


def _mean(values: FloatArray, starts: IntArray | None) -> FloatArray:
    """Returns the mean (V,) of each query's values.

    A mean of ones is exactly 1, since sums of ones are exact: AP is 1 if and only if all positives come first.
    """
    stops = _stops(len(values), starts)
    sizes = np.diff(stops, prepend=0)
    return np.add.reduceat(values, stops - sizes) / sizes
