"""Scoring a trained run on another data set."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reidablate.artifacts import read_json, read_npz, sha256_file, write_json
from reidablate.data.index import read_index
from reidablate.engine.from_plan import train_spec
from reidablate.engine.spec import RunSpec
from reidablate.engine.train import train_run
from reidablate.engine.transfer import transfer_run
from reidablate.errors import UserError
from reidablate.study import Study
from reidablate.trees import merge
from support import run_cli


@pytest.fixture(scope="module")
def trained(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """One finished run on the first data set. Treat it as read-only."""
    root = tmp_path_factory.mktemp("transfer")
    spec = train_spec(tiny_study, dataset="market1501", cell="p1", seed=0)
    spec = RunSpec(**{**vars(spec), "out": root / "market1501" / "p1" / "seed0"})
    train_run(spec)
    return spec


@pytest.fixture
def spec(trained: RunSpec, tmp_path: Path) -> RunSpec:
    shutil.copytree(trained.out, tmp_path / "run")
    return RunSpec(**{**vars(trained), "out": tmp_path / "run"})


def test_on_its_own_data_set_a_run_gives_the_features_it_left_bit_for_bit(spec: RunSpec) -> None:
    transfer_run(spec, on="market1501", data=spec.data)
    own, again = (read_npz(folder / "features.npz") for folder in (spec.out, spec.out / "on_market1501"))
    assert own.keys() == again.keys()
    for name, array in own.items():
        np.testing.assert_array_equal(array, again[name])


def test_the_images_are_those_of_the_other_data_set_and_the_run_is_left_alone(spec: RunSpec, tiny_study: Study) -> None:
    before = {path.name: sha256_file(path) for path in spec.out.iterdir() if path.is_file()}
    other = tiny_study.data_folder("occluded_duke")
    said = transfer_run(spec, on="occluded_duke", data=other)
    assert {path.name: sha256_file(path) for path in spec.out.iterdir() if path.is_file()} == before
    features = read_npz(spec.out / "on_occluded_duke" / "features.npz")
    index = read_index(other / "index")
    for split in ("query", "gallery"):
        rows = index.frame[index.frame["split"] == split]
        assert features[f"{split}_names"].tolist() == rows["name"].tolist()
        assert len(features[f"{split}_before_neck"]) == len(rows)
    assert said == "market1501/p1/seed0 on occluded_duke: 12 queries, 36 gallery images"
    made = read_json(spec.out / "on_occluded_duke" / "provenance.json")
    assert made["transfer"]["on"] == "occluded_duke"
    assert made["transfer"]["data_fingerprint"] == index.summary["fingerprint"]
    assert made["transfer"]["weights_sha256"] == before["model.safetensors"]
    assert made["sha256"]["features.npz"] == sha256_file(spec.out / "on_occluded_duke" / "features.npz")
    assert made["sha256"].keys() == {"features.npz", "provenance.json"}
    kept = {key: value for key, value in made.items() if key not in {"transfer", "sha256"}}
    assert kept.items() <= read_json(spec.out / "provenance.json").items()
    run_cli("evaluate", str(spec.out / "on_occluded_duke"))
    assert not (spec.out / "on_occluded_duke" / "state").exists()
    assert read_json(spec.out / "on_occluded_duke" / "metrics.json")["before_neck"]["num_queries"] == 12


def test_a_diverged_run_has_nothing_to_show_elsewhere(spec: RunSpec) -> None:
    made = read_json(spec.out / "provenance.json")
    write_json(spec.out / "provenance.json", {**made, "status": "diverged", "epoch": 1, "reason": "a loss of nan"})
    assert "diverged" in transfer_run(spec, on="market1501", data=spec.data)
    assert len(read_npz(spec.out / "on_market1501" / "features.npz")["query_pids"]) == 0
    run_cli("evaluate", str(spec.out / "on_market1501"))
    assert read_json(spec.out / "on_market1501" / "metrics.json")["status"] == "diverged"


def test_weights_of_another_training_are_refused(spec: RunSpec) -> None:
    made = read_json(spec.out / "provenance.json")
    write_json(spec.out / "provenance.json", {**made, "num_classes": made["num_classes"] + 1})
    with pytest.raises(UserError, match=r"not of the model in provenance\.json \(classifier"):
        transfer_run(spec, on="market1501", data=spec.data)
    write_json(spec.out / "provenance.json", merge(made, {"config": {"train": {"epochs": 77}}}))
    with pytest.raises(UserError, match="another configuration"):
        transfer_run(spec, on="market1501", data=spec.data)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda made: [made], r"provenance\.json has an unexpected structure"),
        (lambda made: {key: made[key] for key in made if key != "num_classes"}, "'num_classes': Field required"),
        (lambda made: made | {"config": "p1"}, "'config': Input should be a valid dictionary"),
    ],
)
def test_a_provenance_of_another_form_is_one_sentence(spec: RunSpec, change: Any, problem: str) -> None:
    path = spec.out / "provenance.json"
    write_json(path, change(read_json(path)))
    with pytest.raises(UserError, match=problem):
        transfer_run(spec, on="market1501", data=spec.data)
