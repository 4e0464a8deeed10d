"""Relative indices, tables, CLS numbers and absolute rows against hand arithmetic and slow loops (j1, j2, j10)."""

import math
from itertools import product

import pytest
import torch

from reidablate.models.position import (
    RELATIVE_KINDS,
    AbsolutePosition,
    ClsBias,
    RelativeBias,
    RelativeKeys,
    _KeysOfTable,
    _RowsOfTable,
    full_index,
    mirrored_index,
    sinusoid,
)
from support import gradient

GRID = (6, 4)


def test_vector_j1_full_index_of_a_2x2_grid() -> None:
    assert full_index((2, 2)).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_vector_j1_bias_of_the_2x2_table() -> None:
    bias = RelativeBias("full", (2, 2), 1)
    table = torch.tensor([0.1, 0.03, 0.8, 0.5, 0.07, 0.2, 0.4, 0.01, 0.06])
    bias.table.data.copy_(table[:, None])
    expected = [[0.07, 0.5, 0.03, 0.1], [0.2, 0.07, 0.8, 0.03], [0.01, 0.4, 0.07, 0.5], [0.06, 0.01, 0.2, 0.07]]
    torch.testing.assert_close(bias(), torch.tensor([expected]))


def test_vector_j1_full_index_of_a_2x3_grid() -> None:
    assert full_index((2, 3)).tolist() == [
        [7, 6, 5, 2, 1, 0],
        [8, 7, 6, 3, 2, 1],
        [9, 8, 7, 4, 3, 2],
        [12, 11, 10, 7, 6, 5],
        [13, 12, 11, 8, 7, 6],
        [14, 13, 12, 9, 8, 7],
    ]


def test_vector_j1_full_index_of_a_24x8_grid() -> None:
    index = full_index((24, 8))
    assert index.shape == (192, 192)
    assert (index.min().item(), index.max().item(), index.unique().numel()) == (0, 704, 705)
    assert [index[a, b].item() for a, b in [(0, 0), (0, 1), (0, 8), (191, 0), (0, 191)]] == [352, 351, 337, 704, 0]


def test_vector_j1_mirrored_index_of_a_2x2_grid() -> None:
    assert mirrored_index((2, 2)).tolist() == [[2, 3, 0, 1], [3, 2, 1, 0], [4, 5, 2, 3], [5, 4, 3, 2]]


@pytest.mark.parametrize(
    ("kind", "num_rows"), [("full", 705), ("shaw_key", 705), ("abs_x", 376), ("y_only", 47), ("x_only", 15)]
)
def test_number_of_rows_on_a_24x8_grid_and_every_row_is_used(kind: str, num_rows: int) -> None:
    assert RELATIVE_KINDS[kind].num_rows((24, 8)) == num_rows
    assert RELATIVE_KINDS[kind].index((24, 8)).unique().tolist() == list(range(num_rows))
    assert RELATIVE_KINDS[kind].index((24, 8)).diagonal().unique().tolist() == [RELATIVE_KINDS[kind].centre((24, 8))]


@pytest.mark.parametrize("kind", RELATIVE_KINDS)
def test_index_equals_a_loop_over_pairs(kind: str) -> None:
    rows, cols = GRID
    index = RELATIVE_KINDS[kind].index(GRID)
    for (ya, xa), (yb, xb) in product(product(range(rows), range(cols)), repeat=2):
        dy, dx = ya - yb, xa - xb
        expected = {
            "full": (dy + 5) * 7 + dx + 3,
            "shaw_key": (dy + 5) * 7 + dx + 3,
            "abs_x": (dy + 5) * 4 + abs(dx),
            "y_only": dy + 5,
            "x_only": dx + 3,
        }
        assert index[ya * cols + xa, yb * cols + xb] == expected[kind]


def test_vector_j2_counts_of_published_tables() -> None:
    heads = blocks = 12
    assert 12 * 27 * 27 * 12 == 104_976
    assert blocks * RelativeBias("full", (14, 14), heads).table.numel() == 104_976
    assert blocks * RelativeBias("full", (24, 8), heads).table.numel() == 101_520
    assert blocks * RelativeBias("full", (16, 8), 6).table.numel() == 33_480
    assert blocks * RelativeBias("abs_x", (24, 8), heads).table.numel() == 54_144
    assert blocks * ClsBias("untie", 192, heads).table.numel() == 288
    assert AbsolutePosition("learned", (24, 8), 768, cls_row=True).table.numel() == 148_224


def _bias(kind: str) -> torch.Tensor:
    bias = RelativeBias(kind, GRID, 3)
    bias.table.data.normal_(generator=torch.Generator().manual_seed(0))
    values: torch.Tensor = bias()
    return values.detach()


def test_vector_j10_abs_x_is_equal_for_mirrored_pairs_and_full_is_not() -> None:
    rows, cols = GRID
    mirror = torch.arange(rows * cols).reshape(rows, cols).flip(1).flatten()
    bias = _bias("abs_x")
    assert torch.equal(bias, bias[:, mirror][:, :, mirror])
    full = _bias("full")
    assert not torch.equal(full, full[:, mirror][:, :, mirror])


def test_relative_keys_equal_a_loop_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = RelativeKeys("shaw_key", GRID, 5).double()
    keys.table.data.normal_(generator=generator)
    queries = torch.randn(2, 3, 24, 5, generator=generator, dtype=torch.float64)
    result = keys(queries)
    for b, h, i, j in product(range(2), range(3), range(24), range(24)):
        row = (i // 4 - j // 4 + 5) * 7 + i % 4 - j % 4 + 3
        assert result[b, h, i, j].item() == pytest.approx((queries[b, h, i] @ keys.table[row]).item(), abs=1e-12)


def test_relative_keys_have_a_right_gradient() -> None:
    keys = RelativeKeys("shaw_key", (3, 2), 2).double()
    table = torch.randn(15, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    queries = torch.randn(1, 2, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def scores(table: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(keys, {"table": table}, (queries,))
        return found

    assert torch.autograd.gradcheck(scores, (table, queries.requires_grad_()))


@pytest.mark.parametrize(
    ("option", "rows", "top", "left", "corner"),
    [
        ("untie", [[0.5], [0.7]], [0.5, 0.5], [0.7, 0.7], 0.0),
        ("untie_beit", [[0.5], [0.7], [0.9]], [0.5, 0.5], [0.7, 0.7], 0.9),
        ("untie_shared", [[0.5]], [0.5, 0.5], [0.5, 0.5], 0.0),
        ("per_patch", [[0.1], [0.2], [0.3], [0.4]], [0.1, 0.2], [0.3, 0.4], 8.0),
    ],
)
def test_cls_numbers_stand_where_they_belong(
    option: str, rows: list[list[float]], top: list[float], left: list[float], corner: float
) -> None:
    cls = ClsBias(option, 2, 1)
    cls.table.data.copy_(torch.tensor(rows))
    patches = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    expected = torch.tensor([[[corner, *top], [left[0], 1.0, 2.0], [left[1], 3.0, 4.0]]])
    torch.testing.assert_close(cls(patches, torch.tensor([8.0])), expected, rtol=0, atol=0)
    expected[0, 1:, 1:] = 0
    expected[0, 0, 0] = 0 if option == "per_patch" else corner
    torch.testing.assert_close(cls(None, None), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["untie", "untie_beit", "untie_shared", "per_patch"])
def test_the_gradient_of_cls_numbers_equals_finite_differences(kind: str) -> None:
    cls = ClsBias(kind, 6, 2).double()  # a grid of 2 x 3
    cls.table.data.normal_(generator=torch.Generator().manual_seed(0))
    patches = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)
    centre = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, c, _: cls(p, c), (patches, centre, cls.table))


def test_sinusoid_equals_a_loop_over_the_printed_formula() -> None:
    rows = sinusoid(GRID, 12)
    assert rows.shape == (25, 12)
    assert torch.equal(rows[0], torch.zeros(12))
    for patch, column in product(range(24), range(12)):
        position = patch // 4 if column < 6 else patch % 4
        i, is_cosine = divmod(column % 6, 2)
        angle = position / 10000 ** (2 * i / 6)
        expected = math.cos(angle) if is_cosine else math.sin(angle)
        assert rows[1 + patch, column].item() == pytest.approx(expected, abs=1e-6)


def test_absolute_position_without_cls_row_has_no_cls_gradient() -> None:
    ape = AbsolutePosition("learned", GRID, 8, cls_row=False)
    ape.table.data.fill_(2.0)
    assert torch.equal(ape()[0], torch.zeros(8))
    assert torch.equal(ape()[1:], torch.full((24, 8), 2.0))
    ape().sum().backward()
    assert ape.table.grad is not None
    assert torch.equal(ape.table.grad[0], torch.zeros(8))
    assert torch.equal(ape.table.grad[1:], torch.ones(24, 8))


@pytest.mark.parametrize("kind", RELATIVE_KINDS)
def test_the_gradient_of_a_table_on_a_gpu_is_that_of_indexing(kind: str) -> None:
    """The same sums in another order: exact here, where all summands are small whole numbers."""
    module, generator = RelativeBias(kind, GRID, 5), torch.Generator().manual_seed(0)
    upstream = torch.randint(-99, 100, (*module.index.shape, 5), generator=generator).float()
    (module.table[module.index] * upstream).sum().backward()
    wanted, module.table.grad = gradient(module.table), None
    rows = _RowsOfTable.apply(module.table, module.index, module.pairs)
    assert torch.equal(rows, module.table[module.index])
    (rows * upstream).sum().backward()
    assert torch.equal(gradient(module.table), wanted)


def test_the_gradient_of_relative_keys_on_a_gpu_is_that_of_gather() -> None:
    module, generator = RelativeKeys("shaw_key", GRID, 4), torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, len(module.index), len(module.table), generator=generator, requires_grad=True)
    index = module.index.expand(2, 3, -1, -1)
    upstream = torch.randn(index.shape, generator=generator)
    (scores.gather(-1, index) * upstream).sum().backward()
    wanted, scores.grad = gradient(scores), None
    found = _KeysOfTable.apply(scores, module.index, module.keys)
    assert torch.equal(found, scores.gather(-1, index))
    (found * upstream).sum().backward()
    assert torch.equal(gradient(scores), wanted)
