"""Decode once: the images of an index at one size, as memory-mapped arrays that training reads without a decoder.

Shapes: N images of a split, height, width, 3 (RGB).
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features
from pydantic import BaseModel

from reidablate import integrity
from reidablate.artifacts import atomic_path, only_writer, read_json, read_record, write_record
from reidablate.data import pixels
from reidablate.data.formats import SPLITS
from reidablate.data.index import Index, image_path
from reidablate.errors import Damaged, UserError, reading

if TYPE_CHECKING:
    from rich.progress import Progress

# The reference recipe resizes training images with another filter than test images; both filters are widened when
# shrinking, so nothing aliases. Decoding to a smaller JPEG scale ("draft") would change pixels and is not used.
FILTERS = {"train": Image.Resampling.BICUBIC, "query": Image.Resampling.BILINEAR, "gallery": Image.Resampling.BILINEAR}

_AGAIN = "run the same command again, which builds the cache again"
_CHUNK = 16  # images that a thread decodes and then writes


class _Layout(NamedTuple):
    height: int
    width: int
    resample: Image.Resampling


class _File(NamedTuple):
    path: Path
    content_hash: str


class _Facts(BaseModel):
    """What readers need of `cache.json`."""

    fingerprint: str
    height: int
    width: int
    images: dict[str, int]
    sha256: dict[str, str] = {}


def build_cache(index: Index, root: Path, out: Path, *, height: int, width: int, workers: int) -> None:
    """Writes `train.npy`, `query.npy`, `gallery.npy` (the splits of the index, in its order) and `cache.json`.

    The arrays are uint8 of shape (N, height, width, 3). `cache.json` comes last: without it the folder is no cache,
    whatever arrays a killed call left. The same cache is left alone. Memory does not grow with the data set.

    Args:
        index: The data set's index.
        root: The folder or manifest that the index was built from.
        out: The folder to write.
        height: Rows of a cached image in pixels.
        width: Columns of a cached image in pixels.
        workers: Threads; Pillow decodes and resizes outside Python's lock.

    Raises:
        UserError: An image cannot be decoded or is not the one that was indexed, or the disk is full.
    """
    splits = index.frame["split"]
    rows = {split: index.frame[splits == split] for split in SPLITS if (splits == split).any()}
    facts = {
        "fingerprint": index.summary["fingerprint"],
        "height": height,
        "width": width,
        "images": {split: len(images) for split, images in rows.items()},
        "filters": {split: FILTERS[split].name.lower() for split in rows},
        "packages": {"pillow": PIL.__version__, "libjpeg_turbo": features.version("libjpeg_turbo")},
    }
    with only_writer(out, "cache"), _progress() as progress:
        if _is_whole(out, facts):
            return
        (out / "cache.json").unlink(missing_ok=True)
        for split, images in rows.items():
            names = zip(images["path"], images["content_hash"], strict=True)
            files = [_File(image_path(root, path), content) for path, content in names]
            task = progress.add_task(f"cache {split}", total=len(files))
            with atomic_path(out / f"{split}.npy") as temporary:
                for done in _write_split(temporary, files, _Layout(height, width, FILTERS[split]), workers):
                    progress.advance(task, done)
        write_record(out / "cache.json", facts, [f"{split}.npy" for split in rows])


def _is_whole(out: Path, facts: dict[str, Any]) -> bool:
    """Whether this very cache is there already, left by another process that this one waited for."""
    try:
        found = read_json(out / "cache.json")
        if not isinstance(found, dict) or {**found, "sha256": None} != {**facts, "sha256": None}:
            return False
        return bool([read_cache(out, split) for split in facts["images"]])
    except UserError:
        return False


def differs_from(out: Path, fingerprint: str, *, height: int, width: int) -> bool:
    """Returns whether a folder holds no cache of an index's images, by their fingerprint, at a size in pixels."""
    try:
        facts = read_record(out / "cache.json", _Facts)
        for split in facts.images:
            read_cache(out, split)
    except UserError:
        return True
    return (facts.fingerprint, facts.height, facts.width) != (fingerprint, height, width)


def read_cache(out: Path, split: str) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Returns the images of a split, (N, height, width, 3) uint8, memory-mapped and read-only.

    Raises:
        UserError: The cache is missing, not whole, or not what `build_cache` wrote.
    """
    cache = read_record(out / "cache.json", _Facts)
    if split not in cache.images:
        raise UserError(f"the cache {out} has no {split} images; it holds {', '.join(cache.images)}.")
    path = out / f"{split}.npy"
    expected = (cache.images[split], cache.height, cache.width, 3)
    integrity.check(path, out / "cache.json", cache.sha256)
    with reading(path, "an array of images", remedy=_AGAIN, missing=_AGAIN):
        images: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, mode="r")
    if images.shape != expected or images.dtype != np.uint8:
        found = f"{images.dtype} {images.shape}"
        raise UserError(f"{path} holds {found}, cache.json says uint8 {expected}; {_AGAIN}.")
    return images


@contextmanager
def _progress() -> Iterator["Progress"]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def _write_split(path: Path, files: list[_File], layout: _Layout, workers: int) -> Iterator[int]:
    """Writes the decoded `files` as one `.npy`; yields the number of images done, chunk by chunk.

    Chunks are written at their place as they are ready. Writing through a memory map instead took up to a quarter
    more time an image (page faults), and a full disk would kill the process where it is an error here.
    """
    shape = (len(files), layout.height, layout.width, 3)
    with path.open("wb", buffering=0) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        write_chunk = partial(_write_chunk, stream.fileno(), stream.tell(), files, layout)
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(write_chunk, range(0, len(files), _CHUNK))


def _write_chunk(descriptor: int, offset: int, files: list[_File], layout: _Layout, start: int) -> int:
    chunk = files[start : start + _CHUNK]
    decoded = np.empty((len(chunk), layout.height, layout.width, 3), dtype=np.uint8)
    for row, file in zip(decoded, chunk, strict=True):
        row[:] = _decode(file, layout)
    rest, place = decoded.data.cast("B"), offset + start * decoded[0].nbytes
    while rest:
        done = os.pwrite(descriptor, rest, place)
        rest, place = rest[done:], place + done
    return len(chunk)


def _decode(file: _File, layout: _Layout) -> NDArray[np.uint8]:
    try:
        data = pixels.read_bytes(file.path)
        if pixels.content_hash(data) != file.content_hash:
            raise Damaged(
                f"{file.path} is not the image that was indexed; run the same command again, which indexes it."
            )
        return np.asarray(pixels.decode(data).resize((layout.width, layout.height), layout.resample))
    except pixels.BadImage as error:
        raise Damaged(f"{file.path} cannot be read ({error}); unpack the set again.") from None
