"""The images of a file of features against those of a data set's index: the very same ones, in whatever order.

Junk is not compared. It never counts, and many code bases leave it out.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidablate.data.formats import JUNK, image_key
from reidablate.errors import UserError
from reidablate.metrics.checks import Labels
from reidablate.metrics.files import read_file, read_image_names
from reidablate.metrics.ranking import IntArray
from reidablate.runs import SIDES

SPLITS = ("query", "gallery")
_Images = Counter[tuple[Any, ...]]  # how often there is a (pid, camid) or (pid, camid, name)


def camid_shift(labels: Labels, names: Mapping[str, Any], frame: pd.DataFrame, *, path: Path, dataset: str) -> int:
    """Returns what a file's camids lack to be those of the index: many code bases count cameras from 0.

    Args:
        labels: Those of the file.
        names: `query_names` and `gallery_names`, those that the file holds.
        frame: The index.
        path: The file.
        dataset: The data set.

    Raises:
        UserError: Query or gallery hold other images than the index, or the gallery has not one name an image.
    """
    shape, wanted = np.shape(names.get("gallery_names", labels.gallery_pids)), labels.gallery_pids.shape
    if shape != wanted:
        raise UserError(
            f"{path}: gallery_names has shape {shape}, not {wanted}; give one name an image, or none at all."
        )
    frame = frame[(frame["split"] != "train") & (frame["pid"] != JUNK)]
    camids = np.concatenate([labels.query_camids, labels.gallery_camids[labels.gallery_pids != JUNK]])
    shifts = dict.fromkeys((0, int(frame["camid"].min()) - int(camids.min())))
    tries = {shift: _differences(labels, names, frame, shift) for shift in shifts}
    shift, differences = min(tries.items(), key=lambda item: sum(map(Counter.total, sum(item[1].values(), ()))))
    for split, (extra, missing) in differences.items():
        problems = [
            f"{found.total()} {what}, such as {_image(min(found))}"
            for found, what in ((missing, f"of {dataset} are not in the file"), (extra, f"are not in {dataset}"))
            if found
        ]
        if problems:
            raise UserError(
                f"{path} holds other {split} images than {dataset}: {'; '.join(problems)}. Give the features of this "
                "very data set" + (", or leave names out that are no file names." if f"{split}_names" in names else ".")
            )
    return shift


def index_rows(
    labels: Labels, names: Mapping[str, Any], frame: pd.DataFrame, *, path: Path, dataset: str
) -> dict[str, IntArray]:
    """Returns for query and gallery which row of the split in the index each image of a file is, -1 for other junk.

    Without names the images must be in the order of the index, with or without junk.

    Raises:
        UserError: What `camid_shift` refuses, or an order without names that is not that of the index.
    """
    shift = camid_shift(labels, names, frame, path=path, dataset=dataset)
    found = {}
    for split in SPLITS:
        own = frame[frame["split"] == split]
        pids, camids = getattr(labels, f"{split}_pids"), getattr(labels, f"{split}_camids") + shift
        if f"{split}_names" in names:
            found[split] = _by_name(pids, camids, names[f"{split}_names"], own)
        else:
            found[split] = _by_order(pids, camids, own, path=path, split=split)
    return found


def _by_name(pids: IntArray, camids: IntArray, names: Any, own: pd.DataFrame) -> IntArray:
    keys = zip(own["pid"], own["camid"], own["name"].map(image_key), strict=True)
    rows: defaultdict[tuple[Any, ...], deque[int]] = defaultdict(deque)
    for row, key in enumerate(keys):
        rows[key].append(row)
    theirs = zip(pids.tolist(), camids.tolist(), (image_key(str(name)) for name in names), strict=True)
    return np.array([rows[key].popleft() if rows.get(key) else -1 for key in theirs], np.int64)


def _by_order(pids: IntArray, camids: IntArray, own: pd.DataFrame, *, path: Path, split: str) -> IntArray:
    for rows in (np.arange(len(own)), np.flatnonzero(own["pid"].to_numpy() != JUNK)):
        part = own.iloc[rows]
        if np.array_equal(part["pid"], pids) and np.array_equal(part["camid"], camids):
            return rows
    raise UserError(
        f"{path} has no {split}_names and its {split} images are not in the order of the data set's files by name, so "
        f"nobody can tell which is which; add {split}_names."
    )


def _differences(
    labels: Labels, names: Mapping[str, Any], frame: pd.DataFrame, shift: int
) -> dict[str, tuple[_Images, _Images]]:
    """Returns {split: (images of the file that the index lacks, images of the index that the file lacks)}."""
    found = {}
    for split in SPLITS:
        pids, camids = getattr(labels, f"{split}_pids"), getattr(labels, f"{split}_camids") + shift
        columns, own = [pids, camids], frame.loc[frame["split"] == split, ["pid", "camid", "name"]]
        own = own.assign(name=own["name"].map(image_key))
        if f"{split}_names" in names:
            columns.append([image_key(str(name)) for name in names[f"{split}_names"]])
        given = pd.DataFrame(dict(zip(own.columns, columns, strict=False)))
        counts = [Counter(rows[list(given.columns)].itertuples(index=False, name=None)) for rows in (given, own)]
        theirs, ours = counts[0], counts[1]
        found[split] = (Counter({k: n for k, n in (theirs - ours).items() if k[0] != JUNK}), ours - theirs)
    return found


def _image(key: tuple[Any, ...]) -> str:
    return f"pid {key[0]} of camera {key[1]}" + "".join(f" ({name})" for name in key[2:])


def matched_features(path: Path, frame: pd.DataFrame, *, dataset: str) -> dict[str, Any]:
    """Returns the arrays of a run's `features.npz` from a file of features, in the order of the index.

    Names, pids and camids are the index's. A file with one feature has it on both sides of the neck.

    Raises:
        UserError: The file cannot be read, holds distances or features that cannot be ranked, or other images.
    """
    problems = read_file(path)
    if "distances" in problems:
        raise UserError(f"{path} holds distances; write query_features and gallery_features.")
    labels = next(iter(problems.values())).labels
    rows = index_rows(labels, read_image_names(path), frame, path=path, dataset=dataset)
    arrays: dict[str, Any] = {}
    for split in SPLITS:
        kept = np.flatnonzero(rows[split] >= 0)
        kept = kept[np.argsort(rows[split][kept])]
        for side in SIDES:
            problem = problems.get(side) or next(iter(problems.values()))
            arrays[f"{split}_{side}"] = np.asarray(getattr(problem, f"{split}_features"))[kept]
        images = frame[frame["split"] == split].iloc[rows[split][kept]]
        arrays |= {f"{split}_{key}s": images[key].to_numpy(np.int64) for key in ("pid", "camid")}
        arrays[f"{split}_names"] = images["name"].to_numpy(str)
    return arrays
