"""Counts the floating-point operations that a network performs for one image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    """Adds up the operations of what runs inside, by PyTorch's own formulas.

    PyTorch's `FlopCounterMode` also follows the modules, and fails on one that is given a parameter without gradients.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry

        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self._formulas = flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if formula := self._formulas.get(func._overloadpacket):
            self.total += int(formula(*args, **kwargs, out_val=found))
        return found


def flops_per_image(model: nn.Module, image_size: tuple[int, int], device: torch.device) -> int:
    """Returns the floating-point operations of one image's way through the network, as for its features.

    A multiplication and an addition are two. Matrix products, convolutions and attention count; what works element by
    element does not. A training step costs about three times as much an image.

    Args:
        model: The network; it is left as it was.
        image_size: Height and width in pixels.
        device: Where it is.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _Counter() as counter:
            model(torch.zeros(1, 3, *image_size, device=device))
    finally:
        model.train(training)
    total: int = counter.total
    return total
