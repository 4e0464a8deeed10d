"""Reading a data set folder: which images it holds, of whom, from which camera, in which split.

Two layouts of the field and one of our own:

- `market1501`: `bounding_box_train`, `query`, `bounding_box_test`, names `0002_c1s1_000451_03.jpg`
  (person, camera and sequence, frame, box); person -1 is junk, person 0000 a distractor.
- `occluded_duke`: the same folders, names `0001_c2_f0046182.jpg` (person, camera, frame).
- `manifest`: a table `manifest.csv` or `manifest.parquet` with the columns path, pid, camid, split.

Only base names are parsed, so a parent folder such as `run-1_c3` is never read as an identity.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from reidablate.errors import UserError

SPLITS = ("train", "query", "gallery")
SPLIT_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
SYNTHETIC_FILE = "SYNTHETIC"  # marks a folder of generated images
SYNTHETIC_COMMENT = "reidablate synthetic"  # begins the JPEG comment of each
JUNK = -1
MANIFEST_NAMES = ("manifest.csv", "manifest.parquet")
MANIFEST_COLUMNS = ("path", "pid", "camid", "split")

# Gallery images count junk and distractors, gallery ids do not.
OFFICIAL_COUNTS: dict[str, dict[str, Any]] = {
    "market1501": {
        "train": {"images": 12936, "ids": 751},
        "query": {"images": 3368, "ids": 750},
        "gallery": {"images": 19732, "ids": 750},
        "junk": 3819,
        "distractors": 2798,
        "cameras": 6,
    },
    "occluded_duke": {
        "train": {"images": 15618, "ids": 702},
        "query": {"images": 2210, "ids": 519},
        "gallery": {"images": 17661, "ids": 1110},
        "junk": 0,
        "distractors": 0,
        "cameras": 8,
    },
}


@dataclass(frozen=True)
class Grammar:
    """How a layout names its images.

    Attributes:
        title: The set's usual name.
        pattern: Regular expression of a whole base name with the groups `pid` and `camid`.
        shown: The same in words, for error messages.
        num_cameras: Cameras are numbered from 1 to this.
        distractor: The person of gallery images that are nobody's positive, None where the layout has none.
    """

    title: str
    pattern: re.Pattern[str]
    shown: str
    num_cameras: int
    distractor: int | None


GRAMMARS = {
    "market1501": Grammar(
        title="Market-1501",
        pattern=re.compile(r"(?P<pid>-1|[0-9]{4})_c(?P<camid>[0-9])s[0-9]+_[0-9]{6}_[0-9]{2}\.jpg"),
        shown="{pid: -1 or 4 digits}_c{camera: 1-6}s{sequence}_{frame: 6 digits}_{box: 2 digits}.jpg",
        num_cameras=6,
        distractor=0,
    ),
    "occluded_duke": Grammar(
        title="Occluded-Duke",
        pattern=re.compile(r"(?P<pid>[0-9]{4})_c(?P<camid>[0-9])_f[0-9]{7}\.jpg"),
        shown="{pid: 4 digits}_c{camera: 1-8}_f{frame: 7 digits}.jpg",
        num_cameras=8,
        distractor=None,
    ),
}
FORMATS = (*GRAMMARS, "manifest")


class Record(NamedTuple):
    """One image: its split, its path below the root, its unique name in the split, its person and camera."""

    split: str
    path: str
    name: str
    pid: int
    camid: int


@dataclass(frozen=True)
class Listing:
    """What a data set folder holds.

    Attributes:
        root: The folder that the paths are relative to.
        records: Sorted by split (train, query, gallery), then by name.
        ignored: Entries of the split folders that are no images, relative to the root.
    """

    root: Path
    records: tuple[Record, ...]
    ignored: tuple[str, ...]


def locate(data_root: Path, names: Sequence[str]) -> Path | None:
    """Returns the first folder of `data_root` that has one of the accepted `names`, None where there is none."""
    return next((data_root / name for name in names if (data_root / name).is_dir()), None)


def parse_name(name: str, grammar: Grammar) -> tuple[int, int]:
    """Returns the person and the camera (from 1) that a base name states.

    Raises:
        UserError: The name breaks the grammar or names a camera that the set does not have.
    """
    match = grammar.pattern.fullmatch(name)
    if match is None:
        raise UserError(f"{name!r} is no {grammar.title} name, expected {grammar.shown}; rename or remove the file.")
    camid = int(match["camid"])
    if not 1 <= camid <= grammar.num_cameras:
        raise UserError(
            f"{name!r} names camera {camid}, {grammar.title} has 1 to {grammar.num_cameras} "
            f"(expected {grammar.shown}); rename or remove the file."
        )
    return int(match["pid"]), camid


def source_of(root: Path, format: str) -> dict[str, str]:
    """Returns what an index is built from, without opening an image: the place, the format, the state of the files."""
    return {"root": str(root.resolve()), "format": format, "listing": listing_hash(root)}


def listing_hash(root: Path) -> str:
    """Returns a hash that changes when an image of a set comes, goes, or changes its name, size or time of change.

    A manifest counts with its bytes and with the images that it names. Planning calls this, so what is missing or
    broken is no error here: reading the set will say what is wrong.
    """
    manifests = [root] if root.is_file() else [root / name for name in MANIFEST_NAMES if (root / name).is_file()]
    digest = hashlib.sha256()
    for manifest in manifests:
        digest.update(manifest.read_bytes())
        with suppress(UserError):
            _digest_states(digest, manifest.parent, sorted(row[0] for row in _manifest_rows(manifest)))
    for folder in SPLIT_FOLDERS.values():
        if (root / folder).is_dir():
            names = sorted(name for name in os.listdir(root / folder) if name.lower().endswith((".jpg", ".jpeg")))
            digest.update(f"{folder}\0".encode())
            _digest_states(digest, root / folder, names)
    return digest.hexdigest()[:16]


def _digest_states(digest: "hashlib._Hash", folder: Path, names: Iterable[str]) -> None:
    """Adds the name, size and time of change of files to a digest; of one that is not there, its name."""
    for name in names:
        digest.update(f"{name}\0".encode(errors="surrogateescape"))
        with suppress(OSError, ValueError):  # ValueError: no name of a file
            state = os.stat(f"{folder}/{name}")
            digest.update(f"{state.st_size} {state.st_mtime_ns}\0".encode())


def read_folder(root: Path, format: str) -> Listing:
    """Returns the images of a data set folder.

    Args:
        root: The folder with the three split folders; for `manifest` the table itself or the folder that holds it.
            A folder marked as generated may hold training images alone, for pre-training.
        format: One of `FORMATS`.

    Raises:
        UserError: The format is unknown, a folder, file or column is missing, a name breaks the grammar, a split is
            empty, or an image outside the gallery is junk or a distractor.
    """
    if format not in FORMATS:
        raise UserError(f"{format!r} is no data set format; choose one of {', '.join(FORMATS)}.")
    if not root.exists():
        raise UserError(f"the data set folder {root} does not exist; give the folder that holds the set.")
    splits = _splits(root)
    listing = _read_manifest(root) if format == "manifest" else _read_layout(root, GRAMMARS[format], splits)
    for split in splits:
        if not any(record.split == split for record in listing.records):
            raise UserError(f"the {split} split of {root} holds no image; check that the set was unpacked whole.")
    return listing


def _splits(root: Path) -> tuple[str, ...]:
    """Returns the splits that a set must have; a generated one for pre-training has no folder but the training one."""
    tests = (root / SPLIT_FOLDERS["query"], root / SPLIT_FOLDERS["gallery"])
    generated = (root / SYNTHETIC_FILE).is_file()
    return ("train",) if generated and not any(folder.exists() for folder in tests) else SPLITS


def _read_layout(root: Path, grammar: Grammar, splits: Sequence[str]) -> Listing:
    missing = [SPLIT_FOLDERS[split] for split in splits if not (root / SPLIT_FOLDERS[split]).is_dir()]
    if missing:
        expected = ", ".join(SPLIT_FOLDERS.values())
        raise UserError(f"{root} has no folder {', '.join(missing)}; a {grammar.title} folder holds {expected}.")
    records: list[Record] = []
    ignored: list[str] = []
    for split in splits:
        folder = SPLIT_FOLDERS[split]
        for name in sorted(os.listdir(root / folder)):
            path = f"{folder}/{name}"
            # "._x.jpg" are the resource forks that macOS leaves in archives.
            if name.startswith(".") or not name.lower().endswith((".jpg", ".jpeg")):
                ignored.append(path)
                continue
            try:
                pid, camid = parse_name(name, grammar)
            except UserError as error:
                raise UserError(f"in {root / folder}: {error}") from None
            records.append(Record(split, path, name, pid, camid))
    _check_gallery_only(records, {JUNK} if grammar.distractor is None else {JUNK, grammar.distractor})
    return Listing(root, tuple(records), tuple(ignored))


def _check_gallery_only(records: Iterable[Record], pids: set[int]) -> None:
    for record in records:
        if record.pid in pids and record.split != "gallery":
            raise UserError(
                f"{record.path} has pid {record.pid} in the {record.split} split, but junk and distractors belong to "
                "the gallery alone; move or remove the image."
            )


def _read_manifest(root: Path) -> Listing:
    path = _manifest_path(root)
    rows = _manifest_rows(path)
    splits = {split: position for position, split in enumerate(SPLITS)}
    records: list[Record] = []
    for number, (name, pid, camid, split) in enumerate(rows, start=1):
        where = f"row {number} of {path}"
        if split not in splits:
            raise UserError(f"{where} has split {split!r}; write one of {', '.join(SPLITS)}.")
        if not name or PurePosixPath(name).is_absolute():
            raise UserError(f"{where} has path {name!r}; write paths relative to the manifest's folder.")
        person, camera = _whole(pid, "pid", JUNK, where), _whole(camid, "camid", 0, where)
        records.append(Record(split, name, name, person, camera))
    records.sort(key=lambda record: (splits[record.split], record.name))
    for first, second in pairwise(records):
        if first[:2] == second[:2]:
            raise UserError(f"{first.path} stands twice in the {first.split} split of {path}; remove one of the rows.")
    _check_gallery_only(records, {JUNK})
    return Listing(path.parent, tuple(records), ())


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


def _manifest_rows(path: Path) -> list[tuple[str, str, str, str]]:
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
