"""One optimiser step: what it is given, and what it reports.

B batch, H x W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reidablate.config import RunConfig
from reidablate.data import augment
from reidablate.engine.parallel import rank
from reidablate.engine.spec import AUTOCAST
from reidablate.engine.state import TrainingState
from reidablate.pinned import to_device
from reidablate.rng import seed_globals, seed_int, torch_generator


class Inputs(NamedTuple):
    """A batch before its augmentation, with every random decision about it; CPU tensors."""

    images: Tensor
    """(B, H, W, 3) uint8; where several processes train, those of this one."""
    decisions: augment.Decisions
    """About `images`."""
    labels: Tensor
    """(B,) training labels."""
    camids: Tensor
    """(B,) camera numbers."""


class Place(NamedTuple):
    """Which step of which training it is: what its random numbers are derived from."""

    seed: int
    epoch: int
    step: int


def draw_inputs(config: RunConfig, images: Tensor, labels: Tensor, camids: Tensor, place: Place) -> Inputs:
    """Returns a batch with its decisions, which are drawn on the CPU for all of it.

    Args:
        config: Of the run.
        images: (B, H, W, 3) uint8, or this process's part of them.
        labels: (B,).
        camids: (B,).
        place: Where the random numbers come from.
    """
    height, width = config.model.image_size
    options = config.train.augment
    decisions = augment.draw(
        torch_generator(place.seed, "augment", place.epoch, place.step),
        len(labels),
        height=height,
        width=width,
        pad=options.pad_px,
        flip_probability=options.flip,
        erase_probability=options.erase,
    )
    first = rank() * len(images)
    return Inputs(images, decisions.of(slice(first, first + len(images))), labels, camids)


def take_step(
    state: TrainingState, config: RunConfig, inputs: Inputs, device: torch.device, place: Place
) -> dict[str, Tensor]:
    """Takes one optimiser step and returns its loss terms and norms, still on the device; nothing waits for that.

    With loss scaling (fp16) `loss_scale` is the scale of this step and `skipped` is 1 where its gradients were not
    finite, so that nothing was learned and the scale was halved.
    """
    train = config.train
    images = augment.apply(to_device(inputs.images, device), inputs.decisions)
    labels, camids = to_device(inputs.labels, device), to_device(inputs.camids, device)
    # Drop path and dropout draw from the global streams. Set anew in every step, they are the same whatever was drawn
    # before: after a resume in the middle of an epoch, and on any number of processes.
    seed_globals(seed_int(place.seed, "dropout", place.epoch, place.step), cuda=device.type == "cuda")
    progress = place.epoch / max(1, train.num_epochs - 1)  # 0 in the first epoch, 1 in the last
    terms, norms = state.forward(images, labels, camids, progress, AUTOCAST.get(train.precision))
    state.optimiser.zero_grad(set_to_none=True)
    state.scaler.scale(terms["total"]).backward()
    state.scaler.unscale_(state.optimiser)  # so that the norm below is that of the loss, not of the scaled loss
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    norms = {"gradient_norm": torch.nn.utils.get_total_norm(gradients), **norms} | state.update(device)
    return {name: value.detach() for name, value in (terms | norms).items()}
