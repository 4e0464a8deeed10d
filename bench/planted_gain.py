"""How often the quickstart finds the gain that is planted in it: ten quickstarts' worth of its two demo cells.

    python bench/planted_gain.py [--repetitions 10] [--out FOLDER]     # trains what is missing, then judges
    python bench/planted_gain.py --judge                               # judges the committed scores again

`longer_demo` trains ten times as long as `shorter_demo` and is better on the synthetic sets. Repetition r has the seeds
of a quickstart whose first seed is r times its number of seeds; images and pre-trained backbone are the quickstart's.
The scores of every query are kept beside the verdicts, so that other statistics can judge the same trainings.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import contest
import pandas as pd

from reidablate.artifacts import read_table, write_json, write_table
from reidablate.data.cache import build_cache
from reidablate.data.index import index_dataset
from reidablate.engine.from_plan import pretrain_spec, train_spec
from reidablate.engine.train import train_run
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planning import plan
from reidablate.stats.pipeline import write_statistics
from reidablate.study import PRETRAIN, Study
from reidablate.synthetic.synthesize import synthesize_recipe
from reidablate.tables.aggregate import headline_side
from reidablate.trees import load_yaml, merge

CELL, REFERENCE = "longer_demo", "shorter_demo"
SCORES = contest.RESULTS / "planted_gain.parquet"
VERDICTS = contest.RESULTS / "planted_gain.json"
KEPT = ["dataset", "cell", "seed", "query", "pid", "camid", "average_precision", "first_hit_rank"]


def study_of(repetitions: int, out: Path) -> Study:
    """Returns the plan of the demo cells at the quickstart preset with the seeds of all repetitions."""
    settings = load_yaml(Path("workflow/config/default.yaml"))
    wanted = {"preset": "quickstart", "cells": f"{REFERENCE},{CELL}", "device": "cpu", "results": str(out)}
    seeds = plan(merge(settings, wanted)).preset.seeds
    return plan(merge(settings, {**wanted, "seeds": seeds * repetitions}))


def prepare(study: Study) -> None:
    """Draws, indexes and caches the images, and trains the backbone that every run starts from."""
    height, width = study.preset.model["image_size"]
    assert study.preset.synthetic is not None
    for name in [*(dataset.name for dataset in study.datasets), PRETRAIN]:
        folder, dataset, recipe = study.data_folder(name), study.dataset(name), study.preset.synthetic[name]
        if not (folder / "cache" / "cache.json").is_file():
            synthesize_recipe(dataset.root, recipe, workers=1)
            index = index_dataset(dataset.root, dataset.layout, folder / "index", workers=1)
            build_cache(index, dataset.root, folder / "cache", height=height, width=width, workers=1)
    train_run(pretrain_spec(study))


def measure(study: Study) -> pd.DataFrame:
    """Returns the scores of every query of every run on the declared side, training what is missing."""
    prepare(study)
    frames = []
    for run in sorted(study.runs, key=lambda run: (run.seed, run.dataset)):
        folder = study.root / run.id
        train_run(train_spec(study, dataset=run.dataset, cell=run.cell, seed=run.seed))
        if not (folder / "metrics.json").is_file():
            print(evaluate_run(folder), flush=True)
        queries = read_table(folder / "queries.parquet")
        queries = queries[queries["side"] == headline_side(study)]
        frames.append(queries.assign(dataset=run.dataset, cell=run.cell, seed=run.seed)[KEPT])
    scores = pd.concat(frames, ignore_index=True)
    return scores.astype({"average_precision": "float32", "first_hit_rank": "int32", "seed": "int16", "camid": "int8"})


def judge(study: Study, scores: pd.DataFrame, repetition: int) -> list[dict[str, Any]]:
    """Returns what the study's own statistics say of one repetition, an entry a data set.

    Only average precision and the first hit are kept, so columns of other metrics hold the former.
    """
    seeds = range(repetition * study.preset.seeds, (repetition + 1) * study.preset.seeds)
    queries = scores[scores["seed"].isin(seeds)].assign(side=headline_side(study))
    queries = queries.astype({"average_precision": "float64"})
    for name in ("average_precision_trapezoid", "inverse_negative_penalty"):
        queries[name] = queries["average_precision"]
    keys = ["dataset", "cell", "seed"]
    means = queries.groupby([*keys, "side"])["average_precision"].mean().reset_index()
    means = means.rename(columns={"average_precision": "value"}).assign(metric="mAP")
    runs = means[keys].assign(status="finished")
    names = [dataset.name for dataset in study.datasets]
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables"
        for name, frame in {"queries": queries, "runs": runs, "metrics": means}.items():
            write_table(frame, tables / f"{name}.parquet")
        described = {"preset": study.preset.name, "headline": headline_side(study), "seeds": list(seeds)}
        listed = [{"name": name, "synthetic": True, "official_counts": False, "fingerprint": None} for name in names]
        write_json(tables / "study.json", {**described, "datasets": listed})
        write_json(tables / "cells.json", [cell.model_dump(mode="json") for cell in study.cells])
        write_statistics(Path(folder))
        found = pd.read_parquet(tables / "contrasts.parquet")
    found = found[found["headline"] & (found["metric"] == "mAP") & (found["cell"] == CELL)]
    kept = ["dataset", "verdict", "num_seeds", "estimate", "low", "high", "p_value", "p_adjusted", "seed_sd"]
    rows = found[kept].assign(first_seed=seeds[0])[["first_seed", *kept]].to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--repetitions", type=int, default=10)
    options.add_argument("--out", type=Path, default=Path("results/planted_gain"), help="where the runs are kept")
    options.add_argument("--judge", action="store_true", help="judge the committed scores, train nothing")
    arguments = options.parse_args()
    study = study_of(arguments.repetitions, arguments.out)
    if not arguments.judge:
        write_table(measure(study), SCORES)
    scores = read_table(SCORES)
    repetitions = (int(scores["seed"].max()) + 1) // study.preset.seeds
    entries = [entry for repetition in range(repetitions) for entry in judge(study, scores, repetition)]
    for entry in entries:
        print(f"{entry['dataset']}, seeds from {entry['first_seed']}: {entry['verdict']}, "
              f"{100 * entry['estimate']:+.2f} [{100 * entry['low']:+.2f}, {100 * entry['high']:+.2f}]")  # fmt: skip
    firsts = {entry["first_seed"] for entry in entries}
    missed = {entry["first_seed"] for entry in entries if entry["verdict"] != "improves"}
    counts = {"repetitions": len(firsts), "found_on_all_sets": len(firsts - missed)}
    about = {"what": f"verdict on {CELL} over {REFERENCE} at the quickstart preset, mAP, fractions"}
    contest.record(VERDICTS, "quickstart", {**counts, "entries": entries}, about)
    print(f"found on every data set in {counts['found_on_all_sets']} of {counts['repetitions']} repetitions")


if __name__ == "__main__":
    main()
