"""What a training is computed from and where, and what its folder holds already; its steps change none of it."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from reidablate import integrity, provenance
from reidablate.artifacts import read_record, sha256_file
from reidablate.config import RunConfig
from reidablate.data.cache import read_cache
from reidablate.data.holdout import Division, divide
from reidablate.data.index import read_index
from reidablate.data.sampler import PKSampler
from reidablate.engine import parallel
from reidablate.engine.checkpoint import training_folder
from reidablate.engine.holdout import Holdout
from reidablate.engine.spec import RunSpec
from reidablate.errors import reading
from reidablate.recipes import with_recipe
from reidablate.runs import NO_WEIGHTS, TRAINED_FILES, Checksums, Identity, differs, is_fitted


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The images that a run is trained on.

    Attributes:
        fingerprint: Of the data set.
        synthetic: Whether its images are drawn.
        images: All training images of the cache, (N, H, W, 3) uint8.
        frame: Their rows of the index.
        division: Which of them are trained on, and which are held out.
        reads_cameras: Whether the network reads the cameras.
        sampler: Draws the batches of an epoch, numbers among the images that are trained on.
    """

    fingerprint: str
    synthetic: bool
    images: NDArray[np.uint8]
    frame: pd.DataFrame
    division: Division
    reads_cameras: bool
    sampler: PKSampler

    @cached_property
    def camids(self) -> NDArray[np.int64]:
        """Cameras of the images that are trained on."""
        return self.frame["camid"].to_numpy(np.int64)[self.division.rows]

    @property
    def num_classes(self) -> int:
        """Identities that are trained on."""
        return int(self.division.labels.max()) + 1

    @property
    def cameras(self) -> tuple[int, ...]:
        """Their cameras where the network reads them, else none."""
        return tuple(np.unique(self.camids).tolist()) if self.reads_cameras else ()

    def labels_of(self, batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the training labels and the cameras of a batch, (B,) each."""
        return torch.from_numpy(self.division.labels[batch]), torch.from_numpy(self.camids[batch])

    def rows_from(self, epoch: int, step: int, *, num_epochs: int) -> Iterator[NDArray[np.int64]]:
        """Yields the rows in `images` of every batch from a step of an epoch on; this process's part of them.

        The batches of an epoch follow from the seed and its number alone, so those that were taken can be left out.
        """
        for number in range(epoch, num_epochs):
            for batch in self.sampler.epoch(number)[step if number == epoch else 0 :]:
                yield parallel.share(self.division.rows[batch])


def _training_set(data: Path, config: RunConfig, *, seed: int) -> TrainingSet:
    index = read_index(data / "index")
    frame = index.frame[index.frame["split"] == "train"]
    division = divide(frame["label"].to_numpy(), frame["camid"].to_numpy(np.int64), config.train)
    num_ids, num_instances = config.train.num_ids, config.train.num_instances
    return TrainingSet(
        fingerprint=str(index.summary["fingerprint"]),
        synthetic=bool(index.summary["synthetic"]),
        images=read_cache(data / "cache", "train"),
        frame=frame,
        division=division,
        reads_cameras=config.model.parts.read_cameras,
        sampler=PKSampler(division.labels, num_ids=num_ids, num_instances=num_instances, seed=seed),
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that could begin.

    Attributes:
        spec: What was asked for.
        config: That of the spec, with what the seed draws of a recipe.
        device: Where it is computed.
        gpus: Names of the leased GPUs.
        data: What it is trained on.
        identity: What it is.
        began: `time.perf_counter` when this process began with it.
    """

    spec: RunSpec
    config: RunConfig
    device: torch.device
    gpus: tuple[str, ...]
    data: TrainingSet
    identity: Identity
    began: float

    @property
    def names(self) -> dict[str, str]:
        """What its checkpoints are marked with; only those of the same names are gone on with."""
        names = {name: str(value) for name, value in asdict(self.identity).items()}
        return names | ({"code": provenance.code_hash()} if self.spec.same_code else {})

    @property
    def folder(self) -> Path:
        """Where its checkpoints lie."""
        return training_folder(self.spec.out, self.names)

    @property
    def holdout(self) -> Holdout:
        """Its held-out identities."""
        data = self.data
        return Holdout(
            images=data.images, train=data.frame, division=data.division, config=self.config, device=self.device
        )

    def is_complete(self) -> bool:
        """Returns whether the run's folder holds this very training, finished."""
        out = self.spec.out
        reason = differs(out, self.identity, features=self.spec.extract, same_code=self.spec.same_code)
        if not reason and (broken := [name for name in integrity.broken_files(out) if name in TRAINED_FILES]):
            self.say(f"{' and '.join(broken)} {'is' if len(broken) == 1 else 'are'} damaged and made again")
            return False
        return not reason

    def is_fitted(self) -> bool:
        """Returns whether the run's folder holds this very training, finished, but for its features."""
        broken = integrity.broken_files(self.spec.out)
        return self.spec.extract and is_fitted(
            self.spec.out, self.identity, broken=broken, same_code=self.spec.same_code
        )

    def say(self, sentence: str) -> None:
        """Prints a sentence about it."""
        print(f"{self.spec.name}: {sentence}", file=sys.stderr, flush=True)


def training_of(spec: RunSpec, device: torch.device, gpus: tuple[str, ...]) -> Training:
    """Returns the training that a specification asks for.

    Args:
        spec: Of the run.
        device: Where it is to be computed.
        gpus: Names of the leased GPUs.

    Raises:
        UserError: There is no index or cache, a batch needs more identities than there are, or the initial weights
            cannot be read or are not what their training wrote.
    """
    began = time.perf_counter()
    config = with_recipe(spec.config, spec.seed, where=spec.name)
    data = _training_set(spec.data, config, seed=spec.seed)
    weights = _weights_hash(spec.weights) if spec.weights else NO_WEIGHTS
    identity = Identity(configuration=spec.config.hash, data=data.fingerprint, weights=weights, seed=spec.seed)
    return Training(spec=spec, config=config, device=device, gpus=gpus, data=data, identity=identity, began=began)


def _weights_hash(path: Path) -> str:
    """Returns the SHA-256 of initial weights, which must be what their training wrote where that is known."""
    record = path.with_name("provenance.json")
    if record.is_file():
        integrity.check(path, record, read_record(record, Checksums).sha256)
    with reading(path, "weights", remedy="give others", missing="correct --config weights=PATH"):
        return sha256_file(path)
