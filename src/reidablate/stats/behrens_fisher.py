"""The distribution of sqrt(V) t_f + sqrt(C) t_g: an error from two sources, each known to its own degrees of freedom.

With t = Z / sqrt(chi2 / df) the sum is Z * sqrt(V f / U + C g / W) for independent U ~ chi2_f and W ~ chi2_g. Since
U + W ~ chi2_{f + g} is independent of U / (U + W) = sin(a)^2, the sum given the angle a is t_{f + g} times

    scale(a) = sqrt((V f / sin(a)^2 + C g / cos(a)^2) / (f + g)),        density of a: sin(a)^(f-1) cos(a)^(g-1).

That leaves one integral over a smooth function, exact for any degrees of freedom. The angle is that of Fisher 1935 and
Behrens 1929. Gauss-Legendre nodes s in [0, 1] become a = low + (high - low) s^2 (3 - 2 s), which flattens the ends,
where the density of few degrees of freedom has a kink.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from reidablate.stats.paired import Array

NODES = 48
_FAR = 8.0  # standard deviations of the cube root of a chi-square; what lies beyond weighs less than 1e-14
_BLOCK = 4_000  # elements integrated at once, so that an array over the nodes fits a processor's cache
_STEPS = 60


def tail(x: ArrayLike, seed: ArrayLike, seed_df: ArrayLike, sampling: ArrayLike, sampling_df: ArrayLike) -> Array:
    """Returns P(|sqrt(seed) t_seed_df + sqrt(sampling) t_sampling_df| >= x), the two-sided p-value of an estimate x.

    The arguments broadcast. The absolute error is below 1e-6 for any variances and degrees of freedom from 2 to 10,000.
    With both variances zero it is 1 at x = 0 and 0 elsewhere.

    Args:
        x: Size of the estimate, not negative.
        seed: First variance.
        seed_df: Its degrees of freedom.
        sampling: Second variance.
        sampling_df: Its degrees of freedom.
    """
    sizes, shape = _flat(x, seed, seed_df, sampling, sampling_df)
    found = np.where(sizes[0] > 0, 0.0, 1.0)
    some = np.flatnonzero(sizes[1] + sizes[3] > 0)
    for rows in np.array_split(some, -(-len(some) // _BLOCK) or 1):
        mixture = _Mixture.of(*(value[rows] for value in sizes[1:]))
        found[rows] = mixture.tail(sizes[0][rows])
    return found.reshape(shape)


def half_width(
    alpha: ArrayLike, seed: ArrayLike, seed_df: ArrayLike, sampling: ArrayLike, sampling_df: ArrayLike
) -> Array:
    """Returns the x where `tail` is `alpha`, half the width of the interval of level 1 - alpha; 0 without variance.

    Args:
        alpha: Between 0 and 1, exclusive.
        seed: First variance.
        seed_df: Its degrees of freedom.
        sampling: Second variance.
        sampling_df: Its degrees of freedom.
    """
    sizes, shape = _flat(alpha, seed, seed_df, sampling, sampling_df)
    found = np.zeros(len(sizes[0]))
    some = np.flatnonzero(sizes[1] + sizes[3] > 0)
    for rows in np.array_split(some, -(-len(some) // _BLOCK) or 1):
        mixture = _Mixture.of(*(value[rows] for value in sizes[1:]))
        found[rows] = mixture.quantile(sizes[0][rows])
    return found.reshape(shape)


@dataclass(frozen=True)
class _Mixture:
    """A t distribution whose scale is drawn from some nodes: N elements, K nodes."""

    weights: Array  # (N, K), each row sums to 1
    scales: Array  # (N, K)
    df: Array  # (N, 1)

    @classmethod
    def of(cls, seed: Array, seed_df: Array, sampling: Array, sampling_df: Array) -> "_Mixture":
        """Returns the mixture over the angles."""
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        nodes, weights = (nodes + 1) / 2, weights / 2
        low = np.arctan2(np.sqrt(_chi_square(seed_df, -_FAR)), np.sqrt(_chi_square(sampling_df, _FAR)))
        high = np.arctan2(np.sqrt(_chi_square(seed_df, _FAR)), np.sqrt(_chi_square(sampling_df, -_FAR)))
        angles = low[:, None] + (high - low)[:, None] * (np.square(nodes) * (3 - 2 * nodes))
        sines, cosines = np.square(np.sin(angles)), np.square(np.cos(angles))
        density = (seed_df[:, None] - 1) / 2 * np.log(sines) + (sampling_df[:, None] - 1) / 2 * np.log(cosines)
        mass = np.exp(density - density.max(axis=1, keepdims=True)) * (weights * nodes * (1 - nodes))
        df = (seed_df + sampling_df)[:, None]
        variances = (seed * seed_df)[:, None] / sines + (sampling * sampling_df)[:, None] / cosines
        return cls(mass / mass.sum(axis=1, keepdims=True), np.sqrt(variances / df), df)

    def tail(self, x: Array) -> Array:
        """Returns P(|T| >= x), (N,)."""
        return np.asarray(2 * (self.weights * special.stdtr(self.df, -x[:, None] / self.scales)).sum(axis=1))

    def density(self, x: Array) -> Array:
        """Returns the density of |T| at x, (N,)."""
        half = (self.df + 1) / 2
        peak = np.exp(special.gammaln(half) - special.gammaln(self.df / 2)) / np.sqrt(np.pi * self.df)
        shape = np.exp(-half * np.log1p(np.square(x[:, None] / self.scales) / self.df))
        return np.asarray(2 * (self.weights * peak * shape / self.scales).sum(axis=1))

    def quantile(self, alpha: Array) -> Array:
        """Returns x with P(|T| >= x) = alpha, (N,), by Newton's method.

        The logarithm of the tail is concave in log x, so whatever the first step does, the rest fall towards x. A last
        step of 1e-6 leaves an error of about its square.
        """
        spread = np.sqrt((self.weights * np.square(self.scales)).sum(axis=1))
        x = np.minimum(-special.ndtri(alpha / 2) * spread, 1e3 * spread)
        for _ in range(_STEPS):
            tail = self.tail(x)
            step = np.log(tail / alpha) * tail / (x * self.density(x))
            x = x * np.exp(np.clip(step, -3.0, 3.0))
            if np.abs(step).max(initial=0.0) < 1e-6:
                break
        return np.asarray(x)


def _chi_square(df: Array, z: float) -> Array:
    """Returns about the quantile of a chi-square at a normal quantile z (Wilson and Hilferty 1931)."""
    return np.asarray(df * np.maximum(1 - 2 / (9 * df) + z * np.sqrt(2 / (9 * df)), 0.0) ** 3)


def _flat(*values: ArrayLike) -> tuple[list[Array], tuple[int, ...]]:
    """Returns the values broadcast against each other, each (N,), and their common shape."""
    full = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in values))
    return [np.ascontiguousarray(value).ravel() for value in full], full[0].shape
