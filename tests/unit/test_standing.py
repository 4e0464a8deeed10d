"""What of a study stands is decided by content: what changes it, what does not, and what is then made again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reidablate.artifacts import content_hash, read_json, sha256_file, write_json
from reidablate.config import RunConfig, validate
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.metrics.evaluate import evaluate_run
from reidablate.needs import Needs
from reidablate.planning import load_presets
from reidablate.runs import SCORES_VERSION
from reidablate.standing import Standing
from reidablate.study import Run, Study
from reidablate.tables.aggregate import aggregate_study
from support import ROOT, shipped_cells

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


def test_initial_weights_are_known_by_their_bytes_whatever_their_path_and_times(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, copied = tmp_path / "w.pth", tmp_path / "elsewhere" / "v.pth"
    file.write_bytes(b"some weights")
    copied.parent.mkdir()
    shutil.copyfile(file, copied)
    os.utime(file, (1, 1))
    edit(study.root / RUN.id / "provenance.json", weights_sha256=sha256_file(file))
    monkeypatch.chdir(tmp_path)

    def started_from(path: str) -> Needs:
        return needs(study.model_copy(update={"settings": study.settings.model_copy(update={"weights": path})}))

    for spelled in ("w.pth", "./elsewhere/../w.pth", str(file), "elsewhere/v.pth"):
        assert started_from(spelled).train == []
    file.write_bytes(b"other weights")
    assert started_from("w.pth").train == [RUN]
    assert started_from("elsewhere/v.pth").train == []


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
    assert Standing(study).to_score_again == []
    monkeypatch.setattr("reidablate.standing.SCORES_VERSION", SCORES_VERSION + 1)
    found = needs(study)
    assert (found.train, found.evaluate) == ([], [RUN])
    assert Standing(study).to_score_again == [RUN]  # its report is not replaced by one without it
    (study.root / "tables" / "runs.parquet").unlink()
    assert Standing(study).to_score_again == []


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


@pytest.mark.parametrize("lose", [Path.unlink, _flip])
def test_lost_features_are_extracted_again_and_nothing_is_trained(study: Study, lose: Callable[[Path], None]) -> None:
    run = study.root / RUN.id
    files = [run / "model.safetensors", run / "history.parquet"]
    before, features = {path: path.stat().st_mtime_ns for path in files}, sha256_file(run / "features.npz")
    lose(run / "features.npz")
    found = needs(study)
    assert (found.train, found.extract) == ([RUN], [RUN])
    assert found.in_words() == "reidablate: 1 run whose features are extracted again: market1501/p1 seed 0."
    assert "nothing trained" in train_run(train_spec(study, dataset="market1501", cell="p1", seed=0))
    assert sha256_file(run / "features.npz") == features
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert needs(study).stands == {RUN}


def test_a_run_whose_images_are_gone_is_not_said_to_be_trained(study: Study) -> None:
    shutil.rmtree(study.data_folder(RUN.dataset))
    found = needs(study)
    assert (found.train, found.unsure) == ([RUN], [RUN])
    assert "1 run to train unless lost images" in found.in_words()
    shutil.rmtree(study.root / RUN.id)
    assert needs(study).in_words() == "reidablate: 1 run to train: market1501/p1 seed 0."


def test_features_of_damaged_weights_are_not_extracted(study: Study) -> None:
    (study.root / RUN.id / "features.npz").unlink()
    _flip(study.root / RUN.id / "model.safetensors")
    found = needs(study)
    assert (found.train, found.extract) == ([RUN], [])


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
    for cell in shipped_cells(presets.values()).values():
        config = cell.resolve(presets["quickstart"])
        assert Later.model_validate(config.dump()).hash == config.hash
        assert Later.model_validate({**config.dump(), "added": 0.25}).hash != config.hash


def test_the_hashes_of_the_shipped_cells_are_those_of_the_last_release() -> None:
    """A change of a line costs every user the finished runs of that cell and preset: they are trained again."""
    presets = load_presets(ROOT)
    cells = shipped_cells(presets.values())
    found = {
        preset.name: {
            cell.name if dataset is None else f"{cell.name} on {dataset}": cell.resolve(preset, dataset).hash
            for cell in cells.values()
            for dataset in (None, *cell.by_dataset)
        }
        for preset in presets.values()
    }
    assert found == read_json(ROOT / "tests" / "golden" / "config_hashes.json")


RETRAINED_SINCE_0_1_0 = {"p1_rpe_jsd_as_run"}  # has the author's own configuration now


def test_finished_runs_of_0_1_0_keep_their_identity() -> None:
    """A cell that fails here costs every user of 0.1.0 its finished runs at paper scale: they are trained again.

    The golden file holds, for every cell of that release, what `provenance.json` of its runs under the preset paper
    records as `config` and `config_hash`: `Cell.resolve(preset).dump()` and `.hash`, written by that release.
    """
    golden = read_json(ROOT / "tests" / "golden" / "configs_of_0_1_0.json")
    now = read_json(ROOT / "tests" / "golden" / "config_hashes.json")[golden["preset"]]
    changed = set()
    for name, cell in golden["cells"].items():
        recorded = {section: dict(options) for section, options in golden["config"].items()}
        for key, value in cell["options"].items():
            section, option = key.split(".")
            recorded[section][option] = value
        assert content_hash(recorded) == cell["config_hash"]  # the very configuration that 0.1.0 wrote
        if validate(RunConfig, recorded, where=name).hash != now[name]:
            changed.add(name)
    assert changed == RETRAINED_SINCE_0_1_0
