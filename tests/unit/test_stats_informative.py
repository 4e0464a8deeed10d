"""Comparisons whose sides are one loss, marked in every table that has a verdict."""

from typing import Any

import pandas as pd
import pytest

from reidablate.stats.informative import SHARE, with_informative

GROUPING, PAIRS, WEIGHT = (f"losses.position_relation.{name}" for name in ("grouping", "pairs", "weight"))
CELLS: list[dict[str, Any]] = [
    {"name": "head"},
    {"name": "layer", "differences": {"head": {GROUPING: ["head", "layer"]}}},
    {"name": "both", "differences": {"head": {GROUPING: ["head", "sample"], PAIRS: ["combinations", "permutations"]}}},
    {"name": "heavy", "differences": {"head": {GROUPING: ["head", "layer"], WEIGHT: [1, 2]}}},
    {"name": "summed", "differences": {"head": {GROUPING: ["head", "layer_reshaped"]}}},
]


def _table(*datasets: str, column: str = "dataset") -> pd.DataFrame:
    names = [cell["name"] for cell in CELLS[1:]]
    return pd.DataFrame(
        [
            {column: dataset, "cell": name, "reference": "head", "verdict": "equivalent", "note": ""}
            for dataset in datasets
            for name in names
        ]
    )


def _history(**shares: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"dataset": dataset, "cell": cell["name"], "seed": 0, "epoch": epoch, "name": SHARE, "value": value}
            for dataset, values in shares.items()
            for cell in CELLS
            for epoch, value in enumerate(values)
        ]
    )


def test_variants_that_the_tables_alone_tell_apart_are_marked_where_these_carry_nothing() -> None:
    found = with_informative(_table("a", "b"), CELLS, _history(a=[0.002, 0.001], b=[0.02, 0.001]))
    assert list(found.columns[3:]) == ["verdict", "informative", "note"]
    marked = found[~found["informative"]][["dataset", "cell"]].to_numpy().tolist()
    assert marked == [["a", "layer"], ["a", "both"]]  # on b the tables decided something in the first epoch


@pytest.mark.parametrize("logged", [None, _history(c=[0.001])])
def test_where_nothing_was_logged_nothing_is_marked(logged: pd.DataFrame | None) -> None:
    assert with_informative(_table("a"), CELLS, logged)["informative"].all()


def test_a_joint_conclusion_is_marked_where_each_of_its_sets_is() -> None:
    history = _history(a=[0.001], b=[0.002], c=[0.5])
    found = with_informative(_table("a, b", "a, c", column="datasets"), CELLS, history)
    assert found[~found["informative"]]["datasets"].tolist() == ["a, b"] * 2
    assert with_informative(found.iloc[:0].drop(columns="informative"), CELLS, history).empty


def test_a_cell_that_is_another_one_on_a_data_set_is_judged_there_as_such() -> None:
    special = {"a": {"differences": {"head": {GROUPING: ["head", "layer"], WEIGHT: [1, 2]}}}}
    cells = [{**cell, "by_dataset": special} if cell["name"] == "layer" else cell for cell in CELLS]
    history = _history(a=[0.001], b=[0.001])
    found = with_informative(_table("a", "b"), cells, history)
    layer = found[found["cell"] == "layer"].set_index("dataset")["informative"]
    assert layer.to_dict() == {"a": True, "b": False}
    joint = with_informative(_table("a, b", column="datasets"), cells, history)
    assert joint.set_index("cell")["informative"]["layer"]
