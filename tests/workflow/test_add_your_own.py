"""The examples of docs/add_your_own.md, taken from the page and run as a study, to the report."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from reidablate.artifacts import read_json
from reidablate.config import Counts
from reidablate.data.folder import read_folder
from reidablate.data.table import layout_of
from reidablate.synthetic.synthesize import synthesize
from reidablate.trees import load_yaml
from support import ROOT, copy_project, nothing_to_do, planned, snakemake

pytestmark = pytest.mark.slow

CELLS = "naive_triplet,circle,multi_similarity,centres,cnn"
CONFIG = ["preset=own.yaml", "datasets=shop", f"cells={CELLS}", "seeds=1"]
COUNTS = Counts(train_images=48, train_ids=8, query_images=8, query_ids=4, gallery_images=24, gallery_ids=4)


def files_of_the_page() -> dict[str, str]:
    """The examples that begin with the name of a file, and the section of the report."""
    page = (ROOT / "docs" / "add_your_own.md").read_text(encoding="utf-8")
    files: dict[str, str] = {}
    for name, text in re.findall(r"^```(?:python|yaml)\n# (\S+/\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        assert name not in files or name.endswith("default.yaml")
        files[name] = files.get(name, "") + text
    (section,) = re.findall(r"^```jinja\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return {**files, "report_templates/section_slowest.html.j2": section}


def write_shop(folder: Path, scratch: Path) -> None:
    """Draws a small set and sorts it into the layout of the page."""
    synthesize(scratch, "market1501", counts=COUNTS, seed=3, image_size=(64, 32), occluded_share=0.0, workers=2)
    for number, image in enumerate(read_folder(scratch, layout_of("market1501")).records):
        target = folder / image.split / f"{image.pid:04d}" / f"cam{image.camid}_{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scratch / image.path, target)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the examples, run once."""
    folder = tmp_path_factory.mktemp("own")
    copy_project(folder)
    (folder / "workflow" / "config" / "default.yaml").unlink()
    for name, text in files_of_the_page().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    tiny = load_yaml(folder / "tiny.yaml")
    own = {key: value for key, value in tiny.items() if key not in {"synthetic", "pretrain"}}
    own |= {"name": "own", "weights": "none", "model": {**own["model"], "image_size": [64, 32]}}
    (folder / "own.yaml").write_text(yaml.safe_dump(own))
    write_shop(folder / "data" / "shop", tmp_path_factory.mktemp("drawn"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = snakemake(config=CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "runs code of this study" in line]
    assert all(
        part in line for part in ("shop:shop (shop)", "circle:circle (circle)", "pml (multi_similarity)", "(metric)")
    )
    return folder


def test_every_example_reaches_tables_and_report(project: Path) -> None:
    tables = project / "results" / "own" / "tables"
    runs = pd.read_parquet(tables / "runs.parquet").set_index("cell")
    assert set(runs.index) == set(CELLS.split(","))
    assert set(runs["status"]) == {"finished"}
    history = pd.read_parquet(tables / "history.parquet")
    terms = {cell: set(part["name"]) for cell, part in history.groupby("cell")}
    assert all(name in terms[name] for name in ("circle", "multi_similarity", "centres"))
    assert {"triplet"} & terms["centres"]
    assert not {"triplet"} & terms["circle"]
    html = (project / "results" / "own" / "report" / "index.html").read_text()
    assert all(name in html for name in CELLS.split(","))
    assert '<a href="#section-slowest"><bdi>Slowest runs</bdi></a>' in html
    contrasts = pd.read_parquet(tables / "contrasts.parquet")
    assert set(contrasts[contrasts["metric"] == "precision_at_5"]["cell"]) == set(CELLS.split(",")) - {"naive_triplet"}
    assert "Precision at 5" in html
    exported = pd.read_csv(project / "results" / "own" / "report" / "exports" / "main_table.csv")
    assert exported["precision_at_5_mean"].between(0, 1).all()
    made = read_json(project / "results" / "own" / "shop" / "circle" / "seed0" / "provenance.json")
    assert len(made["config"]["losses"]["circle"]["code"]) == 16


def test_an_edited_loss_repeats_its_own_cells_and_a_broken_one_stops_no_other(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    loss = Path("methods/circle.py")
    loss.write_text(f"# a comment\n{loss.read_text()}")
    assert nothing_to_do(snakemake("-n", config=CONFIG))
    loss.write_text(loss.read_text().replace("1 + options.margin", "2 + options.margin"))
    done = snakemake("-n", config=CONFIG)
    assert planned(done)["train"] == 1
    assert "to train: shop/circle seed 0." in done.stderr
    loss.write_text("def circle(:\n")
    others = [entry for entry in CONFIG if not entry.startswith("cells=")]
    done = snakemake("-n", config=[*others, "cells=naive_triplet,centres"])
    assert done.returncode == 0
    assert "methods/circle.py, line 1: invalid syntax; correct the line. Left out until then: circle." in done.stderr


WRONG = """
from reidablate.losses import Batch, LossOptions


def wrong(batch: Batch, options: LossOptions):
    return batch.feature.mean() * float("nan")
"""


def test_a_loss_that_returns_nan_fails_its_own_run_and_the_report_shows_the_others(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    Path("methods/wrong.py").write_text(WRONG)
    cell = "name: wrong\nextends: naive_triplet\nlosses: {wrong: {use: 'wrong:wrong'}}\n"
    Path("ablations/wrong.yaml").write_text(cell)
    done = snakemake(config=[entry.replace("circle,", "circle,wrong,") for entry in CONFIG])
    assert done.returncode == 1
    said = "methods/wrong.py, line 5: losses.wrong returned NaN as 'wrong' for the first batch; correct the loss."
    assert said in done.stderr
    runs = pd.read_parquet("results/own/tables/runs.parquet").set_index("cell")
    assert said in str(runs.loc["wrong", "reason"])
    assert set(runs.drop("wrong")["status"]) == {"finished"}
    assert "returned NaN" in Path("results/own/report/index.html").read_text()
