import numpy as np
import pytest
from scipy import stats

from reidablate.data.sampler import PKSampler
from reidablate.errors import UserError

# Three identities with 4, 5 and 9 images: 1, 1 and 2 groups of four.
LABELS = np.repeat([0, 1, 2], [4, 5, 9])


def test_the_worked_example_has_one_or_two_batches() -> None:
    lengths = []
    for seed in range(300):
        sampler = PKSampler(LABELS, num_ids=2, num_instances=4, seed=seed)
        batches = sampler.epoch(0)
        assert batches.shape[1] == 8
        lengths.append(len(batches))
    assert set(lengths) == {1, 2}
    # Only the pair {0, 1} out of three leaves a single identity for a second batch.
    assert stats.binomtest(lengths.count(1), 300, 1 / 3).pvalue > 1e-3


def test_every_pair_of_identities_and_every_order_is_equally_likely() -> None:
    sampler = PKSampler(LABELS, num_ids=2, num_instances=4, seed=0)
    first = [tuple(LABELS[sampler.epoch(epoch)[0, ::4]]) for epoch in range(1200)]
    pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]
    assert stats.chisquare([first.count(pair) for pair in pairs]).pvalue > 1e-3


def test_a_remainder_is_left_out_at_random() -> None:
    sampler = PKSampler(LABELS, num_ids=3, num_instances=4, seed=0)
    left_out = [set(range(4, 9)) - set(sampler.epoch(epoch)[0]) for epoch in range(500)]
    counts = [left_out.count({row}) for row in range(4, 9)]
    assert sum(counts) == 500
    assert stats.chisquare(counts).pvalue > 1e-3


def test_an_identity_with_few_images_is_drawn_with_replacement() -> None:
    sampler = PKSampler([5, 5, 9, 9, 9, 9], num_ids=2, num_instances=4, seed=0)
    drawn = [sorted(row for row in sampler.epoch(epoch)[0] if row < 2) for epoch in range(800)]
    assert all(len(rows) == 4 for rows in drawn)
    ones = np.bincount([sum(rows) for rows in drawn], minlength=5)
    assert stats.chisquare(ones, 800 * stats.binom.pmf(np.arange(5), 4, 0.5)).pvalue > 1e-3


def test_too_few_identities_are_refused() -> None:
    with pytest.raises(UserError, match="show 3 identities, a batch needs 4"):
        PKSampler(LABELS, num_ids=4, num_instances=4, seed=0)
