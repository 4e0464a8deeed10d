"""The effective receptive field: which pixels the output of a patch really depends on.

Legend: B images, H x W pixels, n patches, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def effective_receptive_field(tokens_of: Callable[[Tensor], Tensor], images: Tensor, patch: int) -> Tensor:
    """Returns the mean size of the gradient of a patch by each pixel, (H, W), the largest being 1 (Luo et al. 2016).

    The gradient is that of the sum of the token's D numbers, its absolute value summed over colours, the mean over
    images.

    Args:
        tokens_of: Maps images (B, 3, H, W) to patch tokens (B, n, D).
        images: Any images.
        patch: Index of the token.
    """
    inputs = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        total = tokens_of(inputs)[:, patch].sum()
    (gradient,) = torch.autograd.grad(total, inputs)
    field = gradient.abs().sum(1).mean(0)
    return field / field.max().clamp(min=1e-30)


def area_share(field: Tensor, mass: float = 0.95) -> float:
    """Returns the smallest share of all pixels that holds a share `mass` of the field (H, W), in (0, 1]."""
    ordered = field.double().flatten().sort(descending=True).values.cumsum(0)
    needed = int((ordered < mass * ordered[-1] * (1 - 1e-12)).sum()) + 1
    return needed / field.numel()
