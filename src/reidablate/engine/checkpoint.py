"""The resume checkpoint of a training: everything the next step needs, in one atomic, checksummed file.

Random streams need no state: they are derived from (seed, purpose, epoch, step). Learning rates need none either:
the schedule is a function of the epoch. So the position (epochs and steps done) stands for both.
"""

import copy
import pickle
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from reidablate.artifacts import atomic_path, content_hash, flush, sha256_file
from reidablate.engine.state import TrainingState, steps_in
from reidablate.runs import state_folder

NUM_KEPT = 2
_DIGITS = 16  # of the SHA-256 that a file's name carries
_NAME = re.compile(rf"epoch(?P<epochs>\d+)-step(?P<steps>\d+)-(?P<digest>[0-9a-f]{{{_DIGITS}}})\.pt")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a training between two steps.

    Attributes:
        identity: What the training is (configuration, data, weights, seed); a checkpoint resumes only its own.
        state: `TrainingState.state_dict()`.
    """

    identity: dict[str, str]
    state: dict[str, Any]

    @property
    def epochs_done(self) -> int:
        """The number of finished epochs."""
        return int(self.state["epochs_done"])

    @property
    def steps_done(self) -> int:
        """The number of finished steps of the epoch under way; 0 but in what a signal left."""
        return steps_in(self.state["steps"])


def training_folder(run: Path, identity: dict[str, str]) -> Path:
    """Returns where a training keeps its state; another configuration or data of the same run has a place of its own.

    So an edit that is taken back loses no epoch.
    """
    return state_folder(run) / content_hash(identity)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in the folder of a training, the one that got farthest first."""
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("*.pt")]
    named = [(int(match["epochs"]), int(match["steps"]), path) for path, match in found if match]
    return [path for *_, path in sorted(named, reverse=True)]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint under the name of its position and of its SHA-256, and drops those it makes superfluous.

    Kept are the last two of whole epochs and, if it got farther than they, the last one of within an epoch.
    """
    new = folder / "new.pt"
    with atomic_path(new) as temporary, temporary.open("wb") as stream:
        # Through a stream: given a path, torch holds the interpreter's lock for up to 0.3 s of writing 0.7 GB.
        torch.save({"identity": checkpoint.identity, **checkpoint.state}, stream)
    digest = sha256_file(new)[:_DIGITS]
    new.replace(new.with_name(f"epoch{checkpoint.epochs_done:05d}-step{checkpoint.steps_done:05d}-{digest}.pt"))
    flush(new.parent)  # before those that it replaces are deleted
    found = checkpoints(folder)
    kept = [path for path in found if _is_whole_epoch(path)][:NUM_KEPT] + found[:1]
    for path in found:
        if path not in kept:
            path.unlink()


class CheckpointWriter:
    """Writes the checkpoints of a training beside it, on a thread of its own, one at a time.

    Whatever hindered a writing is raised by the next `save` or `wait`, or at the end of the block.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def save(self, checkpoint: Checkpoint) -> None:
        """Waits for the last checkpoint, copies this one to the host's memory, and begins to write it.

        The training may go on at once: what it changes is not the copy.
        """
        self.wait()
        copied = replace(checkpoint, state=_on_host(checkpoint.state))
        self._writing = self._thread.submit(save_checkpoint, self._folder, copied)

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk.

        Raises:
            UserError: It cannot be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _on_host(value: Any) -> Any:
    """Returns a copy of nested containers whose tensors are copies in the host's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # with what a `state_dict` carries beside its keys: versions of modules
        copied.update({key: _on_host(item) for key, item in value.items()})
        return copied
    if isinstance(value, list | tuple):
        return type(value)(map(_on_host, value))
    return value


def load_checkpoint(folder: Path, *, whole_epoch: bool = False) -> tuple[Checkpoint | None, list[Path]]:
    """Returns the last whole checkpoint of a training, None without one, and the damaged ones that got farther.

    Its tensors are on the CPU, where the history stays; a model or optimiser takes its own to where it is.

    Args:
        folder: That of the training.
        whole_epoch: Leave out those of within an epoch.
    """
    damaged: list[Path] = []
    for path in checkpoints(folder):
        if whole_epoch and not _is_whole_epoch(path):
            continue
        if found := _read(path):
            return found, damaged
        damaged.append(path)
    return None, damaged


def refusals(run: Path, identity: dict[str, str]) -> list[str]:
    """Returns a sentence for every interrupted training of the run that was another one and cannot be gone on with."""
    own = training_folder(run, identity)
    sentences = []
    for folder in sorted(state_folder(run).glob("*/")):
        found = None if folder == own else load_checkpoint(folder)[0]
        if found and "science_version" not in found.identity:
            sentences.append(
                f"{folder} was left by version 0.1.0, whose unfinished trainings cannot be gone on with, and is not "
                "used; it is kept until the run is scored"
            )
        elif found:
            keys = [key for key in identity | found.identity if found.identity.get(key) != identity.get(key)]
            sentences.append(
                f"{folder} is of another {' and '.join(keys)} and is not used; it is kept until the run is scored"
            )
    return sentences


def _is_whole_epoch(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    return match is not None and int(match["steps"]) == 0


def _read(path: Path) -> Checkpoint | None:
    """Returns what a file holds, None where its bytes are not those that were written or another version wrote it."""
    try:
        if not path.stem.endswith(sha256_file(path)[:_DIGITS]):
            return None
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved.pop("steps_done", None)  # 0.1.0 wrote it beside the steps
        identity = saved.pop("identity")
        return Checkpoint(identity=identity, state=saved) if saved.keys() <= set(TrainingState.parts()) else None
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError, pickle.UnpicklingError):
        return None
