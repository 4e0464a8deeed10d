"""Seed variances that borrow from each other: what three seeds say of one contrast, its sisters say together.

The seed variance of a contrast from S seeds has S - 1 degrees of freedom. Contrasts of one data set and metric are
assumed to have true seed variances drawn from one scaled inverse chi-square distribution, whose degrees of freedom d0
and scale s0^2 are fitted to what all of them show; the posterior variance of each is then (Smyth 2004, limma)

    (d0 s0^2 + f s^2) / (d0 + f)        with d0 + f degrees of freedom, f = S - 1.

Smyth's variances are independent. Ours are not: contrasts that share a baseline share its noise, so that d0 + f can
exceed the information in all of them together. It is therefore capped at f K^2 / sum rho^2, the degrees of freedom
of the mean of K such variances, with rho the correlation of two contrasts; all sharing one baseline that is
4 K f / (K + 3).

Nor need they come from one distribution: a cell that nearly diverges may vary ten times as much as its sisters. A
variance that the prior gives a chance below `OUTLYING` therefore stays as it is, with its own degrees of freedom.
Without that, one cell of 32 with ten times the spread makes 11 % of families err with three seeds, and it is that cell
that is called better or worse; with it 3 %. Phipson et al. 2016 limit the prior's weight on outliers likewise.

Shapes: ... any leading axes, K contrasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reidablate.stats.paired import Array

MIN_SISTERS = 3
OUTLYING = 0.1
_ENDLESS_DF = 1e6


@dataclass(frozen=True)
class Prior:
    """What sister contrasts say of a seed variance; arrays of the leading axes."""

    df: Array  # d0: infinite where they differ no more than by chance, 0 where there is no prior
    variance: Array  # s0^2
    most_df: Array  # cap of the posterior degrees of freedom, infinite without a prior

    def posterior(self, variance: Array, df: Array) -> tuple[Array, Array]:
        """Returns the posterior variances, (..., K), and their degrees of freedom; outlying ones as they are.

        Args:
            variance: Observed variances, (..., K).
            df: Their degrees of freedom, of the same shape.
        """
        own = self.outlying(variance, df)
        prior_df, prior = self.df[..., None], self.variance[..., None]
        share = np.where(np.isinf(prior_df), 1.0, prior_df / (np.where(np.isinf(prior_df), 1.0, prior_df) + df))
        total = np.minimum(prior_df + df, np.maximum(self.most_df[..., None], df))
        return np.where(own, variance, share * prior + (1 - share) * variance), np.where(own, df, total)

    def outlying(self, variance: Array, df: Array) -> NDArray[np.bool_]:
        """Returns which of the observed variances are too large for the prior, (..., K); they are left as they are.

        Under the prior a variance over s0^2 is F distributed with its own and d0 degrees of freedom.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = special.fdtrc(df, np.minimum(self.df, _ENDLESS_DF)[..., None], variance / self.variance[..., None])
        return np.asarray(chance < OUTLYING)


NO_PRIOR = Prior(df=np.array(0.0), variance=np.array(0.0), most_df=np.array(np.inf))


def fit_prior(variance: Array, df: Array, *, overlap: float) -> Prior:
    """Returns the prior fitted to observed variances by the moments of their logarithms (Smyth 2004, section 6.2).

    Args:
        variance: Observed variances, (..., K), all positive.
        df: Their degrees of freedom, (..., K) or (K,).
        overlap: Sum of squared correlations over all ordered pairs of contrasts, from `squared_correlations`.
    """
    count = variance.shape[-1]
    if count < MIN_SISTERS:
        shape = variance.shape[:-1]
        return Prior(df=np.zeros(shape), variance=np.zeros(shape), most_df=np.full(shape, np.inf))
    half = np.broadcast_to(df, variance.shape) / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    shared = (overlap - count) / (count * (count - 1))
    excess = logs.var(axis=-1, ddof=1) - (1 - shared) * special.polygamma(1, half).mean(axis=-1)
    varied = excess > 0
    prior_df = np.where(varied, 2 * inverse_trigamma(np.where(varied, excess, 1.0)), np.inf)
    finite = np.where(varied, prior_df, 2.0) / 2
    shift = np.where(varied, special.digamma(finite) - np.log(finite), 0.0)
    most = 2 * half.mean(axis=-1) * count**2 / overlap
    return Prior(df=prior_df, variance=np.exp(logs.mean(axis=-1) + shift), most_df=most)


def inverse_trigamma(value: Array) -> Array:
    """Returns x with trigamma(x) = value > 0, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    large, small = value > 1e7, value < 1e-6
    bounded = np.clip(value, 1e-6, 1e7)
    x = 0.5 + 1 / bounded
    for _ in range(50):
        trigamma = special.polygamma(1, x)
        step = trigamma * (1 - trigamma / bounded) / special.polygamma(2, x)
        x = x + step
        if np.max(-step / x, initial=0.0) < 1e-10:
            break
    return np.where(large, 1 / np.sqrt(value), np.where(small, 1 / value, x))


def squared_correlations(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns the sum over all ordered pairs of contrasts, i = j included, of their squared correlation over seeds.

    Two contrasts (a - b) and (c - d) of independent cells with equal variances correlate at
    ([a=c] - [a=d] - [b=c] + [b=d]) / 2: one shared cell gives 1/4 when squared.

    Args:
        pairs: Cell and reference of every contrast.
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(name for pair in pairs for name in pair))}
    signs = np.zeros((len(pairs), len(names)))
    for row, (cell, reference) in enumerate(pairs):
        signs[row, names[cell]] += 1.0
        signs[row, names[reference]] -= 1.0
    return float(np.square(signs @ signs.T / 2).sum())
