"""One line that says whether two studies found the same: a digest of all tables, bit by bit.

What depends on the hour, the machine, the place or the commit is left out, by the list `LEFT_OUT`.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from reidablate.artifacts import canonical_json, read_json, read_table
from reidablate.integrity import refuse_broken
from reidablate.standing import TABLES
from reidablate.stats import pipeline

STATISTICS = (*(f"{name}.parquet" for name in pipeline.STATISTICS), pipeline.CALIBRATION)
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "runs.parquet": (
        "code_hash", "code", "git_commit", "git_dirty", "versions", "device", "threads", "weights",
        "wall_s", "device_s", "images_per_s", "dense_share", "peak_memory_bytes",
    ),
    "imported.parquet": ("source", "imported"),
    "cells.json": ("palette",),
    "study.json": (
        "created", "plan_hash", "made_of", "code", "packages", "machine", "disk_bytes", "sha256",
        "datasets.root", "test_only.root",
    ),
}  # fmt: skip
"""Columns and keys that do not enter; of `history.parquet`, the rows of `images_per_s` do not either."""


def digest_lines(tables: Path) -> Iterator[str]:
    """Yields a line a table, its SHA-256 and its name, and a last one for all of them, `all tables`.

    A table's digest is that of its rows in their order and its columns by name, each value by its bits: equal digests
    mean equal tables. How a file is compressed or laid out does not count.

    Args:
        tables: The folder `tables/` of a study.

    Raises:
        UserError: A table is missing or broken.
    """
    read_json(tables / "study.json")  # a folder without it holds no tables
    refuse_broken(tables)
    everything = hashlib.sha256()
    for name in sorted({*TABLES, *STATISTICS}):
        path = tables / name
        if name == "calibration.parquet" and not path.exists():  # a study may have none
            continue
        digest = _of_json(path) if path.suffix == ".json" else _of_table(path)
        everything.update(f"{digest} {name}\n".encode())
        yield f"{digest}  {name}"
    yield f"{everything.hexdigest()}  all tables"


def _of_table(path: Path) -> str:
    frame = read_table(path).drop(columns=list(LEFT_OUT.get(path.name, ())), errors="ignore")
    if path.name == "history.parquet":
        frame = frame[frame["name"] != "images_per_s"]
    digest = hashlib.sha256()
    for name in sorted(frame.columns):
        digest.update(f"{name}\n".encode())
        for part in _bits(frame[name]):
            digest.update(part)
    return digest.hexdigest()


def _bits(column: "pd.Series[Any]") -> Iterator[bytes]:
    """Yields the bytes of a column's values, those of missing values set to zero and named beside them."""
    missing = column.isna()
    if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
        yield canonical_json(column.astype(object).where(~missing, None).tolist()).encode()
        return
    kind = "<f8" if pd.api.types.is_float_dtype(column.dtype) else "<i8"
    yield kind.encode() + missing.to_numpy(dtype=bool).tobytes()
    yield column.fillna(0).to_numpy(dtype=kind).tobytes()


def _of_json(path: Path) -> str:
    value = read_json(path)
    for key in LEFT_OUT[path.name]:
        _remove(value, key.split("."))
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _remove(value: Any, key: list[str]) -> None:
    """Takes a key out of a mapping or of every mapping of a list; further parts name keys below it."""
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict):
            continue
        if len(key) > 1:
            _remove(entry.get(key[0]), key[1:])
        else:
            entry.pop(key[0], None)
