"""Reads the tables of a study for its report: which must be there, which may be absent, and what a page may show."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidablate.artifacts import read_json, read_table
from reidablate.errors import UserError
from reidablate.integrity import refuse_broken
from reidablate.report.other_tables import OtherTables
from reidablate.report.records import Cell, printable
from reidablate.report.slices import Slices
from reidablate.report.study_tables import HEADLINE, StudyTables

MAX_RANK = 20
OPTIONAL = {
    "contrasts": "intervals and verdicts",
    "history": "learning curves",
    "queries": "CMC curves",
    "claims": "published claims",
    "floors": "floors",
    "calibration": "calibration of the intervals",
    "joint": "conclusions on all data sets together",
}
OTHERS = {
    "cross_domain": "scores on other data sets",
    "camera_pairs": "scores by pair of cameras",
    "imported": "imported runs",
    "tuning": "choices of configurations",
    "slices": "differences within parts of the test set",
}  # of these it is no news that there are none
QUERY_COLUMNS = ["dataset", "cell", "seed", "side", "first_hit_rank"]


def cmc_curves(queries: pd.DataFrame, max_rank: int = MAX_RANK) -> pd.DataFrame:
    """Returns the share of queries with a hit within each rank 1..K, a row a run and rank.

    Args:
        queries: Columns dataset, cell, seed and first_hit_rank (1-based) of one feature side.
        max_rank: K.
    """
    keys = ["dataset", "cell", "seed"]
    curves = []
    for key, ranks in queries.groupby(keys, observed=True, sort=False)["first_hit_rank"]:
        clipped = np.minimum(ranks.to_numpy(dtype=np.int64), max_rank + 1)
        hits = np.bincount(clipped, minlength=max_rank + 2)[1 : max_rank + 1].cumsum() / len(clipped)
        curves.append(pd.DataFrame(dict(zip(keys, key, strict=True)) | {"rank": range(1, max_rank + 1), "value": hits}))
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=[*keys, "rank", "value"])


def _printable_frame(frame: pd.DataFrame) -> pd.DataFrame:
    words = [name for name in frame.columns if pd.api.types.is_string_dtype(frame[name].dtype)]
    return frame.assign(**{name: frame[name].map(printable) for name in words})


def _optional(folder: Path, name: str, absent: dict[str, str], **arguments: Any) -> pd.DataFrame | None:
    """Returns a table, or None with a sentence in `absent` when it is missing or broken."""
    path, title = folder / f"{name}.parquet", (OPTIONAL | OTHERS)[name].capitalize()
    if not path.exists():
        if name in OPTIONAL:
            absent[name] = f"{title}: the table {name}.parquet is not there."
        return None
    try:
        frame = read_table(path, **arguments)
    except UserError as error:
        absent[name] = f"{title}: {str(error).replace(str(path), path.name)}"  # the page names no folder
        return None
    if frame.empty:
        if name in OPTIONAL:
            absent[name] = f"{title}: the table {name}.parquet is empty."
        return None
    return frame


def _cell(index: int, entry: dict[str, Any]) -> Cell:
    words: dict[str, Any] = {name: str(entry.get(name) or "") for name in ("tier", "question", "notes", "unread")}
    return Cell(
        index=int(entry.get("palette", index)),
        name=str(entry["name"]),
        title=str(entry.get("title") or entry["name"]),
        group=str(entry.get("group") or "main"),
        references=tuple(entry.get("references") or ()),
        differences=entry.get("differences") or {},
        seed_offset=int(entry.get("seed_offset") or 0),
        **words,
        reads_cameras=bool(entry.get("reads_cameras")),
        special={name: of.get("differences") or {} for name, of in (entry.get("by_dataset") or {}).items()},
    )


def collect(tables: Path) -> StudyTables:
    """Returns the study whose tables stand in a folder; what is optional and absent is listed, not fatal.

    Raises:
        UserError: `study.json`, `cells.json`, `runs.parquet` or `metrics.parquet` is missing or broken, or a table is
            not the one whose checksum is recorded.
    """
    refuse_broken(tables)
    about, entries = (printable(read_json(tables / name)) for name in ("study.json", "cells.json"))
    if not isinstance(about, dict) or not isinstance(entries, list):
        raise UserError(
            f"{tables} holds a study.json or cells.json with an unexpected structure; run `reidablate aggregate` again."
        )
    absent: dict[str, str] = {}
    headline = str(about.get("headline", HEADLINE))
    queries = _optional(
        tables, "queries", absent, columns=QUERY_COLUMNS, filters=[("side", "==", headline)], dtype_backend="pyarrow"
    )
    others = {name: _optional(tables, name, absent) for name in OTHERS}
    slices = others.pop("slices")
    return StudyTables(
        tables_folder=tables,
        about=about,
        cells=tuple(_cell(index, entry) for index, entry in enumerate(entries)),
        runs=_printable_frame(read_table(tables / "runs.parquet")),
        metrics=read_table(tables / "metrics.parquet"),
        contrasts=_optional(tables, "contrasts", absent),
        history=_optional(tables, "history", absent),
        cmc=None if queries is None else cmc_curves(queries),
        claims=_optional(tables, "claims", absent),
        floors=_optional(tables, "floors", absent),
        calibration=_optional(tables, "calibration", absent),
        joint=_optional(tables, "joint", absent),
        absent=absent,
        beside=OtherTables(headline, **{n: None if t is None else _printable_frame(t) for n, t in others.items()}),
        slices=None if slices is None else Slices(slices),
        samples={
            d["name"]: path for d in about.get("datasets", []) if (path := tables / f"samples_{d['name']}.jpg").exists()
        },
    )
