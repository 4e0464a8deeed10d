"""The moving parts of a training, where it stands, and whether it is still finite."""

from dataclasses import dataclass, field

import torch
from torch import nn

from reidablate.losses.total import StudyLoss
from reidablate.models.neck import ReidModel


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
        for name in values[0] if values else ():
            column = torch.stack([step[name] for step in values]).double().cpu()
            self.steps[name] = torch.cat([self.steps.get(name, column[:0]), column])
        self.train_s += elapsed_s
        self.epoch_s += elapsed_s


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
