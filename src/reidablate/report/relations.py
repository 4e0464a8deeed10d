"""What position losses are made of, as training logged it, and which of their variants therefore cannot differ."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from reidablate.report.records import Cell, Contrast, Number, Where, reduced
from reidablate.stats.informative import SHARE, SMALL_SHARE, equal_without_tables


@dataclass(frozen=True)
class RelationLog:
    """The series of position losses in the table `history`."""

    history: pd.DataFrame | None

    @cached_property
    def _series(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        if self.history is None:
            return {}
        own = self.history[self.history["name"].str.startswith(("position_relation_", "position_triplet_"))]
        groups = own.dropna(subset=["value"]).groupby(["dataset", "cell", "name"], sort=False)
        return {(str(dataset), str(cell), str(name)): part for (dataset, cell, name), part in groups}

    def last(self, dataset: str, cell: str, name: str) -> Number:
        """Returns the mean over seeds of a series in the last epoch that it has."""
        part = self._series.get((dataset, cell, name))
        if part is None:
            return Number(None, "history", Where.at())
        epoch = int(part["epoch"].max())
        values = part.loc[part["epoch"] == epoch, "value"].astype(float).tolist()
        row = Where.having(dataset=dataset, cell=cell, name=name, epoch=epoch)
        return Number(reduced(values, "mean"), "history", row, "value", "mean")

    def share(self, dataset: str, cell: str) -> Number:
        """Returns the largest share that the tables had in an epoch of a seed; see `losses.relation_log.rpe_share`."""
        part = self._series.get((dataset, cell, SHARE))
        if part is None:
            return Number(None, "history", Where.at())
        row = Where.having(dataset=dataset, cell=cell, name=SHARE)
        return Number(reduced(part["value"].astype(float).tolist(), "max"), "history", row, "value", "max")

    def blocks(self, dataset: str, cell: str) -> list[Number]:
        """Returns the loss of each block in the last epoch, mean over seeds; empty where there is none."""
        start = "position_relation_block_"
        names = [name for d, c, name in self._series if (d, c) == (dataset, cell) and name.startswith(start)]
        return [self.last(dataset, cell, name) for name in sorted(names, key=lambda n: int(n.removeprefix(start)))]

    def logged(self, dataset: str, cells: Iterable[Cell]) -> list[tuple[Cell, str]]:
        """Returns the cells that have series of a position loss, each with that loss's name."""
        losses = ("position_relation", "position_triplet")
        return [(c, n) for c in cells for n in losses if (dataset, c.name, f"{n}_rpe_share") in self._series]

    def same_loss(self, contrast: Contrast) -> Number | None:
        """Returns the share of the relative tables where it is so small that both sides are the same loss, else None.

        That is so where they differ in the grouping of heads, or in the order of pairs, and in nothing else.
        """
        if not equal_without_tables(contrast.cell.differences_on(contrast.dataset).get(contrast.reference.name, {})):
            return None
        shares = [self.share(contrast.dataset, cell.name) for cell in (contrast.cell, contrast.reference)]
        if any(share.value is None for share in shares):
            return None
        largest = max(shares, key=lambda share: share.value or 0.0)
        return largest if (largest.value or 0.0) < SMALL_SHARE else None
