"""A conclusion over data sets: the larger of the adjusted one-sided p-values, and the word that holds on all."""

from typing import Any

import pandas as pd
import pytest

from reidablate.stats.contrast_columns import COLUMNS as CONTRAST_COLUMNS
from reidablate.stats.joint import COLUMNS, joint_table


def contrasts(*rows: dict[str, Any]) -> pd.DataFrame:
    fixed = {"group": "g", "cell": "c", "reference": "r", "side": "before_neck", "headline": True, "metric": "mAP"}
    entries = [{"dataset": f"set{k}", "family_size": 2, **fixed, **row} for k, row in enumerate(rows)]
    return pd.DataFrame(
        {
            name: pd.array([e.get(name) for e in entries], dtype=kind)  # type: ignore[call-overload]
            for name, (kind, _) in CONTRAST_COLUMNS.items()
        }
    )


def test_better_on_both_sets_is_as_certain_as_on_the_less_certain_one() -> None:
    good = {"estimate": 0.01, "p_adjusted": 0.002, "verdict": "improves"}
    table = joint_table(contrasts(good, {"estimate": 0.02, "p_adjusted": 0.04, "verdict": "improves"}))
    assert list(table.columns) == list(COLUMNS)
    row = table.iloc[0]
    assert row["p_improves"] == pytest.approx(0.02)
    assert row["p_worsens"] == pytest.approx(0.999)
    assert (row["verdict"], row["note"], row["datasets"]) == ("improves", "", "set0, set1")
    assert (row["smallest"], row["largest"]) == (0.01, 0.02)


@pytest.mark.parametrize(
    ("other", "p_improves", "verdict"),
    [
        ({"estimate": -0.01, "p_adjusted": 0.01, "verdict": "worsens"}, 0.995, "undecided"),
        ({"estimate": 0.001, "p_adjusted": 0.6, "verdict": "undecided"}, 0.3, "undecided"),
        ({"estimate": 0.001, "p_adjusted": None, "verdict": "provisional"}, None, "provisional"),
    ],
)
def test_one_set_that_says_otherwise_leaves_it_open(
    other: dict[str, Any], p_improves: float | None, verdict: str
) -> None:
    row = joint_table(contrasts({"estimate": 0.01, "p_adjusted": 0.002, "verdict": "improves"}, other)).iloc[0]
    assert row["verdict"] == verdict
    assert pd.isna(row["p_improves"]) if p_improves is None else row["p_improves"] == pytest.approx(p_improves)
    assert row["note"] == f"set0: improves, set1: {other['verdict']}."


def test_one_data_set_or_a_refused_one_makes_no_joint_row() -> None:
    good = {"estimate": 0.01, "p_adjusted": 0.002, "verdict": "improves"}
    assert len(joint_table(contrasts(good))) == 0
    assert len(joint_table(contrasts(good, {**good, "verdict": None}))) == 0
    assert list(joint_table(contrasts().iloc[:0]).columns) == list(COLUMNS)
