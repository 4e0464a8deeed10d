"""Where a training begins: at its first step, or behind what an earlier process saved of it."""

import time

from reidablate import provenance
from reidablate.artifacts import remove_half_written
from reidablate.engine.checkpoint import Checkpoint, CheckpointWriter, load_checkpoint, refusals
from reidablate.engine.parallel import rank
from reidablate.engine.state import TrainingState, begin
from reidablate.engine.training import Training


def restored(training: Training, *, whole_epoch: bool = False) -> TrainingState:
    """Returns the state to train from: that of the last checkpoint, or the initial one.

    Args:
        training: Which training.
        whole_epoch: Leave out checkpoints of within an epoch, and say nothing of what is found.
    """
    spec, folder = training.spec, training.folder
    state = begin(
        training.config,
        num_classes=training.data.num_classes,
        cameras=training.data.cameras,
        seed=spec.seed,
        device=training.device,
        weights=spec.weights,
        recompute=spec.recompute,
    )
    for place in (folder, *folder.glob("features-*")):
        remove_half_written(place)
    found, damaged = load_checkpoint(folder, whole_epoch=whole_epoch)
    for path in damaged:
        training.say(f"{path} is damaged and is not used")
        path.unlink()
    if found:
        state.load_state_dict(found.state)
    if whole_epoch:
        return state
    if found:
        training.say(f"goes on after epoch {state.epochs_done}, step {state.steps_done} of the next")
    elif refused := refusals(spec.out, training.names):
        for sentence in (*refused, "training starts from the first epoch"):
            training.say(sentence)
    if provenance.code_hash() not in state.codes:
        if state.codes:
            training.say("the source code was edited since the run began; its provenance names both versions")
        state.codes.append(provenance.code_hash())
    return state


def save(training: Training, state: TrainingState, writer: CheckpointWriter) -> None:
    """Begins to write where a training stands; one of several processes does it for all."""
    if rank() == 0:
        saved = state.state_dict() | {"wall_s": state.wall_s + time.perf_counter() - training.began}
        writer.save(Checkpoint(identity=training.names, state=saved))
