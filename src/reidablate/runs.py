"""What runs and diagnoses leave on disk, checked where it is read: the form of a broken file is one sentence."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from reidablate.artifacts import read_record
from reidablate.config import RunConfig, validate
from reidablate.errors import UserError
from reidablate.external import PlannedExternal
from reidablate.provenance import SCIENCE_VERSION, code_hash, code_name

Side = Literal["before_neck", "after_neck"]
SIDES: tuple[Side, ...] = get_args(Side)
Status = Literal["finished", "diverged"]
NO_WEIGHTS = "none"  # in place of a hash
TRAINED_FILES = ("model.safetensors", "features.npz", "history.parquet", "provenance.json")
EXTERNAL_FILES = TRAINED_FILES[1:]  # another code base keeps its weights to itself
SCORE_FILES = ("queries.parquet", "camera_pairs.parquet", "metrics.json")
HOLDOUT = "holdout_mAP"
"""Column of `history.parquet` where identities are held out: their mAP after an epoch, on each of its steps, and NaN in
epochs that are not scored."""
SCORES_VERSION = 1
"""Version of the protocol that `metrics.json`, `queries.parquet` and `camera_pairs.parquet` follow. A release that adds
or changes a score raises it; finished runs are then scored again from their features, and nothing is trained."""

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


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a training is: two of one identity compute the same, bit for bit, on one machine.

    Attributes:
        configuration: `RunConfig.hash`.
        data: Fingerprint of the images and their labels.
        weights: SHA-256 of the file of initial weights, `NO_WEIGHTS` where they are drawn from the seed.
        seed: Seed of every random stream.
        science_version: `provenance.SCIENCE_VERSION` of the code.
    """

    configuration: str
    data: str
    weights: str
    seed: int
    science_version: int = SCIENCE_VERSION

    def differences(self, other: "Identity") -> list[str]:
        """Returns the names of what differs, in words."""
        words = {"weights": "initial weights", "science_version": "version of the code"}
        return [words.get(f.name, f.name) for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


class Transferred(BaseModel):
    """What was done with a finished run on another data set, by which code and where."""

    on: str
    weights_sha256: str  # of the run's `model.safetensors`
    data_fingerprint: str
    code_hash: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    device: str | None = None
    threads: int | None = None
    versions: dict[str, str] = {}
    wall_s: float | None = None


class Checksums(BaseModel):
    """Of any record, the SHA-256 of the files beside it; older ones name none."""

    sha256: dict[str, str] = {}


class Provenance(BaseModel):
    """`provenance.json` of a run: what it was made from, by which code, on what machine, and what it took of that.

    Every stage writes and reads it as this. What is null is not known, as much is of another code base; what has a
    default is absent in records of 0.1.0 or of another code base. What a later release adds is handed on as it is.
    """

    model_config = ConfigDict(extra="allow")

    dataset: str
    cell: str
    seed: int
    command: str | None = None  # that repeats it by hand
    status: Status
    epoch: int | None  # in which it diverged, and why
    reason: str | None
    config: dict[str, Any]
    config_hash: str
    code_hash: str | None  # several joined by "+" where the code was edited while the run was interrupted
    science_version: int = 1
    git_commit: str | None
    git_dirty: bool | None
    data_fingerprint: str
    synthetic: bool | None
    weights: str | None  # initial ones
    weights_sha256: str | None
    versions: dict[str, str]
    machine: dict[str, Any] | None = None
    device: str | None
    gpus: list[str] | None = None
    processes: int | None = 1
    cuda: dict[str, Any] | None = None
    threads: int | None
    workers: int | None = None
    recompute: bool | None = None
    deterministic: bool | None = None
    flags: dict[str, Any] | None = None
    precision: str | None
    extraction_precision: str | None = None
    num_classes: int | None = None
    cameras: list[int] | None = None  # of the training set, where the network reads them
    loss_scaling: dict[str, float] | None = None
    num_parameters: int | None
    flops_per_image: int | None = None
    dense_share: float | None = None  # of a card whose rate is known
    images_per_s: float | None
    device_s: float | None
    peak_memory_bytes: int | None
    wall_s: float | None
    sha256: dict[str, str] = {}
    transfer: Transferred | None = None  # only below the run's folder
    external: PlannedExternal | None = None  # of a run of another code base

    @model_validator(mode="after")
    def _sided(self) -> "Provenance":
        if self.config.get("model", {}).get("test_feature") not in SIDES:
            raise ValueError(f"config.model.test_feature should be {' or '.join(SIDES)}")
        return self

    def facts(self) -> dict[str, Any]:
        """Returns the content of the file: what was given or read, and no default."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def test_feature(self) -> Side:
        """The side of the neck that the run declared as its test feature."""
        side: Side = self.config["model"]["test_feature"]
        return side

    def identity(self, where: Path) -> Identity:
        """Returns what the run is.

        The configuration is read again, not its recorded hash: another release may have hashed it in another way.

        Raises:
            UserError: The configuration holds an option that this release does not know; the sentence begins with
                `where`.
        """
        if self.external is not None:
            return Identity(
                configuration=self.external.identity, data=self.data_fingerprint, weights=NO_WEIGHTS, seed=self.seed
            )
        return Identity(
            configuration=validate(RunConfig, self.config, where=str(where)).hash,
            data=self.data_fingerprint,
            weights=self.weights_sha256 or NO_WEIGHTS,
            seed=self.seed,
            science_version=self.science_version,
        )

    @property
    def name(self) -> str:
        """The run's name: data set, cell and seed, and where it was scored if elsewhere."""
        elsewhere = f" on {self.transfer.on}" if self.transfer else ""
        return f"{self.dataset}/{self.cell}/seed{self.seed}{elsewhere}"


class Trained(Provenance):
    """`provenance.json` of a run that this package trained: enough to build its network, and to train it again."""

    command: str
    code_hash: str
    weights: str
    weights_sha256: str
    machine: dict[str, Any]
    device: str
    threads: int
    workers: int
    num_classes: int
    cameras: list[int] = []


def differs(
    run: Path,
    planned: Identity,
    *,
    features: bool = True,
    same_code: bool = False,
    removed: Collection[str] = (),
) -> str:
    """Returns why the folder of a run does not hold a planned training, finished, as a phrase; empty when it does.

    Args:
        run: Folder of the run.
        planned: What the training should be.
        features: Whether features belong to it; the pre-training has none.
        same_code: Whether it must also be by the code that is installed.
        removed: Files that were removed on purpose and need not be there.
    """
    needed = ["provenance.json", "history.parquet", "model.safetensors"] + ["features.npz"] * features
    if gone := [name for name in needed if name not in removed and not (run / name).is_file()]:
        return "not trained yet" if len(gone) == len(needed) else f"{' and '.join(gone)} missing"
    try:
        made = read_record(run / "provenance.json", Provenance)
        other = made.identity(run / "provenance.json").differences(planned)
    except UserError as error:
        return str(error)
    if same_code and code_name(made.code_hash, made.science_version) != code_name(code_hash(), SCIENCE_VERSION):
        other.append("source code")
    return f"trained with another {' and '.join(other)}" if other else ""


def is_fitted(run: Path, planned: Identity, *, broken: Collection[str], same_code: bool = False) -> bool:
    """Returns whether the folder of a run holds a planned training, finished, whatever became of its features.

    They can be extracted from its weights again, so nothing has to be trained.

    Args:
        run: Folder of the run.
        planned: What the training should be.
        broken: Names of its files that are not what was written; see `integrity.broken_files`.
        same_code: Whether it must also be by the code that is installed.
    """
    lasting = {*TRAINED_FILES} - {"features.npz"}
    return lasting.isdisjoint(broken) and not differs(run, planned, same_code=same_code, removed=["features.npz"])


class Metrics(BaseModel):
    """`metrics.json`; only a run that diverged has no scores."""

    status: Status
    headline: Side
    scores_version: int = 1  # absent in runs of 0.1.0
    features_sha256: str | None = None
    own_metrics: dict[str, str | None] = {}  # what the metrics of the study's own were made of
    failures: list[str] = []  # why some of them have no value
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


class Floors(BaseModel):
    """`floors.json`."""

    floors: list[Floor]
    data_fingerprint: str | None = None  # null in those of 0.1.0, which are a list
    weights_sha256: str | None = None
    blurred: bool = False  # whether the samples show no faces

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, data: Any) -> Any:
        return {"floors": data} if isinstance(data, list) else data
