"""The moving parts of a training, where it stands, and whether it is still finite."""

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from reidablate.config import RunConfig
from reidablate.engine.schedule import build_optimiser
from reidablate.losses import Batch, PositionState, Shape, StudyLoss
from reidablate.losses.relation_log import relation_numbers
from reidablate.models.checkpoints import load_weights
from reidablate.models.global_batch import gathered
from reidablate.models.neck import ReidModel, ReidOutput, initialise
from reidablate.plugins import Plugin

MOST_SKIPPED = 20
"""Steps in a row that loss scaling may skip. The scale begins at 65536 and each skip halves it, so that after 16 the
gradients are not scaled at all: what is still not finite then is the training's fault, not the scale's."""


class Forward(nn.Module):
    """The forward pass of a step, from images to the terms of the loss."""

    def __init__(self, model: ReidModel, loss: StudyLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        camids: torch.Tensor,
        progress: float,
        dtype: torch.dtype | None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Returns the numbers about position relations with the terms of the loss, and norms; all scalars.

        Args:
            images: (B, 3, H, W), normalised; on several processes the B / N of this one.
            labels: (B,) training labels.
            camids: (B,) of all images of the batch.
            progress: Share of the training that is done.
            dtype: Of autocast, None for float32.
        """
        own = camids.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else camids
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            outputs = self.model(images, own)
        if dist.is_initialized():
            outputs = gathered(outputs)
        batch = batch_of(self.model, outputs, labels=labels, camids=camids, progress=progress)
        numbers = relation_numbers(batch, self.loss.config)
        return numbers | self.loss(batch), _norms(outputs, batch.positions)


def _norms(outputs: ReidOutput, positions: PositionState) -> dict[str, torch.Tensor]:
    norms = {"feature_norm": outputs.feature_before_neck.detach().float().norm(dim=1).mean()}
    if positions.ape is not None:
        norms["ape_norm"] = positions.ape.detach().norm()
    if positions.tables is not None:
        norms["rpe_norm"] = positions.tables.detach().norm()
    return norms


@dataclass
class Fit:
    """The moving parts of a training, and where it stands."""

    model: ReidModel
    loss: StudyLoss
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    forward: nn.Module = field(init=False)  # a `Forward`; on several processes, within DistributedDataParallel
    epochs_done: int = 0
    history: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: dict[str, torch.Tensor] = field(default_factory=dict)  # of the epoch under way
    codes: list[str] = field(default_factory=list)
    train_s: float = 0.0
    epoch_s: float = 0.0
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        self.forward = Forward(self.model, self.loss)

    @property
    def steps_done(self) -> int:
        """The number of finished steps of the epoch under way."""
        return len(self.steps.get("total", ()))

    @property
    def used(self) -> list[Plugin]:
        """What made the network and each loss."""
        return [self.model.plugin, *self.loss.used]

    def add_steps(self, values: list[dict[str, torch.Tensor]], elapsed_s: float) -> None:
        """Books finished steps of the epoch under way, which may still be on the device."""
        columns = {
            name: torch.stack([step[name] for step in values]).double().cpu() for name in (values[0] if values else ())
        }
        self.steps = _longer(self.steps, columns)
        self.train_s += elapsed_s
        self.epoch_s += elapsed_s

    def add_history(self, columns: dict[str, torch.Tensor]) -> None:
        """Books the steps of an epoch that is over."""
        self.history = _longer(self.history, columns)

    def book_epoch(self, name: str, value: float) -> None:
        """Books a value of the last epoch that is over, on each of its steps; it is NaN in earlier ones without it."""
        epochs = self.history["epoch"]
        column = self.history.get(name, torch.full_like(epochs, torch.nan))
        self.history[name] = torch.where(epochs == epochs[-1], value, column)


def begin(
    config: RunConfig,
    *,
    num_classes: int,
    cameras: tuple[int, ...] = (),
    seed: int,
    device: torch.device,
    weights: Path | None = None,
    recompute: bool = False,
) -> Fit:
    """Returns a training before its first step.

    Args:
        config: Of the run.
        num_classes: Identities of the training set.
        cameras: Those of the training set, for a network that reads them.
        seed: Of the initial weights.
        device: Where it is to compute.
        weights: File of the initial weights, None to draw all of them.
        recompute: See `RunSpec`.
    """
    model = ReidModel(config.model, num_classes=num_classes, cameras=cameras)
    initialise(model, seed)
    if weights:
        load_weights(model, weights, head=False)
    if model.transformer:
        model.transformer.recompute = recompute
    model.to(device)
    shape = Shape(num_classes=num_classes, width=model.classifier.in_features)
    loss = StudyLoss(config.losses, shape, seed=seed).to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
    return Fit(model=model, loss=loss, optimiser=build_optimiser(model, config, loss), scaler=scaler)


def _longer(table: dict[str, torch.Tensor], columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a table with further rows; a column that one part lacks is NaN there, as versions record other ones."""
    if not columns:
        return table
    above, below = len(table.get("total", ())), len(columns["total"])
    return {
        name: torch.cat([_column(table, name, above), _column(columns, name, below)])
        for name in dict.fromkeys([*columns, *table])
    }


def _column(table: dict[str, torch.Tensor], name: str, length: int) -> torch.Tensor:
    return table.get(name, torch.full((length,), torch.nan, dtype=torch.float64))


def batch_of(
    model: ReidModel, outputs: ReidOutput, *, labels: torch.Tensor, camids: torch.Tensor, progress: float
) -> Batch:
    """Returns a batch as the losses see it.

    Args:
        model: The network that made the outputs.
        outputs: Of B images.
        labels: (B,) training labels.
        camids: (B,).
        progress: Share of the training that is done.
    """
    positions = PositionState(
        ape=model.ape_rows(), tables=model.rpe_tables(), index=model.rpe_index, cls_bias=model.cls_bias()
    )
    return Batch(
        feature=outputs.feature_before_neck,
        feature_after_neck=outputs.feature_after_neck,
        logits=outputs.logits,
        classifier=model.classifier.weight,
        labels=labels,
        camids=camids,
        cls=outputs.cls,
        patches=outputs.patches,
        local=outputs.local,
        positions=positions,
        progress=progress,
    )


@dataclass(frozen=True)
class Divergence:
    """Where and why a training stopped being finite."""

    epoch: int
    reason: str


def find_divergence(
    epoch: int, columns: dict[str, torch.Tensor], history: dict[str, torch.Tensor], *trained: nn.Module, last: bool
) -> Divergence | None:
    """Returns where a training stopped being finite, or why it stopped learning; None when all is well.

    A loss that is not finite ends it, unless the loss scaling of fp16 skipped that step; so does a weight or a running
    mean that is not finite after the epoch. `MOST_SKIPPED` skipped steps in a row are a divergence too, and so is a
    training that skipped every step.

    Args:
        epoch: The epoch that ended, from 0.
        columns: One 1-D tensor a column, a value a step, of that epoch.
        history: The same of all epochs up to it.
        trained: Whatever has weights.
        last: Whether it was the last epoch.
    """
    skipped = columns.get("skipped", torch.zeros_like(columns["total"])).bool()
    bad = torch.nonzero(~torch.isfinite(columns["total"]) & ~skipped)
    if len(bad):
        step = int(bad[0])
        terms = [name for name, column in columns.items() if name != "total" and not bool(torch.isfinite(column[step]))]
        return Divergence(epoch, f"the loss is not finite at step {step} ({', '.join(terms) or 'total'})")
    for name, value in (named for module in trained for named in module.state_dict().items()):
        if not bool(torch.isfinite(value).all()):
            return Divergence(epoch, f"{name} is not finite after the epoch")
    if "skipped" in history:
        every, longest = history["skipped"].bool(), longest_run(history["skipped"])
        if longest >= MOST_SKIPPED or (last and bool(every.all())):
            scale = float(history["loss_scale"][-1])
            return Divergence(
                epoch, f"gradients were not finite in {longest} steps in a row, down to a loss scale of {scale:g}"
            )
    return None


def longest_run(marks: torch.Tensor) -> int:
    """Returns the length of the longest run of non-zero values in a 1-D tensor.

    >>> longest_run(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    2
    """
    return max((len(list(run)) for mark, run in groupby(marks.bool().tolist()) if mark), default=0)


def loss_scaling(history: dict[str, torch.Tensor]) -> dict[str, float] | None:
    """Returns the last scale of the loss and how many steps were skipped; None where the loss is not scaled."""
    if "skipped" not in history:
        return None
    return {"last_scale": float(history["loss_scale"][-1]), "skipped_steps": int(history["skipped"].sum())}
