"""Rank lists of single queries, the hardest queries, and the queries that one cell finds and another loses.

Legend: Q queries, G gallery images, K shown.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from reidablate.metrics.distances import STEPS_PER_UNIT, FeatureDistances
from reidablate.metrics.protocol import JUNK_PID

Kind = Literal["right", "wrong", "junk"]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Retrieval:
    """One side of a run's features with its labels.

    Attributes:
        distances: Between all queries and gallery images.
        query_pids: (Q,).
        query_camids: (Q,).
        gallery_pids: (G,).
        gallery_camids: (G,).
    """

    distances: FeatureDistances
    query_pids: IntArray
    query_camids: IntArray
    gallery_pids: IntArray
    gallery_camids: IntArray

    @classmethod
    def of(cls, features: dict[str, npt.NDArray[Any]], side: str) -> "Retrieval":
        """Returns the retrieval on a side of the neck from the arrays of `features.npz`."""
        labels = (features[f"{split}_{ids}"] for split in ("query", "gallery") for ids in ("pids", "camids"))
        return cls(FeatureDistances(features[f"query_{side}"], features[f"gallery_{side}"]), *labels)

    def row(self, query: int) -> npt.NDArray[np.float64]:
        """Returns the squared Euclidean distances (G,) of one query's direction to all others, in [0, 4]."""
        everything = self.distances.gallery(np.arange(len(self.gallery_pids)))
        steps = self.distances.between(self.distances.queries(np.array([query])), everything)[0]
        row: npt.NDArray[np.float64] = steps / STEPS_PER_UNIT**2
        return row

    def kinds(self, query: int) -> npt.NDArray[np.str_]:
        """Returns (G,) `right` for positives of a query, `junk` for what is ignored, `wrong` for all others."""
        same = self.gallery_pids == self.query_pids[query]
        junk = (self.gallery_pids == JUNK_PID) | (same & (self.gallery_camids == self.query_camids[query]))
        return np.where(junk, "junk", np.where(same, "right", "wrong"))


@dataclass(frozen=True)
class Shown:
    """An image of a rank list; `rank` is its place among those that count, None for junk."""

    image: int
    kind: Kind
    rank: int | None
    distance: float


def rank_list(retrieval: Retrieval, query: int, count: int = 10) -> list[Shown]:
    """Returns the images up to the one of rank `count`, nearest first, junk in its place; ties as they are scored."""
    distances, kinds = retrieval.row(query), retrieval.kinds(query)
    shown: list[Shown] = []
    rank = 0
    for image in np.argsort(distances, kind="stable"):
        kind: Kind = kinds[image]
        rank += kind != "junk"
        shown.append(Shown(int(image), kind, None if kind == "junk" else rank, float(distances[image])))
        if rank == count:
            break
    return shown


def margins(retrieval: Retrieval) -> npt.NDArray[np.float64]:
    """Returns the distance to the nearest positive minus that to the nearest negative, (Q,); NaN without either.

    It is above 0 where the first image of the list is wrong.
    """
    found = np.full(len(retrieval.query_pids), np.nan)
    for query in range(len(found)):
        distances, kinds = retrieval.row(query), retrieval.kinds(query)
        right, wrong = distances[kinds == "right"], distances[kinds == "wrong"]
        if len(right) and len(wrong):
            found[query] = right.min() - wrong.min()
    return found


def hardest(queries: pd.DataFrame, margin: npt.NDArray[np.float64], count: int = 4) -> dict[str, list[str]]:
    """Returns the names of the hardest queries by `average precision`, `inverse negative penalty` and `margin`.

    Args:
        queries: A row a valid query with the columns query, average_precision and inverse_negative_penalty.
        margin: What `margins` gives for the rows of `queries`.
        count: How many of each. Ties go to the earlier query.
    """
    frame = queries.assign(margin=-margin)
    columns = {
        "average precision": "average_precision",
        "inverse negative penalty": "inverse_negative_penalty",
        "margin": "margin",
    }
    return {
        words: frame.sort_values(column, kind="stable")["query"].head(count).tolist()
        for words, column in columns.items()
    }


def helped_and_hurt(cell: pd.DataFrame, reference: pd.DataFrame, count: int = 4) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the queries whose average precision a cell raises and lowers most against a reference, most first.

    Args:
        cell: A row a query with the columns query and average_precision.
        reference: Likewise; queries that one side lacks are left out.
        count: At most so many of each. Queries that do not change are in neither.

    Returns:
        Two frames with the columns query, cell, reference and difference.
    """
    columns = ["query", "average_precision"]
    both = cell[columns].merge(reference[columns], on="query", suffixes=("_cell", "_reference"))
    both.columns = pd.Index(["query", "cell", "reference"])
    both["difference"] = both["cell"] - both["reference"]
    ordered = both.sort_values("difference", kind="stable", ascending=False)
    helped = ordered[ordered["difference"] > 0].head(count)
    hurt = ordered[ordered["difference"] < 0].iloc[::-1].head(count)
    return helped.reset_index(drop=True), hurt.reset_index(drop=True)
