"""Position maps and properties on planted tables; a grid of 4 x 3."""

import pytest
import torch

from reidablate.config import ModelConfig
from reidablate.diagnostics.positions import (
    first_block_proximity,
    position_properties,
    relative_maps,
    similarity_maps,
)
from reidablate.models.neck import ReidModel, initialise
from reidablate.models.position import RELATIVE_KINDS, sinusoid
from support import present

GRID = (4, 3)
N = 12


def test_a_patch_is_most_similar_to_itself_and_to_its_copy() -> None:
    rows = torch.eye(N)
    rows[7] = 3 * rows[2]  # patch 7 is row 2, column 1; patch 2 is row 0, column 2
    maps = similarity_maps(rows, GRID)
    assert maps.shape == (N, 4, 3)
    assert float(maps[7, 0, 2]) == pytest.approx(1)
    assert float(maps[7, 2, 1]) == pytest.approx(1)
    assert float(maps[7].sum()) == pytest.approx(2)


def test_proximity_that_falls_with_distance_has_all_three_properties() -> None:
    y, x = torch.arange(N) // 3, torch.arange(N) % 3
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    found = position_properties(-squared.double(), GRID)
    assert found.monotonicity == pytest.approx(1)
    assert found.translation_invariance == pytest.approx(1)
    assert found.symmetry == pytest.approx(1)
    assert position_properties(squared.double(), GRID).monotonicity == pytest.approx(-1)


def test_a_proximity_of_the_offsets_sign_alone_is_invariant_and_antisymmetric() -> None:
    y = torch.arange(N) // 3
    found = position_properties((y[:, None] - y[None, :]).double(), GRID)
    assert found.translation_invariance == pytest.approx(1)
    assert found.symmetry == pytest.approx(0)


def test_a_random_proximity_has_none_of_them() -> None:
    values = torch.randn(N, N, generator=torch.Generator().manual_seed(0))
    found = position_properties(values, GRID)
    assert abs(found.monotonicity) < 0.3
    assert found.symmetry == pytest.approx(0.5, abs=0.15)
    # 132 pairs share 34 offsets, so a quarter of the variance is explained by chance
    assert found.translation_invariance == pytest.approx(33 / 131, abs=0.15)


def test_sinusoidal_rows_are_invariant_and_a_constant_has_no_order() -> None:
    rows = sinusoid(GRID, 32)[1:]
    found = position_properties(rows @ rows.T, GRID)
    assert found.translation_invariance == pytest.approx(1, abs=1e-6)
    assert found.monotonicity > 0.8
    constant = position_properties(torch.ones(N, N), GRID)
    assert (constant.monotonicity, constant.translation_invariance, constant.symmetry) == (0, 1, 1)


@pytest.mark.parametrize("kind", ["full", "abs_x", "y_only", "x_only"])
def test_relative_maps_hold_the_bias_of_every_pair(kind: str) -> None:
    config = {"backbone": "vit_quickstart", "image_size": (32, 24), "stem": "conv", "rpe": {"kind": kind}}
    model = ReidModel(ModelConfig.model_validate(config), num_classes=2)
    initialise(model, 0)
    maps = relative_maps(present(model.rpe_tables()), present(model.rpe_index), GRID)
    assert maps.shape == (2, 4, 7, 5)
    bias = model.backbone.attentions[1].position_bias()[:, 1:, 1:]
    for a in range(N):
        for b in range(N):
            dy, dx = a // 3 - b // 3, a % 3 - b % 3
            assert torch.equal(maps[1, :, 3 + dy, 2 + dx], bias[:, a, b])
    assert RELATIVE_KINDS[kind].num_rows(GRID) == present(model.rpe_tables()).shape[1]


def test_proximity_of_the_first_block_is_q_k_without_content() -> None:
    generator = torch.Generator().manual_seed(3)
    rows, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((N, 8), (24, 8), (24,)))
    found = first_block_proximity(rows, weight, bias, heads=2)
    projected = rows @ weight.T + bias
    queries, keys = projected[:, :8], projected[:, 8:16]
    by_head = [queries[5, 4 * h : 4 * h + 4] @ keys[9, 4 * h : 4 * h + 4] / 4**0.5 for h in range(2)]
    assert float(found[5, 9]) == pytest.approx(float(torch.stack(by_head).mean()), rel=1e-5)
