"""From the folders of the runs to tidy tables. Only the runs of the plan enter; nothing stale does.

Every column is described in `results/README.md`.
"""

import datetime
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidablate import freezing, provenance
from reidablate.artifacts import (
    atomic_path,
    only_writer,
    read_record,
    read_table,
    write_json,
    write_record,
    write_table,
)
from reidablate.disk import disk_use
from reidablate.errors import UserError, last_words
from reidablate.recipes import recipe
from reidablate.runs import QUERY_COLUMNS, SIDES, Floors, Metrics, Provenance
from reidablate.smoke import marked
from reidablate.standing import TABLES, Standing
from reidablate.study import PRETRAIN, Run, Study
from reidablate.tables.imported import find_imports, imported_table, judged_runs
from reidablate.tables.other_scores import camera_pair_table, cross_domain_table
from reidablate.tuning import entry_of, tuning_table

RUN_COLUMNS = {
    "status": "string", "epoch": "Int64", "reason": "string", "config_hash": "string", "code_hash": "string",
    "code": "string",
    "git_commit": "string", "git_dirty": "boolean", "data_fingerprint": "string", "synthetic": "boolean",
    "versions": "string", "device": "string", "threads": "Int64", "processes": "Int64", "precision": "string",
    "weights": "string", "weights_sha256": "string", "num_parameters": "Int64", "flops_per_image": "Int64",
    "wall_s": "Float64", "device_s": "Float64", "images_per_s": "Float64", "dense_share": "Float64",
    "peak_memory_bytes": "Int64",
}  # fmt: skip
ALSO_CSV = ("runs", "metrics", "cross_domain", "imported")
WRITTEN = {*TABLES, *(f"{name}.csv" for name in ALSO_CSV)} - {"study.json"}


@dataclass(frozen=True)
class _Parts:
    """What one run adds to each table."""

    run: dict[str, Any]
    metrics: list[dict[str, Any]]
    queries: pd.DataFrame | None
    history: pd.DataFrame | None
    failures: tuple[str, ...] = ()  # of metrics of the study's own


def aggregate_study(study: Study) -> str:
    """Writes `tables/` of a study and returns the line that counts its runs.

    A run whose artifacts are missing, broken or of another configuration or data set has status `missing` with the
    reason; it adds no row to any other table.
    """
    with only_writer(study.root / "tables", "aggregate"):
        return _write_tables(study)


def _write_tables(study: Study) -> str:
    standing = Standing(study)
    everywhere = [*study.datasets, *study.test_only]
    summaries = {dataset.name: standing.summary(dataset.name) for dataset in everywhere}
    asked = set(study.asked_runs)
    parts = {run: _collect(study, run, standing, asked=run in asked) for run in study.tested_runs}
    tables = study.root / "tables"
    finished = [run for run, part in parts.items() if part.run["status"] == "finished"]
    fingerprints = {name: summary.get("fingerprint") for name, summary in summaries.items()}
    pairs, no_pairs = camera_pair_table(study, finished)
    elsewhere, not_elsewhere = cross_domain_table(study, finished, standing)
    imports, not_imported = find_imports(study, fingerprints)
    judged = judged_runs(study, imports, synthetic={name: about.get("synthetic") for name, about in summaries.items()})
    metrics = [row for part in parts.values() for row in part.metrics]
    queries = {run: part.queries for run, part in parts.items()}
    frames = {
        "runs": _runs([*({**_key(run), **part.run} for run, part in parts.items()), *judged.runs]),
        "metrics": _frame([*metrics, *judged.metrics], ["side", "metric", "value"]),
        "queries": _stacked({**queries, **judged.queries}, ["side", "query"]),
        "history": _stacked({run: part.history for run, part in parts.items()}, ["epoch", "name", "value"]),
        "camera_pairs": pairs,
        "cross_domain": elsewhere,
        "imported": imported_table(imports),
        "tuning": tuning_table(study),
    }
    (tables / "study.json").unlink(missing_ok=True)  # it vouches for the others, so it comes last
    for name, unmarked in frames.items():
        frame = marked(unmarked, smoke=study.preset.sample is not None)
        write_table(frame, tables / f"{name}.parquet")
        if name in ALSO_CSV:
            write_table(frame, tables / f"{name}.csv")
    entries = [*(entry_of(cell) for cell in study.cells if not cell.tunes), *judged.cells]
    palette = {name: place for place, name in enumerate([*study.palette, *(cell["name"] for cell in judged.cells)])}
    write_json(tables / "cells.json", [entry | {"palette": palette[entry["name"]]} for entry in entries])
    _write_floors(study, tables)
    about = _description(study, summaries, [*no_pairs, *not_elsewhere, *not_imported, *_failures(parts.values())])
    written = [path.name for path in tables.glob("[!.]*") if path.name in WRITTEN or path.name.startswith("samples_")]
    write_record(tables / "study.json", {**about, "made_of": standing.signature}, sorted(written))
    counts = frames["runs"]["status"].value_counts()
    return "aggregate: " + ", ".join(f"{counts.get(s, 0)} {s}" for s in ("finished", "diverged", "missing"))


def _key(run: Run) -> dict[str, Any]:
    return {"dataset": run.dataset, "cell": run.cell, "seed": run.seed}


def _collect(study: Study, run: Run, standing: Standing, *, asked: bool) -> _Parts:
    """Returns what a run adds, or why it adds nothing."""
    folder = study.root / run.id
    if unscored := standing.unscored(run):
        said = _last_words(study.root / "logs", run, trained=not standing.untrained(run)) if asked else ""
        if not (folder / "provenance.json").is_file() and not asked:
            unscored = "planned by an earlier call, not run yet"
        return _Parts({"status": "missing", "reason": said or f"{folder}: {unscored}."}, [], None, None)
    try:
        made = read_record(folder / "provenance.json", Provenance)
        metrics = read_record(folder / "metrics.json", Metrics)
        history = read_table(folder / "history.parquet", ["epoch"])
        finished = made.status == "finished"
        queries = read_table(folder / "queries.parquet", QUERY_COLUMNS if finished else ())
    except UserError as error:
        return _Parts({"status": "missing", "reason": str(error)}, [], None, None)
    rows = [
        {**_key(run), "side": side, "metric": metric, "value": value}
        for side in SIDES
        for metric, value in getattr(metrics, side).items()
    ]
    facts = {name: getattr(made, name) for name in RUN_COLUMNS if name in Provenance.model_fields}
    facts["config_hash"] = study.cell(run.cell).identity_on(run.dataset)  # it stands, so it is the cell's
    facts["code"] = provenance.code_name(made.code_hash, made.science_version)
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in made.versions.items()) or None
    return _Parts(facts, rows, queries if finished else None, _epochs(history), tuple(metrics.failures))


def _failures(parts: Iterable[_Parts]) -> list[str]:
    """Returns a line for each reason why metrics of the study's own have no values."""
    runs = Counter(line for part in parts for line in part.failures)
    return [f"{line} This concerns {number} of the runs." for line, number in runs.items()]


def _last_words(logs: Path, run: Run, *, trained: bool) -> str:
    """Returns why a run has not come about: the latest failure in its own logs or in those of what it needs."""
    read = [logs / stage / f"{run.id}.log" for stage in ("evaluate", "train")]
    if not trained:
        stages = ("synthesize", "index", "cache")
        read += [logs / stage / f"{name}.log" for stage in stages for name in (run.dataset, PRETRAIN)]
        read.append(logs / "pretrain.log")
    said = {log: words for log in read if (words := last_words(log))}
    return said[max(said, key=lambda log: log.stat().st_mtime)] if said else ""


def _epochs(history: pd.DataFrame) -> pd.DataFrame:
    """Returns epoch means of a run's steps in long form; empty where a step is not finite, so that a curve ends."""
    if history.empty:
        return pd.DataFrame({"epoch": [], "name": [], "value": []})
    means = history.fillna(np.inf).groupby("epoch", as_index=False).mean()  # a mean skips NaN
    long = means.melt(id_vars="epoch", var_name="name", value_name="value")
    return long.assign(epoch=long["epoch"].astype("int64"), value=long["value"].where(np.isfinite(long["value"])))


def _runs(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["dataset", "cell", "seed", *RUN_COLUMNS])
    return frame.astype(RUN_COLUMNS)


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["dataset", "cell", "seed", *columns])


def _stacked(frames: dict[Run, pd.DataFrame | None], columns: list[str]) -> pd.DataFrame:
    """Returns the frames of all runs under each other, behind the columns that name the run."""
    present = [frame.assign(**_key(run)) for run, frame in frames.items() if frame is not None and not frame.empty]
    if not present:
        return _frame([], columns)
    stacked = pd.concat(present, ignore_index=True)
    first = ["dataset", "cell", "seed"]
    return stacked[[*first, *(name for name in stacked.columns if name not in first)]]


def _write_floors(study: Study, tables: Path) -> None:
    """Gathers what any model has to beat, and sample sheets, where the rule `diagnose` has made them."""
    rows, sheets = [], set()
    for dataset in study.datasets:
        folder = study.data_folder(dataset.name) / "diagnostics"
        if (folder / "floors.json").is_file():
            floors = read_record(folder / "floors.json", Floors).floors
            rows += [{"dataset": dataset.name, **floor.model_dump()} for floor in floors]
        if (folder / "samples.jpg").is_file():
            sheets.add(sheet := tables / f"samples_{dataset.name}.jpg")
            with atomic_path(sheet) as temporary:
                shutil.copyfile(folder / "samples.jpg", temporary)
    for left in set(tables.glob("samples_*.jpg")) - sheets:
        left.unlink()
    frame = pd.DataFrame(rows, columns=["dataset", "method", "mAP", "rank1", "note"])
    write_table(marked(frame, smoke=study.preset.sample is not None), tables / "floors.parquet")


def _description(study: Study, summaries: dict[str, dict[str, Any]], left_out: list[str]) -> dict[str, Any]:
    """Returns `study.json`: what ran on which data, by which code, where."""
    kept = ("synthetic", "counts", "official_counts", "fingerprint", "warnings")
    datasets, test_only = (
        [
            {**dataset.model_dump(mode="json"), **{key: summaries[dataset.name].get(key) for key in kept}}
            for dataset in sets
        ]
        for sets in (study.datasets, study.test_only)
    )
    frozen = freezing.read_frozen(study.root)
    declared = {"frozen": freezing.describe(frozen, study)} if frozen else {}
    lines = [freezing.notice(about) for about in declared.values()]
    return {
        **declared,
        **({"looks": study.looks} if study.looks else {}),
        **_recipes(study),
        "preset": study.preset.name,
        "description": study.preset.description,
        "smoke": study.preset.sample is not None,
        "synthetic": any(entry["synthetic"] or entry["generated"] for entry in datasets),
        "datasets": datasets,
        "test_only": test_only,
        "missing_datasets": [entry.model_dump(mode="json") for entry in study.missing_datasets],
        "seeds": sorted({run.seed for run in study.tested_runs}),
        "preset_seeds": study.preset.seeds,
        "runs": [[run.dataset, run.cell, run.seed] for run in study.tested_runs],
        "notices": [*lines, *study.notices, *left_out],
        "headline": headline_side(study),
        "metrics": [metric.model_dump(mode="json") for metric in study.metrics],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "plan_hash": study.hash,
        "code": {**provenance.git_state(), "version": provenance.versions().get("reidablate")},
        "packages": provenance.versions(),
        "machine": provenance.machine(),
        "disk_bytes": disk_use(study.root),
    }


def _recipes(study: Study) -> dict[str, Any]:
    """Returns what each seed drew of the recipe, where the preset has it drawn."""
    seeds = sorted({run.seed for run in study.runs}) if study.preset.jitter else []
    return {"recipes": {str(seed): recipe(study.preset.jitter, seed) for seed in seeds}} if seeds else {}


def headline_side(study: Study) -> str:
    """Returns the feature side that the preset declares as its test feature, or else the baseline."""
    declared = study.preset.model.get("test_feature")
    baseline = next((cell for cell in study.cells if cell.extends is None and not cell.external), study.cells[0])
    return declared or baseline.config.model.test_feature
