"""Which comparisons cannot differ because both sides are the same loss, as the log of training tells.

The relative tables alone tell heads, blocks and the order of a pair apart. Where they carry next to nothing of the
relation values' variance, variants that differ in this only are one loss, and a verdict on them says nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

SHARE = "position_relation_rpe_share"  # a series of `history`, see `losses.relation_log.rpe_share`
SMALL_SHARE = 0.01
"""Share of the relation values' variance below which the relative tables decide nothing: their part of the loss changes
with it, and at 0.3 % variants that differ by the tables alone have been the same loss to four digits."""

# P_a . P_b is symmetric and the same for all heads and blocks: without the tables these variants have one loss.
_EQUAL_WITHOUT_TABLES = {
    "losses.position_relation.grouping": ("head", "layer", "sample"),
    "losses.position_relation.pairs": ("combinations", "permutations"),
}


def equal_without_tables(changed: Mapping[str, Sequence[Any]]) -> bool:
    """Returns whether changed options, {key: (before, after)}, leave the loss as it is but for the relative tables."""
    known = (value in _EQUAL_WITHOUT_TABLES.get(key, ()) for key, pair in changed.items() for value in pair)
    return bool(changed) and all(known)


def with_informative(
    table: pd.DataFrame, cells: Sequence[Mapping[str, Any]], history: pd.DataFrame | None
) -> pd.DataFrame:
    """Returns a table of comparisons with the column `informative` behind its verdict.

    It is false where cell and reference differ in the grouping of heads or the order of pairs alone while the tables of
    neither carried `SMALL_SHARE` in any epoch, and true everywhere else, also where nothing was logged.

    Args:
        table: Has the columns cell, reference, verdict, and dataset or, joined by commas, datasets.
        cells: Entries of `cells.json`; `name` and `differences` are read, also of a data set on which they are others.
        history: The table `history`, if there is one.
    """
    entries = {cell["name"]: cell for cell in cells}
    shares: dict[Any, float] = {}
    if history is not None:
        logged = history[history["name"].eq(SHARE)].dropna(subset=["value"])
        shares = logged.groupby(["dataset", "cell"])["value"].max().to_dict()

    def changed(dataset: str, cell: str, reference: str) -> Mapping[str, Sequence[Any]]:
        entry = entries.get(cell, {})
        differences = (entry.get("by_dataset") or {}).get(dataset, entry).get("differences") or {}
        found: Mapping[str, Sequence[Any]] = differences.get(reference) or {}
        return found

    def same_loss(datasets: str, cell: str, reference: str) -> bool:
        if not all(equal_without_tables(changed(dataset, cell, reference)) for dataset in datasets.split(", ")):
            return False
        sides = [(dataset, side) for dataset in datasets.split(", ") for side in (cell, reference)]
        return all(side in shares and shares[side] < SMALL_SHARE for side in sides)

    where = table["dataset"] if "dataset" in table else table["datasets"]
    found = [not same_loss(*map(str, key)) for key in zip(where, table["cell"], table["reference"], strict=True)]
    place = list(table.columns).index("verdict") + 1
    names = [*table.columns[:place], "informative", *table.columns[place:]]
    return table.assign(informative=pd.array(found, dtype="boolean"))[names]
