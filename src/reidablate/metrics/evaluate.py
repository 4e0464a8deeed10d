"""From the features of a run to its scores: one row a query and one summary for each side of the neck.

Camera pairs are scored on the declared side alone; they cost as much as scoring one side.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reidablate import integrity
from reidablate.artifacts import only_writer, read_npz, read_record, write_record, write_table
from reidablate.metrics.breakdown import PAIR_COLUMNS, by_camera_pair
from reidablate.metrics.checks import check_labels
from reidablate.metrics.distances import FeatureDistances
from reidablate.metrics.own import OwnMetrics
from reidablate.metrics.protocol import Scores, score
from reidablate.metrics.registry import Metric
from reidablate.runs import FEATURE_ARRAYS, SCORES_VERSION, SIDES, Provenance, remove_state

TABLES = ("queries.parquet", "camera_pairs.parquet")


def evaluate_run(run: Path, metrics: Sequence[Metric] = ()) -> str:
    """Writes `queries.parquet`, `camera_pairs.parquet` and `metrics.json`, and returns the line that sums them up.

    `metrics.json` is written last and names the checksums of all three. A scored run is finished, so its resume state
    is deleted. A metric of the study's own that fails is named and left out; the others stand.

    Args:
        run: The run's folder.
        metrics: Metrics of the study's own.

    Raises:
        UserError: The run has no whole features or provenance, its features are not those that the provenance names,
            or they cannot be ranked.
    """
    read_record(run / "provenance.json", Provenance)  # a folder that is no run gets no lock
    with only_writer(run, "evaluate"):
        line = _evaluate(run, metrics)
        remove_state(run)
    return line


def _evaluate(run: Path, metrics: Sequence[Metric]) -> str:
    made = read_record(run / "provenance.json", Provenance)
    headline = made.test_feature
    summary: dict[str, Any] = {"status": made.status, "headline": headline, "scores_version": SCORES_VERSION}
    summary["own_metrics"] = {metric.name: metric.code for metric in metrics}
    if made.status == "diverged":
        summary |= {"epoch": made.epoch, "reason": made.reason}
        write_table(pd.DataFrame({"side": pd.Series(dtype=str)}), run / "queries.parquet")
        write_table(pd.DataFrame(columns=["side", *PAIR_COLUMNS]), run / "camera_pairs.parquet")
        write_record(run / "metrics.json", summary, TABLES)
        return f"{made.name}: diverged, nothing to score"
    path = run / "features.npz"
    integrity.check(path, run / "provenance.json", made.sha256)
    features = read_npz(path, FEATURE_ARRAYS)
    own = OwnMetrics(metrics)
    scores = {side: score_side(features, side, own) for side in SIDES}
    for line in own.failures.values():
        print(f"reidablate: {line}", file=sys.stderr)
    if own.failures:
        summary["failures"] = list(own.failures.values())
    frames = [result.queries.assign(side=side).drop(columns=list(own.failures)) for side, result in scores.items()]
    write_table(pd.concat(frames, ignore_index=True), run / "queries.parquet")
    write_table(camera_pairs(features, headline), run / "camera_pairs.parquet")
    for side, result in scores.items():
        summary[side] = result.summary() | result.means(own.names)
    summary["features_sha256"] = made.sha256.get(path.name)
    write_record(run / "metrics.json", summary, TABLES)
    best = summary[headline]
    return f"{made.name}: mAP {100 * best['mAP']:.1f}, Rank-1 {100 * best['rank1']:.1f} ({headline})"


def score_side(features: Mapping[str, Any], side: str, own: OwnMetrics | None = None) -> Scores:
    """Returns the scores of one side of the neck from the arrays of `features.npz`, with metrics of a study's own."""
    return score(
        features[f"query_{side}"],
        features[f"gallery_{side}"],
        query_pids=features["query_pids"],
        gallery_pids=features["gallery_pids"],
        query_camids=features["query_camids"],
        gallery_camids=features["gallery_camids"],
        query_names=features["query_names"],
        own=own,
    )


def camera_pairs(features: Mapping[str, Any], side: str) -> pd.DataFrame:
    """Returns the scores of one side of the neck for every pair of cameras; see `slices.by_camera_pair`."""
    queries, gallery = features[f"query_{side}"], features[f"gallery_{side}"]
    pids, camids = ((features[f"query_{ids}"], features[f"gallery_{ids}"]) for ids in ("pids", "camids"))
    labels = check_labels((len(queries), len(gallery)), pids=pids, camids=camids, names=features["query_names"])
    table = by_camera_pair(FeatureDistances(queries, gallery), labels)
    return table.assign(side=side)[["side", *PAIR_COLUMNS]]
