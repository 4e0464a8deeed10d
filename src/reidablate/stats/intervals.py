"""Intervals of a mean difference: the default, and the ones it was chosen over.

Shapes: ... any leading axes (metrics, experiments), S seeds, G identities, B bootstrap resamples.

`two_way` is what the tables use. The others stay for the calibration table, where they show what goes wrong when a
source of error is forgotten or a resampling scheme meets three seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from reidablate.stats.behrens_fisher import half_width, tail
from reidablate.stats.paired import Array, Components, satterthwaite_df


@dataclass(frozen=True)
class Interval:
    """A confidence interval and the two-sided p-value of no difference; arrays of one shape."""

    low: Array
    high: Array
    standard_error: Array
    df: Array
    p_value: Array


def t_interval(estimate: Array, variance: Array, df: Array, *, level: float | Array = 0.95) -> Interval:
    """Returns estimate +- t(df) * sqrt(variance) and the p-value of the same t statistic.

    A variance of zero gives an interval of width zero, with p = 1 at an estimate of zero and p = 0 elsewhere.
    """
    error = np.sqrt(variance)
    width = special.stdtrit(df, 0.5 + np.asarray(level) / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(estimate == 0, 0.0, np.abs(estimate) / error)
    return Interval(estimate - width, estimate + width, error, df, np.asarray(2 * special.stdtr(df, -statistic)))


def two_way(components: Components, *, level: float | Array = 0.95) -> Interval:
    """Returns the default interval: the wider of `behrens_fisher` and the one of the identities alone.

    The p-value is the larger of the two, so it is below 0.05 exactly where the 95 % interval excludes zero. Standard
    error and degrees of freedom are those of the half that gives the p-value.

    The true variance is never below the identity-clustered one, but with three seeds V_seed can be tiny by luck, and
    where nothing but the seed-by-identity interaction moves the scores, V_identity - V_interaction is then a small
    remainder of two large numbers with no degrees of freedom to speak of. The sum alone calls such a difference
    certain. The rates in every setting are in `results/reference/calibration.csv`.
    """
    lead = behrens_fisher(components, level=level)
    alone = t_interval(components.estimate, components.identity, _identity_df(components), level=level)
    decides = alone.p_value > lead.p_value
    half = np.maximum(lead.high - lead.low, alone.high - alone.low) / 2
    return Interval(
        low=components.estimate - half,
        high=components.estimate + half,
        standard_error=np.where(decides, alone.standard_error, lead.standard_error),
        df=np.where(decides, alone.df, lead.df),
        p_value=np.maximum(lead.p_value, alone.p_value),
    )


def two_way_half(components: Components, alpha: float | Array) -> Array:
    """Returns half the width of the `two_way` interval of level 1 - alpha."""
    identity_df = _identity_df(components)
    lead = half_width(np.asarray(alpha), components.seed, components.seed_df, components.sampling, identity_df)
    alone = special.stdtrit(identity_df, 1 - np.asarray(alpha) / 2) * np.sqrt(components.identity)
    return np.asarray(np.maximum(lead, alone))


def two_way_tail(components: Components, x: Array) -> Array:
    """Returns P(|error| >= x) under the distribution behind `two_way`: its p-value for an estimate of size x."""
    identity_df = _identity_df(components)
    lead = tail(x, components.seed, components.seed_df, components.sampling, identity_df)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(x == 0, 0.0, x / np.sqrt(components.identity))
    return np.asarray(np.maximum(lead, 2 * special.stdtr(identity_df, -statistic)))


def probability_above(components: Components, delta: Array) -> Array:
    """Returns P(difference > delta) from the confidence distribution of `two_way`: no prior enters.

    It is one minus half the two-sided p-value of a true difference of delta where delta lies below the estimate, and
    half of it above.
    """
    half = two_way_tail(components, np.abs(delta - components.estimate)) / 2
    return np.where(delta > components.estimate, half, 1 - half)


def behrens_fisher(components: Components, *, level: float | Array = 0.95) -> Interval:
    """Returns the interval of sqrt(V_seed) t_{S-1} + sqrt(C) t_{G-1}, with C = max(V_identity - V_interaction, 0).

    G is the effective number of identities. Each variance keeps its own degrees of freedom; Satterthwaite's single
    number is itself estimated, and large where a small V_seed is luck. The standard error is sqrt(V_seed + C) and its
    `df` Satterthwaite's, for reading: neither interval nor p-value comes from them.
    """
    parts = (components.seed, components.seed_df, components.sampling, _identity_df(components))
    half = half_width(1 - np.asarray(level), *parts)
    return Interval(
        low=components.estimate - half,
        high=components.estimate + half,
        standard_error=np.sqrt(components.seed + components.sampling),
        df=satterthwaite_df((parts[0], parts[1]), (parts[2], parts[3])),
        p_value=tail(np.abs(components.estimate), *parts),
    )


def two_way_satterthwaite(components: Components, *, level: float = 0.95) -> Interval:
    """Returns the interval of V = V_seed + C with C = max(V_identity - V_interaction, 0), t on Satterthwaite df.

    df = V^2 / (V_seed^2 / df_seed + C^2 / (G - 1)), G the effective number of identities: near S - 1 when the seeds
    dominate, near G - 1 when the identities do. The former default: at the level of a family of 32 it rejects twelve
    times too often with three seeds, because a V_seed that is small by luck makes the estimated df large.
    """
    sampling = components.sampling
    df = satterthwaite_df(
        (components.seed, components.seed_df),
        (sampling, _identity_df(components)),
    )
    return t_interval(components.estimate, components.seed + sampling, df, level=level)


def two_way_seed_df(components: Components, *, level: float = 0.95) -> Interval:
    """Returns the interval of two-way clustering with the degrees of freedom of the smaller dimension, the seeds."""
    return t_interval(components.estimate, components.seed + components.sampling, components.seed_df, level=level)


def plain_sum(components: Components, *, level: float = 0.95) -> Interval:
    """Returns the interval of V_seed + V_identity on S - 1 degrees of freedom: the interaction counts twice."""
    return t_interval(components.estimate, components.seed + components.identity, components.seed_df, level=level)


def seeds_only(components: Components, *, level: float = 0.95) -> Interval:
    """Returns the t interval over seeds alone: the test identities are taken as the only ones there are."""
    return t_interval(components.estimate, components.seed, components.seed_df, level=level)


def _identity_df(components: Components) -> Array:
    """Returns the degrees of freedom of the identities for every element."""
    return np.broadcast_to(np.asarray(components.identity_df, dtype=np.float64), components.identity.shape)


ANALYTIC: dict[str, Callable[..., Interval]] = {
    "two_way": two_way,
    "two_way_satterthwaite": two_way_satterthwaite,
    "two_way_seed_df": two_way_seed_df,
    "plain_sum": plain_sum,
    "seeds_only": seeds_only,
}


def identity_bootstrap(
    sums: Array, counts: Array, *, resamples: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[Array, Array]:
    """Returns low and high of the percentile bootstrap over identities of the seed-averaged difference.

    The seeds are taken as fixed. One draw of resamples serves all leading axes.

    Args:
        sums: Sums of D over the queries of each identity, (..., S, G).
        counts: Queries of each identity, (G,).
        resamples: Number B of resamples.
        rng: Source of the resamples.
        level: Confidence level.
    """
    weights = _resample_counts(len(counts), resamples, rng)
    means = (sums.mean(axis=-2) @ weights.T) / (weights @ counts)
    return _percentiles(means, level)


def hierarchical_bootstrap(
    sums: Array, counts: Array, *, resamples: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[Array, Array]:
    """Returns low and high of the percentile bootstrap that draws seeds and identities, arguments as above."""
    weights = _resample_counts(len(counts), resamples, rng)
    seeds = _resample_counts(sums.shape[-2], resamples, rng) / sums.shape[-2]
    means = np.einsum("...sb,bs->...b", sums @ weights.T, seeds) / (weights @ counts)
    return _percentiles(means, level)


BOOTSTRAP: dict[str, Callable[..., tuple[Array, Array]]] = {
    "identity_bootstrap": identity_bootstrap,
    "hierarchical_bootstrap": hierarchical_bootstrap,
}


def _resample_counts(units: int, resamples: int, rng: np.random.Generator) -> Array:
    """Returns how often each unit is drawn in each of B resamples with replacement, (B, units)."""
    return rng.multinomial(units, np.full(units, 1.0 / units), size=resamples).astype(np.float64)


def _percentiles(means: Array, level: float) -> tuple[Array, Array]:
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2], axis=-1)
    return low, high
