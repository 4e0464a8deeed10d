import math
from typing import Any

import numpy as np
import pytest
import torch

from reidablate.config import PositionTripletConfig
from reidablate.errors import UserError
from reidablate.losses.mining import Triplets, batch_hard
from reidablate.losses.position_triplet import position_triplet_loss
from reidablate.losses.positions import PAIRS, PositionState
from support import gradient, present

ROWS, COLS, WIDTH, BLOCKS, HEADS = 3, 5, 4, 2, 3
NUM_PATCHES = ROWS * COLS
LABELS = torch.tensor([0, 0, 0, 1, 2, 2])


def state(**changes: torch.Tensor | None) -> PositionState:
    generator = torch.Generator().manual_seed(5)
    cells = [(y, x) for y in range(ROWS) for x in range(COLS)]
    index = [[(y - v + ROWS - 1) * (2 * COLS - 1) + (x - u + COLS - 1) for v, u in cells] for y, x in cells]
    size = (2 * ROWS - 1) * (2 * COLS - 1)
    parts: dict[str, torch.Tensor | None] = {
        "ape": torch.randn(1 + NUM_PATCHES, WIDTH, generator=generator, dtype=torch.float64),
        "tables": torch.randn(BLOCKS, size, HEADS, generator=generator, dtype=torch.float64),
        "index": torch.tensor(index),
    }
    return PositionState(**(parts | changes))


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Triplets]:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(6, WIDTH, generator=generator, dtype=torch.float64)
    patches = torch.randn(6, NUM_PATCHES, WIDTH, generator=generator, dtype=torch.float64)
    return feature, patches, batch_hard(feature, LABELS)


def config(**options: Any) -> PositionTripletConfig:
    return PositionTripletConfig(**({"patches": 3} | options))


def loop_vector(
    vector: torch.Tensor, image: torch.Tensor, positions: PositionState, settings: PositionTripletConfig
) -> np.ndarray:
    scores = [float(vector.dot(patch)) for patch in image]
    tokens = sorted(range(NUM_PATCHES), key=lambda k: -scores[k])[: settings.patches]
    ape, tables, index = present(positions.ape), present(positions.tables), present(positions.index)
    entries = []
    for block in range(BLOCKS):
        for head in range(HEADS):
            for i, j in PAIRS[settings.pairs](range(len(tokens))):
                a, b = tokens[i], tokens[j]
                first = 0 if settings.ape_offset == "author_bug" else 1
                absolute = float(ape[first + a].dot(ape[first + b]))
                entries.append(absolute + float(tables[block, index[a, b], head]))
    stacked = np.array(entries).reshape(BLOCKS * HEADS, -1)
    return stacked.mean(0) if settings.bias == "mean" else stacked.reshape(-1)


def loop_loss(
    feature: torch.Tensor,
    patches: torch.Tensor,
    triplets: Triplets,
    positions: PositionState,
    settings: PositionTripletConfig,
) -> float:
    vectors = [loop_vector(v, x, positions, settings) for v, x in zip(feature, patches, strict=True)]
    terms: list[float] = []
    for i, anchor in enumerate(vectors):
        towards = float(np.linalg.norm(anchor - vectors[triplets.positive[i]]))
        away = float(np.linalg.norm(anchor - vectors[triplets.negative[i]]))
        terms.append(math.log1p(math.exp(towards - away)) if settings.negative else towards)
    return float(np.mean(terms))


@pytest.mark.parametrize("bias", ["mean", "concat"])
@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("pairs", PAIRS)
def test_loss_equals_the_loop(bias: str, negative: bool, pairs: str) -> None:
    settings = config(bias=bias, negative=negative, pairs=pairs)
    expected = loop_loss(*batch(), state(), settings)
    assert position_triplet_loss(*batch(), state(), settings).item() == pytest.approx(expected, abs=1e-6)


def test_the_published_offset_reads_the_row_of_the_patch_before() -> None:
    settings = config(bias="mean", ape_offset="author_bug")
    found = position_triplet_loss(*batch(), state(), settings).item()
    assert found == pytest.approx(loop_loss(*batch(), state(), settings), abs=1e-6)
    assert found != pytest.approx(position_triplet_loss(*batch(), state(), config(bias="mean")).item(), abs=1e-3)


@pytest.mark.parametrize("bias", ["mean", "concat"])
@pytest.mark.parametrize("negative", [True, False])
def test_gradients_equal_finite_differences(bias: str, negative: bool) -> None:
    settings = config(bias=bias, negative=negative)

    def loss(ape: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        return position_triplet_loss(*batch(), state(ape=ape, tables=tables), settings)

    inputs = (present(state().ape).requires_grad_(), present(state().tables).requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("grad_to_rpe", [True, False])
def test_only_position_parameters_are_trained(grad_to_rpe: bool) -> None:
    feature, patches, triplets = batch()
    positions = state(ape=present(state().ape).requires_grad_(), tables=present(state().tables).requires_grad_())
    feature.requires_grad_()
    patches.requires_grad_()
    position_triplet_loss(feature, patches, triplets, positions, config(grad_to_rpe=grad_to_rpe)).backward()
    assert feature.grad is None
    assert patches.grad is None
    assert gradient(positions.ape)[1:].any()
    assert not gradient(positions.ape)[0].any()
    assert (present(positions.tables).grad is not None) is grad_to_rpe


def test_without_negatives_only_the_pull_is_left() -> None:
    feature, patches, _ = batch()
    triplets = batch_hard(feature, torch.zeros(6, dtype=torch.long))
    positions = state(ape=present(state().ape).requires_grad_())
    loss = position_triplet_loss(feature, patches, triplets, positions, config())
    loss.backward()
    assert loss.item() == 0
    assert not gradient(positions.ape).any()
    assert position_triplet_loss(feature, patches, triplets, positions, config(negative=False)).item() > 0


def test_equal_images_have_a_finite_gradient() -> None:
    feature, patches, _ = batch()
    feature, patches = feature[:1].repeat(6, 1), patches[:1].repeat(6, 1, 1)
    positions = state(ape=present(state().ape).requires_grad_(), tables=present(state().tables).requires_grad_())
    loss = position_triplet_loss(feature, patches, batch_hard(feature, LABELS), positions, config())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.isfinite(gradient(positions.ape)).all()
    assert torch.isfinite(gradient(positions.tables)).all()


def test_without_tables_mean_and_concat_agree() -> None:
    positions = state(tables=None)
    mean, concat = (position_triplet_loss(*batch(), positions, config(bias=bias)) for bias in ("mean", "concat"))
    assert mean == concat


def test_a_model_without_positions_is_refused() -> None:
    with pytest.raises(UserError, match=r"losses.position_triplet"):
        position_triplet_loss(*batch(), PositionState(None, None, None), config())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_autocast_is_computed_in_float32(dtype: torch.dtype) -> None:
    feature, patches, triplets = batch()
    feature, patches = feature.to(dtype), patches.to(dtype)
    positions = state(ape=present(state().ape).to(dtype), tables=present(state().tables).to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = position_triplet_loss(feature, patches, triplets, positions, config())
    wide = state(ape=present(positions.ape).float(), tables=present(positions.tables).float())
    assert found.dtype == torch.float32
    assert found == position_triplet_loss(feature.float(), patches.float(), triplets, wide, config())
