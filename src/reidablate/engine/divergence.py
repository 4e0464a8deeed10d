"""Whether a training is still finite."""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

MOST_SKIPPED = 20
"""Steps in a row that loss scaling may skip. The scale begins at 65536 and each skip halves it, so that after 16 the
gradients are not scaled at all: what is still not finite then is the training's fault, not the scale's."""


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
