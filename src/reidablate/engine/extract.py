"""Features of query and gallery from a trained model, both sides of the neck in one pass.

N images, D feature width.
"""

import contextlib
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reidablate.artifacts import read_npz, write_npz
from reidablate.data.augment import to_float
from reidablate.data.cache import read_cache
from reidablate.data.index import read_index
from reidablate.engine.batches import image_batches
from reidablate.engine.spec import AUTOCAST
from reidablate.errors import UserError
from reidablate.models.neck import ReidModel
from reidablate.runs import SIDES

BATCH = 128
BATCHES_IN_PART = 8

Features = dict[str, np.ndarray[Any, Any]]


def no_features(model: ReidModel) -> Features:
    """Returns the arrays of `features.npz` without a row: what a diverged run has to show."""
    width = model.classifier.in_features
    arrays: Features = {}
    for split in ("query", "gallery"):
        arrays |= {f"{split}_{side}": np.empty((0, width), np.float32) for side in SIDES}
        arrays |= {f"{split}_{key}": np.empty(0, np.int64) for key in ("pids", "camids")}
        arrays[f"{split}_names"] = np.empty(0, "<U1")
    return arrays


def extract_features(
    model: ReidModel,
    data: Path,
    device: torch.device,
    *,
    workers: int = 0,
    precision: str = "fp32",
    parts: Path | None = None,
    same_cameras: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Returns the arrays of `features.npz`: per split two float32 (N, D) sides, pids, camids and file names.

    Args:
        model: The trained model; it is put into evaluation mode.
        data: Folder with the data set's `index/` and `cache/`.
        device: Where the model is.
        workers: Loader processes.
        precision: That of the training, fp32, bf16 or fp16; see `precision_on`.
        parts: A folder for finished parts of this very model on this very data. An interrupted extraction goes on
            behind those that it finds whole; each carries checksums. None keeps nothing.
        same_cameras: Whether the cameras of the data set are those of the training. Where they are others of the same
            numbers, a model that reads cameras is told of none.
        progress: Called with the images done and their total, after every part.
    """
    frame = read_index(data / "index").frame
    rows = {split: frame[frame["split"] == split] for split in ("query", "gallery")}
    total, done = sum(map(len, rows.values())), 0
    model.eval()
    arrays: Features = {}
    for split, images in rows.items():
        found = _parts(split, len(images), parts)
        batches = [batch for numbers, part in found.items() if part is None for batch in _batches(numbers)]
        loader = image_batches(read_cache(data / "cache", split), batches, workers=workers, pin=device.type == "cuda")
        with contextlib.closing(loader):
            for numbers, part in found.items():
                if part is None:
                    camids = images["camid"].to_numpy(np.int64)[numbers] if same_cameras else None
                    taken = islice(loader, len(_batches(numbers)))
                    found[numbers] = part = forward(model, taken, device, precision, camids=camids)
                    if parts is not None:
                        write_npz(_part_path(parts, split, numbers), part)
                done += len(numbers)
                if progress is not None:
                    progress(done, total)
        arrays |= {f"{split}_{side}": np.concatenate([part[side] for part in found.values() if part]) for side in SIDES}
        arrays |= {f"{split}_{key}s": images[key].to_numpy(np.int64) for key in ("pid", "camid")}
        arrays[f"{split}_names"] = images["name"].to_numpy(str)
    return arrays


def _parts(split: str, length: int, folder: Path | None) -> dict[range, Features | None]:
    """Returns the parts of a split, None where it is not there yet or its bytes are damaged."""
    size = BATCH * BATCHES_IN_PART
    found: dict[range, Features | None] = {}
    for start in range(0, length, size):
        numbers = range(start, min(start + size, length))
        found[numbers] = None
        if folder is not None and (path := _part_path(folder, split, numbers)).exists():
            with contextlib.suppress(UserError):
                found[numbers] = read_npz(path)
    return found


def _part_path(folder: Path, split: str, numbers: range) -> Path:
    return folder / f"{split}-{numbers.start:07d}.npz"


def _batches(numbers: range) -> list[range]:
    return [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]


def precision_on(device: torch.device, precision: str) -> str:
    """Returns the precision that features are extracted in: the training's on a GPU, float32 on a CPU.

    A GPU computes in half precision an order of magnitude faster; a CPU gains little, and float32 is exact there.
    """
    return precision if device.type == "cuda" else "fp32"


def forward(
    model: ReidModel,
    batches: Iterable[torch.Tensor],
    device: torch.device,
    precision: str,
    *,
    camids: np.ndarray[Any, Any] | None = None,
) -> Features:
    """Returns both sides of the features, (N, D) each, of the images in `batches`, of cameras (N,) where given."""
    sides: dict[str, list[np.ndarray[Any, Any]]] = {side: [] for side in SIDES}
    autocast = AUTOCAST.get(precision_on(device, precision))
    done = 0
    with torch.inference_mode(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        for images in batches:
            cameras = None if camids is None else torch.from_numpy(camids[done : done + len(images)]).to(device)
            done += len(images)
            outputs = model(to_float(images.to(device, non_blocking=True)), cameras)
            for side in SIDES:
                sides[side].append(model.tested(outputs, side).float().cpu().numpy())
    return {side: np.concatenate(values) for side, values in sides.items()}
