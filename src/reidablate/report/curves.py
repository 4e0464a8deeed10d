"""How well trainings ranked the identities that they held out, epoch by epoch, and how to read it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import pandas as pd

from reidablate.report.records import Cell, Number, Where, reduced
from reidablate.runs import HOLDOUT


@dataclass(frozen=True)
class Reading:
    """What the curve of a cell says against that of the cell it starts from.

    `largest` and `last` are the largest and the last of the mean differences.
    """

    words: str
    largest: Number
    last: Number


@dataclass(frozen=True)
class Curves:
    """The series of held-out identities in the table `history`; a fraction for each data set, cell, epoch and seed."""

    history: pd.DataFrame | None

    @cached_property
    def _scores(self) -> dict[tuple[str, str], dict[int, dict[int, float]]]:
        scores: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
        if self.history is not None:
            own = self.history[self.history["name"] == HOLDOUT].dropna(subset="value")
            columns = own[["dataset", "cell", "epoch", "seed", "value"]]
            for dataset, cell, epoch, seed, value in columns.itertuples(index=False):
                by_epoch = scores.setdefault((str(dataset), str(cell)), {})
                by_epoch.setdefault(int(epoch), {})[int(seed)] = float(value)
        return scores

    def shown(self, dataset: str, cells: Iterable[Cell]) -> list[Cell]:
        """Returns the cells that have a curve on a data set."""
        return [cell for cell in cells if (dataset, cell.name) in self._scores]

    def epochs(self, dataset: str, cells: Iterable[Cell]) -> list[int]:
        """Returns the epochs (from 0) after which any of the cells was scored."""
        return sorted({epoch for cell in self.shown(dataset, cells) for epoch in self._scores[dataset, cell.name]})

    def score(self, dataset: str, cell: Cell, epoch: int) -> Number:
        """Returns the mean over the seeds that were scored after an epoch."""
        values = self._scores.get((dataset, cell.name), {}).get(epoch, {})
        return Number(reduced(list(values.values()), "mean"), "history", _row(dataset, cell, epoch), "value", "mean")

    def gain(self, dataset: str, cell: Cell, epoch: int) -> Number:
        """Returns the mean difference to the cell that it starts from, over the seeds of which both were scored."""
        start = cell.start or ""
        own, other = (self._scores.get((dataset, name), {}).get(epoch, {}) for name in (cell.name, start))
        value = reduced([own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())], "mean")
        return Number(value, "history", _row(dataset, cell, epoch), "value", "paired mean", start)

    def reading(self, dataset: str, cell: Cell) -> Reading | None:
        """Returns who is ahead when, None where the cell starts from none with a curve."""
        gains = [(epoch + 1, self.gain(dataset, cell, epoch)) for epoch in self.epochs(dataset, [cell])]
        gains = [(epoch, gain) for epoch, gain in gains if gain.value]  # equal scores put nobody ahead
        if not gains:
            return None
        groups = groupby(gains, lambda pair: (pair[1].value or 0.0) > 0)
        spans = [(ahead, [epoch for epoch, _ in part]) for ahead, part in groups]
        names = ["ahead" if ahead else "behind" for ahead, _ in spans]
        if len(spans) == 1:
            words = f"{names[0]} at every epoch that was scored"
        elif len(spans) == 2:
            words = f"{names[0]} up to epoch {spans[0][1][-1]}, {names[1]} from epoch {spans[1][1][0]} on"
        else:
            turns = [str(epochs[0]) for _, epochs in spans[1:]]
            words = f"first {names[0]}, at the end {names[-1]}, changing places at epochs {', '.join(turns)}"
        return Reading(words, max((gain for _, gain in gains), key=lambda gain: gain.value or 0.0), gains[-1][1])


def _row(dataset: str, cell: Cell, epoch: int) -> Where:
    return Where.having(dataset=dataset, cell=cell.name, name=HOLDOUT, epoch=epoch)
