import math

import pytest
import torch

from reidablate.config import Pairs
from reidablate.errors import UserError
from reidablate.losses.positions import (
    PAIRS,
    PositionState,
    choose_patches,
    cls_relation_values,
    pair_ranks,
    relation_values,
    require_positions,
)
from support import gradient, present

ROWS, COLS, WIDTH, BLOCKS, HEADS = 3, 5, 4, 2, 3
NUM_PATCHES = ROWS * COLS


def grid_index() -> list[list[int]]:
    """The table row of every query and key patch of the grid, by the definition."""
    cells = [(y, x) for y in range(ROWS) for x in range(COLS)]
    return [[(y - v + ROWS - 1) * (2 * COLS - 1) + (x - u + COLS - 1) for v, u in cells] for y, x in cells]


def state(seed: int = 0, /, **changes: torch.Tensor | None) -> PositionState:
    generator = torch.Generator().manual_seed(seed)
    size = (2 * ROWS - 1) * (2 * COLS - 1)
    parts: dict[str, torch.Tensor | None] = {
        "ape": torch.randn(1 + NUM_PATCHES, WIDTH, generator=generator, dtype=torch.float64),
        "tables": torch.randn(BLOCKS, size, HEADS, generator=generator, dtype=torch.float64),
        "index": torch.tensor(grid_index()),
        "cls_bias": torch.randn(BLOCKS, HEADS, NUM_PATCHES, generator=generator, dtype=torch.float64),
    }
    return PositionState(**(parts | changes))


CHOSEN = torch.tensor([[14, 0, 7], [3, 4, 10]])


def loop_values(
    positions: PositionState, chosen: torch.Tensor, pairs: Pairs, abs_scale: float = 1.0, first_row: int = 1
) -> torch.Tensor:
    """Every value from the definition: sample, block, head and pair in turn."""
    blocks, heads = (1, 1) if positions.tables is None else (BLOCKS, HEADS)
    samples = []
    for tokens in chosen.tolist():
        value = torch.zeros(blocks, heads, len(list(PAIRS[pairs](range(len(tokens))))), dtype=torch.float64)
        for m, (i, j) in enumerate(PAIRS[pairs](range(len(tokens)))):
            a, b = tokens[i], tokens[j]
            for block in range(blocks):
                for head in range(heads):
                    if positions.ape is not None:
                        left, right = positions.ape[a + first_row], positions.ape[b + first_row]
                        value[block, head, m] += abs_scale * sum(x * y for x, y in zip(left, right, strict=True))
                    if positions.tables is not None:
                        value[block, head, m] += positions.tables[block, present(positions.index)[a, b], head]
        samples.append(value)
    return torch.stack(samples)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("combinations", [(4, 9), (4, 13), (9, 13)]),
        ("combinations_with_replacement", [(4, 4), (4, 9), (4, 13), (9, 9), (9, 13), (13, 13)]),
        ("permutations", [(4, 9), (4, 13), (9, 4), (9, 13), (13, 4), (13, 9)]),
        ("product", [(4, 4), (4, 9), (4, 13), (9, 4), (9, 9), (9, 13), (13, 4), (13, 9), (13, 13)]),
    ],
)
def test_vector_j3_pairs_and_their_order(pairs: Pairs, expected: list[tuple[int, int]]) -> None:
    tokens = torch.tensor([4, 9, 13])
    query, key = pair_ranks(pairs, 3, torch.device("cpu"))
    assert list(zip(tokens[query].tolist(), tokens[key].tolist(), strict=True)) == expected


@pytest.mark.parametrize(("count", "sizes"), [(5, (10, 15, 20, 25)), (10, (45, 55, 90, 100))])
def test_vector_j3_counts(count: int, sizes: tuple[int, ...]) -> None:
    assert tuple(pair_ranks(name, count, torch.device("cpu")).shape[1] for name in PAIRS) == sizes


@pytest.mark.parametrize("pairs", PAIRS)
def test_values_equal_the_loop(pairs: Pairs) -> None:
    positions = state()
    assert relation_values(positions, CHOSEN, pairs) == pytest.approx(loop_values(positions, CHOSEN, pairs))


@pytest.mark.parametrize("missing", ["ape", "tables"])
def test_values_without_one_kind_of_position_equal_the_loop(missing: str) -> None:
    positions = state(0, **{missing: None})
    expected = loop_values(positions, CHOSEN, "permutations")
    assert relation_values(positions, CHOSEN, "permutations") == pytest.approx(expected)


def test_scale_touches_the_absolute_part_only() -> None:
    positions = state()
    found = relation_values(positions, CHOSEN, "product", abs_scale=0.5)
    assert found == pytest.approx(loop_values(positions, CHOSEN, "product", abs_scale=0.5))


def test_shift_zero_reads_the_row_of_the_patch_before_and_leaves_the_tables() -> None:
    positions = state()
    found = relation_values(positions, CHOSEN, "permutations", ape_shift=0)
    assert found == pytest.approx(loop_values(positions, CHOSEN, "permutations", first_row=0))


def test_cls_values_equal_the_loop() -> None:
    positions = state()
    found = cls_relation_values(positions, CHOSEN, abs_scale=0.5)
    for sample, tokens in enumerate(CHOSEN.tolist()):
        for rank, token in enumerate(tokens):
            product = 0.5 * present(positions.ape)[0].dot(present(positions.ape)[1 + token])
            assert found[sample, :, :, rank] == pytest.approx(product + present(positions.cls_bias)[:, :, token])


def test_cls_values_need_one_of_their_parts() -> None:
    only_ape = cls_relation_values(state(cls_bias=None), CHOSEN)
    only_bias = cls_relation_values(state(ape=None), CHOSEN)
    assert only_ape.shape == (2, 1, 1, 3)
    assert only_bias.shape == (2, BLOCKS, HEADS, 3)
    assert cls_relation_values(state(), CHOSEN) == pytest.approx(only_ape + only_bias)
    with pytest.raises(UserError, match="cls_position"):
        cls_relation_values(state(ape=None, cls_bias=None), CHOSEN)


def test_no_gradient_to_tables_unless_asked() -> None:
    for wanted in (True, False):
        positions = state()
        for part in (positions.tables, positions.cls_bias, positions.ape):
            present(part).requires_grad_()
        pairs = relation_values(positions, CHOSEN, "product", grad_to_rpe=wanted)
        cls = cls_relation_values(positions, CHOSEN, grad_to_rpe=wanted)
        (pairs.square().sum() + cls.square().sum()).backward()
        assert (present(positions.tables).grad is not None) is wanted
        assert (present(positions.cls_bias).grad is not None) is wanted
        assert gradient(positions.ape).any()


def test_patches_are_chosen_by_dot_product_and_ordered_on_demand() -> None:
    direction = torch.tensor([[1.0, 0.0]])
    patches = torch.tensor([[[1.0, 9.0], [5.0, 0.0], [0.0, 9.0], [5.0, 1.0], [7.0, 0.0]]])
    assert choose_patches(direction, patches, 3).tolist() == [[4, 1, 3]]
    assert choose_patches(direction, patches, 3, by_token=True).tolist() == [[1, 3, 4]]


def test_too_few_patches_are_refused() -> None:
    with pytest.raises(UserError, match="wants 5 patches but the model's grid has 4"):
        choose_patches(torch.ones(1, 2), torch.ones(1, 4, 2), 5)


def test_a_model_without_positions_is_refused() -> None:
    require_positions(PositionState(torch.ones(2, 2), None, None), "position_relation")
    with pytest.raises(UserError, match=r"losses.position_relation .* the model has none"):
        require_positions(PositionState(None, None, None), "position_relation")


def test_half_precision_positions_give_float32_values() -> None:
    positions = state(ape=torch.full((1 + NUM_PATCHES, WIDTH), 200.0, dtype=torch.float16), tables=None)
    values = relation_values(positions, CHOSEN, "combinations")
    assert values.dtype == torch.float32
    assert values.unique().tolist() == [4 * 200.0**2]  # 160,000 would overflow in float16
    assert math.isfinite(values.sum())
