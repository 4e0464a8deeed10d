"""Going through the looks of a study: which comparisons are decided at which, and which take more seeds.

A comparison stops at the look at which its verdict on the mAP of the declared feature side is *improves*, *worsens* or
*equivalent*, or where it is refused. Its other metrics are judged at the same look.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reidablate.metrics.registry import SHIPPED
from reidablate.stats.contrasts import contrast_table, declared_contrasts
from reidablate.stats.looked import Comparison, Looked
from reidablate.stats.looks import Looks
from reidablate.stats.scores import Queries

_OPEN = ("undecided", "provisional")
_METRIC = "mAP"


def go_through(
    looks: Looks,
    queries: Queries,
    runs: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
) -> Looked:
    """Returns the look at which every comparison of a study stands.

    Args:
        looks: The declared looks.
        queries: The table `queries`.
        runs: The table `runs`.
        cells: Entries of `cells.json`.
        arguments: What else `contrast_table` takes.
    """
    planned = _planned(runs, cells)
    seeds: dict[Comparison, int] = {}
    stopped: set[Comparison] = set()
    for number in looks.seeds:
        moving = {pair for pair, count in planned.items() if count >= number} - stopped
        if not moving:
            break
        seeds |= dict.fromkeys(moving, number)
        metrics = [metric for metric in SHIPPED if metric.name == _METRIC]
        table = contrast_table(queries, runs, cells, **arguments, metrics=metrics, looked=Looked(looks, seeds))
        stopped |= moving & {pair for pair, word in _verdicts(table).items() if word not in _OPEN}
    return Looked(looks, seeds)


def next_seeds(contrasts: pd.DataFrame, looks: Looks) -> dict[str, dict[str, int]]:
    """Returns {dataset: {cell: seeds}} that the next look takes, of the cells that some comparison still needs.

    None on a data set of which a planned run is missing: its look is not over yet.

    Args:
        contrasts: The table `contrasts` with the columns `LOOK_COLUMNS`.
        looks: The declared looks.
    """
    words = _verdicts(contrasts)
    waiting = {dataset for (dataset, _, _), word in words.items() if word == "provisional"}
    at = {_pair(row): int(row["look_seeds"]) for row in contrasts.to_dict("records")}
    found: dict[str, dict[str, int]] = {}
    for (dataset, *pair), word in words.items():
        later = [number for number in looks.seeds if number > at[dataset, pair[0], pair[1]]]
        if word == "undecided" and later and dataset not in waiting:
            of = found.setdefault(dataset, {})
            of |= {name: max(later[0], of.get(name, 0)) for name in pair}
    return found


def _verdicts(contrasts: pd.DataFrame) -> dict[Comparison, str]:
    """Returns the word on the mAP of every comparison on the declared side, empty where it is refused."""
    shown = contrasts[contrasts["headline"].eq(True) & contrasts["metric"].eq(_METRIC)]
    return {_pair(row): "" if pd.isna(row["verdict"]) else row["verdict"] for row in shown.to_dict("records")}


def _pair(row: Mapping[Any, Any]) -> Comparison:
    return str(row["dataset"]), str(row["cell"]), str(row["reference"])


def _planned(runs: pd.DataFrame, cells: Sequence[Mapping[str, Any]]) -> dict[Comparison, int]:
    """Returns the planned seeds that both cells of every comparison have."""
    count = runs.groupby(["dataset", "cell"]).size().to_dict() if len(runs) else {}
    pairs = [(fields["cell"], fields["reference"]) for fields in declared_contrasts(cells)]
    return {
        (str(dataset), cell, reference): min(count.get((dataset, cell), 0), count.get((dataset, reference), 0))
        for dataset in dict.fromkeys(runs["dataset"])
        for cell, reference in pairs
    }
