"""What stands beside a study's own scores: other data sets, pairs of cameras, runs of other code bases.

Nothing of it enters a comparison. Numbers leave as `Number`, like everything that the report shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from reidablate.report.records import Number, Where, plain, reduced

Rows = dict[tuple[Any, ...], list[float]]


@dataclass(frozen=True)
class Imported:
    """One side of an imported run: where it comes from and where its scores stand."""

    dataset: str
    name: str
    side: str
    source: str
    sha256: str
    day: str
    values: Mapping[str, float]

    def score(self, metric: str) -> Number:
        """Returns a metric of the import, without a value where it is not given."""
        row = Where.having(dataset=self.dataset, name=self.name, side=self.side, metric=metric)
        return Number(self.values.get(metric), "imported", row)


@dataclass(frozen=True)
class OtherTables:
    """The tables `cross_domain`, `camera_pairs`, `imported` and `tuning`, None where there are none.

    Attributes:
        headline: The feature side that the report shows.
    """

    headline: str
    cross_domain: pd.DataFrame | None = None
    camera_pairs: pd.DataFrame | None = None
    imported: pd.DataFrame | None = None
    tuning: pd.DataFrame | None = None

    def budget(self, dataset: str, cell: str) -> tuple[Number, Number] | None:
        """Returns how many configurations were tried for a cell before it was tested, and by how many trainings."""
        if self.tuning is None:
            return None
        own = self.tuning[(self.tuning["dataset"] == dataset) & (self.tuning["cell"] == cell)]
        row = Where.having(dataset=dataset, cell=cell)
        runs = Number(float(own["num_seeds"].sum()), "tuning", row, "num_seeds", "sum")
        return (Number(float(len(own)), "tuning", row, "candidate", "count"), runs) if len(own) else None

    def tried(self) -> list[dict[str, Any]]:
        """Returns the rows of the table `tuning`, numbers as `Number`."""
        rows = [] if self.tuning is None else self.tuning.to_dict("records")
        numbers = ("num_seeds", "num_diverged", "holdout_mAP")
        return [
            {str(key): value for key, value in row.items()}
            | {name: Number(plain(row[name]), "tuning", Where.at(index), name) for name in numbers}
            for index, row in enumerate(rows)
        ]

    @cached_property
    def _cross(self) -> Rows:
        return _grouped(self.cross_domain, ["dataset", "on", "cell", "side", "metric"], "value")

    @cached_property
    def _pairs(self) -> dict[str, Rows]:
        keys = ["dataset", "cell", "query_camid", "gallery_camid"]
        return {name: _grouped(self.camera_pairs, keys, name) for name in ("mAP", "num_queries")}

    def transfers(self) -> list[tuple[str, str]]:
        """Returns the pairs of the data set that was trained on and the one that was tested on."""
        return list(dict.fromkeys(key[:2] for key in self._cross))

    def crossed(self, dataset: str, on: str) -> list[str]:
        """Returns the cells that were trained on one data set and scored on another."""
        return list(dict.fromkeys(key[2] for key in self._cross if key[:2] == (dataset, on)))

    def cross(self, dataset: str, on: str, cell: str, metric: str, how: str = "mean") -> Number:
        """Returns the mean, the sd (n - 1) or the count over seeds of a cross-domain score on the headline side."""
        values = self._cross.get((dataset, on, cell, self.headline, metric), [])
        row = Where.having(dataset=dataset, on=on, cell=cell, side=self.headline, metric=metric)
        return Number(float(len(values)) if how == "count" else reduced(values, how), "cross_domain", row, "value", how)

    def cameras(self, dataset: str, cell: str) -> tuple[list[int], list[int]]:
        """Returns the cameras of the queries and those of the gallery, empty where nothing is known."""
        keys = [key[2:] for key in self._pairs["num_queries"] if key[:2] == (dataset, cell)]
        return sorted({query for query, _ in keys}), sorted({gallery for _, gallery in keys})

    def pair(self, dataset: str, cell: str, query: int, gallery: int, column: str = "mAP") -> Number:
        """Returns the mean over seeds of a column of the table of camera pairs; None for a camera with itself."""
        values = self._pairs[column].get((dataset, cell, query, gallery), [])
        row = Where.having(dataset=dataset, cell=cell, query_camid=query, gallery_camid=gallery)
        return Number(reduced(values, "mean"), "camera_pairs", row, column, "mean")

    def heat(self, dataset: str, cell: str) -> dict[tuple[int, int], float]:
        """Returns where the score of each pair of cameras lies between the worst (0) and the best (1) of a cell."""
        queries, gallery = self.cameras(dataset, cell)
        scores = {(q, g): self.pair(dataset, cell, q, g).value for q in queries for g in gallery}
        known = {pair: score for pair, score in scores.items() if score is not None}
        low, high = (min(known.values()), max(known.values())) if known else (0.0, 0.0)
        return {pair: (score - low) / ((high - low) or 1.0) for pair, score in known.items()}

    def imports(self, dataset: str = "", headline: bool = False) -> list[Imported]:
        """Returns the imported runs of a data set (of all without a name), each side of them by itself.

        Args:
            dataset: Its name.
            headline: Leave the other side out where a run has both sides of the neck.
        """
        if self.imported is None:
            return []
        found = []
        for key, rows in self.imported.groupby(["dataset", "name", "side"], sort=False):
            where, name, side = map(str, key)
            facts = rows.iloc[0]
            values = {str(m): float(v) for m, v in zip(rows["metric"], rows["value"], strict=True)}
            day = str(facts["imported"])[:10]
            found.append(Imported(where, name, side, str(facts["source"]), str(facts["sha256"]), day, values))
        both = {(one.dataset, one.name) for one in found if one.side == self.headline}
        return [
            one
            for one in found
            if dataset in {"", one.dataset}
            and not (headline and (one.dataset, one.name) in both and one.side != self.headline)
        ]


def _grouped(frame: pd.DataFrame | None, keys: list[str], column: str) -> Rows:
    """Returns the values of a column by the keys, those that are finite."""
    found: Rows = {}
    if frame is None:
        return found
    for *key, value in frame[[*keys, column]].itertuples(index=False):
        values = found.setdefault(tuple(key), [])
        if plain(value) is not None:
            values.append(float(value))
    return found
