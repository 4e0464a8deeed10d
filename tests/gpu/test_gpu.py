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
from reidablate.data import augment
from reidablate.engine.product import on_device
from reidablate.engine.spec import RunSpec
from reidablate.engine.stages import train_spec
from reidablate.engine.train import train_run
from reidablate.metrics import score
from reidablate.rng import generator, torch_generator
from reidablate.study import Study

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def spec_on(study: Study, out: Path, device: str) -> RunSpec:
    spec = train_spec(study, dataset="market1501", cell="p1_rpe_jsd", seed=0)
    return dataclasses.replace(spec, out=out, device=device, gpus=int(device == "cuda"))  # type: ignore[arg-type]


def test_augmentation_is_the_same_on_the_gpu() -> None:
    images = torch.randint(0, 256, (8, 32, 16, 3), dtype=torch.uint8, generator=torch_generator(0, "test"))
    decisions = augment.draw(torch_generator(1, "test"), 8, height=32, width=16, pad=4)
    assert torch.equal(augment.apply(images, decisions), augment.apply(images.cuda(), decisions).cpu())


def test_a_run_on_the_gpu_repeats_itself_and_stays_near_the_cpu(tiny_study: Study, tmp_path: Path) -> None:
    for name, device in (("one", "cuda"), ("two", "cuda"), ("cpu", "cpu")):
        train_run(spec_on(tiny_study, tmp_path / name, device))
    one, two = (sha256_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one == two
    losses = {name: pd.read_parquet(tmp_path / name / "history.parquet")["total"] for name in ("one", "cpu")}
    np.testing.assert_allclose(losses["one"], losses["cpu"], rtol=1e-2)


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
