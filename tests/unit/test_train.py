"""One training: artifacts, bit-identical repetition and resumption, pairing, divergence, refusal."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reidablate.artifacts import read_json, read_npz, sha256_file, write_json
from reidablate.config import Execution, RunConfig
from reidablate.data import augment
from reidablate.engine.from_plan import train_spec
from reidablate.engine.spec import RunSpec, be_deterministic
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.metrics.evaluate import evaluate_run
from reidablate.provenance import usable_cores
from reidablate.recipes import recipe
from reidablate.study import Study
from reidablate.trees import merge

Weights = dict[str, torch.Tensor]


def spec_of(study: Study, out: Path, cell: str = "p1_rpe_jsd", seed: int = 0, **over: object) -> RunSpec:
    spec = train_spec(study, dataset="market1501", cell=cell, seed=seed)
    config = RunConfig.model_validate(merge(spec.config.dump(), over))
    return dataclasses.replace(spec, out=out, config=config)


def train(study: Study, out: Path, **arguments: object) -> Path:
    train_run(spec_of(study, out, **arguments))  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def undisturbed(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_study, tmp_path_factory.mktemp("undisturbed"))


def test_a_run_leaves_every_artifact(tiny_study: Study, undisturbed: Path) -> None:
    found = {path.name for path in undisturbed.iterdir()}
    assert found == {"model.safetensors", "features.npz", "history.parquet", "provenance.json", ".lock", "state"}
    history = pd.read_parquet(undisturbed / "history.parquet")
    assert {"total", "identity", "weighted_triplet", "position_relation", "lr", "images_per_s"} <= set(history)
    assert {"gradient_norm", "ape_norm", "rpe_norm", "feature_norm"} <= set(history)
    terms = history["identity"] + history["weighted_triplet"] + history["position_relation"]
    np.testing.assert_allclose(history["total"], terms, rtol=1e-5)
    made = read_json(undisturbed / "provenance.json")
    assert (made["dataset"], made["cell"], made["seed"]) == ("market1501", "p1_rpe_jsd", 0)
    assert made["status"] == "finished"
    assert made["synthetic"] is True
    assert made["weights_sha256"] == sha256_file(tiny_study.root / "pretrain" / "model.safetensors")
    features = read_npz(undisturbed / "features.npz")
    assert features["query_before_neck"].shape == (12, 32)
    assert features["gallery_after_neck"].shape == (38, 32)
    assert set(features["gallery_pids"].tolist()) >= {-1, 0}


def test_the_same_seed_gives_the_same_bits(tiny_study: Study, undisturbed: Path, tmp_path: Path) -> None:
    again = train(tiny_study, tmp_path / "again")
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(again / name) == sha256_file(undisturbed / name)


CENTRES = """
import torch
from torch import nn

from reidablate.losses import Batch, LossOptions, Shape


class Centres(nn.Module):
    def __init__(self, options: LossOptions, shape: Shape) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(shape.num_classes, shape.width))

    def forward(self, batch: Batch) -> torch.Tensor:
        return (batch.feature - self.centres[batch.labels]).square().mean()
"""


def test_a_loss_with_parameters_goes_on_with_them_to_the_same_bits(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "centres.py").write_text(CENTRES)
    losses = {"centres": {"use": "centres:Centres", "lr_factor": 10}}
    whole = train(tiny_study, tmp_path / "whole", cell="naive_triplet", losses=losses)
    shutil.copytree(whole / "state", tmp_path / "interrupted" / "state")
    first, last = sorted((tmp_path / "interrupted" / "state").glob("*/epoch*.pt"))
    last.unlink()
    before = torch.load(first, weights_only=True)["loss"]["own.centres.centres"]
    after = torch.load(next((whole / "state").glob("*/epoch00002*.pt")), weights_only=True)["loss"]
    assert not torch.equal(before, after["own.centres.centres"])
    again = train(tiny_study, tmp_path / "interrupted", cell="naive_triplet", losses=losses)
    assert sha256_file(again / "model.safetensors") == sha256_file(whole / "model.safetensors")
    assert len(pd.read_parquet(again / "history.parquet")) == len(pd.read_parquet(whole / "history.parquet"))
    alone = train(tiny_study, tmp_path / "alone", cell="naive_triplet")
    assert sha256_file(alone / "model.safetensors") != sha256_file(whole / "model.safetensors")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("torch.use_deterministic_algorithms(False)", "deterministic algorithms"),
        ("torch.set_num_threads(3)", "the number of threads"),
        ("torch.backends.cudnn.benchmark = True", r"cudnn\.benchmark"),
    ],
)
def test_a_plug_in_that_changes_how_torch_computes_is_refused(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    head = "import torch\nfrom reidablate.losses import Batch, LossOptions\n\n\n"
    body = f"def loss(batch: Batch, options: LossOptions):\n    {setting}\n    return batch.feature.square().mean()\n"
    (tmp_path / "methods" / "own.py").write_text(head + body)
    with pytest.raises(UserError, match=rf"own\.py, line 5: a plug-in changed how PyTorch computes \({words}\)"):
        train(tiny_study, tmp_path / "run", cell="naive_triplet", losses={"own": {"use": "own:loss"}})
    assert not (tmp_path / "run" / "model.safetensors").exists()
    be_deterministic(1)  # this process as it was


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_no_bit(tiny_study: Study, undisturbed: Path, tmp_path: Path, workers: int) -> None:
    spec = dataclasses.replace(spec_of(tiny_study, tmp_path / "workers"), workers=workers)
    train_run(spec)
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(spec.out / name) == sha256_file(undisturbed / name)


def test_a_complete_run_is_left_alone_and_another_is_trained_again(tiny_study: Study, tmp_path: Path) -> None:
    out = train(tiny_study, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != ".lock"}
    assert "complete already" in train_run(spec_of(tiny_study, out))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = spec_of(tiny_study, out, cell="p1_rpe")
    assert "complete already" not in train_run(other)
    other = dataclasses.replace(spec_of(tiny_study, out), weights=None)
    assert "complete already" not in train_run(other)
    write_json(out / "provenance.json", {**read_json(out / "provenance.json"), "code_hash": "another"})
    assert "complete already" in train_run(other)
    assert "complete already" not in train_run(dataclasses.replace(other, same_code=True))


def test_a_run_computes_with_what_its_seed_draws(tiny_study: Study, tmp_path: Path) -> None:
    jitter = {"train.lr_factor": "loguniform(0.7, 1.4)"}
    drawn = train(tiny_study, tmp_path / "drawn", cell="naive_triplet", seed=1, jitter=jitter)
    given = train(tiny_study, tmp_path / "given", cell="naive_triplet", seed=1, train=recipe_options(jitter, 1))
    preset = train(tiny_study, tmp_path / "preset", cell="naive_triplet", seed=1)
    weights = [sha256_file(out / "model.safetensors") for out in (drawn, given, preset)]
    assert weights[0] == weights[1] != weights[2]
    assert read_json(drawn / "provenance.json")["config"]["jitter"] == jitter
    again = spec_of(tiny_study, drawn, cell="naive_triplet", seed=1, jitter=jitter)
    assert "complete already" in train_run(again)


def recipe_options(jitter: dict[str, str], seed: int) -> dict[str, object]:
    return {option.removeprefix("train."): value for option, value in recipe(jitter, seed).items()}


def initial(study: Study, out: Path, cell: str) -> Weights:
    """Weights after no visible update: a learning rate that moves nothing in float32."""
    train(study, out, cell=cell, train={"lr": 1e-30, "epochs": 1, "weight_decay": 0.0})
    weights: Weights = load_file(out / "model.safetensors")
    return weights


def test_cells_of_one_seed_share_initial_weights(tiny_study: Study, tmp_path: Path) -> None:
    baseline = initial(tiny_study, tmp_path / "a", "naive_triplet")
    for cell in ("p1_rpe", "cls_untie", "cls_no_ape"):
        other = initial(tiny_study, tmp_path / cell, cell)
        shared = [name for name in baseline.keys() & other.keys() if "running" not in name and "ape" not in name]
        assert len(shared) > 20
        for name in shared:
            assert torch.equal(baseline[name], other[name]), name


def seen(study: Study, out: Path, cell: str, seed: int) -> list[str]:
    """The hash of every augmented batch that a training saw."""
    hashes: list[str] = []

    def spy(images: torch.Tensor, decisions: augment.Decisions) -> torch.Tensor:
        batch = apply(images, decisions)
        hashes.append(hashlib.sha256(batch.numpy().tobytes()).hexdigest())
        return batch

    apply = augment.apply
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "apply", spy)
        train(study, out, cell=cell, seed=seed)
    return hashes


def test_cells_of_one_seed_see_the_same_batches_and_augmentations(tiny_study: Study, tmp_path: Path) -> None:
    baseline = seen(tiny_study, tmp_path / "baseline", "naive_triplet", 0)
    assert len(set(baseline)) == len(baseline) > 10
    for cell in ("p1_rpe_jsd", "p2", "pos_triplet", "cls_untie", "cls_no_ape"):
        assert seen(tiny_study, tmp_path / cell, cell, 0) == baseline, cell
    assert not set(seen(tiny_study, tmp_path / "other", "naive_triplet", 1)) & set(baseline)


@pytest.mark.parametrize("cell", ["naive_triplet", "p1", "p2", "jsd_layer", "jsd_permutations", "pos_triplet"])
def test_every_core_cell_trains_and_learns_something(tiny_study: Study, tmp_path: Path, cell: str) -> None:
    out = train(tiny_study, tmp_path / cell, cell=cell, train={"epochs": 8, "lr": 0.01})
    history = pd.read_parquet(out / "history.parquet").groupby("epoch")["identity"].mean()
    assert history.iloc[-1] < history.iloc[0]
    assert "mAP" in evaluate_run(out)
    metrics = read_json(out / "metrics.json")
    assert metrics["before_neck"]["num_queries"] == 12
    assert 0 < metrics["before_neck"]["mAP"] <= 1


def test_other_features_than_the_runs_own_are_not_scored(tiny_study: Study, tmp_path: Path) -> None:
    out = train(tiny_study, tmp_path / "run")
    shutil.copy(train(tiny_study, tmp_path / "other", seed=1) / "features.npz", out)
    with pytest.raises(
        UserError, match=r"features.npz is damaged: it is not the file whose checksum provenance.json names"
    ):
        evaluate_run(out)


def test_a_divergence_is_a_result(tiny_study: Study, tmp_path: Path) -> None:
    out = tmp_path / "diverged"
    line = train_run(spec_of(tiny_study, out, train={"lr": 1e30}))
    assert "DIVERGED in epoch" in line
    made = read_json(out / "provenance.json")
    assert made["status"] == "diverged"
    assert made["epoch"] in (0, 1)
    assert "not finite" in made["reason"]
    assert all(torch.isfinite(value).all() for value in load_file(out / "model.safetensors").values())
    assert len(read_npz(out / "features.npz")["query_pids"]) == 0
    assert evaluate_run(out).endswith("diverged, nothing to score")
    assert read_json(out / "metrics.json")["status"] == "diverged"


def test_a_training_takes_no_more_threads_than_there_are_cores(tiny_study: Study) -> None:
    many = tiny_study.preset.model_copy(update={"execution": Execution(threads=4096)})
    study = tiny_study.model_copy(update={"preset": many})
    spec = train_spec(study, dataset="market1501", cell="naive_triplet", seed=0)
    assert spec.threads == usable_cores() < 4096


@pytest.mark.parametrize(("precision", "first"), [("bf16", 1e-3), ("fp16", 1e-4)])
def test_mixed_precision_trains_to_nearly_the_same_loss(
    tiny_study: Study, undisturbed: Path, tmp_path: Path, precision: str, first: float
) -> None:
    """The tolerances that docs/methods.md states: of the first step, and of every step."""
    full = pd.read_parquet(undisturbed / "history.parquet")["total"].to_numpy()
    out = train(tiny_study, tmp_path / precision, train={"precision": precision})
    found = pd.read_parquet(out / "history.parquet")["total"].to_numpy()
    np.testing.assert_allclose(found[0], full[0], rtol=first)
    np.testing.assert_allclose(found, full, rtol=0.03)


def test_a_fraction_of_the_identities_is_the_same_for_every_seed(tiny_study: Study, tmp_path: Path) -> None:
    widths = {
        load_file(train(tiny_study, tmp_path / f"s{seed}", seed=seed, train={"fraction": 0.5}) / "model.safetensors")[
            "classifier.weight"
        ].shape[0]
        for seed in (0, 1)
    }
    assert widths == {4}


def test_too_few_identities_are_a_sentence(tiny_study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8 identities, a batch needs 9"):
        train(tiny_study, tmp_path / "x", train={"num_ids": 9})


def test_a_run_that_no_table_would_show_is_refused(tiny_study: Study) -> None:
    with pytest.raises(UserError, match=r"the plan has no run market1501/p1/seed99"):
        train_spec(tiny_study, dataset="market1501", cell="p1", seed=99)


def test_fewer_gpus_than_planned_are_refused(tiny_study: Study) -> None:
    with pytest.raises(UserError, match="asks for gpu=1 a run but 0 were granted"):
        train_spec(tiny_study, dataset="market1501", cell="p1", seed=0, gpus=0)
