"""The per-query table read in parts from its file, against the same table in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidablate.artifacts import write_table
from reidablate.runs import SIDES
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.scores import QueryFile
from reidablate.stats.slices import slice_table

CELLS: list[dict[str, Any]] = [
    {"name": "base", "group": "main", "references": [], "seed_offset": 0},
    {"name": "own", "group": "main", "references": ["base"], "seed_offset": 0},
]


def drawn() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of two data sets in no order, so that names do not first appear in the alphabet's; and the runs."""
    rng, rows, runs = np.random.default_rng(3), [], []
    for dataset in ("duke", "aaa"):
        for cell in ("own", "base"):
            for seed in range(3):
                runs.append({"dataset": dataset, "cell": cell, "seed": seed, "status": "finished", "epoch": None})
                for side in SIDES:
                    precision = rng.uniform(0, 1, 60)
                    rows.append(
                        pd.DataFrame({
                            "dataset": dataset, "cell": cell, "seed": seed, "query": [f"{i}.jpg" for i in range(60)],
                            "pid": np.arange(60) // 3, "camid": np.arange(60) % 4, "average_precision": precision,
                            "average_precision_trapezoid": precision / 3, "average_precision_optimistic": precision,
                            "average_precision_pessimistic": precision, "inverse_negative_penalty": precision / 7,
                            "first_hit_rank": rng.integers(1, 12, 60), "num_positives": 1 + np.arange(60) % 9,
                            "side": side, "own_metric": np.nan,
                        })
                    )  # fmt: skip
    return pd.concat(rows).sample(frac=1, random_state=1), pd.DataFrame(runs).astype({"epoch": "Int64"})


def test_the_statistics_of_the_file_are_those_of_the_table_to_the_bit(tmp_path: Path) -> None:
    queries, runs = drawn()
    write_table(queries, tmp_path / "queries.parquet")
    file = QueryFile(tmp_path / "queries.parquet")
    options: dict[str, Any] = {"deltas": {}, "headline_side": "after_neck"}
    for make in (contrast_table, slice_table):
        expected = make(queries, runs, CELLS, **options)
        assert len(expected) > 2
        pd.testing.assert_frame_equal(make(file, runs, CELLS, **options), expected, check_exact=True)
    assert sorted(len(part) for part in file) == [360] * 4


def test_a_column_has_values_where_one_row_has(tmp_path: Path) -> None:
    queries, _ = drawn()
    write_table(queries, tmp_path / "queries.parquet")
    file = QueryFile(tmp_path / "queries.parquet")
    assert [file.has_values(name) for name in ("average_precision", "own_metric", "absent")] == [True, False, False]


def test_a_study_without_scores_has_no_parts(tmp_path: Path) -> None:
    for name, empty in {"rows": drawn()[0].iloc[:0], "columns": pd.DataFrame()}.items():
        write_table(empty, tmp_path / f"{name}.parquet")
        assert list(QueryFile(tmp_path / f"{name}.parquet")) == []
