"""Where distances come from: features, or a matrix that is given.

Distances between features are squared Euclidean between their directions, the L2-normalised features.

They are *exact*: each component of a normalised feature is rounded to a whole number of steps of 2^-25; products and
sums of such numbers stay below 2^53, so float64 holds every intermediate result without rounding, whatever the order of
summation. Hence equal features tie, a feature is at distance zero from itself, and no block size, number of threads or
BLAS changes a single bit. The rounding moves a distance by about 1e-8, less than one float32 matrix product does.

Legend: N images, Q queries, G gallery images, D feature.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from reidablate.metrics.ranking import FloatArray, IntArray

STEPS_PER_UNIT = 2.0**25


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


class Distances(Protocol):
    """Where distances come from: images are prepared side by side, and a tile is computed of prepared ones.

    What a side is prepared as is the source's own affair; prepared queries can be sliced.
    """

    def queries(self, indices: IntArray) -> Any:
        """Returns these queries, prepared."""

    def gallery(self, indices: IntArray) -> Any:
        """Returns these gallery images, prepared."""

    def between(self, queries: Any, gallery: Any) -> FloatArray:
        """Returns the distances (queries, gallery) of prepared images, in a fresh array, finite and at least 0.

        A distance must not depend on which others are computed with it.
        """
