"""What the steps of a training change: its parts, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reidablate.config import RunConfig
from reidablate.engine.forward import Forward
from reidablate.engine.schedule import build_optimiser
from reidablate.losses import Shape, StudyLoss
from reidablate.models.checkpoints import load_weights
from reidablate.models.neck import ReidModel, initialise
from reidablate.plugins import Plugin


@dataclass
class TrainingState:
    """Everything of a training that its steps change: parts that are trained, and where it stands.

    Every field is saved in a checkpoint and taken from it, a part with a `state_dict` by that, so that what is added
    here is resumed without further words. A field without one holds plain numbers, tensors and containers of them.

    Attributes:
        model: The network.
        loss: The losses, of which some have parameters.
        optimiser: Of both.
        scaler: Of the loss, for fp16.
        epochs_done: Number of finished epochs.
        history: One 1-D tensor a column, a value a step, of the finished epochs.
        steps: The same of the finished steps of the epoch under way.
        codes: Hashes of the code that trained up to here, in order; one unless a source was edited in between.
        train_s: Seconds spent in training so far.
        epoch_s: Those of them that belong to the epoch under way.
        wall_s: Seconds that earlier processes took, starts and checkpoints included.
        forward: A `Forward` of model and loss; on several processes, within DistributedDataParallel. Not saved.
    """

    model: ReidModel
    loss: StudyLoss
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epochs_done: int = 0
    history: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: dict[str, torch.Tensor] = field(default_factory=dict)
    codes: list[str] = field(default_factory=list)
    train_s: float = 0.0
    epoch_s: float = 0.0
    wall_s: float = 0.0
    forward: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.forward = Forward(self.model, self.loss)

    @classmethod
    def parts(cls) -> list[str]:
        """Returns the names of what is saved."""
        return [part.name for part in fields(cls) if part.init]

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next step needs, by the names of `parts`."""
        parts = {name: getattr(self, name) for name in self.parts()}
        return {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; a part that an older version did not have stays as it began."""
        for name, value in saved.items():
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(value)
            else:
                setattr(self, name, value)

    @property
    def result(self) -> ReidModel:
        """The network that is scored and written."""
        return self.model

    @property
    def steps_done(self) -> int:
        """The number of finished steps of the epoch under way."""
        return steps_in(self.steps)

    @property
    def used(self) -> list[Plugin]:
        """What made the network and each loss."""
        return [self.model.plugin, *self.loss.used]

    def update(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Moves the weights, unless a scaled gradient is not finite, and returns what became of the scale.

        Nothing waits for the device.
        """
        if not self.scaler.is_enabled():
            self.optimiser.step()
            return {}
        one = torch.ones((), device=device)
        scale = self.scaler.scale(one)  # read so, it stays on the device
        self.scaler.step(self.optimiser)
        self.scaler.update()  # halves the scale where the step was skipped, doubles it after 2000 that were not
        return {"loss_scale": scale, "skipped": self.scaler.scale(one) < scale}

    def add_steps(self, values: list[dict[str, torch.Tensor]], elapsed_s: float) -> None:
        """Books finished steps of the epoch under way, which may still be on the device."""
        columns = {
            name: torch.stack([step[name] for step in values]).double().cpu() for name in (values[0] if values else ())
        }
        self.steps = _longer(self.steps, columns)
        self.train_s += elapsed_s
        self.epoch_s += elapsed_s

    def book_steps(self, *, batch_size: int) -> dict[str, torch.Tensor]:
        """Books the steps of an epoch that has had all of them, and returns their columns.

        Args:
            batch_size: Images of a step.
        """
        steps = self.steps_done
        facts = {
            "epoch": self.epochs_done,
            "lr": self.optimiser.param_groups[0]["lr"],
            "images_per_s": steps * batch_size / self.epoch_s,  # of all processes; loading and waiting included
        }
        columns = self.steps | {name: torch.full((steps,), fact, dtype=torch.float64) for name, fact in facts.items()}
        self.add_history(columns)
        return columns

    def end_epoch(self) -> None:
        """Counts the epoch that is over."""
        self.epochs_done, self.steps, self.epoch_s = self.epochs_done + 1, {}, 0.0

    def add_history(self, columns: dict[str, torch.Tensor]) -> None:
        """Books the steps of an epoch that is over."""
        self.history = _longer(self.history, columns)

    def book_epoch(self, name: str, value: float) -> None:
        """Books a value of the last epoch that is over, on each of its steps; it is NaN in earlier ones without it."""
        epochs = self.history["epoch"]
        column = self.history.get(name, torch.full_like(epochs, torch.nan))
        self.history[name] = torch.where(epochs == epochs[-1], value, column)


def steps_in(table: Mapping[str, torch.Tensor]) -> int:
    """Returns how many steps are booked in a table, which has a column for the loss of each."""
    return len(table.get("total", ()))


def begin(
    config: RunConfig,
    *,
    num_classes: int,
    cameras: tuple[int, ...] = (),
    seed: int,
    device: torch.device,
    weights: Path | None = None,
    recompute: bool = False,
) -> TrainingState:
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
    return TrainingState(model=model, loss=loss, optimiser=build_optimiser(model, config, loss), scaler=scaler)


def _longer(table: dict[str, torch.Tensor], columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a table with further rows; a column that one part lacks is NaN there, as versions record other ones."""
    if not columns:
        return table
    above, below = steps_in(table), steps_in(columns)
    return {
        name: torch.cat([_column(table, name, above), _column(columns, name, below)])
        for name in dict.fromkeys([*columns, *table])
    }


def _column(table: dict[str, torch.Tensor], name: str, length: int) -> torch.Tensor:
    return table.get(name, torch.full((length,), torch.nan, dtype=torch.float64))
