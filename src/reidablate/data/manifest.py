"""A manifest: any data set as a table with the columns path, pid, camid, split."""

import re
from itertools import pairwise
from pathlib import Path, PurePosixPath

from reidablate.data.formats import JUNK, MANIFEST_NAMES, SPLITS, Layout, Listing, Record
from reidablate.data.own_format import Rows, own_rows
from reidablate.errors import UserError

MANIFEST_COLUMNS = ("path", "pid", "camid", "split")


def read_manifest(root: Path) -> Listing:
    """Returns the images that a manifest lists.

    Args:
        root: `manifest.csv` or `manifest.parquet`, or the folder that holds one of them.

    Raises:
        UserError: There is no manifest or more than one, it lacks a column, a row is wrong, or an image stands twice
            in a split.
    """
    path = _manifest_path(root)
    return _listing(manifest_rows(path), folder=path.parent, where=str(path))


def read_own(root: Path, layout: Layout) -> Listing:
    """Returns the images that a function of the study's own lists.

    Raises:
        UserError: It fails, a row is wrong, or an image stands twice in a split.
    """
    return _listing(own_rows(root, layout), folder=root, where=f"{layout.format} of {root}")


def _listing(rows: Rows, *, folder: Path, where: str) -> Listing:
    splits = {split: position for position, split in enumerate(SPLITS)}
    records: list[Record] = []
    for number, (name, pid, camid, split) in enumerate(rows, start=1):
        row = f"row {number} of {where}"
        if split not in splits:
            raise UserError(f"{row} has split {split!r}; write one of {', '.join(SPLITS)}.")
        if not name or PurePosixPath(name).is_absolute():
            raise UserError(f"{row} has path {name!r}; write paths relative to {folder}.")
        person, camera = _whole(pid, "pid", JUNK, row), _whole(camid, "camid", 0, row)
        records.append(Record(split, name, name, person, camera))
    records.sort(key=lambda record: (splits[record.split], record.name))  # type: ignore[index]
    for first, second in pairwise(records):
        if first[:2] == second[:2]:
            raise UserError(f"{first.path} stands twice in the {first.split} split of {where}; remove one of the rows.")
    return Listing(folder, tuple(records), ())


def _manifest_path(root: Path) -> Path:
    if root.is_file():
        return root
    found = [root / name for name in MANIFEST_NAMES if (root / name).is_file()]
    if len(found) != 1:
        raise UserError(
            f"{root} holds {len(found)} of {' and '.join(MANIFEST_NAMES)}; give the manifest itself, "
            "or the folder with exactly one of them."
        )
    return found[0]


def manifest_rows(path: Path) -> Rows:
    """Returns the rows of a manifest as text.

    Raises:
        UserError: It cannot be read, or lacks a column.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"the manifest {path} cannot be read ({error}); write it again as CSV or Parquet.") from error
    missing = [column for column in MANIFEST_COLUMNS if column not in frame.columns]
    if missing:
        expected = ", ".join(MANIFEST_COLUMNS)
        raise UserError(f"the manifest {path} lacks the column {', '.join(missing)}; it needs {expected}.")
    columns = [frame[column].astype(str).tolist() for column in MANIFEST_COLUMNS]
    return list(zip(*columns, strict=True))


def _whole(text: str, column: str, low: int, where: str) -> int:
    """Returns a table entry as an integer of at least `low`."""
    if re.fullmatch(r"-?[0-9]{1,15}", text) is None or int(text) < low:
        raise UserError(f"{where} has {column} {text!r}; write a whole number from {low} up.")
    return int(text)
