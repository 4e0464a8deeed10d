"""A report of some cells and data sets of a study: its tables, cut down, in a folder of their own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from reidablate.artifacts import read_json, read_table, write_json, write_table
from reidablate.config import nearest
from reidablate.errors import UserError
from reidablate.integrity import refuse_broken


def narrow_tables(tables: Path, out: Path, *, cells: Sequence[str], datasets: Sequence[str]) -> None:
    """Writes the rows of some cells, and of their references, and data sets to `out`; nothing is computed again.

    Intervals and verdicts are those of the whole study, whose comparisons they were corrected for. Colours stay too.

    Args:
        tables: The folder `tables/` of a study.
        out: Another folder.
        cells: Names of cells; all without any.
        datasets: Names of data sets; all without any.

    Raises:
        UserError: A name is not in the study, `out` is `tables`, or a table is missing or broken.
    """
    if out.resolve() == tables.resolve():
        raise UserError(f"{out} holds the tables of the whole study; choose another folder with --out.")
    refuse_broken(tables)
    about, entries = read_json(tables / "study.json"), read_json(tables / "cells.json")
    known = {entry["name"]: entry for entry in entries}
    present = [dataset["name"] for dataset in about["datasets"]]
    for given, names, kind in ((cells, list(known), "cell"), (datasets, present, "data set")):
        for name in given:
            if name not in names:
                raise UserError(f"the study has no {kind} '{name}'; {nearest(name, names)}")
    wanted = {*cells, *(other for name in cells for other in known[name]["references"])} or set(known)
    sets = {*datasets} or set(present)
    for path in sorted(tables.glob("*.parquet")):
        write_table(_rows(read_table(path), wanted, sets), out / path.name)
    for name in sets:
        if (sheet := tables / f"samples_{name}.jpg").is_file():
            shutil.copy(sheet, out / sheet.name)
    write_json(out / "cells.json", [entry for entry in entries if entry["name"] in wanted])
    line = "This report shows a part of the study; its verdicts are those of the whole study."
    about["datasets"] = [dataset for dataset in about["datasets"] if dataset["name"] in sets]
    about["runs"] = [run for run in about["runs"] if run[0] in sets and run[1] in wanted]
    about["sha256"] = {}  # of the whole study's tables
    write_json(out / "study.json", {**about, "notices": [line, *about["notices"]]})


def _rows(frame: pd.DataFrame, cells: set[str], datasets: set[str]) -> pd.DataFrame:
    for column, names in (("cell", cells), ("reference", cells), ("dataset", datasets)):
        if column in frame.columns:
            frame = frame[frame[column].isin(names)]
    return frame.reset_index(drop=True)
