"""Where a transformer looks: rollout, gradient rollout, class relevance, and how far its heads look.

Legend: B images, L blocks, h heads, T tokens = prefix tokens (CLS) and n = rows * cols patches, row by row.
Attention is a sequence of L tensors (B, h, T, T) from the first block to the last; rows are queries and sum to 1.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from reidablate.models.position import Grid

Fusion = Literal["mean", "max", "min"]

_FUSIONS: dict[Fusion, Callable[[Tensor], Tensor]] = {
    "mean": lambda weights: weights.mean(1),
    "max": lambda weights: weights.amax(1),
    "min": lambda weights: weights.amin(1),
}


def rollout(attention: Sequence[Tensor], *, fusion: Fusion = "mean", discard: float = 0.9) -> Tensor:
    """Returns how much each token of the last block is made of each input token, (B, T, T); rows sum to 1.

    In each block the heads are fused, the smallest `discard` share of the fused matrix is set to 0 (never its first
    entry, the attention of CLS to itself), the skip connection enters as A <- (A + I) / 2 and rows are normalised; the
    product runs over the blocks (Abnar and Zuidema 2020, section 3; the discarding is Gildenblat's, 2020).

    Args:
        attention: Attention by block.
        fusion: How heads are fused.
        discard: Share of entries in [0, 1).
    """
    return _product([_without_smallest(_FUSIONS[fusion](weights), discard) for weights in attention])


def gradient_rollout(attention: Sequence[Tensor], gradients: Sequence[Tensor], *, discard: float = 0.9) -> Tensor:
    """Returns the rollout (B, T, T) of the mean over heads of attention times its gradient, negative values set to 0.

    Args:
        attention: Attention by block.
        gradients: Of a class's logit by the attention, of the same shapes.
        discard: As in `rollout`.
    """
    pairs = zip(attention, gradients, strict=True)
    return _product([_without_smallest((weights * slope).mean(1).clamp(min=0), discard) for weights, slope in pairs])


def class_relevance(attention: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Returns the relevance (B, T, T) of each input token (column) for each token of the last block (row).

    R starts as I; each block adds A' R, where A' is the mean over heads of the positive part of attention times its
    gradient (Chefer et al. 2021, "Generic attention-model explainability", eq. 5 and 6, for self-attention).
    """
    size = attention[0].shape[-1]
    relevance = torch.eye(size, dtype=attention[0].dtype, device=attention[0].device).expand(
        len(attention[0]), size, size
    )
    for weights, slope in zip(attention, gradients, strict=True):
        relevance = relevance + (weights * slope).clamp(min=0).mean(1) @ relevance
    return relevance


def token_map(matrix: Tensor, grid: Grid, *, num_prefix: int, has_cls: bool) -> Tensor:
    """Returns what the feature sees of each patch, (B, rows, cols), from a (B, T, T) matrix; the largest value is 1.

    With CLS it is its row; without, where the feature is the mean of the patches, the mean of their rows. A map that is
    0 everywhere stays so.
    """
    row = matrix[:, 0] if has_cls else matrix[:, num_prefix:].mean(1)
    patches = row[:, num_prefix:]
    largest = patches.amax(1, keepdim=True)
    scaled = patches / largest.where(largest > 0, torch.ones_like(largest))
    return scaled.view(len(scaled), *grid)


def mean_distance(attention: Tensor, grid: Grid, *, num_prefix: int, patch_px: tuple[float, float]) -> Tensor:
    """Returns the mean attention distance of each head in pixels, (h,) (Dosovitskiy et al. 2021, appendix D.7).

    Prefix tokens are left out and the rows normalised again; the mean is over patches as queries and over images.

    Args:
        attention: (B, h, T, T) of one block.
        grid: Rows and columns of the patches.
        num_prefix: Tokens before the patches.
        patch_px: Height and width of a patch.
    """
    patches = attention[:, :, num_prefix:, num_prefix:]
    patches = patches / patches.sum(-1, keepdim=True)
    distances = patch_distances(grid, patch_px).to(attention)
    distance: Tensor = (patches * distances).sum(-1).mean((0, 2))
    return distance


def patch_distances(grid: Grid, patch_px: tuple[float, float]) -> Tensor:
    """Returns the Euclidean distances between the centres of the patches in pixels, (n, n)."""
    rows, cols = grid
    patch = torch.arange(rows * cols)
    places = torch.stack([patch // cols * patch_px[0], patch % cols * patch_px[1]], dim=1).double()
    return torch.cdist(places, places)


def _without_smallest(fused: Tensor, discard: float) -> Tensor:
    flat = fused.flatten(1)
    number = int(flat.shape[1] * discard)
    lowest = flat.argsort(dim=1, stable=True)[:, :number]
    mask = torch.ones_like(flat).scatter(1, lowest, 0.0)
    mask[:, 0] = 1
    return (flat * mask).view_as(fused)


def _product(matrices: Sequence[Tensor]) -> Tensor:
    size = matrices[0].shape[-1]
    identity = torch.eye(size, dtype=matrices[0].dtype, device=matrices[0].device)
    found = identity.expand_as(matrices[0])
    for matrix in matrices:
        step = (matrix + identity) / 2
        found = step / step.sum(-1, keepdim=True) @ found
    return found
