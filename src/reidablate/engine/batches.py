"""Batches of uint8 images from the cache, in a given order, with or without loader processes.

B batch, H x W pixels.
"""

import signal
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from reidablate.engine.stopping import SIGNALS


class _Rows(Dataset[torch.Tensor]):
    """Images by row numbers, many at once."""

    def __init__(self, images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.images = images

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.images[np.asarray(rows)]))


def _ignore_signals(_: int) -> None:
    """Leaves SIGTERM and Ctrl-C, which reach the whole process group, to the process that the loader works for."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def image_batches(
    images: np.ndarray[Any, np.dtype[np.uint8]],
    batches: Iterable[Sequence[int] | np.ndarray[Any, Any]],
    *,
    workers: int,
    pin: bool,
) -> Generator[torch.Tensor]:
    """Yields uint8 tensors (B, H, W, 3), one for each list of row numbers, in order.

    Args:
        images: All images, (N, H, W, 3), usually memory-mapped.
        batches: Row numbers of each batch, taken up as they are needed.
        workers: Loader processes; the result does not depend on it.
        pin: Whether to put batches into pinned memory for the GPU.
    """
    yield from DataLoader(
        _Rows(images),
        batch_size=None,
        sampler=(list(map(int, rows)) for rows in batches),
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        pin_memory=pin,
    )
