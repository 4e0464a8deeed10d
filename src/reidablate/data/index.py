"""The index of a data set: a row for every image, the totals, and every check that the data can be trusted.

The index is all that later stages know of a folder, so every check of the data stands here: broken images,
identities in both train and test, queries that nobody can answer, files whose bytes occur twice.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel

from reidablate import integrity
from reidablate.artifacts import only_writer, read_record, read_table, write_json, write_record, write_table
from reidablate.config import Sample
from reidablate.data import pixels
from reidablate.data.census import check_identities, count, counted, shared_files, unanswerable, warnings_by_name
from reidablate.data.folder import read_folder, source_of
from reidablate.data.formats import SYNTHETIC_COMMENT, SYNTHETIC_FILE, Layout, Listing, some
from reidablate.errors import Damaged, UserError
from reidablate.smoke import sample_records

COLUMNS = ("split", "path", "name", "pid", "camid", "label", "width", "height", "size_bytes", "content_hash")


_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Index:
    """The images of a data set and what they add up to.

    Attributes:
        frame: A row an image, ordered train, query, gallery and by name within; columns `COLUMNS`. `path` is relative
            to the data set's root, `camid` is as in the file (from 1 in the known layouts), `label` is the rank of the
            pid among the training pids (0 ... C-1) and -1 outside train, `width` and `height` are pixels.
        summary: `format`, `synthetic`, `counts`, `official_counts` (they equal the published ones), `fingerprint`,
            `shared_query_gallery` and `queries_without_positive` (numbers of images), `ignored`, `warnings`.
    """

    frame: pd.DataFrame
    summary: dict[str, Any]


class _Summary(BaseModel, extra="allow"):
    """What later stages read of `index.json`."""

    synthetic: bool
    counts: dict[str, Any]
    official_counts: bool
    fingerprint: str
    warnings: list[str]


class _Facts(NamedTuple):
    width: int
    height: int
    size_bytes: int
    content_hash: str
    marked: bool
    problem: str | None


def image_path(root: Path, relative: str) -> Path:
    """Returns where an image of the index lies; `root` is the folder of the set or its manifest."""
    return (root.parent if root.is_file() else root) / relative


def build_index(root: Path, layout: Layout, *, workers: int, sample: Sample | None = None) -> Index:
    """Returns the checked index of a data set folder; every file is read once, its pixels are not decoded.

    Args:
        root: The data set's folder, or its manifest.
        layout: How the set is read.
        workers: Threads that read files.
        sample: The few images that a smoke test reads, None for all; the names of all are checked.

    Raises:
        UserError: What `read_folder` and `census.check_identities` refuse; an image that is truncated or of no known
            format.
    """
    listing = read_folder(root, layout)
    if sample is not None:
        check_identities(listing.records, layout)
        listing = replace(listing, records=sample_records(listing.records, sample))
        layout = replace(layout, published=None)  # their numbers are not to be compared
    paths = [listing.root / record.path for record in listing.records]
    facts = _map(_inspect, paths, workers)
    _refuse_broken((record.path, fact.problem) for record, fact in zip(listing.records, facts, strict=True))
    frame = _frame(listing, facts)
    check_identities(listing.records, layout)
    synthetic = (listing.root / SYNTHETIC_FILE).is_file() or any(fact.marked for fact in facts)
    return Index(frame, _summary(frame, listing, layout, synthetic=synthetic))


def check_pixels(index: Index, root: Path, *, workers: int) -> None:
    """Decodes every image of an index, as the cache will.

    Raises:
        UserError: Images that cannot be decoded, by name.
    """

    def problem(relative: str) -> str | None:
        try:
            pixels.decode(pixels.read_bytes(image_path(root, relative)))
        except pixels.BadImage as error:
            return str(error)
        return None

    paths = index.frame["path"].tolist()
    _refuse_broken(zip(paths, _map(problem, paths, workers), strict=True))


def write_index(index: Index, folder: Path) -> None:
    """Writes `index.parquet` and, naming its checksum, `index.json` into a folder."""
    write_table(index.frame, folder / "index.parquet")
    write_record(folder / "index.json", index.summary, ["index.parquet"])


def index_dataset(root: Path, layout: Layout, folder: Path, *, workers: int, sample: Sample | None = None) -> Index:
    """Builds and writes the index of a data set, and `source.json` beside it: the state of the files it was built from.

    When the images turn out to be those of the index that is there, by fingerprint, its `index.json` keeps its time,
    so that files that were only copied or touched repeat nothing behind the index.

    Raises:
        UserError: What `build_index` refuses, or the folder cannot be written.
    """
    source = source_of(root, layout)
    index = build_index(root, layout, workers=workers, sample=sample)
    before = None
    with only_writer(folder, "index"):
        with suppress(UserError):
            if read_summary(folder)["fingerprint"] == index.summary["fingerprint"]:
                before = (folder / "index.json").stat()
        write_index(index, folder)
        if before is not None:
            os.utime(folder / "index.json", ns=(before.st_atime_ns, before.st_mtime_ns))
        write_json(folder / "source.json", source)
    return index


def read_index(folder: Path) -> Index:
    """Returns the index that `write_index` left in a folder.

    Raises:
        UserError: A file is missing or broken, was changed since, or was written by another version.
    """
    summary = read_summary(folder)
    integrity.check(folder / "index.parquet", folder / "index.json", summary.pop("sha256", None))
    return Index(read_table(folder / "index.parquet", COLUMNS), summary)


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns the summary of the index in a folder, without the images.

    Raises:
        UserError: It is missing or broken, or was written by another version.
    """
    return read_record(folder / "index.json", _Summary).model_dump()


def _map(work: Callable[[_T], _R], items: Sequence[_T], workers: int) -> list[_R]:
    """Returns `work` of every item, in order, done by threads that take 64 items at a time."""

    def work_off(start: int) -> list[_R]:
        return [work(item) for item in items[start : start + 64]]

    with ThreadPoolExecutor(workers) as pool:
        return list(chain.from_iterable(pool.map(work_off, range(0, len(items), 64))))


def _inspect(path: Path) -> _Facts:
    try:
        data = pixels.read_bytes(path)
        width, height, kind, comment = pixels.read_header(data)
    except pixels.BadImage as error:
        return _Facts(0, 0, 0, "", False, str(error))
    # In the coded data 0xFF is always followed by 0 or a restart mark, so an end mark behind the last start of scan
    # is the end of the image; Pillow refuses to decode a JPEG without it.
    truncated = kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    truncated |= kind == "PNG" and b"IEND" not in data
    marked = comment.startswith(SYNTHETIC_COMMENT.encode())
    digest = pixels.content_hash(data)
    return _Facts(width, height, len(data), digest, marked, f"truncated {kind}" if truncated else None)


def _refuse_broken(problems: Iterable[tuple[str, str | None]]) -> None:
    broken = [f"{path} ({problem})" for path, problem in problems if problem is not None]
    if broken:
        raise Damaged(f"{counted(len(broken), 'image')} cannot be used: {some(broken)}; unpack the set again.")


def _frame(listing: Listing, facts: Sequence[_Facts]) -> pd.DataFrame:
    frame = pd.DataFrame(listing.records, columns=["split", "path", "name", "pid", "camid"])
    labels = np.full(len(frame), -1)
    train = (frame["split"] == "train").to_numpy()
    labels[train] = np.unique(frame["pid"].to_numpy()[train], return_inverse=True)[1]
    frame["label"] = labels
    for column in ("width", "height", "size_bytes", "content_hash"):
        frame[column] = [getattr(fact, column) for fact in facts]
    return frame


def _summary(frame: pd.DataFrame, listing: Listing, layout: Layout, *, synthetic: bool) -> dict[str, Any]:
    counts = count(listing.records, layout)
    warnings = warnings_by_name(listing, layout, synthetic=synthetic)
    if repeats := _repeats(frame):
        warnings.append(f"{counted(len(repeats), 'image')} with the bytes of another: {some(repeats)}")
    return {
        "format": layout.format,
        "synthetic": synthetic,
        "counts": counts,
        "official_counts": layout.published is not None and counts == layout.published.model_dump(),
        "shared_query_gallery": shared_files(listing.records),
        "queries_without_positive": len(unanswerable(listing.records)),
        "fingerprint": _fingerprint(frame),
        "ignored": list(listing.ignored),
        "warnings": warnings,
    }


def _repeats(frame: pd.DataFrame) -> list[str]:
    """Returns images whose bytes occurred before, except a query that stands in the gallery under its own name."""
    rows = frame.drop_duplicates(["content_hash", "name", "pid"])
    first = rows.groupby("content_hash")["path"].transform("first")
    repeated = rows.duplicated("content_hash")
    return [f"{path} = {of}" for path, of in zip(rows.loc[repeated, "path"], first[repeated], strict=True)]


def _fingerprint(frame: pd.DataFrame) -> str:
    """Returns 16 hexadecimal digits that change with any split, name, pid, camera, or byte of the set."""
    digest = hashlib.sha256()
    for row in frame[["split", "name", "pid", "camid", "size_bytes", "content_hash"]].itertuples(index=False):
        digest.update(("\t".join(map(str, row)) + "\n").encode())
    return digest.hexdigest()[:16]
