"""Test images moved and resized inside their frame, to see whether a model leans on absolute places.

Legend: B images, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFTS = (0.0, 1 / 32, 1 / 16, 3 / 32, 1 / 8)  # of the width; 1/8 is 16 px of 128
SCALES = (0.8, 0.9, 1.0, 1.1, 1.2)


def shift(images: Tensor, right_px: float, down_px: float = 0.0) -> Tensor:
    """Returns float images (B, 3, H, W) whose content is moved right and down; what comes in repeats the border."""
    return _resample(images, scale=1.0, right_px=right_px, down_px=down_px)


def rescale(images: Tensor, factor: float) -> Tensor:
    """Returns float images (B, 3, H, W) whose content is `factor` times as large, about the centre, in the same frame.

    Resampling is bilinear; what a smaller content leaves free repeats the border.
    """
    return _resample(images, scale=factor, right_px=0.0, down_px=0.0)


def _resample(images: Tensor, *, scale: float, right_px: float, down_px: float) -> Tensor:
    height, width = images.shape[2:]
    rows = (torch.arange(height, dtype=torch.float64) - (height - 1) / 2 - down_px) / scale + (height - 1) / 2
    columns = (torch.arange(width, dtype=torch.float64) - (width - 1) / 2 - right_px) / scale + (width - 1) / 2
    y, x = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).to(images)
    return F.grid_sample(
        images, grid.expand(len(images), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
