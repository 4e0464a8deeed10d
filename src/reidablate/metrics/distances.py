"""Where distances come from: features, or a matrix that is given.

Distances between features are squared Euclidean, either between their directions, the L2-normalised features, or
between the features as they are, in units of the longest of them. Either way no feature is longer than 1.

They are *exact*: each component of such a feature is rounded to a whole number of steps of 2^-25; products and
sums of such numbers stay below 2^53, so float64 holds every intermediate result without rounding, whatever the order of
summation. Hence equal features tie, a feature is at distance zero from itself, and no block size, number of threads or
BLAS changes a single bit. The rounding moves a distance by about 1e-8, less than one float32 matrix product does.

*Estimates* of them in float32 cost half the time and come with a bound of their error. Whoever ranks needs an exact
distance only where an estimate lies within that bound of what it is compared to.

Legend: N images, Q queries, G gallery images, D feature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from reidablate.errors import UserError
from reidablate.metrics.ranking import FloatArray, IntArray

# Returns left @ right.T of two matrices, computed in their own precision or a higher one, as an array of their type.
Product = Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[Any]]

# What is compared: directions, whose Euclidean distance ranks as the cosine does, or features as they are.
DistanceName = Literal["cosine", "euclidean"]

DISTANCES: tuple[DistanceName, ...] = get_args(DistanceName)

# The most that float64 allows: a sum of squares and products of two features of length 1 reaches (2 * 2^25)^2 = 2^52;
# with 2^26 steps it could reach 2^54, beyond the 2^53 up to which every whole number is a float64.
STEPS_PER_UNIT = 2.0**25
# Rows worked on together, few enough to stay in the processor's cache.
ROWS_AT_ONCE = 64


def distance_name(text: str) -> DistanceName:
    """Returns the distance of a name.

    Raises:
        UserError: There is none of that name.
    """
    for name in DISTANCES:
        if text == name:
            return name
    raise UserError(f"--distance is '{text}' but should be {' or '.join(DISTANCES)}.")


def numpy_product(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns left @ right.T."""
    product: npt.NDArray[Any] = left @ right.T
    return product


def lengths(features: npt.NDArray[Any]) -> FloatArray:
    """Returns the Euclidean length (N,) of each row, which depends on that row alone.

    >>> lengths(np.array([[3.0, 4.0]]))
    array([5.])
    """
    # C order, and NumPy's own row sum rather than BLAS or einsum: its order of summation depends on D only.
    found: FloatArray = np.sqrt(np.square(np.asarray(features, dtype=np.float64, order="C")).sum(axis=1))
    return found


def fixed_point(features: npt.NDArray[Any], unit: float | None = None) -> FloatArray:
    """Returns the directions (N, D) of features as whole numbers of steps of 2^-25, held in float64.

    With a `unit` it is not the directions but the features divided by that unit.
    A row's result depends on that row and the unit alone, not on the array it stands in.

    >>> fixed_point(np.array([[3.0, 4.0]]))  # 0.6 and 0.8 of 33,554,432 steps
    array([[20132659., 26843546.]])
    """
    steps = np.array(features, dtype=np.float64, order="C")
    steps *= STEPS_PER_UNIT / (lengths(steps)[:, None] if unit is None else unit)
    np.rint(steps, out=steps)
    return steps


@dataclass(frozen=True)
class FeatureEstimates:
    """Estimates of distances between features: minus the cosine, by a float32 product, with a bound of its error.

    Let X and Y be directions in units (whole steps of 2^-25, |X_i| <= 1), d = |X|^2 + |Y|^2 - 2 X.Y their distance and
    x, y their components rounded to float32. With u = 2^-24, and n < 2^24 the number of columns:

    - A float32 product differs from x.y by at most g |x||y|, g = n u / (1 - n u), in whatever order it is summed, with
      or without fused multiply-add (Higham 2002, 3.1). Nothing underflows, since all are multiples of 2^-50.
    - |x.y - X.Y| <= (2 u + u^2) |X||Y| and |x||y| <= (1 + u)^2 |X||Y|, since each component is rounded once.
    - | |X| - 1 | <= h = sqrt(n) 2^-26 + (n + 4) 2^-53: half a step a component, and normalisation in float64.

    Hence minus the product is within (g (1 + u)^2 + 2 u + u^2) (1 + h)^2 + 2 h + h^2 of d / 2 - 1: 4.7e-5 at n = 768.
    """

    query_features: npt.NDArray[Any]
    gallery_features: npt.NDArray[Any]
    product: Product = numpy_product

    def queries(self, indices: IntArray) -> npt.NDArray[np.float32]:
        """Returns -x of these queries."""
        return _directions(self.query_features, indices, -1 / STEPS_PER_UNIT)

    def gallery(self, indices: IntArray) -> npt.NDArray[np.float32]:
        """Returns y of these gallery images."""
        return _directions(self.gallery_features, indices, 1 / STEPS_PER_UNIT)

    def between(self, queries: npt.NDArray[np.float32], gallery: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the estimates (queries, gallery) of prepared rows, in a fresh array."""
        return self.product(queries, gallery)

    def error(self) -> float:
        """Returns the most by which an estimate may differ from d / 2 - 1."""
        n, u = self.query_features.shape[1], 2.0**-24
        g, h = n * u / (1 - n * u), np.sqrt(n) * 2.0**-26 + (n + 4) * 2.0**-53
        return float((g * (1 + u) ** 2 + 2 * u + u**2) * (1 + h) ** 2 + 2 * h + h**2)

    def windows(self, distances: FloatArray) -> npt.NDArray[np.float32]:
        """Returns (P, 2) for distances (P,) as `FeatureDistances` gives them; see `ranking.Tally.add_estimates`."""
        return _windows(distances / (2 * STEPS_PER_UNIT**2) - 1, self.error())


def _directions(features: npt.NDArray[Any], indices: IntArray, scale: float) -> npt.NDArray[np.float32]:
    """Returns the directions of some features times `scale`, a power of two, in float32."""
    found = np.empty((len(indices), features.shape[1]), np.float32)
    for start in range(0, len(indices), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        np.multiply(fixed_point(features[indices[rows]]), scale, out=found[rows], casting="same_kind")
    return found


@dataclass(frozen=True)
class LengthEstimates:
    """Estimates of d / 2, d the distance of features in a `unit`, by a float32 product, with a bound of its error.

    To minus the product of x and y are added a and then b, which are |X|^2 / 2 and |Y|^2 / 2 rounded to float32. All
    else is as in `FeatureEstimates`, but lengths are at most 1 + h = L, not 1, and n < 2^20, so that g < 1 / 14:

    - The product is off by at most g (1 + u)^2 L^2; nothing underflows, since all are multiples of 2^-51.
    - The two additions round partial sums of at most 3/2 and 2 times (1 + u)^3 (1 + g) L^2, so by 3.8 u L^2 in all.
    - The terms themselves are off by at most (2 u + u^2) |X||Y| + u (|X|^2 + |Y|^2) / 2 <= (3 u + u^2) L^2.

    Hence an estimate is within (g (1 + u)^2 + 7 u) (1 + h)^2 of d / 2: 4.6e-5 at 768 columns.
    """

    query_features: npt.NDArray[Any]
    gallery_features: npt.NDArray[Any]
    unit: float
    product: Product = numpy_product

    def queries(self, indices: IntArray) -> npt.NDArray[np.float32]:
        """Returns (-x, a) of these queries."""
        return self._halves(self.query_features, indices, sign=-1)

    def gallery(self, indices: IntArray) -> npt.NDArray[np.float32]:
        """Returns (y, b) of these gallery images."""
        return self._halves(self.gallery_features, indices, sign=1)

    def between(self, queries: npt.NDArray[np.float32], gallery: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the estimates (queries, gallery) of prepared rows, in a fresh array."""
        found = self.product(queries[:, :-1], gallery[:, :-1])
        found += queries[:, -1:]
        found += gallery[:, -1]
        return found

    def error(self) -> float:
        """Returns the most by which an estimate may differ from d / 2."""
        n, u = self.query_features.shape[1], 2.0**-24
        g, h = n * u / (1 - n * u), np.sqrt(n) * 2.0**-26 + (n + 4) * 2.0**-53
        return float((g * (1 + u) ** 2 + 7 * u) * (1 + h) ** 2)

    def windows(self, distances: FloatArray) -> npt.NDArray[np.float32]:
        """Returns (P, 2) for distances (P,) as `FeatureDistances` gives them; see `ranking.Tally.add_estimates`."""
        return _windows(distances / (2 * STEPS_PER_UNIT**2), self.error())

    def _halves(self, features: npt.NDArray[Any], indices: IntArray, *, sign: int) -> npt.NDArray[np.float32]:
        found = np.empty((len(indices), features.shape[1] + 1), np.float32)
        for start in range(0, len(indices), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            steps = fixed_point(features[indices[rows]], self.unit)
            np.multiply(steps, sign / STEPS_PER_UNIT, out=found[rows, :-1], casting="same_kind")
            found[rows, -1] = np.square(steps, out=steps).sum(axis=1) / (2 * STEPS_PER_UNIT**2)
        return found


def _windows(middle: FloatArray, error: float) -> npt.NDArray[np.float32]:
    """Returns (P, 2) numbers in float32 that lie outside of `middle` plus and minus `error`."""
    # The nearest float32 is off by half a step at most, so the one after it lies outside.
    low = np.nextafter((middle - error).astype(np.float32), np.float32(-np.inf))
    high = np.nextafter((middle + error).astype(np.float32), np.float32(np.inf))
    return np.column_stack((low, high))


@dataclass(frozen=True)
class FeatureDistances:
    """Exact squared Euclidean distances between directions, or features in a `unit`, in units of 2^-50.

    One matrix product gives |x|^2 + |y|^2 - 2 x.y, with (-2x, |x|^2, 1) on one side and (y, 1, |y|^2) on the other.
    Every partial sum of it is a whole number of at most 2 sum |x_i y_i| + |x|^2 + |y|^2 <= (|x| + |y|)^2 by Cauchy and
    Schwarz, which is 2^52 up to the rounding of components: below 2^53, so no sum is rounded.
    """

    query_features: npt.NDArray[Any]
    gallery_features: npt.NDArray[Any]
    product: Product = numpy_product
    unit: float | None = None

    @property
    def estimates(self) -> FeatureEstimates | LengthEstimates:
        """Estimates of the same distances in half the time."""
        if self.unit is None:
            return FeatureEstimates(self.query_features, self.gallery_features, self.product)
        return LengthEstimates(self.query_features, self.gallery_features, self.unit, self.product)

    def queries(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the rows (-2x, |x|^2, 1) of these queries."""
        rows = _prepared(self.query_features, indices, -2, norm=-2, unit=self.unit)
        rows[:, -1] = 1
        return rows

    def gallery(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the rows (y, 1, |y|^2) of these gallery images."""
        rows = _prepared(self.gallery_features, indices, 1, norm=-1, unit=self.unit)
        rows[:, -2] = 1
        return rows

    def between(self, queries: npt.NDArray[Any], gallery: npt.NDArray[Any]) -> FloatArray:
        """Returns the distances (queries, gallery) of prepared rows, in a fresh array."""
        return self.product(queries, gallery)


def _prepared(
    features: npt.NDArray[Any], indices: IntArray, factor: int, *, norm: int, unit: float | None
) -> FloatArray:
    """Returns (n, D + 2): `factor` times the steps, their squared lengths in column `norm`, one column unset."""
    found = np.empty((len(indices), features.shape[1] + 2))
    for start in range(0, len(indices), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        steps = fixed_point(features[indices[rows]], unit)
        np.multiply(steps, factor, out=found[rows, :-2])
        found[rows, norm] = np.square(steps, out=steps).sum(axis=1)
    return found


def feature_distances(
    query_features: npt.NDArray[Any],
    gallery_features: npt.NDArray[Any],
    product: Product = numpy_product,
    distance: DistanceName = "cosine",
) -> FeatureDistances:
    """Returns the exact distances of checked features; their unit is the longest feature where lengths count.

    >>> found = feature_distances(np.array([[2.0, 0.0]]), np.array([[0.0, 3.0], [5.0, 0.0]]))
    >>> found.between(found.queries(np.array([0])), found.gallery(np.array([0, 1]))) / STEPS_PER_UNIT**2  # 2 - 2 cos
    array([[2., 0.]])
    """
    unit = None
    if distance == "euclidean":
        unit = max(longest(side) for side in (query_features, gallery_features))
    return FeatureDistances(query_features, gallery_features, product, unit)


def longest(features: npt.NDArray[Any]) -> float:
    """Returns the length of the longest row."""
    starts = range(0, len(features), ROWS_AT_ONCE)
    return max(float(lengths(features[start : start + ROWS_AT_ONCE]).max()) for start in starts)


@dataclass(frozen=True)
class GivenDistances:
    """Distances read from a matrix (Q, G); an image is prepared as its index."""

    matrix: npt.NDArray[Any]
    estimates: None = None

    def queries(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the indices."""
        return indices

    def gallery(self, indices: IntArray) -> npt.NDArray[Any]:
        """Returns the indices."""
        return indices

    def between(self, queries: npt.NDArray[Any], gallery: npt.NDArray[Any]) -> FloatArray:
        """Returns the distances (queries, gallery) in a fresh array."""
        given: FloatArray = self.matrix[np.ix_(queries, gallery)].astype(np.float64)
        return np.maximum(given, 0, out=given)  # a zero with rounding errors is a zero


class Estimates(Protocol):
    """Estimates of distances in float32, prepared and computed as `Distances` are, with a bound of their error."""

    def queries(self, indices: IntArray) -> npt.NDArray[np.float32]:
        """Returns these queries, prepared."""

    def gallery(self, indices: IntArray) -> npt.NDArray[np.float32]:
        """Returns these gallery images, prepared."""

    def between(self, queries: npt.NDArray[np.float32], gallery: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the estimates (queries, gallery) of prepared rows, in a fresh array."""

    def windows(self, distances: FloatArray) -> npt.NDArray[np.float32]:
        """Returns (P, 2) numbers that enclose every estimate of these distances; see `ranking.Tally.add_estimates`."""


class Distances(Protocol):
    """Where distances come from: images are prepared side by side, and a tile is computed of prepared ones.

    What a side is prepared as is the source's own affair.
    """

    @property
    def estimates(self) -> Estimates | None:
        """Estimates with a bound of their error, None where the distances themselves cost no more."""

    def queries(self, indices: IntArray) -> Any:
        """Returns these queries, prepared."""

    def gallery(self, indices: IntArray) -> Any:
        """Returns these gallery images, prepared."""

    def between(self, queries: Any, gallery: Any) -> FloatArray:
        """Returns the distances (queries, gallery) of prepared images, in a fresh array, finite and at least 0.

        A distance must not depend on which others are computed with it.
        """
