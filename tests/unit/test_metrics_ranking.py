"""The scores of a ranking against arithmetic written out by hand."""

import doctest

import numpy as np
import pytest

from reidablate.metrics import ranking
from reidablate.metrics.ranking import (
    Tally,
    average_precision,
    average_precision_trapezoid,
    cmc,
    first_hit,
    inverse_negative_penalty,
)

# Relevance down the list, AP by steps, AP by trapezoids, as fractions.
LISTS = [
    ([0, 1], 1 / 2, (0 + 1 / 2) / 2),
    ([1, 0, 1], (1 + 2 / 3) / 2, (1 + (1 / 2 + 2 / 3) / 2) / 2),
    ([0, 0, 0, 1], 1 / 4, (0 + 1 / 4) / 2),
    ([1, 1, 0, 1, 0, 0, 1], (1 + 1 + 3 / 4 + 4 / 7) / 4, (1 + 1 + (2 / 3 + 3 / 4) / 2 + (3 / 6 + 4 / 7) / 2) / 4),
    ([1, 1, 1, 0], 1, 1),
]


def ranks_of(relevance: list[int]) -> np.ndarray:
    return np.flatnonzero(relevance) + 1


@pytest.mark.parametrize(("relevance", "step", "trapezoid"), LISTS)
def test_average_precision_by_hand(relevance: list[int], step: float, trapezoid: float) -> None:
    assert average_precision(ranks_of(relevance)) == pytest.approx([step], abs=1e-15)
    assert average_precision_trapezoid(ranks_of(relevance)) == pytest.approx([trapezoid], abs=1e-15)


def test_published_values_of_both_average_precisions() -> None:
    step, trapezoid = zip(*[(s, t) for _, s, t in LISTS], strict=True)
    assert step == pytest.approx([0.5, 0.83333, 0.25, 0.83036, 1], abs=5e-6)
    assert trapezoid == pytest.approx([0.25, 0.79167, 0.125, 0.81101, 1], abs=5e-6)


def test_many_queries_in_one_array_score_as_each_alone() -> None:
    each = [ranks_of(relevance) for relevance, _, _ in LISTS]
    starts = np.cumsum([0] + [len(ranks) for ranks in each[:-1]])
    for metric in (average_precision, average_precision_trapezoid, inverse_negative_penalty, first_hit):
        together = metric(np.concatenate(each), starts)
        assert together.tolist() == [metric(ranks).item() for ranks in each]


def test_inverse_negative_penalty_is_the_precision_at_the_last_positive() -> None:
    assert inverse_negative_penalty(np.array([1, 2, 4, 7])) == pytest.approx([4 / 7])
    assert inverse_negative_penalty(np.array([1, 2, 3])).item() == 1


def test_inverse_negative_penalty_may_exceed_average_precision() -> None:
    late = np.array([8, 9, 10])
    assert inverse_negative_penalty(late).item() == 3 / 10
    assert average_precision(late).item() == pytest.approx((1 / 8 + 2 / 9 + 3 / 10) / 3)


def test_cmc_counts_queries_with_a_hit_so_far_even_beyond_the_gallery() -> None:
    assert cmc(np.array([1, 3, 3, 9]), max_rank=4).tolist() == [0.25, 0.25, 0.75, 0.75]
    assert cmc(np.array([2]), max_rank=5).tolist() == [0, 1, 1, 1, 1]


def test_ranks_by_hand_with_ties_over_two_tiles() -> None:
    # One query; gallery columns 0..6; infinity stands at the positives 1 and 4 and at the ignored column 2.
    #   column    0    1      2       3    4      5    6
    #   distance  0.5  1(p)   (out)   1    1(p)   1    0.2
    # Order: 6, 0, 1(p), 3, 4(p), 5. Ties at 1: two positives, two negatives.
    inf = np.inf
    tiles = [(0, 4, np.array([[inf, 1.0, 0.2]])), (0, 0, np.array([[0.5, inf, inf, 1.0]]))]
    tally = Tally(np.array([1.0, 1.0]), np.array([1, 4]), np.array([0], dtype=np.int64))
    for tile in tiles:
        tally.add(*tile)
    found = tally.ranks()
    assert found.written.tolist() == [3, 5]
    assert found.optimistic.tolist() == [3, 4]
    assert found.pessimistic.tolist() == [5, 6]


def test_examples_in_docstrings() -> None:
    outcome = doctest.testmod(ranking)
    assert outcome.attempted > 0
    assert outcome.failed == 0
