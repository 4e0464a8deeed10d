"""What runs leave besides their scores on the whole test set: scores on other data sets and of camera pairs."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from reidablate.artifacts import read_record, read_table
from reidablate.errors import UserError
from reidablate.metrics.slices import PAIR_COLUMNS
from reidablate.runs import SIDES, Metrics, Provenance
from reidablate.study import Run, Study

CROSS_COLUMNS = ("dataset", "on", "cell", "seed", "side", "metric", "value")


def cross_domain_table(study: Study, finished: Iterable[Run], fingerprints: Mapping[str, str | None]) -> pd.DataFrame:
    """Returns the scores of finished runs on the other data sets that their cells ask for, a row a side and metric.

    What is not there, or was made with another configuration or other images, has no row.

    Args:
        study: The plan.
        finished: The finished runs of the plan.
        fingerprints: What each data set's images are now.
    """
    known, rows = set(finished), []
    for transfer in study.transfers:
        run, folder = transfer.run, study.root / transfer.id
        try:
            made = read_record(folder / "provenance.json", Provenance)
            metrics = read_record(folder / "metrics.json", Metrics)
        except UserError:
            continue
        images = made.transfer.data_fingerprint if made.transfer else None
        current = made.config_hash == study.cell(run.cell).config_hash
        if run in known and current and images == (fingerprints.get(transfer.on) or ""):
            key: dict[str, Any] = {"dataset": run.dataset, "on": transfer.on, "cell": run.cell, "seed": run.seed}
            rows += [
                {**key, "side": side, "metric": metric, "value": value}
                for side in SIDES
                for metric, value in getattr(metrics, side).items()
            ]
    return pd.DataFrame(rows, columns=list(CROSS_COLUMNS))


def camera_pair_table(study: Study, finished: Iterable[Run]) -> pd.DataFrame:
    """Returns the scores of finished runs by pair of cameras, on the side that each cell declares."""
    frames = []
    for run in finished:
        try:
            frame = read_table(study.root / run.id / "camera_pairs.parquet", PAIR_COLUMNS)
        except UserError:
            continue
        frames.append(frame.assign(dataset=run.dataset, cell=run.cell, seed=run.seed))
    columns = ["dataset", "cell", "seed", "side", *PAIR_COLUMNS]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
