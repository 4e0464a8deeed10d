"""What a plan holds of each cell and data set, with everything resolved."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from reidablate.cell_files import Tier
from reidablate.config import RunConfig, Section
from reidablate.data.formats import Grammar, Layout, Published
from reidablate.data.table import MetricName
from reidablate.external import PlannedExternal


class PlannedDataset(Section):
    """A data set of the study; a generated one is written by the study itself."""

    name: str
    title: str
    format: str
    root: Path
    generated: bool
    grammar: Grammar | None = None
    published: Published | None = None
    delta: dict[MetricName, float] = {}

    @property
    def layout(self) -> Layout:
        """How the set is read."""
        return Layout(self.title, self.format, self.grammar, self.published)


class Configured(Section):
    """What a cell is on one data set, and how it differs there from its parent and references."""

    declared: dict[str, list[Any]]
    differences: dict[str, dict[str, list[Any]]]
    config: RunConfig
    config_hash: str


class PlannedCell(Configured):
    """A cell with everything resolved, as `cells.json` shows it.

    `by_dataset` has the data sets on which the cell, its parent or a reference differs from what it is elsewhere.
    `unread` says why its file cannot be used; the cell is what an earlier call planned then.
    `exploratory` has the references over which it was declared primary when a run of it had been scored already.
    Of a cell that another code base trains, `config` is the preset's and means nothing.
    Of a tuned cell, which becomes one of its `candidates`, `config` is that of the first; what it became is `chosen`,
    by data set, as soon as `tuning` finds it in their scores, and in no plan. A candidate `tunes` that cell.
    """

    name: str
    title: str
    group: str
    tier: Tier
    question: str
    notes: str
    primary: bool = False
    exploratory: list[str] = []
    extends: str | None
    references: list[str]
    seed_offset: int
    also_on: Literal["all"] | list[str] = []
    by_dataset: dict[str, Configured] = {}
    unread: str = ""
    reads_cameras: bool = False  # at test time
    external: PlannedExternal | None = None
    candidates: list[str] = []
    tunes: str = ""
    chosen: dict[str, Configured] = Field(default={}, exclude=True)

    def is_open_on(self, dataset: str) -> bool:
        """Returns whether it is tuned and not known yet which of its candidates it becomes on a data set."""
        return bool(self.candidates) and dataset not in self.chosen

    def identity_on(self, dataset: str) -> str:
        """Returns the hash that names what the cell's runs on a data set compute, no hash while it is not chosen."""
        if self.is_open_on(dataset):
            return "not chosen yet"
        return self.external.identity if self.external else self.config_on(dataset).hash

    def config_on(self, dataset: str) -> RunConfig:
        """Returns the configuration of the cell's runs on a data set."""
        return self.chosen.get(dataset, self.by_dataset.get(dataset, self)).config


class MissingDataset(Section):
    """A data set that was asked for and not found."""

    name: str
    looked_in: list[Path]
