"""Divergences between discrete distributions given by their log-probabilities, in nats.

Every function maps (..., M) and (..., M) to (...). 0 log 0 is 0, so a log-probability may be -inf; gradients are
finite everywhere.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from reidablate.losses.distance import full_precision

LOWEST_LOG = -1e4  # exp of it is 0 in every floating-point format


def _floored(log_p: Tensor) -> Tensor:
    # 0 * log 0 would be 0 * -inf = NaN; a finite logarithm makes it 0, and clamp has gradient 0 where it cuts.
    return log_p.clamp(min=LOWEST_LOG)


def _log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.logaddexp(log_p, log_q) - math.log(2)


def _impossible(log_p: Tensor) -> Tensor:
    return log_p == -torch.inf


class _JensenShannon(torch.autograd.Function):
    """The divergence with its gradient in closed form: d/d log p = p (log p - log m) / 2, a third of the time.

    Let J be the sum over the outcomes of p (log p - log m) / 2 + q (log q - log m) / 2 with m = (p + q) / 2. By the
    chain rule d log m / d log p = p / (p + q), so

        dJ / d log p = p (log p - log m) / 2 + p / 2 - (p + q) / 2 * p / (p + q),

    whose last two terms cancel. That p sums to 1 is the affair of the softmax before it.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, log_p: Tensor, log_q: Tensor) -> Tensor:
        log_p, log_q = _floored(log_p), _floored(log_q)
        log_m = _log_mean(log_p, log_q)
        half_p = log_p.exp().mul_(log_p - log_m).mul_(0.5)
        half_q = log_q.exp().mul_(log_q - log_m).mul_(0.5)
        ctx.save_for_backward(half_p, half_q)
        return (half_p + half_q).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        half_p, half_q = ctx.saved_tensors
        return gradient[..., None] * half_p, gradient[..., None] * half_q


@full_precision
def jsd(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns the Jensen-Shannon divergence KL(p||m)/2 + KL(q||m)/2 with m = (p+q)/2, in [0, ln 2].

    >>> jsd(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log())  # ln 2
    tensor(0.6931)
    """
    return cast("Tensor", _JensenShannon.apply(log_p, log_q))


@full_precision
def ag_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns the arithmetic-geometric mean divergence KL(m||p)/2 + KL(m||q)/2 (Taneja), in [0, inf].

    Infinite, with gradient 0, when an outcome has probability 0 under exactly one of the two.

    >>> ag_mean(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log())  # (0.0823 + 0.1537) / 2
    tensor(0.1180)
    """
    one_sided = (_impossible(log_p) != _impossible(log_q)).any(-1)
    log_p, log_q = _floored(log_p), _floored(log_q)
    log_m = _log_mean(log_p, log_q)
    return (log_m.exp() * (log_m - 0.5 * (log_p + log_q))).sum(-1).masked_fill(one_sided, torch.inf)


@full_precision
def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns the Kullback-Leibler divergence KL(p||q), in [0, inf].

    Infinite, with gradient 0, when an outcome of p has probability 0 under q.

    >>> kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log())  # (ln(5 / 9) + ln 5) / 2
    tensor(0.5108)
    """
    unreachable = (_impossible(log_q) & ~_impossible(log_p)).any(-1)
    log_p, log_q = _floored(log_p), _floored(log_q)
    return (log_p.exp() * (log_p - log_q)).sum(-1).masked_fill(unreachable, torch.inf)


def sym_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns KL(p||q)/2 + KL(q||p)/2 (half of Jeffreys' divergence), in [0, inf].

    >>> sym_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log())  # (0.5108 + 0.3681) / 2
    tensor(0.4394)
    """
    return 0.5 * (kl(log_p, log_q) + kl(log_q, log_p))


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "jsd": jsd,
    "ag_mean": ag_mean,
    "kl": kl,
    "sym_kl": sym_kl,
}
