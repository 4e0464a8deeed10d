"""Where each comparison of a study stands that adds seeds until it is decided: at which look, with how many seeds.

The looks are gone through again from the scores each time, in the order in which they came, so that a table says the
same whether it is made while seeds are added or long after.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reidablate.stats.looks import Looks

Comparison = tuple[str, str, str]
"""Data set, cell, reference."""

LOOK_COLUMNS: dict[str, tuple[str, str]] = {
    "look": ("Int64", "Number of the look after which it is judged, from 1."),
    "num_looks": ("Int64", "Looks that the study may have."),
    "look_seeds": ("Int64", "Seeds at that look; those that its cells took later for other comparisons do not enter."),
}
"""Further columns of the table of a study that adds seeds until it is decided."""


@dataclass(frozen=True)
class Looked:
    """The looks of a study, and the seeds at which each comparison stands; at the first look where nothing is said."""

    looks: Looks
    seeds: Mapping[Comparison, int] = field(default_factory=dict)

    def fields(self, dataset: str, contrast: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the columns `LOOK_COLUMNS` of a comparison."""
        seeds = self.seeds.get((dataset, contrast["cell"], contrast["reference"]), self.looks.seeds[0])
        look = 1 + self.looks.seeds.index(seeds)
        return {"look": look, "num_looks": len(self.looks.seeds), "look_seeds": seeds}
