"""A finished run trained again from its own provenance."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reidablate.artifacts import read_json, write_json
from reidablate.engine.from_plan import train_spec
from reidablate.engine.reproduce import reproduce_run
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.study import Study


@pytest.fixture
def run(tiny_study: Study, tmp_path: Path) -> Path:
    """A finished run in a results folder of its own."""
    root = tmp_path / "tiny"
    shutil.copytree(tiny_study.root / "data", root / "data", ignore=shutil.ignore_patterns("images"))
    out = root / "market1501" / "p1" / "seed0"
    train_run(dataclasses.replace(train_spec(tiny_study, dataset="market1501", cell="p1", seed=0), out=out))
    return out


def test_a_run_repeats_itself_bit_for_bit_and_leaves_nothing_behind(run: Path) -> None:
    outcome = reproduce_run(run)
    assert outcome.identical
    command, *verdicts = outcome.lines
    assert command.startswith("made by: reidablate train --plan ")
    assert command.endswith("--dataset market1501 --cell p1 --seed 0")
    assert verdicts == ["model.safetensors: identical", "features.npz: identical"]
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]


def test_what_a_killed_repetition_by_other_code_left_is_made_again(run: Path, tiny_study: Study) -> None:
    left = run.with_name(".seed0.reproduce")
    spec = train_spec(tiny_study, dataset="market1501", cell="p1", seed=0)
    train_run(dataclasses.replace(spec, out=left))
    write_json(left / "provenance.json", {**read_json(left / "provenance.json"), "code_hash": "01dc0de"})
    (left / "model.safetensors").write_bytes(b"of other code")
    assert reproduce_run(run).identical
    assert not left.exists()


def test_a_changed_weight_and_machine_and_the_sources_of_other_code_are_said(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    weights["classifier.weight"][0, 0] += 1e-6
    save_file(weights, run / "model.safetensors")
    made = read_json(run / "provenance.json")
    made["versions"]["torch"] = "0.1"
    write_json(run / "provenance.json", {**made, "code_hash": "0ld+c0de"})
    kept = run.parents[2] / "plans" / "sources-0ld.zip"
    kept.parent.mkdir()
    kept.touch()
    outcome = reproduce_run(run)
    assert not outcome.identical
    assert outcome.lines[1] == "model.safetensors: DIFFERS"
    assert any(line.startswith("changed since: versions") for line in outcome.lines)
    assert [line for line in outcome.lines if "zipfile" in line] == [
        f"its sources are kept: `python -m zipfile -e {kept} src` restores them in a checkout of its version"
    ]


def test_without_its_own_files_nothing_is_trained(run: Path) -> None:
    (run / "features.npz").unlink()
    with pytest.raises(UserError, match=r"lacks features.npz, so there is nothing to compare with"):
        reproduce_run(run)
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]


def test_without_provenance_or_data_it_is_a_sentence(run: Path) -> None:
    shutil.rmtree(run.parents[2] / "data")
    with pytest.raises(UserError, match="is missing"):
        reproduce_run(run)
    with pytest.raises(UserError, match=r"provenance\.json is missing"):
        reproduce_run(run.parent / "seed7")
