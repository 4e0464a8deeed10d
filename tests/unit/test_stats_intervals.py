"""The intervals that the default was chosen over."""

import numpy as np
import pytest
from scipy import integrate, stats

from reidablate.rng import generator
from reidablate.stats.intervals import (
    behrens_fisher,
    hierarchical_bootstrap,
    identity_bootstrap,
    plain_sum,
    probability_above,
    t_interval,
    two_way,
    two_way_half,
    two_way_satterthwaite,
    two_way_seed_df,
)
from reidablate.stats.paired import Components, paired_components


def parts(
    *,
    seed: float,
    identity: float,
    interaction: float,
    estimate: float = 0.01,
    seed_df: float = 4.0,
    identity_df: float = 99.0,
) -> Components:
    return Components(
        estimate=np.array(estimate),
        seed=np.array(seed),
        seed_df=np.array(seed_df),
        identity=np.array(identity),
        identity_df=identity_df,
        interaction=np.array(interaction),
    )


def convolved(x: float, seed: float, seed_df: float, sampling: float, sampling_df: float) -> float:
    """P(|sqrt(seed) t + sqrt(sampling) t'| >= x) as the integral of one density times the other's tail."""

    def part(value: float) -> float:
        left, right = ((sign * x - np.sqrt(seed) * value) / np.sqrt(sampling) for sign in (-1, 1))
        both = stats.t.cdf(left, sampling_df) + stats.t.sf(right, sampling_df)
        return float(stats.t.pdf(value, seed_df) * both)

    return integrate.quad(part, -np.inf, np.inf, epsabs=1e-10, limit=500)[0]


def test_t_interval_equals_scipys_one_sample_test() -> None:
    sample = generator(0, "test").normal(1, 2, 12)
    found = t_interval(np.array(sample.mean()), np.array(sample.var(ddof=1) / 12), np.array(11.0), level=0.9)
    expected = stats.ttest_1samp(sample, 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert [found.low, found.high] == pytest.approx(list(expected.confidence_interval(0.9)))


def test_quantiles_and_p_values_are_those_of_the_t_distribution() -> None:
    df = np.geomspace(0.5, 1e6, 200)
    found = t_interval(np.linspace(0, 9, 200), np.ones(200), df, level=0.99)
    np.testing.assert_allclose(found.high - np.linspace(0, 9, 200), stats.t.ppf(0.995, df), rtol=1e-12)
    np.testing.assert_allclose(found.p_value, 2 * stats.t.sf(np.linspace(0, 9, 200), df), rtol=1e-12)


def test_a_variance_of_zero_is_certain() -> None:
    found = t_interval(np.array([0.0, 0.1]), np.zeros(2), np.full(2, 4.0))
    assert found.p_value.tolist() == [1.0, 0.0]
    assert found.low.tolist() == [0.0, 0.1]


def test_two_way_by_hand() -> None:
    found = two_way(parts(seed=4e-6, identity=5e-6, interaction=2e-6))
    assert found.standard_error**2 == pytest.approx(7e-6)
    assert found.df == pytest.approx(49 / (16 / 4 + 9 / 99))
    # The half width solves P(|2e-3 t_4 + sqrt(3e-6) t_99| >= x) = 0.05.
    assert convolved(float(found.high) - 0.01, 4e-6, 4.0, 3e-6, 99.0) == pytest.approx(0.05, abs=1e-6)
    assert found.p_value == pytest.approx(convolved(0.01, 4e-6, 4.0, 3e-6, 99.0), abs=1e-6)


def test_an_interaction_above_the_identity_variance_leaves_the_seeds() -> None:
    found = two_way(parts(seed=4e-6, identity=1e-6, interaction=2e-6))
    assert found.standard_error**2 == pytest.approx(4e-6)
    assert found.df == pytest.approx(4)


def test_the_cautious_relatives_are_wider() -> None:
    found = parts(seed=4e-6, identity=5e-6, interaction=2e-6)
    widths = [float(interval(found).high) for interval in (two_way, two_way_seed_df, plain_sum)]
    assert widths == sorted(widths)
    assert plain_sum(found).standard_error ** 2 == pytest.approx(9e-6)


def test_identity_bootstrap_matches_the_cluster_robust_error() -> None:
    rng = generator(1, "test")
    counts = rng.integers(1, 7, 400).astype(float)
    sums = counts * rng.normal(0, 0.05, (4, 1, 400))
    low, high = identity_bootstrap(sums, counts, resamples=4000, rng=rng)
    error = np.sqrt(paired_components(sums, counts).identity)
    # A percentile of 4,000 resamples has a relative error of about 3 %.
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_hierarchical_bootstrap_shrinks_a_seed_variance_by_s_minus_one_over_s() -> None:
    # Identities without variance: only the seeds are resampled, and their bootstrap variance has divisor S.
    rng = generator(2, "test")
    counts = np.full(50, 3.0)
    seeds = rng.normal(0, 0.01, (10, 1))
    low, high = hierarchical_bootstrap(seeds * counts, counts, resamples=4000, rng=rng)
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(seeds.var() / 10), rel=0.1)


def test_seed_means_that_agree_by_luck_do_not_make_a_difference_certain() -> None:
    # Three seeds move 45 identities independently, so the truth is zero; their means agree to three digits by luck.
    components = {"seed": 4e-12, "identity": 1.6e-7, "interaction": 1.598e-7}
    lucky = parts(estimate=3.5e-4, seed_df=2.0, identity_df=44.0, **components)
    assert two_way_satterthwaite(lucky).p_value < 0.01
    found = two_way(lucky)
    assert found.p_value == pytest.approx(2 * stats.t.sf(3.5e-4 / 4e-4, 44))
    assert found.low < 0 < found.high


def test_the_standard_error_and_df_are_those_of_the_half_that_gives_the_p_value() -> None:
    lucky = parts(seed=4e-12, identity=1.6e-7, interaction=1.598e-7, estimate=3.5e-4, seed_df=2.0, identity_df=44.0)
    found = two_way(lucky)
    assert found.standard_error == pytest.approx(4e-4)
    assert found.df == 44
    assert found.p_value == pytest.approx(2 * stats.t.sf(3.5e-4 / found.standard_error, found.df))
    usual = parts(seed=4e-6, identity=5e-6, interaction=2e-6)
    assert two_way(usual).p_value == behrens_fisher(usual).p_value
    assert two_way(usual).standard_error == pytest.approx(np.sqrt(7e-6))


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_confidence_in_a_bound_agrees_with_the_interval(level: float) -> None:
    found = parts(seed=4e-6, identity=5e-6, interaction=2e-6)
    interval = two_way(found, level=level)
    assert probability_above(found, interval.low) == pytest.approx(0.5 + level / 2)
    assert probability_above(found, interval.high) == pytest.approx(0.5 - level / 2)
    assert probability_above(found, found.estimate) == pytest.approx(0.5)
    assert two_way_half(found, 1 - level) == pytest.approx(float(interval.high - interval.low) / 2)
