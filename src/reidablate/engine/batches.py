"""Batches of uint8 images from the cache, in a given order, with or without loader processes.

B batch, H x W pixels.
"""

import mmap
import os
import signal
import sys
from collections.abc import Generator, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from reidablate.engine.stopping import SIGNALS

SHARED_MEMORY = Path("/dev/shm")
SPARE_BYTES = 2**22  # for the queues of the processes and for others


class _Rows(Dataset[torch.Tensor]):
    """Images by row numbers, many at once.

    A loader process that is not a fork maps the cache's file again: pickled, a map would be all of its images.
    """

    def __init__(self, images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.images = images

    def __getstate__(self) -> dict[str, Any]:
        images = self.images
        if not isinstance(images, np.memmap) or images.filename is None:
            return {"images": images}
        return {"file": images.filename, "offset": images.offset, "shape": images.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "file" in state:
            self.images = np.memmap(state["file"], np.uint8, "r", offset=state["offset"], shape=state["shape"])
        else:
            self.images = state["images"]

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        _fetch(self.images, rows)
        return torch.from_numpy(np.ascontiguousarray(self.images[np.asarray(rows)]))


def _fetch(images: np.ndarray[Any, np.dtype[np.uint8]], rows: Sequence[int]) -> None:
    """Asks for the images of a batch that are not in memory: them alone, all at once.

    Left to itself the kernel reads far ahead of every image and waits for one after the other: on a disk with 8 MB of
    read-ahead 6 bytes for each that is used, at a fifth of the rate (`bench/data.py`).
    """
    if not isinstance(images, np.memmap) or not isinstance(images.base, mmap.mmap):
        return
    first, size = images.offset % mmap.ALLOCATIONGRANULARITY, images[:1].nbytes
    for row in rows:
        begin = first + row * size
        page = begin - begin % mmap.PAGESIZE
        images.base.madvise(mmap.MADV_WILLNEED, page, begin + size - page)


def _ignore_signals(_: int) -> None:
    """Leaves SIGTERM and Ctrl-C, which reach the whole process group, to the process that the loader works for."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def affordable_workers(workers: int, batch_bytes: int, free_bytes: int) -> int:
    """Returns how many of the loader processes shared memory has room for, which may be none.

    Each prefetches two batches and may be writing a third.
    """
    return min(workers, max(0, free_bytes - SPARE_BYTES) // (3 * max(1, batch_bytes)))


def _affordable(workers: int, batch_bytes: int) -> int:
    if not workers or not SHARED_MEMORY.is_dir():
        return workers
    free = os.statvfs(SHARED_MEMORY)
    found = affordable_workers(workers, batch_bytes, free.f_bavail * free.f_frsize)
    if found < workers:
        _say_fewer(workers, found)
    return found


@cache
def _say_fewer(workers: int, found: int) -> None:
    print(
        f"shared memory ({SHARED_MEMORY}) has room for {found} of {workers} loader processes; the result is the same. "
        "A container gets more with --shm-size; execution.workers asks for fewer.",
        file=sys.stderr,
        flush=True,
    )


def image_batches(
    images: np.ndarray[Any, np.dtype[np.uint8]],
    batches: Iterable[Sequence[int] | np.ndarray[Any, Any]],
    *,
    workers: int,
    pin: bool,
    batch_size: int = 128,
) -> Generator[torch.Tensor]:
    """Yields uint8 tensors (B, H, W, 3), one for each list of row numbers, in order.

    Args:
        images: All images, (N, H, W, 3), usually memory-mapped.
        batches: Row numbers of each batch, taken up as they are needed.
        workers: Loader processes; the result does not depend on it.
        pin: Whether to put batches into pinned memory for the GPU.
        batch_size: The most images of a batch: loader processes hand batches over in shared memory, and fewer of them
            are started where it is too small.
    """
    workers = _affordable(workers, batch_size * images[:1].nbytes)
    yield from DataLoader(
        _Rows(images),
        batch_size=None,
        sampler=(list(map(int, rows)) for rows in batches),
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        pin_memory=pin,
    )
