"""What half precision and little memory may do to a training: skipped steps, refused devices, computing again."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reidablate.artifacts import read_json, sha256_file
from reidablate.config import RunConfig
from reidablate.engine import devices
from reidablate.engine import spec as specs
from reidablate.engine.divergence import MOST_SKIPPED, find_divergence
from reidablate.engine.from_plan import train_spec
from reidablate.engine.spec import naming_batch, torch_device
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.study import Study
from reidablate.trees import merge

# The root of zero has the value 0 and an infinite gradient; what it is a root of gives NaN for every weight. At its
# fifth batch the second one is infinite, and so are its gradients; the third one is it only by its value.
METHODS = """
import torch
from torch import nn

from reidablate.losses import Batch, LossOptions, Shape


def finite_with_nan_gradients(batch: Batch, options: LossOptions) -> torch.Tensor:
    return (batch.feature.sum() * 0).sqrt()


class InfiniteOnce(nn.Module):
    def __init__(self, options: LossOptions, shape: Shape) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, batch: Batch) -> torch.Tensor:
        self.calls += 1
        return batch.feature.sum() * (torch.inf if self.calls == 5 else 0.0)


class InfiniteOnceWithoutGradients(InfiniteOnce):
    def forward(self, batch: Batch) -> torch.Tensor:
        value = super().forward(batch)
        return batch.feature.sum() * 0 + value.detach()
"""


@pytest.fixture
def train(tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a cell with the losses above at hand, in fp16 unless said otherwise, and returns its folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "steep.py").write_text(METHODS)

    def call(name: str, *, cell: str = "naive_triplet", loss: str | None = None, **over: Any) -> Path:
        spec = train_spec(tiny_study, dataset="market1501", cell=cell, seed=0)
        losses = {} if loss is None else {"steep": {"use": f"steep:{loss}"}}
        train = {"precision": over.pop("precision", "fp16"), "epochs": over.pop("epochs", 2)}
        config = RunConfig.model_validate(merge(spec.config.dump(), {"losses": losses, "train": train}))
        train_run(dataclasses.replace(spec, out=tmp_path / name, config=config, **over))
        return tmp_path / name

    return call


@pytest.mark.parametrize("epochs", [1, 8])
def test_a_training_whose_every_step_is_skipped_diverges(train: Any, epochs: int) -> None:
    out = train("steep", loss="finite_with_nan_gradients", epochs=epochs)
    made, history = read_json(out / "provenance.json"), pd.read_parquet(out / "history.parquet")
    assert made["status"] == "diverged"
    assert "gradients were not finite in" in made["reason"]
    assert history["skipped"].all()
    assert np.isfinite(history["total"]).all()
    np.testing.assert_array_equal(history["loss_scale"], 2.0**16 * 0.5 ** np.arange(len(history)))
    skipped = {"last_scale": history["loss_scale"].iloc[-1], "skipped_steps": len(history)}
    assert made["loss_scaling"] == skipped
    longest_epoch = 64 // 8  # images of the set by those of a batch
    assert len(history) <= longest_epoch if epochs == 1 else MOST_SKIPPED <= len(history) < MOST_SKIPPED + longest_epoch


def test_one_infinite_loss_that_the_scaler_skips_is_no_divergence(train: Any) -> None:
    out = train("once", loss="InfiniteOnce")
    made, history = read_json(out / "provenance.json"), pd.read_parquet(out / "history.parquet")
    assert made["status"] == "finished"
    bad = np.flatnonzero(~np.isfinite(history["total"]))
    assert bad.tolist() == [4]
    assert history["skipped"].iloc[4] == 1
    assert history["loss_scale"].iloc[5] == history["loss_scale"].iloc[4] / 2
    assert made["loss_scaling"]["skipped_steps"] == history["skipped"].sum()
    assert all(torch.isfinite(value).all() for value in load_file(out / "model.safetensors").values())


@pytest.mark.parametrize(
    ("loss", "precision"),
    [("InfiniteOnceWithoutGradients", "fp16"), ("InfiniteOnce", "bf16"), ("InfiniteOnce", "fp32")],
)
def test_an_infinite_loss_that_nothing_skips_is_a_divergence(train: Any, loss: str, precision: str) -> None:
    made = read_json(train("once", loss=loss, precision=precision) / "provenance.json")
    assert made["status"] == "diverged"
    assert "the loss is not finite at step 4" in made["reason"]
    assert (made["loss_scaling"] is None) == (precision != "fp16")


def history(skipped: list[int]) -> dict[str, torch.Tensor]:
    count = len(skipped)
    return {
        "total": torch.ones(count, dtype=torch.float64),
        "skipped": torch.tensor(skipped, dtype=torch.float64),
        "loss_scale": torch.full((count,), 0.5, dtype=torch.float64),
    }


@pytest.mark.parametrize(("run", "diverged"), [(MOST_SKIPPED - 1, False), (MOST_SKIPPED, True)])
def test_skipped_steps_in_a_row_are_counted_across_epochs(run: int, diverged: bool) -> None:
    whole = history([0, 1, 0] + [1] * run + [0])
    epoch = {name: column[-4:] for name, column in whole.items()}
    found = find_divergence(3, epoch, whole, last=False)
    assert (found is not None) == diverged
    if found:
        assert f"{MOST_SKIPPED} steps in a row, down to a loss scale of 0.5" in found.reason


def test_a_running_mean_that_is_not_finite_is_a_divergence() -> None:
    layer = torch.nn.BatchNorm1d(2)
    layer.running_mean = torch.tensor([0.0, torch.inf])
    found = find_divergence(0, history([0]), history([0]), layer, last=True)
    assert found is not None
    assert found.reason == "running_mean is not finite after the epoch"


def test_a_gpu_that_pytorch_cannot_use_is_refused_where_one_was_asked_for(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-another-machine")
    spec = train_spec(tiny_study, dataset="market1501", cell="naive_triplet", seed=0)
    spec = dataclasses.replace(spec, out=tmp_path / "run", gpus=1, device="cuda")
    sentence = r"device=cuda was asked for but on .* PyTorch .* cannot use the GPU GPU-of-another-machine \("
    with pytest.raises(UserError, match=sentence):
        train_run(spec)
    assert not list(tmp_path.glob("run/*.safetensors"))
    assert torch_device("auto", ("GPU-of-another-machine",)).type == "cpu"
    sentence = "hundreds of hours on a CPU but on .* cannot use the GPU GPU-of-another-machine"
    with pytest.raises(UserError, match=sentence):
        train_run(dataclasses.replace(spec, device="auto", gpu_needed=True))
    assert specs.place(spec, torch.device("cpu"), ("X",)).startswith("on the CPU (the leased GPU X is not usable")


def test_a_job_of_a_cluster_needs_a_gpu_for_what_would_take_a_cpu_hundreds_of_hours(
    tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tiny_study.preset.model_copy(update={"weights": "file"})
    studies = {"tiny": tiny_study, "paper": tiny_study.model_copy(update={"preset": preset})}

    def needs(study: Study) -> bool:
        return train_spec(study, dataset="market1501", cell="naive_triplet", seed=0).gpu_needed

    for name in devices.SCHEDULERS:
        monkeypatch.delenv(name, raising=False)
    assert [needs(study) for study in studies.values()] == [False, False]  # the call has looked at this machine
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert [needs(study) for study in studies.values()] == [False, True]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"there is no GPU \(none was leased\)"):
        torch_device("auto", (), needed=True)


def out_of_device_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 9 GiB.")


def out_of_host_memory() -> None:
    torch.empty(2**55)


@pytest.mark.parametrize("allocate", [out_of_device_memory, out_of_host_memory])
@pytest.mark.parametrize(
    ("recompute", "way_out"), [(False, "set execution.recompute: true"), (True, "not kept already")]
)
def test_a_batch_that_does_not_fit_is_a_sentence(
    tiny_study: Study, allocate: Any, recompute: bool, way_out: str
) -> None:
    spec = train_spec(tiny_study, dataset="market1501", cell="naive_triplet", seed=0)
    spec = dataclasses.replace(spec, recompute=recompute)
    with pytest.raises(UserError) as caught, naming_batch(spec):
        allocate()
    assert re.match(
        "market1501/naive_triplet/seed0: a batch of 4 x 2 images of 32 x 16 does not fit", str(caught.value)
    )
    assert way_out in str(caught.value)
    assert "num_ids" not in str(caught.value)  # another batch would be another experiment
    with pytest.raises(RuntimeError, match="other"), naming_batch(spec):
        raise RuntimeError("another error")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("cell", ["p1_rpe_jsd", "cls_untie"])
def test_computing_activations_again_changes_no_bit(train: Any, cell: str, precision: str) -> None:
    kept = train("kept", cell=cell, precision=precision, epochs=1)
    again = train("again", cell=cell, precision=precision, epochs=1, recompute=True)
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(kept / name) == sha256_file(again / name)
    assert [read_json(out / "provenance.json")["recompute"] for out in (kept, again)] == [False, True]


def test_computing_again_keeps_fewer_activations(tiny_study: Study) -> None:
    from reidablate.models.neck import ReidModel

    def kept_bytes(recompute: bool) -> int:
        model = ReidModel(tiny_study.base_config().model, num_classes=4)
        assert model.transformer is not None
        model.transformer.recompute = recompute
        sizes: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.zeros(8, 3, 32, 16))
        return sum(sizes)

    assert kept_bytes(True) < kept_bytes(False) / 3
