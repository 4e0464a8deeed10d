"""What is asked of features, distances and labels before anything is scored, each with the sentence that refuses it.

Legend: Q queries, G gallery images, D feature.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reidablate.errors import UserError, shortened
from reidablate.metrics.distances import ROWS_AT_ONCE, STEPS_PER_UNIT, DistanceName, fixed_point, lengths
from reidablate.metrics.ranking import FloatArray, IntArray

# Directions this close in every component are one up to float32 noise: the network has collapsed.
CONSTANT_WITHIN = 1e-6
# Below this length the squares of a float64 feature underflow.
SHORTEST = 1e-150
# Features that are not normalised are rounded in units of the longest. With one this much longer than most, the
# rounding moves the distances of the others by more than float32 does.
MOST_TIMES_MEDIAN = 100
# A distance of zero computed in floating point comes out this many steps of its precision below zero at most, relative
# to the largest distance without outliers. In float32, with features of 128 to 2048 numbers, 1 - s reached 7.5 and
# |x|^2 + |y|^2 - 2 x.y reached 8.7.
ROUNDING_STEPS = 16
# What exceeds the median by more is an outlier, such as 1e9 for images that are to come last: no scale of the others.
OUTLIER_TIMES_MEDIAN = 8


@dataclass(frozen=True)
class Labels:
    """Who is on the images of both sides and which camera saw them, checked by `check_labels`."""

    query_pids: IntArray
    gallery_pids: IntArray
    query_camids: IntArray
    gallery_camids: IntArray
    query_names: npt.NDArray[np.str_]


def _numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise UserError(f"{name} is {matrix.dtype} of shape {matrix.shape}; give a matrix of real numbers.")
    return matrix


def check_features(
    query_features: npt.ArrayLike, gallery_features: npt.ArrayLike, distance: DistanceName = "cosine"
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns both sides as matrices, without a copy where they are arrays.

    Raises:
        UserError: A side is no matrix of numbers, the widths differ, or a side cannot be ranked by this distance; see
            `score`.
    """
    queries, gallery = _numbers("query_features", query_features), _numbers("gallery_features", gallery_features)
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query_features have {queries.shape[1]} columns and gallery_features {gallery.shape[1]}; "
            "score features of one network."
        )
    found = []
    for side, features in (("query", queries), ("gallery", gallery)):
        _refuse_empty(side, len(features))
        found.append(_check_side(f"{side}_features", features, distance))
    if distance == "euclidean":
        _check_lengths(*found)
    return queries, gallery


def check_labels(
    shape: tuple[int, ...],
    *,
    pids: tuple[npt.ArrayLike, npt.ArrayLike],
    camids: tuple[npt.ArrayLike, npt.ArrayLike],
    names: npt.ArrayLike | None,
) -> Labels:
    """Returns the labels of Q queries and G gallery images, `shape` being (Q, G); see `score`.

    Raises:
        UserError: A side is empty, a length does not match, or an id is no whole number.
    """
    num_queries, num_gallery = shape
    _refuse_empty("query", num_queries)
    _refuse_empty("gallery", num_gallery)
    texts = _texts(np.arange(num_queries) if names is None else names)
    if texts.shape != (num_queries,):
        raise UserError(f"query_names has shape {texts.shape}, not ({num_queries},); give one name a query.")
    return Labels(
        query_pids=_ids("query_pids", pids[0], num_queries),
        gallery_pids=_ids("gallery_pids", pids[1], num_gallery),
        query_camids=_ids("query_camids", camids[0], num_queries),
        gallery_camids=_ids("gallery_camids", camids[1], num_gallery),
        query_names=texts,
    )


def _texts(names: npt.ArrayLike) -> npt.NDArray[np.str_]:
    given = np.asarray(names)
    if given.dtype.kind not in "USiu":
        raise UserError(f"query_names holds {given.dtype}; give text or whole numbers.")
    try:
        texts = given.astype(np.str_)
        "".join(texts.ravel().tolist()).encode()
    except ValueError:  # bytes that are not ASCII, half of a surrogate pair, code points beyond Unicode
        raise UserError("query_names holds text that is not Unicode; give names as a text array.") from None
    return texts


def _ids(name: str, values: npt.ArrayLike, length: int) -> IntArray:
    ids = np.asarray(values)
    if ids.shape != (length,):
        raise UserError(f"{name} has shape {ids.shape}, not ({length},); give one id an image.")
    if ids.dtype.kind not in "iu":
        example = f" such as {shortened(ids[0], 40)}" if len(ids) else ""
        raise UserError(f"{name} holds {ids.dtype}{example}; give whole numbers of an integer type.")
    if ids.dtype.kind == "u" and ids.size and int(ids.max()) >= 2**63:
        raise UserError(f"{name} holds {ids.max()}, which is beyond 64 bits with a sign; give ids below 2^63.")
    return ids.astype(np.int64)


def _refuse_empty(side: str, number: int) -> None:
    if number == 0:
        raise UserError(f"the {side} side is empty; give at least one {side} image.")


def _check_side(name: str, features: npt.NDArray[Any], distance: DistanceName) -> FloatArray:
    """Returns the length of every row, (N,)."""
    found, constant = np.empty(len(features)), len(features) > 1
    shortest = SHORTEST if distance == "cosine" else -1.0
    for start in range(0, len(features), ROWS_AT_ONCE):
        block = features[start : start + ROWS_AT_ONCE].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            length = found[start : start + ROWS_AT_ONCE] = lengths(block)
        unusable = np.flatnonzero(~((length > shortest) & (length < np.inf)))
        if unusable.size:
            raise UserError(
                f"row {start + unusable[0]} of {name} has the length {length[unusable[0]]}, from NaN, infinity, "
                "nothing but zeros or numbers beyond 1e150; the network diverged or the file is damaged, extract again."
            )
        if constant and distance == "cosine":
            shift = fixed_point(block) - fixed_point(features[:1])
            constant = bool(np.abs(shift).max() <= CONSTANT_WITHIN * STEPS_PER_UNIT)
        elif constant:
            constant = bool(np.abs(block - features[:1]).max() <= CONSTANT_WITHIN * length.max())
    if constant:
        same = "have one direction" if distance == "cosine" else "are equal"
        raise UserError(
            f"{name} are constant, all {len(features)} rows {same} and every ranking is a tie; "
            "the network collapsed, train it again."
        )
    return found


def _check_lengths(query: FloatArray, gallery: FloatArray) -> None:
    """Refuses features that have no length at all, or one that dwarfs the others."""
    middle = float(np.median(np.concatenate((query, gallery))))
    for side, found in (("query", query), ("gallery", gallery)):
        row = int(found.argmax())
        if found[row] > MOST_TIMES_MEDIAN * middle:
            raise UserError(
                f"row {row} of {side}_features is {found[row]:.4g} long and the median of all rows {middle:.4g}; more "
                f"than {MOST_TIMES_MEDIAN} times is too much for Euclidean distances, so extract that image again, or "
                "score by cosine."
            )
    if middle <= SHORTEST:
        raise UserError("the features are nothing but zeros; the network collapsed, train it again.")


def check_distances(distances: npt.ArrayLike) -> npt.NDArray[Any]:
    """Returns given distances as a matrix (Q, G), without a copy where they are an array.

    Raises:
        UserError: They are no matrix of numbers, or hold an infinite number, nothing but one number, or a negative
            that is more than a zero with rounding errors. Such a zero passes; `GivenDistances` counts it as zero.
    """
    matrix = _numbers("distances", distances)
    _refuse_empty("query", matrix.shape[0])
    _refuse_empty("gallery", matrix.shape[1])
    nearest, farthest, lowest = np.inf, 0.0, (0.0, 0)
    for i, row in enumerate(matrix):
        low, high = float(row.min()), float(row.max())
        if not (low > -np.inf and high < np.inf):
            raise _bad_distance(i, high if low > -np.inf else low)
        lowest = min(lowest, (low, i))
        nearest, farthest = min(nearest, max(low, 0.0)), max(farthest, high)
    if lowest[0] < 0 and -lowest[0] > _rounding(matrix[lowest[1]], farthest):
        raise _bad_distance(lowest[1], lowest[0])
    if matrix.shape[1] > 1 and nearest == farthest:
        raise UserError(f"distances are constant, all are {nearest}; every ranking is a tie, compute them again.")
    return matrix


def _bad_distance(row: int, value: float) -> UserError:
    return UserError(
        f"row {row} of distances holds {value}; "
        "give finite distances of at least 0, for a cosine similarity s as 1 - s."
    )


def _rounding(row: npt.NDArray[Any], farthest: float) -> float:
    """Returns how far below zero a row's zero may come out, given the largest distance of all rows."""
    typical = OUTLIER_TIMES_MEDIAN * float(np.median(np.abs(row.astype(np.float64))))
    return ROUNDING_STEPS * _precision(row) * min(farthest, typical)


def _precision(row: npt.NDArray[Any]) -> float:
    """Returns the relative step of the arithmetic that a row of distances was computed in; 0 for whole numbers.

    Numbers in float64 may have been computed in float32: then the negatives among them are float32 numbers.
    """
    if row.dtype.kind != "f":
        return 0.0
    negative = row[row < 0]
    single = row.dtype.itemsize > 4 and bool((negative.astype(np.float32) == negative).all())
    return float(np.finfo(np.float32 if single else row.dtype).eps)
