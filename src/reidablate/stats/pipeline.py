"""The rule `statistics`: from the tables of the runs to contrasts, slices, and a verdict on every published claim."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reidablate import integrity, places
from reidablate.artifacts import only_writer, read_json, read_table, write_record, write_table
from reidablate.metrics.registry import Metric, known_metrics
from reidablate.published import study_claims
from reidablate.smoke import marked
from reidablate.stats.claims import judge
from reidablate.stats.contrasts import DEFAULT_DELTA_POINTS, contrast_table
from reidablate.stats.informative import with_informative
from reidablate.stats.joint import joint_table
from reidablate.stats.looking import go_through
from reidablate.stats.looks import Looks
from reidablate.stats.scores import QueryFile
from reidablate.stats.slices import slice_table

CALIBRATION = "calibration.parquet"
STATISTICS = ("contrasts", "slices", "joint", "claims")
"""The tables that are written here, as `.parquet` and `.csv`."""


def write_statistics(results: Path, study: Path = Path()) -> str:
    """Writes the tables of the statistics below `results/tables` and returns the line that counts the verdicts.

    They are `contrasts`, `slices`, `joint` and `claims`; `statistics.json` names their checksums.

    Args:
        results: The folder `results/<preset>`.
        study: The study folder, whose own claims and calibration are laid over the package's.

    Raises:
        UserError: A table is missing, or a file of claims is malformed.
    """
    read_json(results / "tables" / "study.json")  # a folder that holds no tables gets no lock
    with only_writer(results / "tables", "statistics"):
        return _write_tables(results / "tables", study)


def declared_deltas(study: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns {dataset: {metric: largest difference that does not matter}}, fractions.

    Args:
        study: The contents of `study.json`; an entry of `datasets` may have `delta`, in points by metric. What it does
            not name has the default of `DEFAULT_DELTA_POINTS`.
    """
    found = {}
    own = {m.name: m.delta_points for m in known_metrics(study) if m.delta_points is not None}
    for entry in study["datasets"]:
        points = {**own, **DEFAULT_DELTA_POINTS.get(entry["name"], {}), **(entry.get("delta") or {})}
        found[entry["name"]] = {metric: value / 100 for metric, value in points.items()}
    return found


def _contrasts(
    queries: QueryFile,
    runs: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    own: Sequence[Metric],
    arguments: Mapping[str, Any],
) -> pd.DataFrame:
    """Returns all contrasts; each of the study's own metrics is apart, so a run without it is missing there alone."""
    known = [metric for metric in own if queries.has_values(metric.column)]
    tables = [contrast_table(queries, runs, cells, **arguments)]
    tables += [contrast_table(queries, runs, cells, **arguments, metrics=[metric]) for metric in known]
    return pd.concat(tables, ignore_index=True)


def _write_tables(tables: Path, study_folder: Path) -> str:
    integrity.refuse_broken(tables, ["study.json"])
    study, cells = read_json(tables / "study.json"), read_json(tables / "cells.json")
    queries, runs = QueryFile(tables / "queries.parquet"), read_table(tables / "runs.parquet")
    deltas = declared_deltas(study)
    borrowed = {entry["name"] for entry in study["datasets"] if entry.get("synthetic") or entry.get("generated")}
    arguments: dict[str, Any] = {"deltas": deltas, "headline_side": study["headline"], "borrowed": borrowed}
    smoke = bool(study.get("smoke"))
    arguments["least_seeds"] = 0 if smoke else study.get("preset_seeds", 0)  # a smoke test leaves references out
    later = (study.get("frozen") or {}).get("later")
    own = [metric for metric in known_metrics(study) if metric.use]
    arguments["recipes"] = study.get("recipes")
    if cap := study.get("looks"):
        arguments["least_seeds"] = 0
        arguments["looked"] = go_through(Looks.up_to(cap), queries, runs, cells, {**arguments, "later": later})
    contrasts = _contrasts(queries, runs, cells, own, {**arguments, "later": later})
    slices = slice_table(queries, runs, cells, **arguments)
    claims = study_claims(study_folder, [cell["name"] for cell in cells])
    judged = judge(claims, contrasts, study, runs, cells, read_table(tables / "metrics.parquet"))
    joint = joint_table(contrasts)
    frames = dict(zip(STATISTICS, (contrasts, slices, joint, judged), strict=True))
    (tables / "statistics.json").unlink(missing_ok=True)  # it vouches for the others, so it comes last
    history = read_table(tables / "history.parquet") if (tables / "history.parquet").is_file() else None
    for name, unmarked in frames.items():
        frame = marked(with_informative(unmarked, cells, history), smoke=smoke)
        write_table(frame, tables / f"{name}.parquet")
        write_table(frame, tables / f"{name}.csv")
    (tables / CALIBRATION).unlink(missing_ok=True)
    for calibration in places.calibration(study_folder):
        write_table(read_table(calibration), tables / CALIBRATION)
    written = [f"{name}.{suffix}" for name in frames for suffix in ("parquet", "csv")]
    written += [CALIBRATION] * (tables / CALIBRATION).is_file()
    made_of = integrity.digests_of([tables / "study.json"])
    write_record(tables / "statistics.json", {"made_of": made_of}, written)
    shown = contrasts[contrasts["headline"].eq(True) & contrasts["metric"].eq("mAP")]
    counts = shown["verdict"].value_counts()
    return f"statistics: {len(shown)} contrasts in mAP: " + ", ".join(f"{n} {word}" for word, n in counts.items())
