"""The distribution of two added t variables against a convolution, tables of one t, and Monte Carlo."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from reidablate.stats.behrens_fisher import half_width, tail


def convolved(x: float, seed: float, seed_df: float, sampling: float, sampling_df: float) -> float:
    """The density of one t times both tails of the other, integrated by SciPy."""

    peak = special.gamma((seed_df + 1) / 2) / special.gamma(seed_df / 2) / math.sqrt(math.pi * seed_df)

    def part(value: float) -> float:
        left, right = ((sign * x - math.sqrt(seed) * value) / math.sqrt(sampling) for sign in (-1, 1))
        both = special.stdtr(sampling_df, left) + special.stdtr(sampling_df, -right)
        return float(peak * (1 + value**2 / seed_df) ** (-(seed_df + 1) / 2) * both)

    return integrate.quad(part, -np.inf, np.inf, epsabs=1e-10, limit=300)[0]


@pytest.mark.parametrize("seed_df", [2.0, 3.7, 9.0, 40.0])
@pytest.mark.parametrize("sampling_df", [1.5, 8.0, 90.0, 699.0])
def test_the_tail_is_that_of_the_convolution(seed_df: float, sampling_df: float) -> None:
    for share in (0.05, 0.3, 0.7, 0.95):
        for x in (0.3, 2.0, 5.0, 30.0):
            found = float(tail(x, share, seed_df, 1 - share, sampling_df))
            assert found == pytest.approx(convolved(x, share, seed_df, 1 - share, sampling_df), abs=1e-6)


@pytest.mark.parametrize("df", [2.0, 4.0, 7.3, 699.0])
def test_one_source_alone_is_students_t(df: float) -> None:
    x = np.linspace(0, 40, 81)
    expected = 2 * stats.t.sf(x / 1.5, df)
    np.testing.assert_allclose(tail(x, 2.25, df, 0.0, 500.0), expected, atol=1e-6)
    np.testing.assert_allclose(tail(x, 0.0, 2.0, 2.25, df), expected, atol=1e-6)
    for alpha in (0.05, 0.05 / 48):
        width = 1.5 * stats.t.ppf(1 - alpha / 2, df)
        assert half_width(alpha, 2.25, df, 0.0, 500.0) == pytest.approx(width, rel=1e-4)


def test_the_half_width_inverts_the_tail() -> None:
    rng = np.random.default_rng(0)
    alpha, share = 10 ** rng.uniform(-5, -0.05, 400), rng.uniform(0, 1, 400)
    seed_df, sampling_df = 2 + rng.exponential(10, 400), 1 + rng.exponential(300, 400)
    x = half_width(alpha, share, seed_df, 1 - share, sampling_df)
    np.testing.assert_allclose(tail(x, share, seed_df, 1 - share, sampling_df), alpha, rtol=1e-9)


def test_monte_carlo_agrees() -> None:
    rng, number = np.random.default_rng(1), 400_000
    drawn = np.abs(np.sqrt(0.6) * rng.standard_t(2, number) + np.sqrt(0.4) * rng.standard_t(30, number))
    for x in (0.5, 2.0, 6.0):
        rate = np.mean(drawn >= x)
        assert tail(x, 0.6, 2.0, 0.4, 30.0) == pytest.approx(rate, abs=4 * np.sqrt(rate / number))


def test_without_variance_a_difference_is_certain() -> None:
    assert tail(np.array([0.0, 0.1]), 0.0, 2.0, 0.0, 9.0).tolist() == [1.0, 0.0]
    assert half_width(0.05, 0.0, 2.0, 0.0, 9.0) == 0


def test_shapes_broadcast_and_may_be_empty() -> None:
    assert tail(np.ones((2, 3)), np.ones(3), 2.0, 1.0, 9.0).shape == (2, 3)
    assert tail(np.ones(0), 1.0, 2.0, 1.0, 9.0).shape == (0,)
    assert half_width(0.05, np.ones(0), 2.0, 1.0, 9.0).shape == (0,)
