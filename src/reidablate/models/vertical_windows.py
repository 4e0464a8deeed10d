"""Attention within columns of the grid: people are upright, so parts of a body lie above each other.

A design idea of the source study's notes that was never run.

Legend: n = rows * cols patches in row-major order, D width.
"""

import torch
from torch import Tensor

from reidablate.models.parts import Part, Size
from reidablate.sections import Positive, Section, Share


class VerticalWindowsOptions(Section):
    """Options of the windows.

    Attributes:
        share: Share of the blocks, from the first on and at least one, whose attention is limited.
        columns: Columns of patches that a window has.
    """

    share: Share = 0.25
    columns: Positive = 1


def window_mask(grid: tuple[int, int], columns: int) -> Tensor:
    """Returns 0 for tokens that see each other and minus infinity for others, (1 + n, 1 + n).

    Patches see those of their own window: columns 0 to `columns` - 1, the next as many, and so on; the last window may
    be narrower. CLS sees all patches and all see CLS.
    """
    rows, cols = grid
    window = torch.arange(rows * cols) % cols // columns
    apart = window[:, None] != window[None, :]
    mask = torch.zeros(1 + rows * cols, 1 + rows * cols)
    mask[1:, 1:].masked_fill_(apart, -torch.inf)
    return mask


class VerticalWindows(Part):
    """Limits the attention between patches to windows of whole columns, in the first blocks."""

    mask: Tensor

    def __init__(self, options: VerticalWindowsOptions, size: Size) -> None:
        super().__init__()
        self.blocks = max(1, round(options.share * size.depth))
        self.register_buffer("mask", window_mask(size.grid, options.columns)[None], persistent=False)

    def logits(self, block: int) -> Tensor | None:
        """Returns the mask in the first blocks, (1, 1 + n, 1 + n)."""
        return self.mask if block < self.blocks else None
