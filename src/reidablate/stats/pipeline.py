"""The rule `statistics`: from the tables of the runs to contrasts, slices, and a verdict on every published claim."""

from collections.abc import Iterable
from pathlib import Path

from reidablate import places
from reidablate.artifacts import only_writer, read_json, read_table, write_table
from reidablate.stats.claims import Claim, judge, load_claims
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.slices import slice_table
from reidablate.trees import yaml_files

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


def study_claims(study: Path, planned: Iterable[str]) -> list[Claim]:
    """Returns the package's claims about cells that the study has, and all of its own; of one name, its own counts.

    Args:
        study: The study folder.
        planned: Names of cells of the study; those that its folder of cells has a file for are added.

    Raises:
        UserError: A file of claims is malformed.
    """
    cells = study / str(places.settings(study)["ablations"])
    present = {*planned, *(path.stem for path in (yaml_files(cells) if cells.is_dir() else []))}
    claims: dict[str, Claim] = {}
    for path in places.layers(places.CLAIMS, study):
        own = path == study / places.CLAIMS
        claims |= {claim.name: claim for claim in load_claims(path) if own or claim.cell in present}
    return list(claims.values())


def _write_tables(tables: Path, study_folder: Path) -> str:
    study, cells = read_json(tables / "study.json"), read_json(tables / "cells.json")
    queries, runs = read_table(tables / "queries.parquet"), read_table(tables / "runs.parquet")
    declared = {entry["name"]: entry.get("delta") or {} for entry in study["datasets"]}
    deltas = {name: {m: points / 100 for m, points in by.items()} for name, by in declared.items()}
    contrasts = contrast_table(queries, runs, cells, deltas=deltas, headline_side=study["headline"])
    slices = slice_table(queries, runs, cells, deltas=deltas, headline_side=study["headline"])
    judged = judge(study_claims(study_folder, [cell["name"] for cell in cells]), contrasts, study, runs)
    for name, frame in {"contrasts": contrasts, "slices": slices, "claims": judged}.items():
        write_table(frame, tables / f"{name}.parquet")
        write_table(frame, tables / f"{name}.csv")
    (tables / CALIBRATION).unlink(missing_ok=True)
    for calibration in places.calibration(study_folder):
        write_table(read_table(calibration), tables / CALIBRATION)
    shown = contrasts[contrasts["headline"].eq(True) & contrasts["metric"].eq("mAP")]
    counts = shown["verdict"].value_counts()
    return f"statistics: {len(shown)} contrasts in mAP: " + ", ".join(f"{n} {word}" for word, n in counts.items())
