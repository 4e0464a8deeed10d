"""Parameter groups, optimiser and learning-rate schedule of the TransReID recipe.

The cosine is not restarted after the warm-up and both of its ends are absolute rates, equal for all groups:
lr(t) = init + t (base - init) / w for t < w, and min + (base - min) (1 + cos(pi t / T)) / 2 for w <= t < T, with
init = 0.01 lr, min = 0.002 lr and the base of the group itself (damo-cv/TransReID-SSL, `solver/scheduler_factory.py`).
"""

from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from reidablate.config import RunConfig
from reidablate.losses.total import StudyLoss

WARMUP_START = 0.01  # of the base learning rate
FLOOR = 0.002  # of the base learning rate


def parameter_groups(model: nn.Module, config: RunConfig) -> list[dict[str, object]]:
    """Returns the optimiser's groups: weights, and biases, relative tables and CLS numbers at their own factors.

    A group holds its parameters in the model's order and its own `lr`. Weight decay is the same for all (the
    reference keeps a list of exempt parameters and never uses it). Frozen parameters are left out.
    """
    train = config.train
    factors = {
        "weights": 1.0,
        "biases": train.bias_lr_factor,
        "relative_tables": config.model.rpe.lr_factor,
        "cls_numbers": config.model.cls_lr_factor,
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[_group(name)].append(parameter)
    return [
        {"params": parameters, "lr": train.base_lr * factors[name], "name": name}
        for name, parameters in members.items()
        if parameters
    ]


def _group(name: str) -> str:
    if name.endswith("bias"):
        return "biases"
    if ".cls_position." in name:
        return "cls_numbers"
    return "relative_tables" if ".rpe." in name else "weights"


def build_optimiser(model: nn.Module, config: RunConfig, loss: StudyLoss | None = None) -> torch.optim.Optimizer:
    """Returns SGD with momentum, or AdamW, over `parameter_groups` and, behind them, a group for each trained loss.

    On a GPU one fused kernel takes the step, which leaves it to the device whether loss scaling skips it. The momentum
    begins at zero there: PyTorch would leave it undefined when the very first step is skipped.
    """
    train = config.train
    groups = parameter_groups(model, config)
    for name, factor, parameters in loss.parameter_groups() if loss else ():
        groups.append({"params": parameters, "lr": train.base_lr * factor, "name": f"losses.{name}"})
    fused = next(model.parameters()).device.type == "cuda"
    options: dict[str, Any] = {"lr": train.base_lr, "weight_decay": train.weight_decay, "fused": fused or None}
    if train.optimiser == "adamw":
        return torch.optim.AdamW(groups, **options)
    optimiser = torch.optim.SGD(groups, momentum=train.momentum, **options)
    if fused and train.momentum:
        for parameter in (parameter for group in optimiser.param_groups for parameter in group["params"]):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


def build_schedule(optimiser: torch.optim.Optimizer, config: RunConfig) -> CosineLRScheduler:
    """Returns timm's cosine schedule set to the formula above; it has no state beyond the epoch it is given."""
    train = config.train
    return CosineLRScheduler(
        optimiser,
        t_initial=train.num_epochs,
        lr_min=FLOOR * train.base_lr,
        warmup_t=train.warmup_epochs,
        warmup_lr_init=WARMUP_START * train.base_lr,
        cycle_limit=1,
    )


def set_epoch(schedule: CosineLRScheduler, epoch: int, config: RunConfig) -> None:
    """Sets the learning rates of epoch `epoch` (from 0).

    The argument of the schedule is t = epoch where the reference steps it at the end of an epoch
    (damo-cv/TransReID-SSL), and t = epoch + 1 where it steps at the start (damo-cv/TransReID).
    """
    schedule.step(epoch if config.train.lr_step_at == "end" else epoch + 1)
