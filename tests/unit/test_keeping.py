"""Which weights and features outlive their scores."""

import shutil
from pathlib import Path

import pytest

from reidablate.artifacts import read_json, write_json
from reidablate.engine.from_plan import train_spec
from reidablate.engine.reproduce import reproduce_run
from reidablate.engine.train import train_run
from reidablate.engine.transfer import transfer_run
from reidablate.keeping import is_kept, is_scored, release, removed
from reidablate.metrics.evaluate import evaluate_run
from reidablate.study import Run, Study
from reidablate.tables.aggregate import aggregate_study
from reidablate.tidying import find_items


def keeping(study: Study, keep: str) -> Study:
    return study.model_copy(update={"preset": study.preset.model_copy(update={"keep": keep})})


@pytest.fixture
def study(tiny_study: Study, tmp_path: Path) -> Study:
    """One cell that is scored on both data sets, one seed, nothing kept, data in place."""
    settings = tiny_study.settings.model_copy(update={"results": tmp_path / "results"})
    cell = tiny_study.cell("p1").model_copy(update={"also_on": "all"})
    planned = {dataset.name: {"p1": [0]} for dataset in tiny_study.datasets}
    changes = {"settings": settings, "cells": [cell], "seeds": 1, "planned": planned, "asked": planned}
    study = tiny_study.model_copy(update=changes)
    for name in ("data", "pretrain"):
        shutil.copytree(tiny_study.root / name, study.root / name, ignore=shutil.ignore_patterns("images"))
    return keeping(study, "none")


def test_the_last_seed_of_each_cell_is_kept(tiny_study: Study) -> None:
    runs = [Run(dataset="market1501", cell="p1", seed=seed) for seed in range(2)]
    for keep, kept in (("all", [True, True]), ("last", [False, True]), ("none", [False, False])):
        assert [is_kept(keeping(tiny_study, keep), run) for run in runs] == kept


def test_weights_stay_until_they_were_scored_on_every_data_set_and_the_run_stays_finished(study: Study) -> None:
    spec = train_spec(study, dataset="market1501", cell="p1", seed=0)
    train_run(spec)
    evaluate_run(spec.out)
    release(study, spec.out)
    assert (spec.out / "model.safetensors").is_file()
    assert removed(spec.out) == frozenset()
    there = spec.out / "on_occluded_duke"
    transfer_run(spec, on="occluded_duke", data=study.data_folder("occluded_duke"))
    evaluate_run(there)
    release(study, there)
    assert removed(spec.out) == {"model.safetensors", "features.npz"}
    assert removed(there) == {"features.npz"}
    for folder in (spec.out, there):
        assert not (folder / "features.npz").exists()
        assert is_scored(folder)
    assert not (spec.out / "model.safetensors").exists()
    assert aggregate_study(study) == "aggregate: 1 finished, 0 diverged, 1 missing"
    tables = study.root / "tables"
    assert read_json(tables / "study.json")["disk_bytes"]["models"] == (
        (study.root / "pretrain" / "model.safetensors").stat().st_size
    )
    assert reproduce_run(spec.out).identical
    made = read_json(spec.out / "provenance.json")
    write_json(spec.out / "provenance.json", {**made, "wall_s": 1.0})  # trained again
    assert removed(spec.out) == frozenset()


def test_what_a_preset_no_longer_keeps_is_listed_by_clean(study: Study) -> None:
    spec = train_spec(study, dataset="market1501", cell="p1", seed=0)
    alone = study.model_copy(update={"cells": [study.cells[0].model_copy(update={"also_on": []})]})
    train_run(spec)
    evaluate_run(spec.out)
    keeping(alone, "all").write()
    assert find_items(study.root) == []
    alone.write()
    found = {item.path.name for item in find_items(study.root) if item.kind.startswith("weights and features")}
    assert found == {"model.safetensors", "features.npz"}
    study.write()  # to be scored elsewhere, too
    assert not any(item.kind.startswith("weights") for item in find_items(study.root))
