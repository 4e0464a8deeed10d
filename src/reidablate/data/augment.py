"""Train-time augmentation of a batch: flip, pad and crop, normalise, random erasing; test-time conversion.

Legend: B images, H rows, W columns. Images come as uint8 (B, H, W, 3), the layout of the cache; the result is float32
(B, 3, H, W).

`draw` makes every random decision on the CPU, noise included; `apply` carries it out on the device of the images and
draws nothing. So the same decisions give the same batch on any device. A batch is drawn as a whole, purpose after
purpose: the decisions of one image depend on the size of its batch, not on what the others show.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reidablate.errors import UserError
from reidablate.pinned import to_device

_TRIES = 10  # boxes drawn per image before erasing is given up


@dataclass(frozen=True)
class Decisions:
    """What happens to each image of a batch; CPU tensors.

    Attributes:
        flip: Mirror left and right, (B,) bool.
        shift: Rows and columns that the content moves down and right, each in -pad ... pad, (B, 2) int64.
        box: Top, left, height and width of the erased box in pixels, (B, 4) int64; height and width are 0 where
            nothing is erased.
        noise: The boxes' new content one after the other, each (3, height, width), flattened; float32.
    """

    flip: Tensor
    shift: Tensor
    box: Tensor
    noise: Tensor

    def of(self, rows: slice) -> "Decisions":
        """Returns the decisions about some of the images, which follow each other."""
        end = torch.cat([self.box.new_zeros(1), 3 * self.box[:, 2:].prod(dim=1).cumsum(dim=0)])
        first, last, _ = rows.indices(len(self.box))
        return Decisions(self.flip[rows], self.shift[rows], self.box[rows], self.noise[end[first] : end[last]])


def draw(
    generator: torch.Generator,
    num_images: int,
    *,
    height: int,
    width: int,
    pad: int,
    flip_probability: float = 0.5,
    erase_probability: float = 0.5,
    erase_area: tuple[float, float] = (0.02, 1 / 3),
    erase_aspect: float = 0.3,
) -> Decisions:
    """Returns the decisions for a batch.

    Random erasing is that of timm in mode `pixel`: area uniform in `erase_area` (fraction of the image), aspect
    (height / width) log-uniform in [erase_aspect, 1 / erase_aspect], the first of ten boxes that is smaller than the
    image both ways, at a uniform place. Zhong et al. 2020, "Random Erasing Data Augmentation", algorithm 1; there the
    tries do not end and the noise is uniform.

    Args:
        generator: A CPU generator; everything random comes from it.
        num_images: B.
        height: H in pixels.
        width: W in pixels.
        pad: Zero rows and columns added on each side before the crop.
        flip_probability: In [0, 1].
        erase_probability: In [0, 1].
        erase_area: Smallest and largest erased fraction.
        erase_aspect: Smallest aspect.

    Raises:
        UserError: The padding is as large as the image, so that a crop could miss it.
    """
    if pad >= min(height, width):
        raise UserError(f"the augmentation pads {pad} px around {height} x {width} px images; pad less than the image.")
    flip = torch.rand(num_images, generator=generator) < flip_probability
    shift = torch.randint(-pad, pad + 1, (num_images, 2), generator=generator)
    erase = torch.rand(num_images, generator=generator) < erase_probability

    low, high = erase_area
    area, log_aspect = torch.rand(2, num_images, _TRIES, generator=generator, dtype=torch.float64)
    area = (low + area * (high - low)) * (height * width)
    aspect = torch.exp((2 * log_aspect - 1) * math.log(1 / erase_aspect))
    heights, widths = torch.sqrt(area * aspect).round().long(), torch.sqrt(area / aspect).round().long()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(dim=1, keepdim=True)
    size = torch.stack([heights, widths], dim=2).gather(1, first[..., None].expand(-1, 1, 2))[:, 0]
    size *= (erase & fits.any(dim=1))[:, None]
    places = torch.tensor([height, width]) - size + 1
    corner = (torch.rand(num_images, 2, generator=generator, dtype=torch.float64) * places).long()

    noise = torch.randn(3 * int(size.prod(dim=1).sum()), generator=generator)
    return Decisions(flip, shift, torch.cat([corner, size], dim=1), noise)


def apply(images: Tensor, decisions: Decisions) -> Tensor:
    """Returns the augmented, normalised batch, float32 (B, 3, H, W), on the device of `images` (uint8 (B, H, W, 3)).

    An image is mirrored, moved inside its frame with zeros (black) moving in, normalised to [-1, 1], and erased.
    On a CPU the images are treated one by one; elsewhere all at once, without waiting for the device.
    """
    if images.device.type == "cpu":
        return _apply_one_by_one(images, decisions)
    return _apply_at_once(images, decisions)


def to_float(images: Tensor) -> Tensor:
    """Returns uint8 images (B, H, W, 3) as (B, 3, H, W) with mean 0.5 and sd 0.5 taken out, in [-1, 1].

    The result has torch's default type, float32 unless that was changed.
    """
    channels_first = images.permute(0, 3, 1, 2)
    floats = channels_first.to(torch.get_default_dtype(), memory_format=torch.contiguous_format)
    # By a Python number CUDA would multiply with the reciprocal, which is another float for 111 of the 256 bytes.
    return floats.div_(torch.full((), 127.5, dtype=floats.dtype, device=floats.device)).sub_(1)


def _apply_one_by_one(images: Tensor, decisions: Decisions) -> Tensor:
    height, width = images.shape[1:3]
    moved = torch.zeros_like(images)
    flips, shifts = decisions.flip.tolist(), decisions.shift.tolist()
    for source, target, flip, (down, right) in zip(images, moved, flips, shifts, strict=True):
        image = source.flip(1) if flip else source
        target[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
            max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
        ]
    result = to_float(moved)
    start = 0
    for image, (top, left, rows, columns) in zip(result, decisions.box.tolist(), strict=True):
        stop = start + 3 * rows * columns
        image[:, top : top + rows, left : left + columns] = decisions.noise[start:stop].view(3, rows, columns)
        start = stop
    return result


def _apply_at_once(images: Tensor, decisions: Decisions) -> Tensor:
    device, (batch, height, width) = images.device, images.shape[:3]
    flip, shift, box, noise = (
        to_device(part, device) for part in (decisions.flip, decisions.shift, decisions.box, decisions.noise)
    )
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = y - shift[:, :1], x - shift[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    columns = torch.where(flip[:, None], width - 1 - columns, columns)
    which = torch.arange(batch, device=device)[:, None, None]
    moved = images[which, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    result = to_float(moved * inside[..., None])
    top, left, box_height, box_width = box.T[..., None]
    erased_rows, erased_columns = (y >= top) & (y < top + box_height), (x >= left) & (x < left + box_width)
    erased = erased_rows[:, :, None] & erased_columns[:, None, :]
    return result.masked_scatter_(erased[:, None], noise)
