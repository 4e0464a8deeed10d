"""What a design can see: the smallest detectable difference, and how many seeds would settle an open question."""

from dataclasses import replace

import numpy as np
from scipy import special

from reidablate.stats.intervals import two_way
from reidablate.stats.paired import Array, Components

MAX_SEEDS = 1000


def detectable(standard_error: Array, df: Array, *, alpha: float = 0.05, power: float = 0.8) -> Array:
    """Returns the true difference that a two-sided t test finds with the given power, in units of the error.

    The noncentrality at which the noncentral t leaves `1 - power` below the critical value, times the error.

    Args:
        standard_error: Standard error of the estimate.
        df: Its degrees of freedom.
        alpha: Level of the test. Holm's first step in a family of m tests at 0.05 / m.
        power: Probability of finding the difference.
    """
    critical = special.stdtrit(df, 1 - alpha / 2)
    return np.asarray(special.nctdtrinc(df, 1 - power, critical) * standard_error)


def with_seeds(components: Components, num_seeds: int, planned: int) -> Components:
    """Returns the components this experiment would have with `planned` seeds in place of `num_seeds`.

    The seed variance and the interaction fall as 1 / S. The variance of sampling identities does not fall at all.
    """
    scale = num_seeds / planned
    return replace(
        components,
        seed=components.seed * scale,
        seed_df=components.seed_df * (planned - 1) / (num_seeds - 1),
        identity=components.sampling + components.interaction * scale,
        interaction=components.interaction * scale,
    )


def seeds_needed(
    components: Components, num_seeds: int, *, delta: float | None, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Returns how many seeds would decide the contrast if its estimate and variances were exact.

    Decided means either that a difference of the estimated size is found with the given power, or, for an estimate
    inside +-delta, that the 95 % interval lies inside +-delta with about that power.

    Args:
        components: Scalar components of one contrast, from `num_seeds` seeds.
        num_seeds: Seeds so far, at least 2.
        delta: Largest difference that does not matter, None when none is declared.
        alpha: Level of the test of a difference.
        power: Probability of a decision.

    Returns:
        A whole number above `num_seeds`; infinity when no number of seeds suffices on this test set; NaN when more
        than `MAX_SEEDS` would.
    """
    size = abs(float(components.estimate))

    def decides(planned: Components) -> bool:
        interval = two_way(planned)
        error, df = interval.standard_error, interval.df
        if size >= detectable(error, df, alpha=alpha, power=power):
            return True
        return delta is not None and size + float(detectable(error, df, alpha=0.05, power=power)) < delta

    endless = replace(
        components,
        seed=np.zeros_like(components.seed),
        identity=components.sampling,
        interaction=np.zeros_like(components.interaction),
    )
    if not decides(endless):
        return np.inf
    low, high = num_seeds, MAX_SEEDS
    if not decides(with_seeds(components, num_seeds, high)):
        return np.nan
    while high - low > 1:
        middle = (low + high) // 2
        if decides(with_seeds(components, num_seeds, middle)):
            high = middle
        else:
            low = middle
    return float(high)
