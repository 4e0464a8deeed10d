"""Every cell of every tier, sweeps expanded: one reduced run each, to the tables and the report."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from reidablate.artifacts import canonical_json, read_json
from reidablate.cli import app
from reidablate.engine.from_plan import pretrain_spec, train_spec
from reidablate.engine.train import train_run
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planning import plan
from reidablate.report.render import render_report
from reidablate.stats.pipeline import write_statistics
from reidablate.study import PRETRAIN, Study
from reidablate.tables.aggregate import aggregate_study
from support import ROOT, copy_cells

pytestmark = pytest.mark.slow


def reduced_study(folder: Path) -> Study:
    """The plan of all cells at the tiny preset, for one epoch on a grid of 6 x 3 patches (a cell relates ten)."""
    preset = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    preset["name"] = "reduced"
    preset["model"]["image_size"] = [48, 24]
    preset["train"]["epochs"] = 1
    (folder / "reduced.yaml").write_text(yaml.safe_dump(preset))
    settings = yaml.safe_load((ROOT / "workflow" / "config" / "default.yaml").read_text())
    changed = {
        "preset": str(folder / "reduced.yaml"),
        "results": str(folder / "results"),
        "data_root": str(folder / "data"),
        "datasets": "market1501",
        "ablations": str(copy_cells(folder / "ablations")),
        "tier": "optional",
        "seeds": 1,
        "device": "cpu",
    }
    return plan({**settings, **changed})


def prepare(study: Study) -> None:
    """Draws, indexes and caches the data, and pre-trains the backbone."""
    plan_file = str(study.write())
    for dataset in ("market1501", PRETRAIN):
        recipe = canonical_json(study.synthetic_recipe(dataset))
        for arguments in (
            ["synthesize", str(study.dataset(dataset).root), "--recipe", recipe],
            ["index", "--plan", plan_file, "--dataset", dataset],
            ["cache", "--plan", plan_file, "--dataset", dataset],
        ):
            done = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
            assert done.exit_code == 0, done.output
    train_run(pretrain_spec(study))


def test_every_cell_trains_and_reaches_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = reduced_study(tmp_path)
    prepare(study)
    for cell in study.cells:
        spec = train_spec(study, dataset="market1501", cell=cell.name, seed=0)
        train_run(spec)
        evaluate_run(spec.out)
    aggregate_study(study)
    write_statistics(study.root)
    render_report(study.root, ROOT / "report_templates", study.root / "report" / "index.html")

    tables = study.root / "tables"
    runs = pd.read_parquet(tables / "runs.parquet").set_index("cell")
    names = [cell.name for cell in study.cells]
    assert len(names) > 60
    assert sorted(runs.index) == sorted(names)
    assert set(runs["status"]) == {"finished"}
    contrasts = pd.read_parquet(tables / "contrasts.parquet")
    compared = set(zip(contrasts["cell"], contrasts["reference"], strict=True))
    assert compared == {(cell.name, reference) for cell in study.cells for reference in cell.references}
    history = pd.read_parquet(tables / "history.parquet").set_index(["cell", "name"])["value"]
    metrics = pd.read_parquet(tables / "metrics.parquet")
    assert set(metrics.groupby("cell")["side"].nunique()) == {2}
    html = (study.root / "report" / "index.html").read_text()
    for cell in study.cells:
        terms = {name for name, options in cell.config.losses.model_dump().items() if options}
        assert terms <= set(history.loc[cell.name].index)
        assert cell.name in html
        run = study.root / "market1501" / cell.name / "seed0"
        assert read_json(run / "metrics.json")["headline"] == cell.config.model.test_feature
