"""What of a study stands is decided by content: what changes it, what does not, and what is then made again."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from reidablate.artifacts import read_json, write_json
from reidablate.cells import load_cells
from reidablate.config import RunConfig
from reidablate.engine.stages import train_spec
from reidablate.engine.train import train_run
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planning import load_presets
from reidablate.report.aggregate import aggregate_study
from reidablate.runs import SCORES_VERSION
from reidablate.standing import Needs, Standing
from reidablate.study import Run, Study
from support import ROOT

RUN = Run(dataset="market1501", cell="p1", seed=0)
PLANNED = {"market1501": {"p1": [0]}}


@pytest.fixture(scope="module")
def made(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of one finished run, with its tables. Treat it as read-only."""
    root = tmp_path_factory.mktemp("standing")
    shutil.copytree(tiny_study.root, root / "tiny")
    study = tiny_study.model_copy(
        update={
            "settings": tiny_study.settings.model_copy(update={"results": root}),
            "cells": [cell for cell in tiny_study.cells if cell.name == "p1"],
            "datasets": tiny_study.datasets[:1],
            "planned": PLANNED,
            "asked": PLANNED,
        }
    )
    train_run(train_spec(study, dataset="market1501", cell="p1", seed=0))
    evaluate_run(study.root / RUN.id)
    aggregate_study(study)
    return study


@pytest.fixture
def study(made: Study, tmp_path: Path) -> Study:
    shutil.copytree(made.root, tmp_path / "tiny")
    return made.model_copy(update={"settings": made.settings.model_copy(update={"results": tmp_path})})


def needs(study: Study) -> Needs:
    return Standing(study).needs


def edit(path: Path, without: tuple[str, ...] = (), **change: Any) -> None:
    """Writes a record again with some keys changed and some dropped."""
    record = {**read_json(path), **change}
    write_json(path, {key: value for key, value in record.items() if key not in without})


def test_a_finished_run_stands_whatever_its_file_times_and_the_spelling_of_its_path(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (study.root / RUN.id).iterdir():
        os.utime(path, (1, 1))
    monkeypatch.chdir(tmp_path)
    relative = study.model_copy(update={"settings": study.settings.model_copy(update={"results": Path()})})
    for spelled in (study, relative):
        found = needs(spelled)
        assert (found.train, found.evaluate, found.damaged) == ([], [], [])
        assert found.stands == {RUN}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data_fingerprint": "0"}, "trained with another data"),
        ({"seed": 7}, "trained with another seed"),
        ({"weights_sha256": "0"}, "trained with another initial weights"),
        ({"science_version": 99}, "trained with another version of the code"),
    ],
)
def test_a_run_of_another_identity_does_not_stand(study: Study, change: dict[str, Any], reason: str) -> None:
    edit(study.root / RUN.id / "provenance.json", **change)
    assert Standing(study).untrained(RUN) == reason
    assert needs(study).train == [RUN]


def test_a_run_of_another_configuration_does_not_stand(study: Study) -> None:
    path = study.root / RUN.id / "provenance.json"
    config = read_json(path)["config"]
    edit(path, config={**config, "train": {**config["train"], "epochs": 7}})
    assert Standing(study).untrained(RUN) == "trained with another configuration"


def test_a_run_of_the_first_version_stands(study: Study) -> None:
    path = study.root / RUN.id / "provenance.json"
    digests = {"features.npz": read_json(path)["sha256"]["features.npz"]}
    edit(path, ("science_version",), config_hash="0123456789abcdef", sha256=digests)
    edit(study.root / RUN.id / "metrics.json", ("scores_version", "sha256"))
    found = needs(study)
    assert (found.train, found.evaluate, found.stands) == ([], [], {RUN})


def test_scores_of_another_version_are_made_again_without_a_training(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidablate.standing.SCORES_VERSION", SCORES_VERSION + 1)
    found = needs(study)
    assert (found.train, found.evaluate) == ([], [RUN])


def test_truncated_scores_are_made_again_without_a_training(study: Study) -> None:
    path = study.root / RUN.id / "queries.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    found = needs(study)
    assert (found.train, found.evaluate) == ([], [RUN])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_the_weights_is_named_and_the_run_trained_again(study: Study) -> None:
    _flip(study.root / RUN.id / "model.safetensors")
    found = needs(study)
    assert found.train == [RUN]
    assert found.damaged == [f"{RUN.id}: model.safetensors damaged; what is needed is made again"]


@pytest.mark.parametrize("table", ["runs.parquet", "study.json"])
def test_deleted_tables_are_gathered_again_and_nothing_else_is_done(study: Study, table: str) -> None:
    assert not needs(study).tables
    (study.root / "tables" / table).unlink()
    found = needs(study)
    assert found.tables
    assert (found.train, found.evaluate) == ([], [])


def test_an_option_added_with_a_default_moves_no_hash() -> None:
    class Later(RunConfig):
        added: float = 0.5

    presets = load_presets(ROOT)
    for cell in load_cells(ROOT / "ablations", presets.values()).values():
        config = cell.resolve(presets["quickstart"])
        assert Later.model_validate(config.dump()).hash == config.hash
        assert Later.model_validate({**config.dump(), "added": 0.25}).hash != config.hash


def test_the_hashes_of_the_shipped_cells_are_those_of_the_last_release() -> None:
    """A change of a line costs every user the finished runs of that cell and preset: they are trained again."""
    presets = load_presets(ROOT)
    cells = load_cells(ROOT / "ablations", presets.values())
    found = {
        preset.name: {
            cell.name if dataset is None else f"{cell.name} on {dataset}": cell.resolve(preset, dataset).hash
            for cell in cells.values()
            for dataset in (None, *cell.by_dataset)
        }
        for preset in presets.values()
    }
    assert found == read_json(ROOT / "tests" / "golden" / "config_hashes.json")
