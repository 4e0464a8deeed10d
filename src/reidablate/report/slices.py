"""Where a difference comes from: the comparisons with the baselines within parts of the test set."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from reidablate.report.records import Cell, Number, Where, plain, text

KINDS = {
    "camera": "query camera",
    "num_positives": "matches in the gallery",
    "camera_pair": "pair of cameras",
    "occluded_share": "occluded share of the query",
}


@dataclass(frozen=True)
class Slice:
    """A comparison in mAP within one part of the test set."""

    estimate: Number
    verdict: str


@dataclass(frozen=True)
class Slices:
    """The table `slices` and the questions the templates ask of it."""

    frame: pd.DataFrame

    @cached_property
    def _rows(self) -> dict[tuple[str, ...], tuple[int, dict[Any, Any]]]:
        keys = ("dataset", "cell", "reference", "slice_by", "slice")
        records = self.frame[self.frame["metric"] == "mAP"].to_dict("index")
        return {tuple(str(record[key]) for key in keys): (int(str(at)), record) for at, record in records.items()}

    def parts(self, dataset: str) -> dict[str, list[str]]:
        """Returns {kind: its slices} of a data set, in the order of the table."""
        found: dict[str, list[str]] = {}
        for where, _, _, kind, part in self._rows:
            if where == dataset and part not in found.setdefault(kind, []):
                found[kind].append(part)
        return found

    def queries(self, dataset: str, kind: str, part: str) -> Number:
        """Returns how many queries a slice holds: the most that a comparison has there."""
        rows = [(at, r) for key, (at, r) in self._rows.items() if (key[0], *key[3:]) == (dataset, kind, part)]
        row = Where.at(*(at for at, _ in rows))
        known = [value for _, r in rows if (value := plain(r["num_queries"])) is not None]
        return Number(max(known, default=None), "slices", row, "num_queries", "max")

    def at(self, dataset: str, cell: Cell, kind: str, part: str) -> Slice | None:
        """Returns the comparison of a cell with its baseline within a slice."""
        row = self._rows.get((dataset, cell.name, cell.baseline or "", kind, part))
        if row is None:
            return None
        at, record = row
        return Slice(Number(plain(record["estimate"]), "slices", Where.at(at), "estimate"), text(record["verdict"]))

    def largest(self, dataset: str) -> float:
        """Returns the largest absolute difference of a data set, for the scale of its colours."""
        sizes = [abs(value) for key, (_, r) in self._rows.items() if key[0] == dataset
                 and (value := plain(r["estimate"])) is not None]  # fmt: skip
        return max(sizes, default=0.0) or 1.0
