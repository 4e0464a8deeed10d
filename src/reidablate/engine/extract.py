"""Features of query and gallery from a trained model, both sides of the neck in one pass.

N images, D feature width.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reidablate.data.augment import to_float
from reidablate.data.cache import read_cache
from reidablate.data.index import read_index
from reidablate.engine.batches import image_batches
from reidablate.models.neck import ReidModel

SIDES = ("before_neck", "after_neck")
BATCH = 128

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


def extract_features(model: ReidModel, data: Path, device: torch.device, *, workers: int = 0) -> Features:
    """Returns the arrays of `features.npz`: per split two float32 (N, D) sides, pids, camids and file names.

    Args:
        model: The trained model; it is put into evaluation mode.
        data: Folder with the data set's `index/` and `cache/`.
        device: Where the model is.
        workers: Loader processes.
    """
    frame = read_index(data / "index").frame
    model.eval()
    arrays: Features = {}
    for split in ("query", "gallery"):
        rows = frame[frame["split"] == split]
        batches = [range(start, min(start + BATCH, len(rows))) for start in range(0, len(rows), BATCH)]
        sides: dict[str, list[np.ndarray[Any, Any]]] = {side: [] for side in SIDES}
        loader = image_batches(read_cache(data / "cache", split), batches, workers=workers, pin=device.type == "cuda")
        with torch.inference_mode():
            for images in loader:
                outputs = model(to_float(images.to(device, non_blocking=True)))
                for side in SIDES:
                    sides[side].append(getattr(outputs, f"feature_{side}").float().cpu().numpy())
        arrays |= {f"{split}_{side}": np.concatenate(parts) for side, parts in sides.items()}
        arrays |= {f"{split}_pids": rows["pid"].to_numpy(np.int64), f"{split}_camids": rows["camid"].to_numpy(np.int64)}
        arrays[f"{split}_names"] = rows["name"].to_numpy(str)
    return arrays
