"""What only a CUDA device can show: the same decisions, close numbers, and no waiting on the device in a step."""

import dataclasses
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from reidablate.artifacts import sha256_file
from reidablate.config import RunConfig
from reidablate.data import augment
from reidablate.engine.from_plan import train_spec
from reidablate.engine.matrix_product import on_device
from reidablate.engine.schedule import build_optimiser
from reidablate.engine.spec import RunSpec
from reidablate.engine.state import TrainingState
from reidablate.engine.step import Place, draw_inputs, take_step
from reidablate.engine.train import train_run
from reidablate.losses import Shape, StudyLoss
from reidablate.metrics import score
from reidablate.models.neck import ReidModel, initialise
from reidablate.rng import generator, torch_generator
from reidablate.study import Study
from reidablate.trees import merge

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def spec_on(study: Study, out: Path, device: str, cell: str = "p1_rpe_jsd", **over: Any) -> RunSpec:
    spec = train_spec(study, dataset="market1501", cell=cell, seed=0)
    config = RunConfig.model_validate(merge(spec.config.dump(), over))
    on: Any = {"device": device, "gpus": int(device == "cuda")}
    return dataclasses.replace(spec, out=out, config=config, **on)


def test_augmentation_is_the_same_on_the_gpu() -> None:
    images = torch.randint(0, 256, (8, 32, 16, 3), dtype=torch.uint8, generator=torch_generator(0, "test"))
    decisions = augment.draw(torch_generator(1, "test"), 8, height=32, width=16, pad=4)
    assert torch.equal(augment.apply(images, decisions), augment.apply(images.cuda(), decisions).cpu())


def test_every_byte_is_normalised_to_the_same_float() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(augment.to_float(images), augment.to_float(images.cuda()).cpu())


def test_a_run_on_the_gpu_repeats_itself_to_the_bit(tiny_study: Study, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_run(spec_on(tiny_study, tmp_path / name, "cuda", train={"precision": "fp16"}))
    one, two = (sha256_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one == two


def test_a_run_on_the_gpu_stays_near_one_on_the_cpu(tiny_study: Study, tmp_path: Path) -> None:
    """Without drop path, whose masks each device draws by itself."""
    for device in ("cuda", "cpu"):
        train_run(spec_on(tiny_study, tmp_path / device, device, model={"drop_path": 0.0}))
    losses = {name: pd.read_parquet(tmp_path / name / "history.parquet")["total"] for name in ("cuda", "cpu")}
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-2)


def test_computing_activations_again_changes_no_bit_on_the_gpu(tiny_study: Study, tmp_path: Path) -> None:
    specs = [spec_on(tiny_study, tmp_path / name, "cuda", train={"precision": "fp16"}) for name in ("kept", "again")]
    train_run(specs[0])
    train_run(dataclasses.replace(specs[1], recompute=True))
    one, two = (sha256_file(spec.out / "model.safetensors") for spec in specs)
    assert one == two


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("cell", ["naive_triplet", "p1_rpe_jsd", "cls_untie", "pos_triplet", "jsd_layer"])
def test_nothing_waits_for_the_gpu_in_a_step(tiny_study: Study, cell: str, precision: str) -> None:
    config = spec_on(tiny_study, Path(), "cuda", cell, train={"precision": precision}).config
    model = ReidModel(config.model, num_classes=8)
    initialise(model, 0)
    loss = StudyLoss(config.losses, Shape(num_classes=8, width=model.classifier.in_features), seed=0).cuda()
    model.cuda().train()
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    fit = TrainingState(model=model, loss=loss, optimiser=build_optimiser(model, config, loss), scaler=scaler)
    labels = torch.arange(8) // 2
    images = torch.zeros((8, *config.model.image_size, 3), dtype=torch.uint8)
    for number in range(3):
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first step may fill what is kept
        try:
            place = Place(0, 0, number)
            take_step(fit, config, draw_inputs(config, images, labels, labels, place), torch.device("cuda"), place)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_training_in_fp16_whose_every_step_is_skipped_diverges(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is a root of zero: a finite number, whose gradient is not one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "steep.py").write_text(
        "from reidablate.losses import Batch, LossOptions\n"
        "def steep(batch: Batch, options: LossOptions):\n    return (batch.feature.sum() * 0).sqrt()\n"
    )
    losses = {"steep": {"use": "steep:steep"}}
    spec = spec_on(tiny_study, tmp_path / "run", "cuda", "naive_triplet", losses=losses, train={"precision": "fp16"})
    assert "DIVERGED" in train_run(spec)
    history = pd.read_parquet(spec.out / "history.parquet")
    assert history["skipped"].all()
    assert np.isfinite(history["total"]).all()


def test_a_run_on_the_gpu_stopped_within_each_epoch_ends_with_the_same_bits(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = spec_on(tiny_study, tmp_path / "whole", "cuda")
    train_run(whole)
    draw, steps = augment.draw, count(1)

    def stop_now_and_then(*args: Any, **kwargs: Any) -> augment.Decisions:
        if next(steps) % 5 == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*args, **kwargs)

    monkeypatch.setattr(augment, "draw", stop_now_and_then)
    stopped = spec_on(tiny_study, tmp_path / "stopped", "cuda")
    for _ in range(2):
        with pytest.raises(SystemExit, match="143"):
            train_run(stopped)
    train_run(stopped)
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(stopped.out / name) == sha256_file(whole.out / name)


@pytest.mark.parametrize("tf32", [False, True])
def test_scores_by_products_on_the_gpu_are_those_of_numpy(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    rng = generator(0, "test")
    query, gallery = (rng.standard_normal((number, 768), np.float32) for number in (700, 9000))
    gallery[:100] = gallery[0]
    labels: dict[str, Any] = {
        "query_pids": rng.integers(0, 50, 700),
        "gallery_pids": rng.integers(-1, 50, 9000),
        "query_camids": rng.integers(0, 3, 700),
        "gallery_camids": rng.integers(0, 3, 9000),
    }
    gallery[labels["gallery_pids"] == 1] += 3 * query[0]
    wanted = score(query, gallery, **labels)
    found = score(query, gallery, **labels, product=on_device("cuda"))
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)
