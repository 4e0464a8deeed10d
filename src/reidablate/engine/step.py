"""One optimiser step: what it is given, and what it reports.

B batch, H x W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reidablate.config import RunConfig
from reidablate.data import augment
from reidablate.engine.fit import Fit, batch_of
from reidablate.engine.spec import AUTOCAST
from reidablate.losses import PositionState
from reidablate.losses.relation_log import relation_numbers
from reidablate.models.neck import ReidModel, ReidOutput
from reidablate.pinned import to_device
from reidablate.rng import seed_globals, seed_int, torch_generator


class Inputs(NamedTuple):
    """A batch before its augmentation, with every random decision about it; CPU tensors."""

    images: Tensor
    """(B, H, W, 3) uint8."""
    decisions: augment.Decisions
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
    """Returns the images (B, H, W, 3), labels (B,) and cameras (B,) of a batch with its decisions, drawn on the CPU."""
    height, width = config.model.image_size
    options = config.train.augment
    decisions = augment.draw(
        torch_generator(place.seed, "augment", place.epoch, place.step),
        len(images),
        height=height,
        width=width,
        pad=options.pad_px,
        flip_probability=options.flip,
        erase_probability=options.erase,
    )
    return Inputs(images, decisions, labels, camids)


def take_step(fit: Fit, config: RunConfig, inputs: Inputs, device: torch.device, place: Place) -> dict[str, Tensor]:
    """Takes one optimiser step and returns its loss terms and norms, still on the device; nothing waits for that.

    With loss scaling (fp16) `loss_scale` is the scale of this step and `skipped` is 1 where its gradients were not
    finite, so that nothing was learned and the scale was halved.
    """
    train, model = config.train, fit.model
    images = augment.apply(to_device(inputs.images, device), inputs.decisions)
    labels, camids = to_device(inputs.labels, device), to_device(inputs.camids, device)
    seed_globals(seed_int(place.seed, "dropout", place.epoch, place.step), cuda=device.type == "cuda")
    autocast = AUTOCAST.get(train.precision)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        outputs = model(images)
    progress = place.epoch / max(1, train.num_epochs - 1)
    batch = batch_of(model, outputs, labels=labels, camids=camids, progress=progress)
    numbers = relation_numbers(batch, config.losses)
    terms = fit.loss(batch)
    fit.optimiser.zero_grad(set_to_none=True)
    fit.scaler.scale(terms["total"]).backward()
    fit.scaler.unscale_(fit.optimiser)
    norms = _norms(model, outputs, batch.positions) | _update(fit, device)
    return {name: value.detach() for name, value in (numbers | terms | norms).items()}


def _norms(model: ReidModel, outputs: ReidOutput, positions: PositionState) -> dict[str, Tensor]:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = {
        "gradient_norm": torch.nn.utils.get_total_norm(gradients),
        "feature_norm": outputs.feature_before_neck.detach().float().norm(dim=1).mean(),
    }
    if positions.ape is not None:
        norms["ape_norm"] = positions.ape.detach().norm()
    if positions.tables is not None:
        norms["rpe_norm"] = positions.tables.detach().norm()
    return norms


def _update(fit: Fit, device: torch.device) -> dict[str, Tensor]:
    """Moves the weights, unless a scaled gradient is not finite, and returns what became of the scale."""
    if not fit.scaler.is_enabled():
        fit.optimiser.step()
        return {}
    one = torch.ones((), device=device)
    scale = fit.scaler.scale(one)  # read so, it stays on the device
    fit.scaler.step(fit.optimiser)
    fit.scaler.update()
    return {"loss_scale": scale, "skipped": fit.scaler.scale(one) < scale}
