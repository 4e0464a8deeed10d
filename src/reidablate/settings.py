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
    """The keys of `default.yaml` and `--config`."""

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
    smoke_of: str = "auto"  # the preset that preset=smoke tests
    dataset_table: dict[str, DatasetEntry]
    metrics: list[str] = []  # of the study's own
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
