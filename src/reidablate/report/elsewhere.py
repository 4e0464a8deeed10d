"""What runs leave besides their scores on the whole test set: scores on other data sets and of camera pairs."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from reidablate.artifacts import read_record, read_table
from reidablate.errors import UserError
from reidablate.metrics.slices import PAIR_COLUMNS
from reidablate.runs import SIDES, Metrics, Provenance
from reidablate.study import Run, Study, Transfer

CROSS_COLUMNS = ("dataset", "on", "cell", "seed", "side", "metric", "value")


def cross_domain_table(
    study: Study, finished: Iterable[Run], fingerprints: Mapping[str, str | None]
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the scores of finished runs on the other data sets that their cells ask for, a row a side and metric.

    What is not there, or was made with another configuration, other weights or other images, has no row but a line,
    the second result.

    Args:
        study: The plan.
        finished: The finished runs of the plan.
        fingerprints: What each data set's images are now.
    """
    known, rows, lines = set(finished), [], []
    for transfer in study.transfers:
        run = transfer.run
        if run not in known:
            continue
        try:
            metrics = _scores(study, transfer, fingerprints.get(transfer.on))
        except UserError as error:
            lines.append(f"{study.root / transfer.id} is left out: {error}")
            continue
        key: dict[str, Any] = {"dataset": run.dataset, "on": transfer.on, "cell": run.cell, "seed": run.seed}
        rows += [
            {**key, "side": side, "metric": metric, "value": value}
            for side in SIDES
            for metric, value in getattr(metrics, side).items()
        ]
    return pd.DataFrame(rows, columns=list(CROSS_COLUMNS)), lines


def _scores(study: Study, transfer: Transfer, fingerprint: str | None) -> Metrics:
    """Returns the scores of a finished run on another data set.

    Raises:
        UserError: A file is missing or broken, or something is not that of the run or of the data set.
    """
    folder = study.root / transfer.id
    run = read_record(study.root / transfer.run.id / "provenance.json", Provenance)
    made = read_record(folder / "provenance.json", Provenance)
    metrics = read_record(folder / "metrics.json", Metrics)
    there = made.transfer
    stale = [
        what
        for what, found, wanted in (
            ("configuration", made.config_hash, study.cell(transfer.run.cell).config_hash),
            ("weights", there and there.weights_sha256, run.sha256.get("model.safetensors", "")),
            ("data", there and there.data_fingerprint, fingerprint or ""),
            ("features", metrics.features_sha256, made.sha256.get("features.npz", "")),
        )
        if found != wanted
    ]
    if stale:
        raise UserError(f"it was made or scored with another {' and '.join(stale)}; run snakemake again.")
    return metrics


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
