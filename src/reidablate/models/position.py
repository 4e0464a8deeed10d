"""Where a token stands: absolute rows added to the tokens, relative terms added to the attention logits.

Legend: B batch, n = rows * cols patches in row-major order, D width, h heads, d = D / h, R rows of a relative table.
A grid is (rows, cols). Token 0 is CLS, token 1 + k is patch k.

No parameter name here contains "bias": recipes that give every "bias" a doubled learning rate must not catch a table.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Grid = tuple[int, int]


def _offsets(grid: Grid) -> tuple[Tensor, Tensor]:
    """Returns row and column of the query patch minus those of the key patch, each (n, n)."""
    rows, cols = grid
    patch = torch.arange(rows * cols)
    y, x = patch // cols, patch % cols
    return y[:, None] - y[None, :], x[:, None] - x[None, :]


def full_index(grid: Grid) -> Tensor:
    """Returns the table row of each (query, key) pair, (n, n), one row per two-dimensional offset.

    `(dy + rows - 1) * (2 cols - 1) + dx + cols - 1`, in 0 .. (2 rows - 1)(2 cols - 1) - 1 (Liu et al. 2021, Swin).
    """
    rows, cols = grid
    dy, dx = _offsets(grid)
    return (dy + rows - 1) * (2 * cols - 1) + dx + cols - 1


def mirrored_index(grid: Grid) -> Tensor:
    """Returns the table row of each pair, (n, n), equal for a pair and its left-right mirror image.

    `(dy + rows - 1) * cols + |dx|`, in 0 .. (2 rows - 1) cols - 1.
    """
    rows, cols = grid
    dy, dx = _offsets(grid)
    return (dy + rows - 1) * cols + dx.abs()


def row_index(grid: Grid) -> Tensor:
    """Returns `dy + rows - 1` of each pair, (n, n), in 0 .. 2 rows - 2."""
    return _offsets(grid)[0] + grid[0] - 1


def column_index(grid: Grid) -> Tensor:
    """Returns `dx + cols - 1` of each pair, (n, n), in 0 .. 2 cols - 2."""
    return _offsets(grid)[1] + grid[1] - 1


@dataclass(frozen=True)
class RelativeKind:
    """How pairs of patches share the rows of a table."""

    index: Callable[[Grid], Tensor]
    num_rows: Callable[[Grid], int]
    centre: Callable[[Grid], int]  # the row of a patch and itself


_FULL = RelativeKind(
    full_index, lambda g: (2 * g[0] - 1) * (2 * g[1] - 1), lambda g: (g[0] - 1) * (2 * g[1] - 1) + g[1] - 1
)

RELATIVE_KINDS: dict[str, RelativeKind] = {
    "full": _FULL,
    "abs_x": RelativeKind(mirrored_index, lambda g: (2 * g[0] - 1) * g[1], lambda g: (g[0] - 1) * g[1]),
    "y_only": RelativeKind(row_index, lambda g: 2 * g[0] - 1, lambda g: g[0] - 1),
    "x_only": RelativeKind(column_index, lambda g: 2 * g[1] - 1, lambda g: g[1] - 1),
    "shaw_key": _FULL,
}


class RelativeTable(nn.Module):
    """A learned table whose rows are shared by the pairs of patches of one relative position."""

    index: Tensor

    def __init__(self, kind: str, grid: Grid, columns: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(RELATIVE_KINDS[kind].num_rows(grid), columns))
        self.register_buffer("index", RELATIVE_KINDS[kind].index(grid), persistent=False)
        self.centre_row = RELATIVE_KINDS[kind].centre(grid)  # a number: a GPU would be waited for to read it in `index`


@functools.cache
def pairs_of_rows(kind: str, grid: Grid) -> Tensor:
    """Returns the pairs a n + b of patches that share each row of a table, (R, m), filled up with n * n."""
    with torch.device("cpu"):  # also while a model without numbers is built
        index = RELATIVE_KINDS[kind].index(grid).flatten()
        order, counts = index.argsort(stable=True), index.bincount()
        first = counts.cumsum(0) - counts
        place = torch.arange(len(index)) - first[index[order]]
        pairs = torch.full((len(counts), int(counts.max())), len(index))
        pairs[index[order], place] = order
        return pairs


@functools.cache
def keys_of_rows(kind: str, grid: Grid) -> Tensor:
    """Returns the key patch that has each row of a table for a query patch, (n, R), or n where none has it.

    No two keys share a row: seen from one patch, every other one has an offset of its own.
    """
    with torch.device("cpu"):
        index = RELATIVE_KINDS[kind].index(grid)
        keys = torch.full((len(index), RELATIVE_KINDS[kind].num_rows(grid)), len(index))
        return keys.scatter(1, index, torch.arange(len(index)).expand_as(index))


class _RowsOfTable(torch.autograd.Function):
    """`table[index]`, (n, n, h), whose gradient adds up, for each row, the pairs that share it.

    PyTorch's own sorts all pairs first to be repeatable on a GPU. The sums are the same but for the order of summands.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(pairs)
        return table[index]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (pairs,) = ctx.saved_tensors
        return F.pad(gradient.flatten(0, 1), (0, 0, 0, 1))[pairs].sum(1), None, None


class _KeysOfTable(torch.autograd.Function):
    """`scores.gather(-1, index)` of (B, h, n, R), whose gradient is a gather too, since no two keys share a row."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, index: Tensor, keys: Tensor) -> Tensor:
        ctx.save_for_backward(keys)
        return scores.gather(-1, index.expand(*scores.shape[:2], -1, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (keys,) = ctx.saved_tensors
        return F.pad(gradient, (0, 1)).gather(-1, keys.expand(*gradient.shape[:2], -1, -1)), None, None


class RelativeBias(RelativeTable):
    """One number per relative position and head, table (R, h), added to the logits between patches."""

    pairs: Tensor

    def __init__(self, kind: str, grid: Grid, columns: int) -> None:
        super().__init__(kind, grid, columns)
        self.register_buffer("pairs", pairs_of_rows(kind, grid), persistent=False)

    def forward(self) -> Tensor:
        """Returns what is added to the patch-patch logits, (h, n, n); rows are queries."""
        rows = _RowsOfTable.apply(self.table, self.index, self.pairs) if self.table.is_cuda else self.table[self.index]
        return cast("Tensor", rows).permute(2, 0, 1)

    def centre(self) -> Tensor:
        """Returns what a patch's logit for itself gets, (h,)."""
        return self.table[self.centre_row]


class RelativeKeys(RelativeTable):
    """One vector per relative position, table (R, d), shared by heads and added to the keys (Shaw et al. 2018, eq. 5).

    `e_ab = q_a . (k_b + a_idx(a,b)) / sqrt(d)`; this module gives the second summand.
    """

    keys: Tensor

    def __init__(self, kind: str, grid: Grid, columns: int) -> None:
        super().__init__(kind, grid, columns)
        self.register_buffer("keys", keys_of_rows(kind, grid), persistent=False)

    def forward(self, queries: Tensor) -> Tensor:
        """Returns `q_a . a_idx(a,b)`, (B, h, n, n), of patch queries (B, h, n, d) that are already scaled."""
        scores = queries @ self.table.T
        if scores.is_cuda:
            return cast("Tensor", _KeysOfTable.apply(scores, self.index, self.keys))
        return scores.gather(-1, self.index.expand(*scores.shape[:2], -1, -1))


class ClsBias(nn.Module):
    """Learned numbers for the logits between CLS and the patches of one block, table (K, h).

    Rows of the table by option: `untie` (CLS to patch, patch to CLS), `untie_beit` (the same and CLS to CLS),
    `untie_shared` (one for both directions), `per_patch` (n for CLS to patch, then n for patch to CLS). Where the
    option has no CLS-to-CLS number it is 0, but for `per_patch` it is the centre entry of the relative table.
    """

    def __init__(self, option: str, num_patches: int, heads: int) -> None:
        super().__init__()
        self.option = option
        self.num_patches = num_patches
        num_rows = {"untie": 2, "untie_beit": 3, "untie_shared": 1, "per_patch": 2 * num_patches}[option]
        self.table = nn.Parameter(torch.zeros(num_rows, heads))

    def to_patches(self) -> Tensor:
        """Returns what the logits of the query CLS for each patch get, (h, n)."""
        row = self.table[: self.num_patches] if self.option == "per_patch" else self.table[:1]
        return row.T.expand(-1, self.num_patches)

    def from_patches(self) -> Tensor:
        """Returns what the logits of each query patch for CLS get, (h, n)."""
        row = self.table[self.num_patches :] if self.option == "per_patch" else self.table[:2][-1:]
        return row.T.expand(-1, self.num_patches)

    def forward(self, patches: Tensor | None, centre: Tensor | None) -> Tensor:
        """Returns what is added to all logits, (h, 1 + n, 1 + n).

        Args:
            patches: What the patch-patch logits get, (h, n, n); None is 0.
            centre: The centre entry of the relative table, (h,); None is 0.
        """
        heads, n = self.table.shape[1], self.num_patches
        corner = self.table.new_zeros(heads)
        if self.option == "untie_beit":
            corner = self.table[2]
        elif self.option == "per_patch" and centre is not None:
            corner = centre
        if patches is None:
            patches = self.table.new_zeros(heads, n, n)
        first = torch.cat([corner[:, None], self.to_patches()], dim=1)
        others = torch.cat([self.from_patches()[:, :, None], patches], dim=2)
        return torch.cat([first[:, None], others], dim=1)


def sinusoid(grid: Grid, width: int) -> Tensor:
    """Returns fixed absolute rows, (1 + n, D): CLS 0; the first D/2 columns encode a patch's row, the last its column.

    Each half, of width w = D/2, is `sin(p / 10000^(2i/w))` at column 2i and the cosine at 2i + 1 (Vaswani et al. 2017,
    section 3.5, once per axis). D must be a multiple of 4.
    """
    rows, cols = grid
    half = width // 2
    rates = 10000.0 ** (-torch.arange(0, half, 2) / half)
    patch = torch.arange(rows * cols)
    angles = torch.stack([patch // cols, patch % cols], dim=1)[:, :, None] * rates
    encoded = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(encoded, (0, 0, 1, 0))


class AbsolutePosition(nn.Module):
    """Absolute position rows: a learned `table` (1 + n, D), or the fixed `sinusoid`."""

    table: Tensor

    def __init__(self, kind: str, grid: Grid, width: int, *, cls_row: bool) -> None:
        super().__init__()
        self.cls_row = cls_row
        if kind == "learned":
            self.table = nn.Parameter(torch.zeros(1 + grid[0] * grid[1], width))
        else:
            self.register_buffer("table", sinusoid(grid, width), persistent=False)

    def forward(self) -> Tensor:
        """Returns what is added to the tokens, (1 + n, D); row 0 is 0 unless CLS has a position."""
        return self.table if self.cls_row else F.pad(self.table[1:], (0, 0, 1, 0))
