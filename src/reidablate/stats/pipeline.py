"""The rule `statistics`: from the tables of the runs to contrasts, slices, and a verdict on every published claim."""

from pathlib import Path

from reidablate import places
from reidablate.artifacts import only_writer, read_json, read_table, write_table
from reidablate.published import study_claims
from reidablate.stats.claims import judge
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.slices import slice_table

CALIBRATION = "calibration.parquet"


def write_statistics(results: Path, study: Path = Path()) -> str:
    """Writes `contrasts`, `slices` and `claims` below `results/tables` and returns the line that counts the verdicts.

    Args:
        results: The folder `results/<preset>`.
        study: The study folder, whose own claims and calibration are laid over the package's.

    Raises:
        UserError: A table is missing, or a file of claims is malformed.
    """
    read_json(results / "tables" / "study.json")  # a folder that holds no tables gets no lock
    with only_writer(results / "tables", "statistics"):
        return _write_tables(results / "tables", study)


def _write_tables(tables: Path, study_folder: Path) -> str:
    study, cells = read_json(tables / "study.json"), read_json(tables / "cells.json")
    queries, runs = read_table(tables / "queries.parquet"), read_table(tables / "runs.parquet")
    declared = {entry["name"]: entry.get("delta") or {} for entry in study["datasets"]}
    deltas = {name: {m: points / 100 for m, points in by.items()} for name, by in declared.items()}
    contrasts = contrast_table(queries, runs, cells, deltas=deltas, headline_side=study["headline"])
    slices = slice_table(queries, runs, cells, deltas=deltas, headline_side=study["headline"])
    claims = study_claims(study_folder, [cell["name"] for cell in cells])
    judged = judge(claims, contrasts, study, runs, cells, read_table(tables / "metrics.parquet"))
    for name, frame in {"contrasts": contrasts, "slices": slices, "claims": judged}.items():
        write_table(frame, tables / f"{name}.parquet")
        write_table(frame, tables / f"{name}.csv")
    (tables / CALIBRATION).unlink(missing_ok=True)
    for calibration in places.calibration(study_folder):
        write_table(read_table(calibration), tables / CALIBRATION)
    shown = contrasts[contrasts["headline"].eq(True) & contrasts["metric"].eq("mAP")]
    counts = shown["verdict"].value_counts()
    return f"statistics: {len(shown)} contrasts in mAP: " + ", ".join(f"{n} {word}" for word, n in counts.items())
