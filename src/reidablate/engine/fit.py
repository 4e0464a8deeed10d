"""The moving parts of a training, where it stands, and whether it is still finite."""

from dataclasses import dataclass, field

import torch
from torch import nn

from reidablate.losses import Batch, PositionState, StudyLoss
from reidablate.models.neck import ReidModel, ReidOutput


@dataclass
class Fit:
    """The moving parts of a training, and where it stands."""

    model: ReidModel
    loss: StudyLoss
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epochs_done: int = 0
    history: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: dict[str, torch.Tensor] = field(default_factory=dict)  # of the epoch under way
    codes: list[str] = field(default_factory=list)
    train_s: float = 0.0
    epoch_s: float = 0.0
    wall_s: float = 0.0

    @property
    def steps_done(self) -> int:
        """The number of finished steps of the epoch under way."""
        return len(self.steps.get("total", ()))

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


def _longer(table: dict[str, torch.Tensor], columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a table with further rows; a column that it lacks is NaN above, as an older version recorded fewer."""
    length = len(table.get("total", ()))
    above = {name: table.get(name, column.new_full((length,), torch.nan)) for name, column in columns.items()}
    return {name: torch.cat([above[name], column]) for name, column in columns.items()}


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
        positions=positions,
        progress=progress,
    )


@dataclass(frozen=True)
class Divergence:
    """Where and why a training stopped being finite."""

    epoch: int
    reason: str


def find_divergence(epoch: int, columns: dict[str, torch.Tensor], *trained: nn.Module) -> Divergence | None:
    """Returns where a step's loss or, after the last step, a weight stopped being finite; None when all are."""
    bad = torch.nonzero(~torch.isfinite(columns["total"]))
    if len(bad):
        step = int(bad[0])
        terms = [name for name, column in columns.items() if name != "total" and not bool(torch.isfinite(column[step]))]
        return Divergence(epoch, f"the loss is not finite at step {step} ({', '.join(terms) or 'total'})")
    for name, parameter in (named for module in trained for named in module.named_parameters()):
        if not bool(torch.isfinite(parameter).all()):
            return Divergence(epoch, f"{name} is not finite after the epoch")
    return None


def epoch_means(history: dict[str, torch.Tensor], epoch: int) -> dict[str, float]:
    """Returns the mean of every column over one epoch's steps."""
    rows = history["epoch"] == epoch
    return {name: float(column[rows].mean()) for name, column in history.items()}
