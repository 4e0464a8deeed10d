"""The settings of a call: what `default.yaml` and `--config` say, checked."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, field_validator

from reidablate.cell_files import Tier
from reidablate.config import ReportSettings, Section
from reidablate.data.table import DatasetEntry
from reidablate.seeds import check_seeds
from reidablate.selecting import Asked


class Settings(Section):
    """The keys of `default.yaml` and `--config`.

    Attributes:
        data_root: Folder that holds a folder for each data set.
        results: Folder that everything is written to, in a folder for each preset.
        ablations: Folder of the cells, one YAML file each.
        preset: Name of a preset, a file, `smoke`, or `auto`: `paper` where real data is found, `quickstart` elsewhere.
        cells: Cells to run, by name or pattern, or `all` of the tier.
        datasets: Data sets to run on, by name, or `all`.
        seeds: Seeds of every run: a number, the `preset`'s, or `auto` (`auto:N`), which adds seeds in declared looks
            until each comparison is decided, at most 10 (or N).
        tier: Which cells `all` means: those up to `core`, `extended` or `optional`, or as the `preset` says.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        weights: What runs start from: the `preset`'s choice, `none`, a file, or a mapping of each backbone to its file.
        wandb: Whether finished runs and verdicts are sent to Weights & Biases: `disabled`, `online`, or `offline`,
            written to be sent later.
        retrain: What repeats a run: another configuration, data or weights (`config`), or also edited sources (`code`).
        scope: `grow` adds what a call names to the study; with `call` the study is what this call names.
        smoke_of: The preset that `preset=smoke` tests.
        dataset_table: Every known data set, by name.
        metrics: Metrics of the study's own, as `FILE:NAME` of its `methods/`.
        report: What may leave the study in reports and pages.
    """

    data_root: Path
    results: Path
    ablations: Path
    preset: str
    cells: Asked
    datasets: Asked
    seeds: Annotated[int | str, AfterValidator(check_seeds)]
    tier: Tier | Literal["preset"]
    device: Literal["auto", "cpu", "cuda"]
    weights: str | dict[str, str]
    wandb: Literal["disabled", "offline", "online"]
    retrain: Literal["config", "code"]
    scope: Literal["grow", "call"] = "grow"
    smoke_of: str = "auto"
    dataset_table: dict[str, DatasetEntry]
    metrics: list[str] = []
    report: ReportSettings = ReportSettings()

    @field_validator("data_root", "results", "ablations", mode="before")
    @classmethod
    def _utf_8(cls, value: Any) -> Any:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError("a path in UTF-8; rename the folder") from None
        return value

    @field_validator("wandb", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "disabled" if value is False else value

    @field_validator("data_root", "results", "ablations", "weights", mode="before")
    @classmethod
    def _at_home(cls, value: Any) -> Any:  # not every shell replaces the ~ of data_root=~/data
        if isinstance(value, dict):
            return {key: cls._at_home(path) for key, path in value.items()}
        return os.path.expanduser(value) if isinstance(value, str | Path) else value
