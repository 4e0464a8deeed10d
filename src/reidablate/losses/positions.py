"""Position-relation values: how the model's position parameters relate the top patches of an image.

Legend: B batch, n patches, D feature, L blocks, h heads, R rows of a table, N chosen patches, M pairs.
Without a relative embedding L = h = 1.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from reidablate.config import Pairs
from reidablate.errors import UserError
from reidablate.losses.distance import at_least_float32
from reidablate.losses.mining import top_patches
from reidablate.pinned import to_device


@dataclass(frozen=True)
class PositionState:
    """The position parameters of a model, as the forward pass uses them."""

    ape: Tensor | None
    """(1+n, D) absolute position rows, the CLS row first; None when the model has none."""
    tables: Tensor | None
    """(L, R, h) relative tables of all blocks; None without scalar relative positions."""
    index: Tensor | None
    """(n, n) rows of `tables` for each query (row) and key (column) patch."""
    cls_bias: Tensor | None = None
    """(L, h, n) learned CLS-to-patch biases; None unless the model learns one for each patch."""


PAIRS: dict[Pairs, Callable[[range], Iterable[tuple[int, ...]]]] = {
    "combinations": lambda ranks: itertools.combinations(ranks, 2),
    "combinations_with_replacement": lambda ranks: itertools.combinations_with_replacement(ranks, 2),
    "permutations": lambda ranks: itertools.permutations(ranks, 2),
    "product": lambda ranks: itertools.product(ranks, repeat=2),
}


@functools.lru_cache(maxsize=64)
def pair_ranks(pairs: Pairs, count: int, device: torch.device) -> Tensor:
    """Returns the pairs (2, M) of the ranks 0..count-1, query ranks then key ranks, in the order of itertools.

    Kept for each device, so that a training step copies nothing to it.

    >>> pair_ranks("combinations", 3, torch.device("cpu"))
    tensor([[0, 0, 1],
            [1, 2, 2]])
    """
    with torch.inference_mode(False):
        return to_device(torch.tensor(list(PAIRS[pairs](range(count)))).T.contiguous(), device)


def choose_patches(direction: Tensor, patches: Tensor, count: int, *, by_token: bool = False) -> Tensor:
    """Returns the `count` patches (B, N) of `patches` (B, n, D) with the largest dot product with `direction` (B, D).

    Best first (ties: lowest index), or by rising token index. No gradient passes.

    Raises:
        UserError: There are fewer than `count` patches.

    >>> choose_patches(torch.tensor([[1.0]]), torch.tensor([[[0.1], [0.9], [0.5]]]), 2)
    tensor([[1, 2]])
    """
    if count > patches.shape[1]:
        raise UserError(
            f"a position loss wants {count} patches but the model's grid has {patches.shape[1]}; lower 'patches'."
        )
    with torch.no_grad():
        scores = (at_least_float32(direction)[:, None] @ at_least_float32(patches).transpose(1, 2)).squeeze(1)
        chosen = top_patches(scores, count)
        return chosen.sort(1).values if by_token else chosen


def require_positions(positions: PositionState, loss: str) -> None:
    """Refuses a model that has no position parameters for `loss`.

    Raises:
        UserError: `positions` holds neither absolute rows nor relative tables.
    """
    if positions.ape is None and positions.tables is None:
        raise UserError(
            f"losses.{loss} relates position parameters but the model has none; "
            "choose a model.ape or a model.rpe.kind with a table, or set the loss to none."
        )


class _Gram(torch.autograd.Function):
    """The dot products (R, R) of rows (R, D): x @ x.T with one product in its backward pass instead of two.

    For a change dx of the rows the sum of G * (dx x^T + x dx^T) is that of dx * (G x + G^T x), so the gradient is
    (G + G^T) x. The loss with its backward pass takes 0.9 ms in place of 1.2 (`bench/losses.py`).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows @ rows.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows: Tensor = ctx.saved_tensors[0]
        return (gradient + gradient.T) @ rows


def _dot_products(positions: PositionState, queries: Tensor, keys: Tensor) -> Tensor | None:
    """Returns <P_query, P_key> for rows of the absolute embedding (0 is CLS), or None when the model has none."""
    if positions.ape is None:
        return None
    # All of them, of which a batch needs a part: 34 million multiplications for 211 rows of 768, and no copy of two
    # rows for every pair of every image.
    gram = cast("Tensor", _Gram.apply(at_least_float32(positions.ape)))
    return gram[queries, keys]


def relation_values(
    positions: PositionState,
    chosen: Tensor,
    pairs: Pairs,
    *,
    abs_scale: float = 1.0,
    ape_shift: int = 1,
    grad_to_rpe: bool = True,
) -> Tensor:
    """Returns abs_scale <P_a, P_b> + Bias[a, b] of every pair of `chosen` (B, N), shape (B, L, h, M).

    `ape_shift` is the row of the absolute embedding that patch 0 takes: 1, or 0 to repeat the published code's
    mistake. Without absolute rows the first summand is left out, without tables the second, and then L = h = 1.

    >>> rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])  # of CLS and of three patches
    >>> relation_values(PositionState(rows, None, None), torch.tensor([[0, 1, 2]]), "combinations")
    tensor([[[[1., 0., 2.]]]])
    """
    ranks = pair_ranks(pairs, chosen.shape[1], chosen.device)
    query, key = chosen[:, ranks[0]], chosen[:, ranks[1]]
    absolute = _dot_products(positions, query + ape_shift, key + ape_shift)  # row 0 is that of CLS
    if absolute is not None:
        absolute = abs_scale * absolute[:, None, None, :]
    if positions.tables is None:
        assert absolute is not None
        return absolute
    assert positions.index is not None
    tables = at_least_float32(positions.tables if grad_to_rpe else positions.tables.detach())
    num_blocks, num_rows, num_heads = tables.shape
    # One look-up for all blocks and heads: (L, R, h) -> (R, L h), a row of it for each pair (B, M, L h), and back to
    # (B, L, h, M), the pairs last, over which a softmax runs.
    by_row = tables.transpose(0, 1).reshape(num_rows, num_blocks * num_heads)
    rows = F.embedding(positions.index[query, key], by_row)
    relative = rows.transpose(1, 2).reshape(chosen.shape[0], num_blocks, num_heads, -1)
    return relative if absolute is None else absolute + relative


def cls_relation_values(
    positions: PositionState,
    chosen: Tensor,
    *,
    abs_scale: float = 1.0,
    ape_shift: int = 1,
    grad_to_rpe: bool = True,
) -> Tensor:
    """Returns abs_scale <P_cls, P_k> + Bias[cls, k] of the patches `chosen` (B, N), shape (B, L, h, N).

    A bias that is equal for all patches vanishes in the softmax and is left out.

    Raises:
        UserError: The model has neither absolute rows nor a CLS bias for each patch.

    >>> rows = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])  # of CLS and of three patches
    >>> cls_relation_values(PositionState(rows, None, None), torch.tensor([[0, 2]]))
    tensor([[[[1., 2.]]]])
    """
    absolute = _dot_products(positions, torch.zeros_like(chosen), chosen + ape_shift)
    if absolute is not None:
        absolute = abs_scale * absolute[:, None, None, :]
    if positions.cls_bias is None:
        if absolute is None:
            raise UserError(
                "losses.position_relation.cls_term relates CLS to patches but the model has no such parameters; "
                "set model.cls_position to per_patch or cls_term to none."
            )
        return absolute
    bias = at_least_float32(positions.cls_bias if grad_to_rpe else positions.cls_bias.detach())
    relative = bias[:, :, chosen].permute(2, 0, 1, 3)
    return relative if absolute is None else absolute + relative
