"""Detectable differences and seeds still needed."""

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from reidablate.stats.intervals import two_way
from reidablate.stats.paired import Components
from reidablate.stats.power import detectable, seeds_needed, with_seeds


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


def test_seeds_needed_is_the_first_number_with_the_power() -> None:
    found = parts(estimate=0.004, seed_sd=0.006, sampling_se=0.001)
    needed = int(seeds_needed(found, 5, delta=None))

    def power(seeds: int) -> bool:
        interval = two_way(with_seeds(found, 5, seeds))
        return bool(detectable(interval.standard_error, interval.df) <= 0.004)

    assert [power(seeds) for seeds in range(6, 60)] == [seeds >= needed for seeds in range(6, 60)]
    assert 6 < needed < 60


def test_no_number_of_seeds_shrinks_the_test_sets_own_error() -> None:
    assert seeds_needed(parts(estimate=0.004, seed_sd=0.001, sampling_se=0.003), 5, delta=None) == np.inf


def test_a_tiny_estimate_can_be_decided_as_equivalent() -> None:
    found = parts(estimate=0.0001, seed_sd=0.003, sampling_se=0.0001)
    assert 5 < seeds_needed(found, 5, delta=0.002) < 200
    assert np.isnan(seeds_needed(found, 5, delta=None)) or seeds_needed(found, 5, delta=None) == np.inf
