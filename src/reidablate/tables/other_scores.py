"""What runs leave besides their scores on the whole test set: scores on other data sets and of camera pairs."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from reidablate.artifacts import read_record, read_table
from reidablate.errors import UserError
from reidablate.metrics.breakdown import PAIR_COLUMNS
from reidablate.runs import SIDES, Metrics
from reidablate.standing import Standing
from reidablate.study import Run, Study

CROSS_COLUMNS = ("dataset", "on", "cell", "seed", "side", "metric", "value")


def cross_domain_table(study: Study, finished: Iterable[Run], standing: Standing) -> tuple[pd.DataFrame, list[str]]:
    """Returns the scores of finished runs on the other data sets that their cells ask for, a row a side and metric.

    What is not there, or was made with another configuration, other weights or other images, has no row but a line,
    the second result.

    Args:
        study: The plan.
        finished: The finished runs of the plan.
        standing: What stands of the study.
    """
    known, rows, lines = set(finished), [], []
    for transfer in study.transfers:
        run = transfer.run
        if run not in known:
            continue
        if reason := standing.unscored(transfer):
            lines.append(f"{study.root / transfer.id} is left out: {reason}.")
            continue
        metrics = read_record(study.root / transfer.id / "metrics.json", Metrics)
        key: dict[str, Any] = {"dataset": run.dataset, "on": transfer.on, "cell": run.cell, "seed": run.seed}
        rows += [
            {**key, "side": side, "metric": metric, "value": value}
            for side in SIDES
            for metric, value in getattr(metrics, side).items()
        ]
    return pd.DataFrame(rows, columns=list(CROSS_COLUMNS)), lines


def camera_pair_table(study: Study, finished: Iterable[Run]) -> tuple[pd.DataFrame, list[str]]:
    """Returns the scores of finished runs by pair of cameras, on the declared side, and a line for each left out.

    They are of the same features as the run's `metrics.json`, which is written after them and checked before.
    """
    columns, frames, lines = ["side", *PAIR_COLUMNS], [], []
    for run in finished:
        path = study.root / run.id / "camera_pairs.parquet"
        try:
            frame = read_table(path, columns)
        except UserError as error:
            lines.append(f"{path} is left out: {error}")
            continue
        frames.append(frame.assign(dataset=run.dataset, cell=run.cell, seed=run.seed))
    columns = ["dataset", "cell", "seed", *columns]
    return (pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)), lines
