"""Whatever file of a study is damaged, the next call names it and knows what to make again."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from reidablate.artifacts import canonical_json, read_npz, write_npz
from reidablate.diagnostics.floors import diagnose_dataset
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.importing import Origin, import_runs
from reidablate.metrics.evaluate import evaluate_run
from reidablate.needs import Needs
from reidablate.places import TEMPLATES
from reidablate.report.digest import digest_lines
from reidablate.report.render import render_report
from reidablate.standing import Standing
from reidablate.stats.pipeline import write_statistics
from reidablate.study import Run, Study
from reidablate.tables.aggregate import aggregate_study
from support import ROOT, run_cli

RUN = Run(dataset="market1501", cell="p1", seed=0)
PLANNED = {"market1501": {"p1": [0]}}
CHECKED = (
    "data/*/index",
    "data/*/cache",
    "data/*/diagnostics",
    "pretrain",
    RUN.id,
    "imported/*/*",
    "tables",
    "report/**",
)
UNCHECKED = {".lock", "source.json"}  # one says nothing; without the other a data set is indexed again


@pytest.fixture(scope="module")
def study(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A whole study of one run and one import. A test that changes it mends it."""
    root = tmp_path_factory.mktemp("damage")
    shutil.copytree(tiny_study.root, root / "tiny")
    study = tiny_study.model_copy(
        update={
            "settings": tiny_study.settings.model_copy(update={"results": root}),
            "cells": [cell for cell in tiny_study.cells if cell.name == RUN.cell],
            "datasets": tiny_study.datasets[:1],
            "planned": PLANNED,
            "asked": PLANNED,
        }
    )
    study.write()
    train_run(train_spec(study, dataset=RUN.dataset, cell=RUN.cell, seed=RUN.seed))
    evaluate_run(study.root / RUN.id)
    diagnose_dataset(study, RUN.dataset)
    features = read_npz(study.root / RUN.id / "features.npz")
    theirs = {name.replace("before_neck", "features"): a for name, a in features.items() if "after_neck" not in name}
    write_npz(root / "theirs.npz", theirs)
    import_runs("theirs", [Origin(root / "theirs.npz", root / "theirs.npz")], dataset=RUN.dataset, results=study.root)
    gather(study)
    return study


def gather(study: Study) -> None:
    aggregate_study(study)
    write_statistics(study.root, ROOT)
    render_report(study.root, ROOT / TEMPLATES, study.root / "report" / "index.html", files=["pdf"])


def needs(study: Study) -> Needs:
    return Standing(study).needs


def files(study: Study) -> list[Path]:
    found = [path for pattern in CHECKED for path in study.root.glob(f"{pattern}/*") if path.is_file()]
    used = {dataset.name for dataset in study.datasets} | {"pretrain"}
    return sorted(
        path
        for path in dict.fromkeys(found)
        if path.name not in UNCHECKED and ("data" not in path.parts or path.parts[-3] in used)
    )


def test_an_undisturbed_study_needs_nothing(study: Study) -> None:
    found = needs(study)
    assert found.nothing
    assert found.damaged == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_every_damaged_file_is_named_and_something_is_made_again(study: Study, damage: str) -> None:
    rng = np.random.default_rng(0)
    paths = files(study)
    assert len(paths) > 60
    for path in paths:
        whole = path.read_bytes()
        broken = bytearray(whole)
        if damage == "flip":
            broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
        else:
            del broken[0 if damage == "empty" else int(rng.integers(len(broken))) :]
        path.write_bytes(broken)
        found = needs(study)
        path.write_bytes(whole)
        assert any(path.name in line for line in found.damaged), path
        needed = path.parent.name not in {"cache", "index", "pretrain"}  # those only by what is still to train
        assert not (needed and found.nothing), path
    assert needs(study).nothing


@pytest.mark.parametrize("stage", ["index", "cache"])
def test_a_damaged_image_of_a_generated_set_is_drawn_again(study: Study, tmp_path: Path, stage: str) -> None:
    shutil.copytree(study.root, tmp_path / "tiny")
    copy = study.model_copy(update={"settings": study.settings.model_copy(update={"results": tmp_path})})
    images = copy.data_folder(RUN.dataset) / "images"
    dataset = copy.datasets[0].model_copy(update={"root": images})
    copy = copy.model_copy(update={"datasets": [dataset]})
    recipe = canonical_json(copy.synthetic_recipe(RUN.dataset))
    run_cli("data", "synthesize", str(images), "--recipe", recipe)
    image = sorted((images / "bounding_box_train").iterdir())[0]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    (copy.data_folder(RUN.dataset) / "cache" / "cache.json").unlink()
    arguments = ["data", stage, "--plan", str(copy.write()), "--dataset", RUN.dataset]
    with pytest.raises(UserError, match="run the same command again, which draws the generated set again"):
        run_cli(*arguments)
    assert needs(copy).datasets == [RUN.dataset]
    run_cli("data", "synthesize", str(images), "--recipe", recipe)
    assert image.read_bytes() == whole
    run_cli(*arguments)


@pytest.mark.parametrize("name", ["queries.parquet", "slices.parquet", "cells.json"])
def test_no_reader_of_the_tables_believes_a_damaged_one(study: Study, tmp_path: Path, name: str) -> None:
    shutil.copytree(study.root / "tables", tmp_path / "tables")
    path = tmp_path / "tables" / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    for read in (
        lambda: list(digest_lines(tmp_path / "tables")),
        lambda: render_report(tmp_path, ROOT / TEMPLATES, tmp_path / "report" / "index.html", files=["pdf"]),
    ):
        with pytest.raises(UserError, match=f"{name} damaged, by the checksums beside it; run the same command again"):
            read()


def test_statistics_and_report_of_other_tables_are_made_again(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.root, tmp_path / "tiny")
    copy = study.model_copy(update={"settings": study.settings.model_copy(update={"results": tmp_path})})
    aggregate_study(copy)  # and killed behind it
    found = needs(copy)
    assert (found.tables, found.statistics, found.report) == (False, True, True)
    write_statistics(copy.root, ROOT)
    found = needs(copy)
    assert (found.statistics, found.report) == (False, True)


def test_a_damaged_import_is_left_out_until_it_is_imported_again(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.root, tmp_path / "tiny")
    copy = study.model_copy(update={"settings": study.settings.model_copy(update={"results": tmp_path})})
    path = copy.root / "imported" / "market1501" / "theirs" / "metrics.json"
    path.write_text(path.read_text().replace('"mAP": 0.', '"mAP": 0.9'))
    assert "metrics.json damaged; left out until it is imported again" in needs(copy).damaged[0]
    before = list(digest_lines(copy.root / "tables"))
    gather(copy)
    assert list(digest_lines(copy.root / "tables")) != before
    assert needs(copy).nothing
    import_runs(
        "theirs",
        [Origin(study.root.parent / "theirs.npz", study.root.parent / "theirs.npz")],
        dataset=RUN.dataset,
        results=copy.root,
    )
    assert needs(copy).tables
    gather(copy)
    assert list(digest_lines(copy.root / "tables")) == before
