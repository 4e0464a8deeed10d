"""Variance components against SciPy, statsmodels and loops from the definition."""

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from reidablate.rng import generator
from reidablate.stats.intervals import seeds_only, two_way
from reidablate.stats.paired import (
    effective_identities,
    identity_sums,
    paired_components,
    probability_better,
    satterthwaite_df,
    sign_flip_p,
    unpaired_components,
)

COUNTS = np.array([1, 4, 2, 3, 6, 1, 5])
IDENTITIES = np.repeat(np.arange(7) * 10, COUNTS)


def differences(num_seeds: int, *key: int) -> np.ndarray:
    """(S, Q) differences with effects of seed, identity and their interaction."""
    rng = generator(5, "test", num_seeds, *key)
    of_query = np.repeat(np.arange(7), COUNTS)
    effects = rng.normal(0, 0.1, (num_seeds, 1)) + rng.normal(0, 0.2, 7)[of_query]
    return effects + rng.normal(0, 0.1, (num_seeds, 7))[:, of_query] + rng.normal(0, 0.1, (num_seeds, len(of_query)))


def test_identity_sums_follow_sorted_identities_whatever_the_query_order() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    sums, counts = identity_sums(scores, np.array([7, -1, 7, 3]))
    assert sums.tolist() == [2.0, 4.0, 1.0 + 3.0]
    assert counts.tolist() == [1, 1, 2]


def test_components_equal_a_slow_loop_from_the_definition() -> None:
    found = differences(4)
    parts = paired_components(*identity_sums(found, IDENTITIES))
    num_seeds, num_queries = found.shape
    mean = sum(found[s, q] for s in range(num_seeds) for q in range(num_queries)) / (num_seeds * num_queries)
    seed_means = [sum(found[s]) / num_queries for s in range(num_seeds)]
    seed = sum((m - mean) ** 2 for m in seed_means) / (num_seeds - 1) / num_seeds
    identity = interaction = 0.0
    for pid in sorted(set(IDENTITIES)):
        mine = [q for q in range(num_queries) if IDENTITIES[q] == pid]
        residual = [sum(found[s, q] - seed_means[s] for q in mine) for s in range(num_seeds)]
        average = sum(residual) / num_seeds
        identity += average**2
        interaction += sum((r - average) ** 2 for r in residual) / (num_seeds - 1) / num_seeds
    assert parts.estimate == pytest.approx(mean)
    assert parts.seed == pytest.approx(seed)
    assert parts.identity == pytest.approx(7 / 6 * identity / num_queries**2)
    assert parts.interaction == pytest.approx(7 / 6 * interaction / num_queries**2)
    assert parts.sampling == pytest.approx(max(parts.identity - parts.interaction, 0))


def test_identity_variance_is_statsmodels_cluster_robust_variance() -> None:
    averaged = differences(3).mean(axis=0)
    fit = sm.OLS(averaged, np.ones(len(averaged))).fit(cov_type="cluster", cov_kwds={"groups": IDENTITIES})
    parts = paired_components(*identity_sums(averaged[None], IDENTITIES))
    assert parts.estimate == pytest.approx(fit.params[0])
    assert parts.identity == pytest.approx(fit.cov_params()[0, 0])


def test_seeds_alone_are_scipys_paired_t_test() -> None:
    rng = generator(0, "test")
    cell, reference = rng.normal(0.6, 0.1, (2, 5, 22))
    interval = seeds_only(paired_components(*identity_sums(cell - reference, IDENTITIES)))
    expected = stats.ttest_rel(cell.mean(axis=1), reference.mean(axis=1))
    assert interval.p_value == pytest.approx(expected.pvalue)
    assert [interval.low, interval.high] == pytest.approx(list(expected.confidence_interval(0.95)))


def test_queries_alone_are_scipys_paired_t_test() -> None:
    # The same scores on every seed and one query an identity leave one factor.
    rng = generator(1, "test")
    cell, reference = rng.normal(0.6, 0.1, (2, 30))
    same = np.tile(cell - reference, (3, 1))
    interval = two_way(paired_components(*identity_sums(same, np.arange(30))))
    expected = stats.ttest_rel(cell, reference)
    assert interval.df == pytest.approx(29)
    assert interval.p_value == pytest.approx(expected.pvalue)
    assert [interval.low, interval.high] == pytest.approx(list(expected.confidence_interval(0.95)))


def test_unpaired_seeds_alone_are_scipys_welch_test() -> None:
    # Every query of a run scores the same, so only the seeds differ.
    rng = generator(2, "test")
    cell, reference = rng.normal(0.6, 0.1, 4), rng.normal(0.5, 0.02, 6)
    sums = [identity_sums(np.repeat(means[:, None], 22, axis=1), IDENTITIES) for means in (cell, reference)]
    interval = two_way(unpaired_components(sums[0][0], sums[1][0], sums[0][1]))
    expected = stats.ttest_ind(cell, reference, equal_var=False)
    assert interval.df == pytest.approx(expected.df)
    assert interval.p_value == pytest.approx(expected.pvalue)


def test_unpaired_identity_variance_ignores_what_both_cells_share() -> None:
    cell, reference = differences(4, 1), differences(4, 2)
    hard = generator(3, "test").normal(0, 5, 22)
    plain, shared = (
        unpaired_components(identity_sums(cell + extra, IDENTITIES)[0], *identity_sums(reference + extra, IDENTITIES))
        for extra in (0.0, hard)
    )
    assert shared.identity == pytest.approx(plain.identity)
    assert shared.interaction == pytest.approx(plain.interaction)
    assert shared.seed == pytest.approx(plain.seed)


def test_leading_axes_are_independent() -> None:
    both = np.stack([differences(3, 1), differences(3, 2)])
    together = paired_components(*identity_sums(both, IDENTITIES))
    alone = paired_components(*identity_sums(both[1], IDENTITIES))
    assert together.interaction[1] == pytest.approx(alone.interaction)
    assert two_way(together).p_value[1] == pytest.approx(two_way(alone).p_value)


def test_satterthwaite_df_by_hand() -> None:
    assert satterthwaite_df((np.array(2.0), np.array(4.0)), (np.array(1.0), np.array(10.0))) == pytest.approx(9 / 1.1)
    assert satterthwaite_df((np.array(0.0), np.array(4.0)), (np.array(0.0), np.array(10.0))) == 4


def test_effective_identities_by_hand() -> None:
    assert effective_identities(np.full(9, 4.0)) == pytest.approx(9)
    assert effective_identities(np.array([300.0, *[1.0] * 10])) == pytest.approx(310**2 / (300**2 + 10))


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 6])
def test_sign_flip_equals_enumeration_and_scipy(num_seeds: int) -> None:
    means = generator(4, "test", num_seeds).normal(0.5, 1, num_seeds)
    every = [abs(np.dot(signs, means)) for signs in itertools.product([1, -1], repeat=num_seeds)]
    assert sign_flip_p(means) == pytest.approx(np.mean(np.array(every) >= abs(means.sum()) - 1e-12))
    if num_seeds > 1:
        scipys = stats.permutation_test((means,), np.sum, permutation_type="samples", n_resamples=np.inf)  # type: ignore[call-overload]
        assert sign_flip_p(means) == pytest.approx(min(scipys.pvalue, 1))


def test_five_seeds_cannot_reach_five_percent_by_sign_flips_but_six_can() -> None:
    assert sign_flip_p(np.arange(1.0, 6.0)) == 2 / 32
    assert sign_flip_p(np.arange(1.0, 7.0)) == 2 / 64


def test_probability_better_counts_ties_one_half() -> None:
    cell, reference = np.array([[1.0, 0.5, 0.2, 0.9]]), np.array([[0.5, 0.5, 0.3, 0.9]])
    assert probability_better(cell, reference) == (1 + 0.5 + 0 + 0.5) / 4
