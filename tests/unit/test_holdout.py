"""The held-out part of the training identities: disjoint, fair, answerable, and of no influence on the training."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from reidablate.artifacts import read_json, sha256_file, write_json
from reidablate.config import RunConfig, TrainConfig
from reidablate.data.cache import read_cache
from reidablate.data.holdout import Division, divide
from reidablate.data.index import Index, read_index, write_index
from reidablate.engine.checkpoint import checkpoints
from reidablate.engine.from_plan import train_spec
from reidablate.engine.holdout import Holdout, is_scored
from reidablate.engine.schedule import build_optimiser
from reidablate.engine.spec import RunSpec
from reidablate.engine.state import TrainingState
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.losses import Shape, StudyLoss
from reidablate.models.neck import ReidModel, initialise
from reidablate.rng import generator
from reidablate.runs import HOLDOUT
from reidablate.study import Study
from reidablate.trees import merge

EPOCHS = 3


def people(num_ids: int = 60, cameras: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels and cameras of training images: 2 to 40 of each person, every sixth before one camera alone."""
    rng = generator(0, "people")
    counts = rng.integers(2, 41, num_ids)
    labels = np.repeat(np.arange(num_ids), counts)
    camids = np.concatenate([np.full(n, 1) if i % 6 == 0 else 1 + np.arange(n) % cameras for i, n in enumerate(counts)])
    order = rng.permutation(len(labels))
    return labels[order], camids[order]


def options(holdout: float, **over: float) -> TrainConfig:
    return TrainConfig.model_validate({"lr": 0.01, "epochs": 1, "num_ids": 4, "holdout": holdout, **over})


def held_ids(labels: np.ndarray, division: Division) -> set[int]:
    return set(labels[np.concatenate([division.query, division.gallery])].tolist())


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.6])
def test_nobody_is_both_trained_on_and_held_out_and_every_query_has_a_match(share: float) -> None:
    labels, camids = people()
    division = divide(labels, camids, options(share))
    held, trained = held_ids(labels, division), set(labels[division.rows].tolist())
    assert len(held) == round(share * 60)
    assert not held & trained
    assert held | trained == set(range(60))
    assert not set(division.query) & set(division.gallery)
    every = np.concatenate([division.rows, division.query, division.gallery])
    assert sorted(every.tolist()) == list(range(len(labels)))
    assert division.labels.tolist() == [sorted(trained).index(label) for label in labels[division.rows]]
    for row in division.query:
        of_the_person = division.gallery[labels[division.gallery] == labels[row]]
        assert (camids[of_the_person] != camids[row]).any()


def test_the_held_out_have_as_many_images_as_the_others_stratum_by_stratum() -> None:
    labels, camids = people()
    eligible = [i for i in range(60) if len(set(camids[labels == i])) > 1]
    sizes = sorted(int((labels == i).sum()) for i in eligible)
    found = sorted(int((labels == i).sum()) for i in held_ids(labels, divide(labels, camids, options(0.1))))
    bounds = [0, *np.cumsum([len(part) for part in np.array_split(np.arange(len(eligible)), 6)])]
    for size, low, high in zip(found, bounds, bounds[1:], strict=False):
        assert sizes[low] <= size <= sizes[high - 1]


def test_one_image_a_camera_leaves_a_query_and_its_match() -> None:
    labels, camids = np.repeat(np.arange(8), 2), np.tile([1, 2], 8)
    division = divide(labels, camids, options(0.25))
    assert len(division.query) == len(division.gallery) == 2
    assert labels[division.query].tolist() == labels[division.gallery].tolist()


def test_the_held_out_depend_on_no_fraction_and_without_a_share_nothing_is() -> None:
    labels, camids = people()
    whole, half = (divide(labels, camids, options(0.1, fraction=share)) for share in (1.0, 0.5))
    assert half.query.tolist() == whole.query.tolist()
    assert half.gallery.tolist() == whole.gallery.tolist()
    assert set(labels[half.rows].tolist()) < set(labels[whole.rows].tolist())
    nothing = divide(labels, camids, options(0.0))
    assert nothing.rows.tolist() == list(range(len(labels)))
    assert nothing.labels.tolist() == labels.tolist()
    assert len(nothing.query) == len(nothing.gallery) == 0


def test_too_few_people_are_a_sentence() -> None:
    labels, camids = np.repeat(np.arange(8), 4), np.tile([1, 2, 1, 2], 8)
    with pytest.raises(UserError, match=r"train.holdout: 0.7 leaves 2 of 8 training identities, a batch needs 4"):
        divide(labels, camids, options(0.7))
    camids[labels > 0] = 1
    with pytest.raises(UserError, match=r"0.25 is 2 of 8 training identities, but only 1 were seen by two cameras"):
        divide(labels, camids, options(0.25))


@pytest.mark.parametrize("num_epochs", [1, 2, 8, 12, 13, 120, 180])
def test_a_curve_has_a_few_even_points_and_the_end(num_epochs: int) -> None:
    points = [epoch for epoch in range(num_epochs) if is_scored(epoch, num_epochs)]
    assert points[-1] == num_epochs - 1
    assert min(num_epochs, 6) <= len(points) <= 13
    assert len({b - a for a, b in itertools.pairwise(points[:-1])}) <= 1


def test_features_that_cannot_be_ranked_leave_a_gap_in_the_curve(tiny_study: Study, tmp_path: Path) -> None:
    """A network that maps all images to one point may recover, so the training goes on."""
    spec = curve_spec(tiny_study, tmp_path)
    index = read_index(spec.data / "index").frame
    train = index[index["split"] == "train"]
    holdout = Holdout(
        images=read_cache(spec.data / "cache", "train"),
        train=train,
        division=divide(train["label"].to_numpy(), train["camid"].to_numpy(), spec.config.train),
        config=spec.config,
        device=torch.device("cpu"),
    )
    model = ReidModel(spec.config.model, num_classes=6)
    initialise(model, 0)
    loss = StudyLoss(spec.config.losses, Shape(num_classes=6, width=model.classifier.in_features), seed=0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    fit = TrainingState(model=model, loss=loss, optimiser=build_optimiser(model, spec.config, loss), scaler=scaler)
    for epoch in (0, 1):
        fit.add_history({"total": torch.ones(2).double(), "epoch": torch.full((2,), epoch).double()})
        holdout.book(fit, epoch)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    assert fit.history[HOLDOUT].isnan().tolist() == [False, False, True, True]


def curve_spec(study: Study, out: Path, share: float = 0.25, **over: object) -> RunSpec:
    spec = train_spec(study, dataset="market1501", cell="p1_rpe", seed=0)
    change = merge({"train": {"epochs": EPOCHS, "holdout": share}}, over)
    return dataclasses.replace(spec, out=out, config=RunConfig.model_validate(merge(spec.config.dump(), change)))


@pytest.fixture(scope="module")
def without_test_set(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with its training images alone: no folder, index row or cache of query and gallery."""
    data = tmp_path_factory.mktemp("train_only")
    source = tiny_study.data_folder("market1501")
    index = read_index(source / "index")
    write_index(Index(index.frame[index.frame["split"] == "train"], index.summary), data / "index")
    shutil.copytree(source / "cache", data / "cache")
    for split in ("query", "gallery"):
        (data / "cache" / f"{split}.npy").unlink()
    return data


@pytest.fixture(scope="module")
def curve(tiny_study: Study, without_test_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with a curve, made where there is no test set."""
    spec = curve_spec(tiny_study, tmp_path_factory.mktemp("curve"))
    train_run(dataclasses.replace(spec, data=without_test_set, extract=False))
    return spec.out


def test_the_curve_needs_no_test_set_and_has_a_score_for_each_epoch(curve: Path) -> None:
    history = pd.read_parquet(curve / "history.parquet")
    scores = history.groupby("epoch")[HOLDOUT]
    assert scores.nunique().tolist() == [1] * EPOCHS
    assert scores.first().between(0, 1, inclusive="right").all()
    assert len(set(scores.first())) > 1
    assert read_json(curve / "provenance.json")["num_classes"] == 6


def test_scoring_moves_no_bit_of_the_training(
    tiny_study: Study, curve: Path, without_test_set: Path, tmp_path: Path
) -> None:
    """A set that never had those identities gives the same weights and losses, without a curve."""
    data, out = tmp_path / "data", tmp_path / "run"
    index = read_index(without_test_set / "index")
    labels, camids = (index.frame[name].to_numpy() for name in ("label", "camid"))
    division = divide(labels, camids, options(0.25))
    frame = index.frame.iloc[division.rows].assign(label=division.labels)
    write_index(Index(frame, index.summary), data / "index")
    shutil.copytree(without_test_set / "cache", data / "cache")
    np.save(data / "cache" / "train.npy", read_cache(without_test_set / "cache", "train")[division.rows])
    facts = read_json(data / "cache" / "cache.json")
    facts["images"]["train"] = len(division.rows)
    facts["sha256"] = {}
    write_json(data / "cache" / "cache.json", facts)
    train_run(dataclasses.replace(curve_spec(tiny_study, out, share=0.0), data=data, extract=False))
    assert sha256_file(out / "model.safetensors") == sha256_file(curve / "model.safetensors")
    timed = {"images_per_s", HOLDOUT}
    bare, scored = (pd.read_parquet(run / "history.parquet") for run in (out, curve))
    assert HOLDOUT not in bare
    pd.testing.assert_frame_equal(bare.drop(columns="images_per_s"), scored[[c for c in bare if c not in timed]])


def test_an_interrupted_training_goes_on_with_its_curve_to_the_same_bits(
    tiny_study: Study, tmp_path: Path, without_test_set: Path
) -> None:
    spec = dataclasses.replace(curve_spec(tiny_study, tmp_path / "whole"), data=without_test_set)
    with pytest.raises(UserError, match="query"):  # it is fitted; its features need the test set
        train_run(spec)
    again = dataclasses.replace(spec, out=tmp_path / "again", extract=False)
    shutil.copytree(spec.out / "state", again.out / "state")
    (state,) = (again.out / "state").iterdir()
    checkpoints(state)[0].unlink()
    assert torch.load(checkpoints(state)[0], weights_only=True)["epochs_done"] == EPOCHS - 1
    train_run(again)
    assert sha256_file(again.out / "model.safetensors") == sha256_file(spec.out / "model.safetensors")
    one, other = (pd.read_parquet(run.out / "history.parquet").drop(columns="images_per_s") for run in (spec, again))
    assert one[HOLDOUT].notna().all()
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_training_that_diverges_keeps_the_curve_up_to_there(tiny_study: Study, tmp_path: Path) -> None:
    spec = curve_spec(tiny_study, tmp_path / "diverged", train={"lr": 1e3, "warmup_fraction": 2 / 3, "epochs": EPOCHS})
    assert "DIVERGED in epoch" in train_run(spec)
    last = read_json(spec.out / "provenance.json")["epoch"]
    scores = pd.read_parquet(spec.out / "history.parquet").groupby("epoch")[HOLDOUT].first()
    assert scores.isna().tolist() == [False] * last + [True]
    assert last > 0
