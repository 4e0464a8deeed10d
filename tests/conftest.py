"""What several test modules share: a tiny study on disk, made once by the real stages."""

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
import yaml

from reidablate.artifacts import canonical_json
from reidablate.diagnostics.cell import diagnose_cell
from reidablate.engine.from_plan import pretrain_spec, train_spec
from reidablate.engine.train import train_run
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planning import plan
from reidablate.study import PRETRAIN, Run, Study
from support import ROOT, TERMINAL, copy_cells, copy_project, run_cli, snakemake

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test may be skipped for want of a GPU and for nothing else."""
    report = yield
    if (
        report.skipped
        and os.environ.get("CI")
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("gpu") is None
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs at night is slow, too: `-m "not slow"` on the command line replaces the default `-m "not nightly"`."""
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy of what a user's checkout holds besides the package, as the current folder."""
    copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(project: Path) -> dict[str, object]:
    """The settings of default.yaml with the tiny preset, ready to be changed."""
    loaded = yaml.safe_load((project / "workflow" / "config" / "default.yaml").read_text())
    return {**loaded, "preset": "tiny.yaml"}


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The tiny study with its data drawn, indexed and cached and its backbone pre-trained. Treat it as read-only."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        settings = yaml.safe_load((ROOT / "workflow" / "config" / "default.yaml").read_text())
        places = {key: str(folder / key) for key in ("results", "data_root")}
        cells = str(copy_cells(folder / "ablations"))
        study = plan({**settings, **places, "preset": "tests/tiny.yaml", "ablations": cells})
    arguments = ["--plan", str(study.write()), "--dataset"]
    for dataset in ("market1501", "occluded_duke", PRETRAIN):
        recipe = canonical_json(study.synthetic_recipe(dataset))
        run_cli("data", "synthesize", str(study.dataset(dataset).root), "--recipe", recipe)
        run_cli("data", "index", *arguments, dataset)
        run_cli("data", "cache", *arguments, dataset)
    train_run(pretrain_spec(study))
    return study


@pytest.fixture(scope="session")
def explained(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A tiny study with a cell and its first reference trained and scored, and the cell's page in full."""
    results = tmp_path_factory.mktemp("pages")
    shutil.copytree(tiny_study.root, results / tiny_study.preset.name)
    settings = tiny_study.settings.model_copy(update={"results": results})
    preset = tiny_study.preset.model_copy(update={"diagnose": "brief"})
    study = tiny_study.model_copy(update={"settings": settings, "preset": preset})
    for cell in ("p1_rpe", "p1_rpe_jsd"):
        run = Run(dataset="market1501", cell=cell, seed=0)
        train_run(train_spec(study, dataset=run.dataset, cell=run.cell, seed=run.seed))
        evaluate_run(study.root / run.id)
    diagnose_cell(study, run, detail="full")
    return study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose tiny study has run once. Tests copy it."""
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / TERMINAL).write_text(done.stdout + done.stderr)
    return folder
