"""The resume checkpoint of a training: everything the next epoch needs, in one atomic file.

Random streams need no state: they are derived from (seed, purpose, epoch, step). Learning rates need none either:
the schedule is a function of the epoch.
"""

import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reidablate.artifacts import atomic_path


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after `epochs_done` whole epochs.

    Attributes:
        identity: What the training is (configuration, data, weights, seed); a checkpoint resumes only its own.
        epochs_done: Number of finished epochs.
        model, optimiser, scaler: Their `state_dict`.
        history: One 1-D tensor a column, a value a step.
        train_s: Seconds spent in training so far.
    """

    identity: dict[str, str]
    epochs_done: int
    model: dict[str, Any]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    history: dict[str, torch.Tensor]
    train_s: float


def checkpoint_path(run: Path) -> Path:
    """Returns where the checkpoint of a run is; Snakemake does not know of it, so it never deletes it."""
    return run / "state" / "checkpoint.pt"


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint in place of the one before."""
    fields = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    with atomic_path(checkpoint_path(run)) as temporary:
        torch.save(fields, temporary)


def load_checkpoint(run: Path, identity: dict[str, str], device: torch.device) -> tuple[Checkpoint | None, str]:
    """Returns the checkpoint to resume from, or None with the reason in a sentence (empty when there is none)."""
    path = checkpoint_path(run)
    if not path.exists():
        return None, ""
    try:
        fields = torch.load(path, map_location=device, weights_only=True)
        found = Checkpoint(**fields)
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        return None, f"{path} cannot be read ({type(error).__name__}); training starts again from the first epoch."
    changed = [key for key, value in identity.items() if found.identity.get(key) != value]
    if changed:
        return None, f"{path} is of another {' and '.join(changed)}; training starts again from the first epoch."
    return found, ""


def remove_checkpoint(run: Path) -> None:
    """Deletes the resume state of a finished run."""
    shutil.rmtree(run / "state", ignore_errors=True)
