"""The table `joint`: what a contrast says on all data sets together.

"Better on every data set" is an intersection-union test (Berger 1982): its p-value is the largest of the one-sided
p-values on the single sets, each adjusted within its own family, without further correction.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reidablate.stats.paired import Array

COLUMNS: dict[str, tuple[str, str]] = {
    "group": ("string", "Group of the cell."),
    "cell": ("string", "Cell under test."),
    "reference": ("string", "Cell it is compared with."),
    "side": ("string", "Feature side."),
    "headline": ("boolean", "Whether this is the declared feature side."),
    "metric": ("string", "Metric."),
    "datasets": ("string", "Data sets, joined by commas; two or more."),
    "smallest": ("Float64", "Smallest of the differences on them."),
    "largest": ("Float64", "Largest of them."),
    "p_improves": ("Float64", "Largest adjusted one-sided p-value of no gain; null while a set has no test."),
    "p_worsens": ("Float64", "The same of no loss."),
    "verdict": ("string", "The word that holds on every data set, else undecided; provisional if it is so on one."),
    "note": ("string", "The words on the single data sets where they differ."),
}
"""Type and meaning of every column of the table."""

_KEYS = ["group", "cell", "reference", "side", "headline", "metric"]


def joint_table(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for every contrast that is declared and judged on two or more data sets.

    Args:
        contrasts: The table `contrasts`.
    """
    judged = contrasts[contrasts["verdict"].notna() & contrasts["family_size"].notna()]
    rows = []
    for key, part in judged.groupby(_KEYS, sort=False, observed=True):
        if len(part) < 2:
            continue
        words = list(part["verdict"])
        p_values = part["p_adjusted"].to_numpy(np.float64, na_value=np.nan)
        estimates = part["estimate"].to_numpy(np.float64, na_value=np.nan)
        rows.append(
            {
                **dict(zip(_KEYS, key, strict=True)),
                "datasets": ", ".join(part["dataset"]),
                "smallest": float(estimates.min()),
                "largest": float(estimates.max()),
                "p_improves": float(one_sided(p_values, estimates).max()),
                "p_worsens": float(one_sided(p_values, -estimates).max()),
                "verdict": _word(words),
                "note": "" if len(set(words)) == 1 else _apart(part),
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return pd.DataFrame(
        {
            name: pd.array([None if pd.isna(value) else value for value in table[name]], dtype=kind)  # type: ignore[call-overload]
            for name, (kind, _) in COLUMNS.items()
        }
    )


def one_sided(p_values: Array, estimates: Array) -> Array:
    """Returns the one-sided p-values against a positive difference that belong to two-sided ones."""
    return np.where(estimates > 0, p_values / 2, 1 - p_values / 2)


def _word(words: Sequence[str]) -> str:
    if "provisional" in words:
        return "provisional"
    return words[0] if len(set(words)) == 1 else "undecided"


def _apart(part: pd.DataFrame) -> str:
    return ", ".join(f"{dataset}: {word}" for dataset, word in zip(part["dataset"], part["verdict"], strict=True)) + "."
