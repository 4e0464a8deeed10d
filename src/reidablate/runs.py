"""What runs and diagnoses leave on disk, checked where it is read: the form of a broken file is one sentence."""

import shutil
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, RootModel, model_validator

Side = Literal["before_neck", "after_neck"]
SIDES: tuple[Side, ...] = get_args(Side)
Status = Literal["finished", "diverged"]

# Of `queries.parquet`, a row a valid query and side. That of a diverged run is empty and needs none but the first.
QUERY_COLUMNS = (
    "side",
    "query",
    "pid",
    "camid",
    "average_precision",
    "average_precision_trapezoid",
    "average_precision_optimistic",
    "average_precision_pessimistic",
    "inverse_negative_penalty",
    "first_hit_rank",
    "num_positives",
)
FEATURE_ARRAYS = tuple(
    f"{split}_{part}" for split in ("query", "gallery") for part in (*SIDES, "pids", "camids", "names")
)


def state_folder(run: Path) -> Path:
    """Returns where a run keeps what it needs to go on, from its first epoch until it is scored.

    Snakemake does not know of it. It deletes the files of a finished training whose end it did not live to see; the
    next training makes them again from here, without an epoch.
    """
    return run / "state"


def remove_state(run: Path) -> None:
    """Deletes what a run no longer needs once it is scored."""
    shutil.rmtree(state_folder(run), ignore_errors=True)


class _Model(BaseModel):
    test_feature: Side


class _Config(BaseModel):
    model: _Model


class Transferred(BaseModel):
    """What was done with a finished run on another data set."""

    on: str
    weights_sha256: str  # of the run's `model.safetensors`
    data_fingerprint: str


class Checksums(BaseModel):
    """Of any record, the SHA-256 of the files beside it; older ones name none."""

    sha256: dict[str, str] = {}


class Provenance(BaseModel):
    """`provenance.json`, as far as later stages read it."""

    dataset: str
    cell: str
    seed: int
    status: Status
    epoch: int | None
    reason: str | None
    config: _Config
    config_hash: str
    data_fingerprint: str
    # Facts for the table of runs; null where they are not known.
    synthetic: bool | None
    code_hash: str | None
    git_commit: str | None
    git_dirty: bool | None
    weights: str | None
    weights_sha256: str | None
    versions: dict[str, str]
    device: str | None
    threads: int | None
    precision: str | None
    num_parameters: int | None
    images_per_s: float | None
    wall_s: float | None
    device_s: float | None
    peak_memory_bytes: int | None
    sha256: dict[str, str] = {}
    transfer: Transferred | None = None  # only below the run's folder

    @property
    def test_feature(self) -> Side:
        """The side of the neck that the run declared as its test feature."""
        return self.config.model.test_feature

    @property
    def name(self) -> str:
        """The run's name: data set, cell and seed, and where it was scored if elsewhere."""
        elsewhere = f" on {self.transfer.on}" if self.transfer else ""
        return f"{self.dataset}/{self.cell}/seed{self.seed}{elsewhere}"


class Metrics(BaseModel):
    """`metrics.json`; only a run that diverged has no scores."""

    status: Status
    headline: Side
    features_sha256: str | None = None
    before_neck: dict[str, float] = {}
    after_neck: dict[str, float] = {}

    @model_validator(mode="after")
    def _scored(self) -> "Metrics":
        if self.status == "finished" and not (self.before_neck and self.after_neck):
            raise ValueError("a finished run has scores of both sides of the neck")
        return self


class Floor(BaseModel):
    """What any model has to beat on a data set."""

    method: str
    mAP: float
    rank1: float
    note: str


class Floors(RootModel[list[Floor]]):
    """`floors.json`."""
