"""A training that dies, wherever it dies, ends with the bits of one that was left in peace."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reidablate.artifacts import read_json, sha256_file
from reidablate.config import RunConfig
from reidablate.data import augment
from reidablate.engine.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    checkpoints,
    load_checkpoint,
    refusals,
    save_checkpoint,
    training_folder,
)
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.metrics.evaluate import evaluate_run
from reidablate.provenance import code_hash
from reidablate.study import Study
from reidablate.trees import merge
from support import ROOT

SCIENCE = {"science_version": "1"}


def live(study: Study, *lives: tuple[Path, str | None, int], workers: int = 0) -> list[dict[str, Any]]:
    """Trains the run once for each (folder, signal, point) and returns how each of them ended; see `dying.py`."""
    told = json.dumps([(str(out), *death) for out, *death in lives])
    command = [sys.executable, str(ROOT / "tests" / "dying.py"), str(study.path), told, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def peaceful(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that nobody disturbed, and the points at which it could have died."""
    out = tmp_path_factory.mktemp("peaceful") / "run"
    (life,) = live(tiny_study, (out, None, 0))
    assert life["exit"] == 0
    return out, life["points"]


def assert_same(out: Path, peaceful: Path) -> None:
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(out / name) == sha256_file(peaceful / name), name
    steps = pd.read_parquet(out / "history.parquet").drop(columns="images_per_s")
    pd.testing.assert_frame_equal(steps, pd.read_parquet(peaceful / "history.parquet")[list(steps)])
    left, expected = ({path.relative_to(run) for path in run.rglob("*")} for run in (out, peaceful))
    assert {path for path in left ^ expected if path.suffix != ".pt"} == set()  # whose names hold times


@pytest.mark.slow
def test_a_run_killed_at_any_point_ends_with_the_same_bits(
    tiny_study: Study, peaceful: tuple[Path, list[str]], tmp_path: Path
) -> None:
    undisturbed, points = peaceful
    rng = np.random.default_rng(20)
    chosen = sorted({1, len(points), *rng.choice(np.arange(2, len(points)), 24, replace=False).tolist()})
    assert {points[point - 1] for point in chosen} == {"step", "batch", "flush"}
    lives = live(tiny_study, *chain.from_iterable(_killed_once(tmp_path / str(point), point) for point in chosen))
    for point, killed, again in zip(chosen, lives[::2], lives[1::2], strict=True):
        assert (killed["exit"], len(killed["points"])) == (-9, point)
        assert again["exit"] == 0
        assert_same(tmp_path / str(point), undisturbed)


def _killed_once(out: Path, point: int) -> list[tuple[Path, str | None, int]]:
    return [(out, "SIGKILL", point), (out, None, 0)]


@pytest.mark.slow
def test_repeated_kills_lose_no_written_epoch_and_no_whole_part(
    tiny_study: Study, peaceful: tuple[Path, list[str]], tmp_path: Path
) -> None:
    undisturbed, points = peaceful
    out, two_epochs = tmp_path / "run", points.count("step") + 2  # the first checkpoint is flushed before and after
    lives = live(tiny_study, *[(out, "SIGKILL", two_epochs + 1)] * 8)  # and the second is being written
    assert [life["exit"] for life in lives][:2] == [-9, -9]
    assert lives[-1]["exit"] == 0
    assert lives[0]["points"].count("step") == points.count("step")
    assert lives[1]["points"].count("step") == points.count("step") // 2
    assert_same(out, undisturbed)


def test_sigterm_repeats_no_step(tiny_study: Study, peaceful: tuple[Path, list[str]], tmp_path: Path) -> None:
    undisturbed, points = peaceful
    out = tmp_path / "run"
    stopped = live(tiny_study, *[(out, "SIGTERM", 3)] * 3, (out, "SIGINT", 3), (out, None, 0))
    assert [life["exit"] for life in stopped] == [143, 143, 143, 130, 0]
    assert sum(life["points"].count("step") for life in stopped) == points.count("step")
    assert_same(out, undisturbed)
    assert read_json(out / "provenance.json")["code_hash"] == code_hash()


@pytest.mark.slow
def test_sigterm_to_the_whole_group_leaves_the_loader_processes_to_us(
    tiny_study: Study, peaceful: tuple[Path, list[str]], tmp_path: Path
) -> None:
    undisturbed, points = peaceful
    out, told = tmp_path / "run", "SIGTERM group"
    deaths = [(out, told, 3), (out, told, 4), (out, told, points.index("batch") - 5), (out, None, 0)]
    *stopped, last = live(tiny_study, *deaths, workers=2)
    assert [life["exit"] for life in stopped] == [143, 143, 143]
    assert last["exit"] == 0
    assert sum(life["points"].count("step") for life in [*stopped, last]) == points.count("step")
    assert any("batch" in life["points"] for life in stopped)
    assert_same(out, undisturbed)


@pytest.mark.slow
def test_sigterm_during_the_extraction_repeats_no_part(
    tiny_study: Study, peaceful: tuple[Path, list[str]], tmp_path: Path
) -> None:
    undisturbed, points = peaceful
    out = tmp_path / "run"
    stopped, again = live(tiny_study, (out, "SIGTERM", points.index("batch") + 4), (out, None, 0))
    assert (stopped["exit"], again["exit"]) == (143, 0)
    assert again["points"].count("step") == 0
    assert stopped["points"].count("batch") + again["points"].count("batch") == points.count("batch")
    assert_same(out, undisturbed)


def test_a_diverging_run_stopped_within_its_epoch_keeps_its_last_finite_weights(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = train_spec(tiny_study, dataset="market1501", cell="p1", seed=0)
    config = RunConfig.model_validate(merge(spec.config.dump(), {"train": {"lr": 1e30}}))
    spec = dataclasses.replace(spec, out=tmp_path / "run", config=config)
    draw, steps = augment.draw, count(1)

    def stop_at_the_fifth(*args: Any, **kwargs: Any) -> augment.Decisions:
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*args, **kwargs)

    monkeypatch.setattr(augment, "draw", stop_at_the_fifth)
    with pytest.raises(SystemExit, match="143"):
        train_run(spec)
    (left,) = (spec.out / "state").glob("*/*.pt")
    assert not all(bool(value.isfinite().all()) for value in torch.load(left, weights_only=True)["model"].values())
    assert "DIVERGED" in train_run(spec)
    assert all(bool(value.isfinite().all()) for value in load_file(spec.out / "model.safetensors").values())


def a_checkpoint(epochs: int, steps: int = 0, *, identity: dict[str, str] | None = None, **over: Any) -> Checkpoint:
    state: dict[str, Any] = {
        "codes": ["c0de"], "epochs_done": epochs, "steps": {"total": torch.zeros(steps)}, "model": {}, "optimiser": {},
        "scaler": {}, "history": {}, "train_s": 1.0, "epoch_s": 0.0, "wall_s": 1.0,
    }  # fmt: skip
    return Checkpoint(identity=identity or {"seed": "0"}, state={**state, **over})


def positions(folder: Path) -> list[str]:
    return [path.name[:20] for path in checkpoints(folder)]


def test_the_last_two_epochs_and_what_a_signal_left_behind_them_are_kept(tmp_path: Path) -> None:
    for epochs, steps in [(1, 0), (2, 0), (2, 7), (3, 0), (3, 4), (3, 9)]:
        save_checkpoint(tmp_path, a_checkpoint(epochs, steps))
    assert positions(tmp_path) == ["epoch00003-step00009", "epoch00003-step00000", "epoch00002-step00000"]
    save_checkpoint(tmp_path, a_checkpoint(4))
    assert positions(tmp_path) == ["epoch00004-step00000", "epoch00003-step00000"]
    found, _ = load_checkpoint(tmp_path, whole_epoch=True)
    assert found is not None
    assert found.epochs_done == 4


def test_a_checkpoint_is_of_the_moment_it_was_asked_for_and_the_training_goes_on(tmp_path: Path) -> None:
    weights, momentum = torch.ones(2**22), torch.ones(2**22)
    state: dict[str, Any] = {"model": {"w": weights}, "optimiser": {"state": {0: {"momentum_buffer": momentum}}}}
    with CheckpointWriter(tmp_path) as writer:
        writer.save(a_checkpoint(1, **state))
        weights.zero_()
        momentum.zero_()
        writer.save(a_checkpoint(2, **state))
    assert positions(tmp_path) == ["epoch00002-step00000", "epoch00001-step00000"]
    second, first = (torch.load(path, weights_only=True) for path in checkpoints(tmp_path))
    for made, value in [(first, 1.0), (second, 0.0)]:
        assert bool((made["model"]["w"] == value).all())
        assert bool((made["optimiser"]["state"][0]["momentum_buffer"] == value).all())


def test_a_checkpoint_that_cannot_be_written_ends_the_training_at_the_next_one(tmp_path: Path) -> None:
    taken = tmp_path / "state"
    taken.touch()
    writer = CheckpointWriter(taken)
    writer.save(a_checkpoint(1))
    with pytest.raises(UserError, match="cannot write"):
        writer.save(a_checkpoint(2))
    writer.save(a_checkpoint(2))
    with pytest.raises(UserError, match="cannot write"), writer:
        pass


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for epochs in (1, 2):
        save_checkpoint(tmp_path, a_checkpoint(epochs, model={"w": torch.full((64,), float(epochs))}))
    newest = checkpoints(tmp_path)[0]
    content = bytearray(newest.read_bytes())
    content[content.index(torch.full((64,), 2.0).numpy().tobytes()) + 5] ^= 1  # one bit of one weight
    newest.write_bytes(content)
    found, damaged = load_checkpoint(tmp_path)
    assert found is not None
    assert found.epochs_done == 1
    assert damaged == [newest]


def test_a_checkpoint_of_another_training_is_refused_by_name(tmp_path: Path) -> None:
    theirs, ours = {"seed": "0", "data": "f00d", **SCIENCE}, {"seed": "1", "data": "beef", **SCIENCE}
    save_checkpoint(training_folder(tmp_path, theirs), a_checkpoint(1, identity=theirs))
    assert refusals(tmp_path, theirs) == []
    assert load_checkpoint(training_folder(tmp_path, ours)) == (None, [])
    (sentence,) = refusals(tmp_path, ours)
    assert sentence.startswith(f"{training_folder(tmp_path, theirs)} is of another seed and data and is not used")


def test_a_checkpoint_of_the_first_version_is_refused_by_its_name(tmp_path: Path) -> None:
    theirs, ours = {"configuration": "f00d", "seed": "0"}, {"configuration": "beef", "seed": "0", **SCIENCE}
    save_checkpoint(training_folder(tmp_path, theirs), a_checkpoint(1, identity=theirs))
    (sentence,) = refusals(tmp_path, ours)
    assert sentence.startswith(f"{training_folder(tmp_path, theirs)} was left by version 0.1.0")


@pytest.mark.slow
def test_an_edit_that_is_taken_back_loses_no_step(
    tiny_study: Study, peaceful: tuple[Path, list[str]], tmp_path: Path
) -> None:
    undisturbed, points = peaceful
    out = tmp_path / "run"
    (stopped,) = live(tiny_study, (out, "SIGTERM", 10))
    spec = train_spec(tiny_study, dataset="market1501", cell="p1_rpe_jsd", seed=1)
    train_run(dataclasses.replace(spec, out=out))
    (again,) = live(tiny_study, (out, None, 0))
    assert sum(life["points"].count("step") for life in (stopped, again)) == points.count("step")
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(out / name) == sha256_file(undisturbed / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("over", "sentence"),
    [({"seed": 1}, "is of another seed and is not used"), ({"same_code": True}, "is of another code and is not used")],
)
def test_a_run_that_may_not_go_on_starts_again_and_says_why(
    tiny_study: Study, tmp_path: Path, over: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    live(tiny_study, (tmp_path / "run", "SIGTERM", 3))
    edit_code(tmp_path / "run")
    spec = train_spec(tiny_study, dataset="market1501", cell="p1_rpe_jsd", seed=0)
    train_run(dataclasses.replace(spec, out=tmp_path / "run", **over))
    told = capsys.readouterr().err
    assert sentence in told
    assert "training starts from the first epoch" in told
    assert read_json(tmp_path / "run" / "provenance.json")["code_hash"] == code_hash()


@pytest.mark.slow
def test_a_trained_run_whose_files_were_deleted_before_it_was_scored_repeats_no_epoch(
    tiny_study: Study, peaceful: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    live(tiny_study, (out, None, 0))
    for name in ("model.safetensors", "features.npz", "history.parquet", "provenance.json"):
        (out / name).unlink()
    (again,) = live(tiny_study, (out, None, 0))
    assert set(again["points"]) == {"flush"}
    assert_same(out, peaceful[0])
    evaluate_run(out)
    assert not (out / "state").exists()


def test_a_run_that_goes_on_with_edited_code_names_both_versions(
    tiny_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live(tiny_study, (tmp_path / "run", "SIGTERM", 3))
    edit_code(tmp_path / "run")
    spec = train_spec(tiny_study, dataset="market1501", cell="p1_rpe_jsd", seed=0)
    train_run(dataclasses.replace(spec, out=tmp_path / "run"))
    assert "the source code was edited since the run began" in capsys.readouterr().err
    assert read_json(tmp_path / "run" / "provenance.json")["code_hash"] == f"01dc0de+{code_hash()}"


def edit_code(run: Path) -> None:
    """Makes the run's checkpoint one of older code."""
    (path,) = (run / "state").glob("*/*.pt")
    old, _ = load_checkpoint(path.parent)
    assert old is not None
    path.unlink()
    save_checkpoint(path.parent, dataclasses.replace(old, state={**old.state, "codes": ["01dc0de"]}))
