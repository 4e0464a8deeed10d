"""Scores of parts of a retrieval: each pair of cameras, and each number of positives.

Means hide where a network fails. Everything here is the protocol of `protocol` on less: the same junk, the same ties.

Legend: Q queries, G gallery images, C gallery cameras.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reidablate.artifacts import write_table
from reidablate.errors import UserError
from reidablate.metrics.checks import Labels
from reidablate.metrics.distances import Distances, Estimates
from reidablate.metrics.files import Options, check_table_path, ranked, read_file
from reidablate.metrics.protocol import JUNK_PID, Scores, score_by
from reidablate.metrics.ranking import FloatArray, IntArray

PAIR_COLUMNS = ("query_camid", "gallery_camid", "num_queries", "num_invalid", "mAP", "rank1")


@dataclass(frozen=True)
class _PartEstimates:
    """Estimates of which only some gallery images are searched; features are read as they are asked for."""

    whole: Estimates
    gallery_images: IntArray

    def queries(self, indices: IntArray) -> npt.NDArray[np.float32]:
        return self.whole.queries(indices)

    def gallery(self, indices: IntArray) -> npt.NDArray[np.float32]:
        return self.whole.gallery(self.gallery_images[indices])

    def between(self, queries: npt.NDArray[np.float32], gallery: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self.whole.between(queries, gallery)

    def windows(self, distances: FloatArray) -> npt.NDArray[np.float32]:
        return self.whole.windows(distances)


@dataclass(frozen=True)
class _Part:
    """A source of distances of which only some gallery images are searched."""

    whole: Distances
    gallery_images: IntArray

    @cached_property
    def estimates(self) -> Estimates | None:
        whole = self.whole.estimates
        return whole and _PartEstimates(whole, self.gallery_images)

    def queries(self, indices: IntArray) -> Any:
        return self.whole.queries(indices)

    def gallery(self, indices: IntArray) -> Any:
        return self.whole.gallery(self.gallery_images[indices])

    def between(self, queries: Any, gallery: Any) -> FloatArray:
        return self.whole.between(queries, gallery)


def by_camera_pair(distances: Distances, labels: Labels) -> pd.DataFrame:
    """Returns the scores of the queries of one camera in the gallery of another, a row an ordered pair of cameras.

    The gallery is restricted to the images of that one camera; within it the protocol is the usual one. A camera with
    itself makes no pair: its own images of the query's identity are never looked for. Together all pairs cost about as
    much as one scoring of the whole gallery, since every query meets every gallery image at most once.

    Args:
        distances: The source of the whole retrieval, such as `FeatureDistances`.
        labels: Its labels.

    Returns:
        Columns `PAIR_COLUMNS`, ordered by both cameras: `num_queries` queries have a positive in that gallery and are
        scored, `num_invalid` have none and are left out; `mAP` and `rank1` are fractions, NaN where nothing is scored.
    """
    cameras, sizes = np.unique(labels.query_camids, return_counts=True)
    counted = labels.gallery_pids != JUNK_PID
    parts = []
    for camid in np.unique(labels.gallery_camids[counted]):
        images = np.flatnonzero(counted & (labels.gallery_camids == camid))
        found = _scores_in(distances, labels, images)
        camera = cameras.searchsorted(found["camid"])
        num_queries = np.bincount(camera, minlength=len(cameras))
        with np.errstate(invalid="ignore"):
            means = {
                "mAP": np.bincount(camera, found["average_precision"], len(cameras)) / num_queries,
                "rank1": np.bincount(camera, found["first_hit_rank"] == 1, len(cameras)) / num_queries,
            }
        frame = {"query_camid": cameras, "gallery_camid": camid, "num_queries": num_queries}
        rows = pd.DataFrame({**frame, "num_invalid": sizes - num_queries, **means})
        parts.append(rows[rows["query_camid"] != camid])
    if not parts:
        raise UserError("the gallery is nothing but junk; give images with a pid of at least 0.")
    table: pd.DataFrame = pd.concat(parts)[list(PAIR_COLUMNS)]
    return table.sort_values(["query_camid", "gallery_camid"], ignore_index=True)


def _scores_in(distances: Distances, labels: Labels, images: IntArray) -> Mapping[str, Any]:
    """Returns the columns of `Scores` in a gallery of these images of one camera, empty where it answers nobody."""
    pids, camid = labels.gallery_pids[images], labels.gallery_camids[images[0]]
    answered = np.isin(labels.query_pids, pids) & (labels.query_camids != camid)
    if not answered.any():
        return {"camid": np.empty(0, np.int64), "average_precision": np.empty(0), "first_hit_rank": np.empty(0)}
    searched = replace(labels, gallery_pids=pids, gallery_camids=labels.gallery_camids[images])
    return score_by(_Part(distances, images), searched).columns


def by_num_positives(scores: Scores) -> pd.DataFrame:
    """Returns the scores of the queries with each number of positives, a row a number, from few to many.

    Returns:
        Columns `num_positives`, `num_queries`, and as fractions `mAP` and `rank1`.

    >>> columns = {"num_positives": [1, 2, 1], "average_precision": [0.5, 1.0, 1.0], "first_hit_rank": [2, 1, 1]}
    >>> table = by_num_positives(Scores({name: np.array(column) for name, column in columns.items()}, num_invalid=0))
    >>> table.to_numpy().tolist()
    [[1.0, 2.0, 0.75, 0.5], [2.0, 1.0, 1.0, 1.0]]
    """
    numbers, group, sizes = np.unique(scores.columns["num_positives"], return_inverse=True, return_counts=True)
    means = {
        "mAP": np.bincount(group, scores.columns["average_precision"]) / sizes,
        "rank1": np.bincount(group, scores.columns["first_hit_rank"] == 1) / sizes,
    }
    return pd.DataFrame({"num_positives": numbers, "num_queries": sizes, **means})


def check_slices(out: Path, options: Options) -> None:
    """Checks, before anything is scored, that `write_slices` can write.

    Raises:
        UserError: The suffix is neither `.parquet` nor `.csv`, or a single gallery shot is drawn: its gallery differs
            from query camera to query camera, so there is none to cut.
    """
    check_table_path(out)
    if options.single_gallery_shot is not None:
        raise UserError("a single gallery shot has no one gallery to slice; ask for --slices without it.")


def write_slices(path: Path, options: Options, scores: Mapping[str, Scores], out: Path) -> None:
    """Writes both kinds of slices of a file's retrievals as one table, `.parquet` or `.csv` by the suffix of `out`.

    Its columns are `side`, `slice_by` (`camera_pair` or `num_positives`), those of `by_camera_pair` and of
    `by_num_positives`; what a kind does not have is empty.

    Args:
        path: The file that was scored.
        options: How it was scored.
        scores: Its scores, from `score_file`.
        out: The table; see `check_slices`.
    """
    frames = []
    for side, problem in read_file(path, options.distance).items():
        pairs = by_camera_pair(*ranked(problem, options)).assign(slice_by="camera_pair")
        frames += [
            frame.assign(side=side)
            for frame in (pairs, by_num_positives(scores[side]).assign(slice_by="num_positives"))
        ]
    table = pd.concat(frames, ignore_index=True).astype({"num_positives": "Int64", "num_invalid": "Int64"})
    first = ["side", "slice_by", "query_camid", "gallery_camid", "num_positives"]
    table = table.astype({name: "Int64" for name in first[2:]})
    write_table(table[[*first, *(name for name in table.columns if name not in first)]], out)
