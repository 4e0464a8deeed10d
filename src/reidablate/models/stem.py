"""Image to patch grid: one convolution, or the IBN convolution stem of TransReID-SSL.

Legend: B batch, H x W image, p patch edge in pixels, D width. Both stems map (B, 3, H, W) to (B, D, H/p, W/p).
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_WIDTH = 64


class ConvStem(nn.Module):
    """One p x p convolution with stride p (Dosovitskiy et al. 2021)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the patch grid."""
        return cast(Tensor, self.projection(images))


class Ibn(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest (Pan et al. 2018).

    The instance half is affine and keeps no running statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.instance = nn.InstanceNorm2d(channels // 2, affine=True)
        self.batch = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x`, (B, C, H, W), normalised."""
        half = self.instance.num_features
        return torch.cat([self.instance(x[:, :half]), self.batch(x[:, half:])], dim=1)


class IbnStem(nn.Module):
    """The "ICS" of TransReID-SSL (Luo et al. 2021, section 3.3): three convolutions, then a projection of stride p/2.

    7x7 stride 2, 3x3 and 3x3 to 64 channels without bias, followed by IBN, IBN and plain batch normalisation and each
    time ReLU; then a p/2 x p/2 convolution with stride p/2 to D channels.
    """

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_WIDTH, kernel_size=7, stride=2, padding=3, bias=False)
        self.norm1 = Ibn(STEM_WIDTH)
        self.conv2 = nn.Conv2d(STEM_WIDTH, STEM_WIDTH, kernel_size=3, padding=1, bias=False)
        self.norm2 = Ibn(STEM_WIDTH)
        self.conv3 = nn.Conv2d(STEM_WIDTH, STEM_WIDTH, kernel_size=3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(STEM_WIDTH)
        self.projection = nn.Conv2d(STEM_WIDTH, width, kernel_size=patch // 2, stride=patch // 2)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the patch grid."""
        x = F.relu(self.norm1(self.conv1(images)), inplace=True)
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)
        x = F.relu(self.norm3(self.conv3(x)), inplace=True)
        return cast(Tensor, self.projection(x))


STEMS: dict[str, Callable[[int, int], nn.Module]] = {"conv": ConvStem, "ics": IbnStem}


def patch_grid(stem: nn.Module, images: Tensor) -> Tensor:
    """Returns the grid of a stem, (B, D, H/p, W/p); under fp16 autocast on a CPU the stem stays in float32.

    oneDNN has only reference code for gradients of fp16 convolutions: a backward pass of ViT-B with the IBN stem took
    175 s in place of 10 s in float32 (4 images of 384 x 128, 2 threads).
    """
    slow = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    slow = slow and torch.get_autocast_dtype("cpu") is torch.float16
    with torch.autocast("cpu", enabled=False) if slow else nullcontext():
        return cast(Tensor, stem(images))
