"""Euclidean distances that keep a finite gradient, and the precision every loss is computed in.

Legend: A, B rows, D feature.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

SMALLEST_SQUARE = 1e-12  # the square root has no finite gradient at 0, so squares are cut off here


def at_least_float32(x: Tensor) -> Tensor:
    """Returns `x` as float32 when it is float16 or bfloat16, and unchanged otherwise."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(function: Function) -> Function:
    """Returns `function` run with autocast off and its half-precision tensor arguments as float32.

    The first argument must be a tensor; its device decides which autocast is switched off.
    """

    def widened(value: Any) -> Any:
        return at_least_float32(value) if isinstance(value, Tensor) else value

    @functools.wraps(function)
    def wrapper(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            named = {name: widened(value) for name, value in kwargs.items()}
            return function(widened(first), *map(widened, args), **named)

    return cast("Function", wrapper)


def norm(x: Tensor) -> Tensor:
    """Returns the Euclidean norm over the last axis, at least 1e-6; where it is cut off its gradient is 0.

    >>> norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5.0000e+00, 1.0000e-06])
    """
    return x.square().sum(-1).clamp(min=SMALLEST_SQUARE).sqrt()


@full_precision
def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns the distance of every row of `a` (A, D) to every row of `b` (B, D), shape (A, B).

    sqrt(max(|a|^2 + |b|^2 - 2 a.b, 1e-12)): not squared, features not normalised, at least 1e-6.

    The expansion cancels where rows are near each other: in float32 the square is off by about 1e-7 (|a|^2 + |b|^2). So
    it serves to choose triplets and to average over negatives; distances of chosen pairs are taken from differences.

    >>> pairwise_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[5., 1.]])
    """
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T
    return squares.clamp(min=SMALLEST_SQUARE).sqrt()
