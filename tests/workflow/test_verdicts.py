"""The verdicts on real trainings: a copy is not called better, a planted gain is."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from reidablate.artifacts import canonical_json
from reidablate.engine.from_plan import pretrain_spec, train_spec
from reidablate.engine.train import train_run
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planning import plan
from reidablate.report.render import render_report
from reidablate.stats.pipeline import write_statistics
from reidablate.study import PRETRAIN, Study
from reidablate.tables.aggregate import aggregate_study
from support import ROOT, run_cli

CELLS: dict[str, dict[str, Any]] = {
    "naive_triplet": {"title": "Naive triplet", "group": "planted", "reference": ["third"]},
    "third": {"extends": "naive_triplet", "reference": [], "train": {"epochs_factor": 0.334}},
    "copy": {"extends": "naive_triplet", "group": "copy", "reference": ["naive_triplet"], "seed_offset": 100},
}


def planted_study(folder: Path) -> Study:
    """The plan of a baseline, its copy with other seeds, and the same with a third of the epochs, with five seeds."""
    for name, cell in CELLS.items():
        path = folder / "ablations" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"name": name, **cell}))
    settings = yaml.safe_load((ROOT / "workflow" / "config" / "default.yaml").read_text())
    changed = {"preset": "tests/verdicts.yaml", "datasets": "market1501", "ablations": str(folder / "ablations")}
    places = {"results": str(folder / "results"), "data_root": str(folder / "data"), "device": "cpu"}
    return plan({**settings, **changed, **places})


@pytest.mark.slow
def test_a_copy_is_not_better_and_a_planted_gain_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = planted_study(tmp_path)
    plan_file = str(study.write())
    for dataset in ("market1501", PRETRAIN):
        recipe = canonical_json(study.synthetic_recipe(dataset))
        run_cli("data", "synthesize", str(study.dataset(dataset).root), "--recipe", recipe)
        run_cli("data", "index", "--plan", plan_file, "--dataset", dataset)
        run_cli("data", "cache", "--plan", plan_file, "--dataset", dataset)
    train_run(pretrain_spec(study))
    for run in study.runs:
        spec = train_spec(study, dataset=run.dataset, cell=run.cell, seed=run.seed)
        train_run(spec)
        evaluate_run(spec.out)
    aggregate_study(study)
    write_statistics(study.root)
    render_report(study.root, ROOT / "report_templates", study.root / "report" / "index.html")

    contrasts = pd.read_parquet(study.root / "tables" / "contrasts.parquet")
    shown = contrasts[contrasts["headline"] & (contrasts["metric"] == "mAP")].set_index("cell")
    assert len(shown) == 2
    copy, full = shown.loc["copy"], shown.loc["naive_triplet"]
    assert copy["verdict"] in {"undecided", "equivalent"}, copy.to_string()
    assert not copy["paired"]
    assert full["verdict"] == "improves", full.to_string()
    assert full["reference"] == "third"
    assert list(shown["num_seeds"]) == [5, 5]
    assert list(shown["family_size"]) == [1, 1]
    assert list(shown["warnings"]) == ["", ""]
    assert contrasts["verdict"].notna().all()
