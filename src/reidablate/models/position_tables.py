"""Resizes the absolute position rows of a checkpoint to a model's grid: (24, 8) is not (16, 12), though both have 192.

Legend: g = rows * cols patches of a checkpoint, n of the model, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reidablate.errors import UserError
from reidablate.models.position import Grid

RATIOS = (1, 2, 3, 4)  # rows per column that are tried, in this order, where nobody says which
_CLOSE = 0.01  # how far a ratio such as 1.33 may be from 4/3
_PATCH_PX = 16
_SIZES_PX = (
    (256, 128),
    (384, 128),
    (256, 256),
    (224, 224),
    (384, 384),
)  # of images that overlapping patches were cut from


def infer_grid(num_patches: int, *, hw_ratio: float | None = None, where: str) -> Grid:
    """Returns the (rows, cols) of g patches with r = rows / cols.

    For a whole r it is TransReID-SSL's `rows = floor(sqrt(g r))`, `cols = rows // r`, with r = 2 for weights trained at
    256 x 128 and r = 1 for ImageNet. Without r the first of 1, 2, 3, 4 that leaves no patch over is taken.

    Raises:
        UserError: No such grid has g patches; `where` names the file.
    """
    for ratio in RATIOS if hw_ratio is None else (hw_ratio,):
        if grid := _grid(num_patches, ratio):
            return grid
    if steps := _overlapping(num_patches):
        raise UserError(
            f"{where}: {num_patches} position rows are those of {steps}, and no ratio makes them patches that do not "
            "overlap; give weights that were trained with steps of 16 pixels (STRIDE_SIZE: [16, 16])."
        )
    raise UserError(
        f"{where}: {num_patches} position rows are no grid with height/width ratio {hw_ratio or '1 to 4'}; "
        "give the ratio of the images the weights were trained on."
    )


def place_grid(num_patches: int, own: Grid, *, hw_ratio: float | None = None, where: str) -> Grid:
    """Returns the grid of g patches of a file that does not tell it, for a model with the grid `own`.

    A given ratio is honoured. Without one it is `infer_grid`'s, and the model's own where that finds none and the
    numbers agree.

    Raises:
        UserError: No grid is found, or two are equally likely.
    """
    if num_patches != own[0] * own[1] or hw_ratio is not None:
        return infer_grid(num_patches, hw_ratio=hw_ratio, where=where)
    inferred = next(filter(None, (_grid(num_patches, ratio) for ratio in RATIOS)), own)
    if inferred != own and own[0] % own[1]:
        raise UserError(
            f"{where}: {num_patches} position rows may be a grid of {inferred[0]} x {inferred[1]} or the model's "
            f"{own[0]} x {own[1]}; write the grid into the file with `reidablate weights convert --hw-ratio "
            f"{inferred[0] // inferred[1]}` or {own[0] / own[1]:.4g}."
        )
    return inferred


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Returns absolute rows (1 + g, D) for another grid, (1 + n, D): CLS kept, patches interpolated bilinearly."""
    patches = table[1:].T.reshape(1, -1, *old)
    patches = F.interpolate(patches, size=new, mode="bilinear", align_corners=False)
    return torch.cat([table[:1], patches[0].flatten(1).T])


def _grid(num_patches: int, ratio: float) -> Grid | None:
    cols = round((num_patches / ratio) ** 0.5) if num_patches > 0 else 0
    if cols == 0 or num_patches % cols:
        return None
    rows = num_patches // cols
    return (rows, cols) if abs(rows / cols - ratio) <= _CLOSE * ratio else None


def _overlapping(num_patches: int) -> str | None:
    """Returns which patches in steps of less than their 16 pixels come to this number, in words."""
    for height, width in _SIZES_PX:
        for step in range(8, _PATCH_PX):
            rows, cols = (height - _PATCH_PX) // step + 1, (width - _PATCH_PX) // step + 1
            if rows * cols == num_patches:
                return f"{rows} x {cols} overlapping patches ({height} x {width} pixels in steps of {step})"
    return None
