"""The training as a whole against a plain loop: every operation written out, float64, no module of ours or of timm.

Taken from the package are the inputs alone: the initial weights, the batches' row numbers, the drawn decisions of the
augmentation, and the seed of each step's drop path.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from reidablate.config import RunConfig
from reidablate.data import augment
from reidablate.data.cache import read_cache
from reidablate.data.index import read_index
from reidablate.data.sampler import PKSampler
from reidablate.engine.from_plan import train_spec
from reidablate.engine.spec import RunSpec
from reidablate.engine.train import train_run
from reidablate.models.checkpoints import load_weights
from reidablate.models.neck import ReidModel, initialise
from reidablate.rng import seed_int, torch_generator
from reidablate.study import Study
from reidablate.trees import merge

Weights = dict[str, torch.Tensor]
HEADS, PATCH, DEPTH = 4, 8, 2


def augmented(images: np.ndarray, decisions: augment.Decisions, pad: int) -> torch.Tensor:
    """Mirror, pad with black and crop, scale to [-1, 1], erase: one image after the other."""
    height, width = images.shape[1:3]
    noise, out = decisions.noise.numpy(), []
    for image, flip, (down, right), (top, left, rows, columns) in zip(
        images, decisions.flip.tolist(), decisions.shift.tolist(), decisions.box.tolist(), strict=True
    ):
        mirrored = image[:, ::-1] if flip else image
        padded = np.pad(mirrored, ((pad, pad), (pad, pad), (0, 0)))
        crop = padded[pad - down : pad - down + height, pad - right : pad - right + width]
        scaled = ((crop.astype(np.float64) / 255 - 0.5) / 0.5).transpose(2, 0, 1)
        count = 3 * rows * columns
        scaled[:, top : top + rows, left : left + columns] = noise[:count].reshape(3, rows, columns)
        noise = noise[count:]
        out.append(scaled)
    assert not noise.size
    return torch.from_numpy(np.stack(out))


def layer_norm(x: torch.Tensor, w: Weights, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: torch.Tensor, w: Weights, name: str) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def kept(batch: int, rate: float) -> torch.Tensor:
    """The drop path of one residual branch: 0 or 1 / (1 - rate) an image, from torch's global stream."""
    if rate == 0:
        return torch.ones(batch, 1, 1, dtype=torch.float64)
    return torch.empty(batch, 1, 1).bernoulli_(1 - rate).double() / (1 - rate)


def forward(images: torch.Tensor, w: Weights, drop_path: float) -> torch.Tensor:
    """The CLS feature (B, D) of a pre-norm ViT."""
    batch, _, height, width = images.shape
    patches = [
        images[:, :, y : y + PATCH, x : x + PATCH].reshape(batch, -1)
        for y in range(0, height, PATCH)
        for x in range(0, width, PATCH)
    ]
    kernel = w["backbone.stem.projection.weight"].flatten(1)
    tokens = torch.stack(patches, 1) @ kernel.T + w["backbone.stem.projection.bias"]
    x = torch.cat([w["backbone.cls_token"].expand(batch, 1, -1), tokens], 1) + w["backbone.ape.table"]
    size = x.shape[-1] // HEADS
    for number in range(DEPTH):
        name, rate = f"backbone.blocks.{number}", drop_path * number / (DEPTH - 1)
        qkv = linear(layer_norm(x, w, f"{name}.norm1"), w, f"{name}.attn.qkv")
        queries, keys, values = qkv.chunk(3, -1)
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            logits = queries[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(size)
            heads.append(logits.softmax(-1) @ values[..., part])
        x = x + kept(batch, rate) * linear(torch.cat(heads, -1), w, f"{name}.attn.proj")
        hidden = linear(layer_norm(x, w, f"{name}.norm2"), w, f"{name}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + kept(batch, rate) * linear(hidden, w, f"{name}.mlp.fc2")
    return layer_norm(x, w, "backbone.norm")[:, 0]


def loss(feature: torch.Tensor, labels: list[int], w: Weights) -> torch.Tensor:
    """Cross-entropy behind the BNNeck plus the batch-hard soft-margin triplet, anchor by anchor."""
    centred = feature - feature.mean(0)
    after = centred / (centred.pow(2).mean(0) + 1e-5).sqrt() * w["neck.weight"] + w["neck.bias"]
    logits = after @ w["classifier.weight"].T
    identity = sum(row.exp().sum().log() - row[label] for row, label in zip(logits, labels, strict=True)) / len(labels)
    triplet = torch.zeros((), dtype=torch.float64)
    for anchor, label in enumerate(labels):
        distance = {other: (feature[anchor] - feature[other]).norm() for other in range(len(labels)) if other != anchor}
        positive = max((d for other, d in distance.items() if labels[other] == label), key=torch.Tensor.item)
        negative = min((d for other, d in distance.items() if labels[other] != label), key=torch.Tensor.item)
        triplet = triplet + (1 + (positive - negative).exp()).log()
    total: torch.Tensor = identity + triplet / len(labels)
    return total


def learning_rate(epoch: int, base: float, config: RunConfig) -> float:
    """The rate of a group: linear warm-up from 0.01 lr, then the cosine of the whole length down to 0.002 lr."""
    train = config.train
    if epoch < train.warmup_epochs:
        return 0.01 * train.lr + epoch * (base - 0.01 * train.lr) / train.warmup_epochs
    low = 0.002 * train.lr
    return low + (base - low) * (1 + math.cos(math.pi * epoch / train.num_epochs)) / 2


def plain_loop(spec: RunSpec, num_classes: int) -> list[float]:
    """Returns the loss of every step."""
    config, train = spec.config, spec.config.train
    frame = read_index(spec.data / "index").frame
    labels = frame.loc[frame["split"] == "train", "label"].to_numpy()
    images = read_cache(spec.data / "cache", "train")
    model = ReidModel(config.model, num_classes=num_classes)
    initialise(model, spec.seed)
    assert spec.weights is not None
    load_weights(model, spec.weights, head=False)
    w = {name: value.double().requires_grad_(name != "neck.bias") for name, value in model.named_parameters()}
    speed = {name: torch.zeros_like(value) for name, value in w.items()}
    sampler = PKSampler(labels, num_ids=train.num_ids, num_instances=train.num_instances, seed=spec.seed)
    losses = []
    for epoch in range(train.num_epochs):
        for step, rows in enumerate(sampler.epoch(epoch)):
            height, width = config.model.image_size
            decisions = augment.draw(
                torch_generator(spec.seed, "augment", epoch, step), len(rows), height=height, width=width,
                pad=train.augment.pad_px, flip_probability=train.augment.flip, erase_probability=train.augment.erase,
            )  # fmt: skip
            batch = augmented(np.asarray(images[rows]), decisions, train.augment.pad_px)
            torch.manual_seed(seed_int(spec.seed, "dropout", epoch, step))
            value = loss(forward(batch, w, config.model.drop_path), labels[rows].tolist(), w)
            losses.append(value.item())
            trained = [name for name in w if name != "neck.bias"]
            for name, slope in zip(trained, torch.autograd.grad(value, [w[name] for name in trained]), strict=True):
                base = train.lr * (train.bias_lr_factor if name.endswith("bias") else 1)
                with torch.no_grad():
                    speed[name] = train.momentum * speed[name] + slope + train.weight_decay * w[name]
                    w[name] -= learning_rate(epoch, base, config) * speed[name]
    return losses


@pytest.fixture
def double() -> Iterator[None]:
    """Everything that is made in the test is float64, the model of the training and its images too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def both(study: Study, out: Path, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the loss of every step as trained and of the plain loop, and how many steps an epoch has."""
    spec = train_spec(study, dataset="market1501", cell="naive_triplet", seed=seed)
    config = RunConfig.model_validate(merge(spec.config.dump(), {"train": {"epochs": 3, "warmup_fraction": 0.34}}))
    spec = dataclasses.replace(spec, out=out, config=config)
    assert (config.model.drop_path, config.train.augment.erase) == (0.1, 0.25)
    train_run(spec)
    history = pd.read_parquet(spec.out / "history.parquet")
    steps = int((history["epoch"] == 0).sum())
    return history["total"].to_numpy(), np.array(plain_loop(spec, num_classes=8)), steps


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("seed", [0, 1])
def test_every_steps_loss_equals_a_plain_loops_to_the_twelfth_digit(
    tiny_study: Study, tmp_path: Path, seed: int
) -> None:
    found, expected, steps = both(tiny_study, tmp_path / "run", seed)
    assert len(found) > 2 * steps > 0
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_in_float32_the_first_epoch_equals_it_to_the_sixth_digit(tiny_study: Study, tmp_path: Path, seed: int) -> None:
    # Later steps multiply the rounding of the earlier ones, by an amount that depends on the processor.
    found, expected, steps = both(tiny_study, tmp_path / "run", seed)
    assert 5 < steps < len(found)
    np.testing.assert_allclose(found[:steps], expected[:steps], rtol=1e-6, atol=0)
