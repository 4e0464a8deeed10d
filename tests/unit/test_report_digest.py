"""The digest changes with every value of a table and with nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reidablate.artifacts import read_json, write_json
from reidablate.report.digest import LEFT_OUT, STATISTICS, digest_lines
from reidablate.standing import TABLES


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Tables of two rows: all that the digest needs of them is that they are there."""
    frame = pd.DataFrame({"dataset": ["m", "ü"], "seed": [0, 1], "value": [0.1, None], "ok": [True, False]})
    for name in (*TABLES, *STATISTICS):
        if name.endswith(".parquet"):
            frame.assign(name=["images_per_s", "loss"]).to_parquet(tmp_path / name, index=False)
    write_json(tmp_path / "cells.json", [{"name": "p1", "palette": 0}])
    about = {"preset": "tiny", "created": "now", "sha256": {}, "datasets": [{"name": "m", "root": "/data"}]}
    write_json(tmp_path / "study.json", {**about, "test_only": []})
    return tmp_path


def last(tables: Path) -> str:
    return list(digest_lines(tables))[-1]


def change(column: str, value: Any, row: int = 1) -> Callable[[Path], None]:
    def act(tables: Path) -> None:
        frame = pd.read_parquet(tables / "history.parquet")
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
        frame.infer_objects().to_parquet(tables / "history.parquet", index=False)

    return act


@pytest.mark.parametrize(
    "act",
    [
        change("dataset", "u"), change("seed", 2), change("value", 0.0), change("value", 1e-300), change("ok", True),
        lambda tables: write_json(tables / "cells.json", [{"name": "p2", "palette": 0}]),
    ],
)  # fmt: skip
def test_any_value_changes_it(tables: Path, act: Callable[[Path], None]) -> None:
    before = list(digest_lines(tables))
    act(tables)
    after = list(digest_lines(tables))
    assert before[-1] != after[-1]
    assert sum(one != two for one, two in zip(before, after, strict=True)) == 2  # the table's line and the last one


def test_layout_of_the_file_and_what_is_left_out_do_not(tables: Path) -> None:
    before = last(tables)
    path = tables / "metrics.parquet"
    frame = pd.read_parquet(path)
    frame[frame.columns[::-1]].to_parquet(path, index=False, compression="gzip", row_group_size=1)
    runs = pd.read_parquet(tables / "runs.parquet")
    runs.assign(**dict.fromkeys(LEFT_OUT["runs.parquet"], "x")).to_parquet(tables / "runs.parquet", index=False)
    change("value", 0.5, row=0)(tables)  # of images_per_s
    about = read_json(tables / "study.json")
    about |= {"created": "then", "machine": {}, "datasets": [{"name": "m", "root": "/elsewhere"}]}
    write_json(tables / "study.json", about)
    (tables / "metrics.csv").write_text("anything")
    assert last(tables) == before
