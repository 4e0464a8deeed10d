"""Levels for a study that adds seeds until it is decided, and looks at what it has in between.

Testing at 5 % after 3, 5, 7 and 10 seeds finds a difference that is not there in far more than 5 % of studies. Here a
study of at most `cap` seeds spends its error as the information grows (Lan and DeMets 1983, with the function that
resembles the bounds of O'Brien and Fleming 1979): after S seeds it has spent

    spent(S) = 2 Phi(-z / sqrt(S / cap)),        z = Phi^-1(1 - alpha / 2),

all of alpha at the cap. The nominal level of a look is where a Brownian motion that has not crossed an earlier bound
crosses this one with the probability that the look adds. Looks at a difference of which the test set is a part resemble
each other more than those of a Brownian motion, so the levels hold for it, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, optimize, special

from reidablate.seeds import look_seeds
from reidablate.stats.paired import Array

# Of Gauss and Legendre. Against 400 nodes the bounds are off by 5e-12 at a cap of 10 and by 3e-7 at one of 20.
_NODES = 64
# Normal quantiles of alpha at which bounds are worked out; levels between them are within 0.06 % at a cap of 10.
_GRID = np.concatenate([np.linspace(0.005, 0.1, 8)[:-1], np.linspace(0.1, 8.0, 60)])


@dataclass(frozen=True)
class Looks:
    """Looks of a study by their numbers of seeds, rising; the last is the cap."""

    seeds: tuple[int, ...]

    @classmethod
    def up_to(cls, cap: int) -> "Looks":
        """Returns the looks of a study with this cap."""
        return cls(look_seeds(cap))

    def level(self, look: int, alpha: Array) -> Array:
        """Returns the level that the p-value of a look, from 0, has to be below at an error of alpha over all looks."""
        return np.asarray(2 * special.ndtr(-self._bounds[look](_quantile(alpha))))

    def repeated(self, look: int, p_value: Array) -> Array:
        """Returns the smallest alpha at which a p-value is below the level of its look, from 0; NaN stays NaN.

        It is a p-value at whatever look the study stops (Jennison and Turnbull 1989).
        """
        bounds = self._bounds[look]
        inverse = interpolate.PchipInterpolator(bounds(_GRID), _GRID)
        quantile = _quantile(p_value)
        inside = np.clip(quantile, bounds(_GRID[0]), bounds(_GRID[-1]))
        found = np.where(quantile < bounds(_GRID[0]), 0.0, inverse(inside))
        return np.asarray(np.maximum(2 * special.ndtr(-found), p_value))

    @cached_property
    def _bounds(self) -> list[interpolate.PchipInterpolator]:
        """The bound of every look, a normal quantile, as a function of that of alpha."""
        table = np.array([_bounds(self.seeds, quantile) for quantile in _GRID])
        return [interpolate.PchipInterpolator(_GRID, column) for column in table.T]


def _quantile(p_value: Array) -> Array:
    """Returns the size of a normal variable that is exceeded with probability p on both sides together."""
    return np.asarray(-special.ndtri(np.asarray(p_value) / 2))


def _bounds(seeds: Sequence[int], quantile: float) -> list[float]:
    """Returns the bounds of all looks, normal quantiles, by recursive integration (Armitage et al. 1969).

    Let W be a Brownian motion seen at the times t_1 < .. < t_K = 1, the shares of information, and b_k the bounds of
    its size. The density g_k of W(t_k) where no bound was crossed up to there follows from the one before,

        g_k(x) = integral from -b_(k-1) to b_(k-1) of g_(k-1)(y) phi((x - y) / s) / s dy,    s^2 = t_k - t_(k-1),

    and b_k is where the mass beyond it is the error that look k adds. What is returned is b_k / sqrt(t_k), in standard
    deviations of W(t_k). `mass` at the nodes is g times the weight of the node, so that an integral is a sum.
    """
    times = np.array(seeds) / seeds[-1]
    spent = 2 * special.ndtr(-quantile / np.sqrt(times))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    found = [quantile / np.sqrt(times[0])]
    end = found[0] * np.sqrt(times[0])  # the first look has spent nothing yet, so its bound is exact
    places = end * nodes
    mass = end * weights * _density(places, times[0])
    for before, time, added in zip(times[:-1], times[1:], np.diff(spent), strict=True):
        step = np.sqrt(time - before)
        excess = partial(_excess, np.sqrt(time), places, mass, step, added)
        bound = optimize.brentq(excess, 0.0, max(found[0], 3.0), xtol=1e-10)  # bounds fall from look to look
        found.append(float(bound))
        end = bound * np.sqrt(time)
        following = end * nodes
        mass = end * weights * (_density(following[:, None] - places, time - before) @ mass)
        places = following
    return found


def _excess(scale: float, places: Array, mass: Array, step: float, added: float, bound: float) -> float:
    """Returns the logarithm of the chance to be beyond a bound after a step of this deviation, over that wanted.

    In logarithms, since at large quantiles of alpha both are far below the tolerance of the search.
    """
    end = bound * scale
    return float(np.log(mass @ (special.ndtr((places - end) / step) + special.ndtr((-places - end) / step)) / added))


def _density(x: Array, variance: float) -> Array:
    return np.asarray(np.exp(-np.square(x) / (2 * variance)) / np.sqrt(2 * np.pi * variance))


@dataclass(frozen=True)
class Levels:
    """The levels of N contrasts, each at its own look, from 1; without looks a level is what it is."""

    looks: Looks | None
    numbers: Sequence[int | None]

    def of(self, alpha: float | Array) -> Array:
        """Returns the level that keeps an error of alpha over all looks, (N,)."""
        return self._each(Looks.level, alpha)

    def of_last(self, alpha: float | Array) -> Array:
        """Returns the level of the last look, (N,)."""
        if self.looks is None:
            return np.asarray(alpha)
        return self.looks.level(len(self.looks.seeds) - 1, np.asarray(alpha))

    def repeated(self, p_value: Array) -> Array:
        """Returns the p-values of all looks so far, (N,)."""
        return self._each(Looks.repeated, p_value)

    def select(self, rows: NDArray[np.int64]) -> "Levels":
        """Returns those of some of the contrasts."""
        return Levels(self.looks, [self.numbers[row] for row in rows])

    def _each(self, change: Callable[[Looks, int, Array], Array], values: float | Array) -> Array:
        if self.looks is None:
            return np.asarray(values)
        found = np.broadcast_to(np.asarray(values, dtype=np.float64), (len(self.numbers),)).copy()
        for look in range(len(self.looks.seeds)):
            rows = np.array([number == look + 1 for number in self.numbers], dtype=bool)
            found[rows] = change(self.looks, look, found[rows])
        return found
