"""What the relative tables carry of the position relations in the quickstart, and whether its cells can differ by it.

    python bench/table_share.py [--out FOLDER]        # trains the quickstart's backbone and four cells, one seed each

Position relations are <P_a, P_b> + T[a, b]. Their first part is the same for all heads, blocks and images. Where the
second one varies little, head-wise and layer-wise, combinations and permutations say nearly the same, and rows that
compare them answer nothing. The share is that of the tables in the variance over all pairs of two patches, averaged
over blocks and heads.
"""

import argparse
from pathlib import Path
from typing import Any

import contest
import planted_gain
import torch
from safetensors.torch import load_file

from reidablate.artifacts import read_table
from reidablate.engine.stages import train_spec
from reidablate.engine.train import train_run
from reidablate.losses.positions import PositionState, relation_values
from reidablate.metrics.evaluate import evaluate_run
from reidablate.models.position import full_index
from reidablate.planning import plan
from reidablate.report.aggregate import headline_side
from reidablate.study import Study
from reidablate.trees import load_yaml, merge

CELLS = ("p1_rpe", "p1_rpe_jsd", "jsd_layer", "jsd_permutations")
OUT = contest.RESULTS / "table_share.json"


def study_of(out: Path) -> Study:
    """Returns the plan of the compared cells at the quickstart preset, with one seed."""
    settings = load_yaml(Path("workflow/config/default.yaml"))
    wanted = {"preset": "quickstart", "cells": list(CELLS), "seeds": 1, "device": "cpu", "results": str(out)}
    return plan(merge(settings, wanted))


def share_of_tables(weights: dict[str, torch.Tensor], grid: tuple[int, int], scale: float = 1.0) -> float:
    """Returns the tables' share of the variance of all relations of two different patches, their size scaled."""
    tables = scale * torch.stack([value for name, value in sorted(weights.items()) if name.endswith("rpe.table")])
    (rows,) = (value for name, value in weights.items() if name.endswith("ape.table"))
    every = torch.arange(grid[0] * grid[1])[None]
    parts = [
        relation_values(PositionState(ape, tab, full_index(grid)), every, "permutations")
        for ape, tab in ((rows, torch.zeros_like(tables)), (None, tables))
    ]
    absolute, relative = (float(part.double().var(dim=-1).mean()) for part in parts)
    return relative / (absolute + relative)


def measure(study: Study) -> dict[str, Any]:
    """Returns for each data set the share at the end of a training and what the compared cells show."""
    planted_gain.prepare(study)
    found: dict[str, Any] = {}
    for dataset in (dataset.name for dataset in study.datasets):
        entry: dict[str, Any] = {"share_of_tables": {}, "mAP": {}, "position_relation_loss": {}}
        for cell in CELLS:
            folder = study.root / dataset / cell / "seed0"
            train_run(train_spec(study, dataset=dataset, cell=cell, seed=0))
            if not (folder / "metrics.json").is_file():
                evaluate_run(folder)
            weights, grid = load_file(folder / "model.safetensors"), study.cell(cell).config.model.grid
            queries = read_table(folder / "queries.parquet")
            queries = queries[queries["side"] == headline_side(study)]
            entry["share_of_tables"][cell] = share_of_tables(weights, grid)
            entry["mAP"][cell] = float(queries["average_precision"].mean())
            history = read_table(folder / "history.parquet")
            if "position_relation" in history:
                last = history[history["epoch"] == history["epoch"].max()]
                entry["position_relation_loss"][cell] = float(last["position_relation"].mean())
        trained = load_file(study.root / dataset / "p1_rpe_jsd" / "seed0" / "model.safetensors")
        entry["share_at_usual_init_sd"] = share_of_tables(
            trained, grid, 0.02 / study.cell("p1_rpe_jsd").config.model.rpe.init_sd
        )
        found[dataset] = entry
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("results/table_share"), help="where the runs are kept")
    study = study_of(options.parse_args().out)
    for dataset, entry in measure(study).items():
        about = {"what": "share of the relative tables in the variance of position relations, quickstart, one seed"}
        contest.record(OUT, dataset, entry, about)
        print(dataset, entry)


if __name__ == "__main__":
    main()
