"""Detectable differences and seeds still needed."""

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from reidablate.stats.intervals import two_way
from reidablate.stats.paired import Components, stack
from reidablate.stats.power import detectable, detectable_difference, detectable_range, seeds_needed, with_seeds


def parts(*, estimate: float, seed_sd: float, sampling_se: float, seeds: int = 5) -> Components:
    return Components(
        estimate=np.array(estimate),
        seed=np.array(seed_sd**2 / seeds),
        seed_df=np.array(seeds - 1.0),
        identity=np.array(sampling_se**2),
        identity_df=700.0,
        interaction=np.array(0.0),
    )


@pytest.mark.parametrize(("num_seeds", "alpha"), [(3, 0.05), (5, 0.05), (10, 0.05), (5, 0.005)])
def test_detectable_has_the_stated_power_by_statsmodels(num_seeds: int, alpha: float) -> None:
    found = detectable(np.array(1 / np.sqrt(num_seeds)), np.array(num_seeds - 1.0), alpha=alpha)
    # One-sided, because its two-sided power is NaN where the far tail underflows.
    power = TTestPower().power(float(found), num_seeds, alpha / 2, alternative="larger")
    assert power == pytest.approx(0.8, abs=1e-6)


def test_detectable_difference_is_found_that_often_in_a_simulation() -> None:
    rng = np.random.default_rng(0)
    size = float(detectable(np.array(1 / np.sqrt(5)), np.array(4.0)))
    samples = rng.standard_normal((20_000, 5)) + size
    statistic = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / np.sqrt(5))
    assert np.mean(np.abs(statistic) > 2.776) == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / 20_000))


def test_more_seeds_shrink_the_seed_part_only() -> None:
    found = with_seeds(parts(estimate=0.01, seed_sd=0.02, sampling_se=0.003), 5, 20)
    assert found.seed == pytest.approx(0.02**2 / 20)
    assert found.seed_df == pytest.approx(19)
    assert found.sampling == pytest.approx(0.003**2)


@pytest.mark.parametrize("seed_df", [2.0, 7.3])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 32])
def test_the_detectable_difference_is_found_by_the_default_test_in_four_of_five_experiments(
    seed_df: float, ratio: float, alpha: float
) -> None:
    def components(estimate: np.ndarray, seed: np.ndarray, identity: np.ndarray) -> Components:
        shape = np.ones(len(estimate))
        return Components(
            estimate=estimate,
            seed=seed,
            seed_df=seed_df * shape,
            identity=identity,
            identity_df=700.0,
            interaction=0.2 * shape,
        )

    planned = components(np.zeros(1), np.ones(1), np.array([ratio + 0.2]))
    size = float(detectable_difference(planned, alpha=alpha)[0])
    rng, number = np.random.default_rng(0), 4_000
    drawn = components(
        size + np.sqrt(1 + ratio) * rng.standard_normal(number),
        rng.chisquare(seed_df, number) / seed_df,
        (ratio + 0.2) * rng.chisquare(700, number) / 700,
    )
    # 4,000 experiments put a standard error of 0.6 points on 80 %.
    assert np.mean(two_way(drawn).p_value < alpha) == pytest.approx(0.8, abs=0.035)


def test_the_range_holds_the_true_detectable_difference_in_four_of_five_experiments() -> None:
    rng, number, seed_df = np.random.default_rng(1), 2_000, 2.0
    shape = np.ones(number)

    def components(seed: np.ndarray) -> Components:
        return Components(
            estimate=0 * seed,
            seed=seed,
            seed_df=seed_df * np.ones(len(seed)),
            identity=np.full(len(seed), 0.3),
            identity_df=700.0,
            interaction=np.zeros(len(seed)),
        )

    truth = float(detectable_difference(components(np.ones(1)))[0])
    low, high = detectable_range(components(rng.chisquare(seed_df, number) / seed_df * shape))
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / number))


def needed(found: Components, num_seeds: int, *, delta: float | None) -> float:
    limit = np.array([np.nan if delta is None else delta])
    return float(seeds_needed(stack([found]), np.array([num_seeds]), delta=limit)[0])


def test_seeds_needed_is_the_first_number_with_the_power() -> None:
    found = parts(estimate=0.004, seed_sd=0.006, sampling_se=0.001)
    first = int(needed(found, 5, delta=None))

    def power(seeds: int) -> bool:
        return bool(detectable_difference(with_seeds(found, 5, seeds)) <= 0.004)

    assert [power(seeds) for seeds in range(6, 60)] == [seeds >= first for seeds in range(6, 60)]
    assert 6 < first < 60


def test_no_number_of_seeds_shrinks_the_test_sets_own_error() -> None:
    assert needed(parts(estimate=0.004, seed_sd=0.001, sampling_se=0.003), 5, delta=None) == np.inf


def test_a_tiny_estimate_can_be_decided_as_equivalent() -> None:
    found = parts(estimate=0.0001, seed_sd=0.003, sampling_se=0.0001)
    assert 5 < needed(found, 5, delta=0.002) < 200
    assert np.isnan(needed(found, 5, delta=None)) or needed(found, 5, delta=None) == np.inf


def test_contrasts_are_answered_one_by_one() -> None:
    several = [
        parts(estimate=0.004, seed_sd=0.006, sampling_se=0.001),
        parts(estimate=0.004, seed_sd=0.001, sampling_se=0.003),
        parts(estimate=0.0001, seed_sd=0.003, sampling_se=0.0001),
    ]
    together = seeds_needed(stack(several), np.array([5, 5, 5]), delta=np.array([np.nan, np.nan, 0.002]))
    assert together.tolist() == [needed(several[0], 5, delta=None), np.inf, needed(several[2], 5, delta=0.002)]
