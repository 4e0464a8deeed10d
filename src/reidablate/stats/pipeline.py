"""The rule `statistics`: from the tables of the runs to contrasts, slices, and a verdict on every published claim."""

from pathlib import Path

from reidablate.artifacts import only_writer, read_json, read_table, write_table
from reidablate.published import CLAIMS, load_claims
from reidablate.stats.claims import judge
from reidablate.stats.contrasts import DEFAULT_DELTA_POINTS, contrast_table
from reidablate.stats.slices import slice_table

CALIBRATION = Path("results/reference/calibration.parquet")


def write_statistics(results: Path, claims: Path = CLAIMS, calibration: Path = CALIBRATION) -> str:
    """Writes `contrasts`, `slices` and `claims` below `results/tables` and returns the line that counts the verdicts.

    Args:
        results: The folder `results/<preset>`.
        claims: Published gains.
        calibration: What `reidablate stats calibrate` wrote; copied beside the other tables where it exists.

    Raises:
        UserError: A table is missing, or the file of claims is malformed.
    """
    read_json(results / "tables" / "study.json")  # a folder that holds no tables gets no lock
    with only_writer(results / "tables", "statistics"):
        return _write_tables(results / "tables", claims, calibration)


def _write_tables(tables: Path, claims: Path, calibration: Path) -> str:
    study, cells = read_json(tables / "study.json"), read_json(tables / "cells.json")
    queries, runs = read_table(tables / "queries.parquet"), read_table(tables / "runs.parquet")
    deltas = {name: {m: points / 100 for m, points in by.items()} for name, by in DEFAULT_DELTA_POINTS.items()}
    contrasts = contrast_table(queries, runs, cells, deltas=deltas, headline_side=study["headline"])
    slices = slice_table(queries, runs, cells, deltas=deltas, headline_side=study["headline"])
    metrics = read_table(tables / "metrics.parquet")
    judged = judge(load_claims(claims), contrasts, study, runs, cells, metrics)
    for name, frame in {"contrasts": contrasts, "slices": slices, "claims": judged}.items():
        write_table(frame, tables / f"{name}.parquet")
        write_table(frame, tables / f"{name}.csv")
    (tables / CALIBRATION.name).unlink(missing_ok=True)
    if calibration.is_file():
        write_table(read_table(calibration), tables / CALIBRATION.name)
    shown = contrasts[contrasts["headline"].eq(True) & contrasts["metric"].eq("mAP")]
    counts = shown["verdict"].value_counts()
    return f"statistics: {len(shown)} contrasts in mAP: " + ", ".join(f"{n} {word}" for word, n in counts.items())
