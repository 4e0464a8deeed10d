import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reidablate.data.sampler import PKSampler


@st.composite
def samplers(draw: st.DrawFn) -> tuple[np.ndarray, PKSampler]:
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    names = draw(st.permutations(range(0, 2 * len(counts), 2)))
    labels = np.array(draw(st.permutations(np.repeat(names[: len(counts)], counts).tolist())))
    num_ids = draw(st.integers(1, len(counts)))
    num_instances, seed = draw(st.integers(1, 5)), draw(st.integers(0, 2**32))
    return labels, PKSampler(labels, num_ids=num_ids, num_instances=num_instances, seed=seed)


@settings(deadline=None, max_examples=150)
@given(samplers(), st.integers(0, 200))
def test_an_epoch_is_made_of_full_batches_until_too_few_identities_are_left(
    case: tuple[np.ndarray, PKSampler], epoch: int
) -> None:
    labels, sampler = case
    num_ids, num_instances = sampler.num_ids, sampler.num_instances
    batches = sampler.epoch(epoch)
    groups = batches.reshape(-1, num_ids, num_instances)
    shown = labels[groups]
    assert (shown == shown[:, :, :1]).all()
    assert all(len(set(batch)) == num_ids for batch in shown[:, :, 0])

    left = {}
    for identity, count in zip(*np.unique(labels, return_counts=True), strict=True):
        whole = max(count // num_instances, 1)
        used = int((shown[:, :, 0] == identity).sum())
        assert used <= whole
        left[identity] = whole - used
        if count >= num_instances:
            rows = groups[shown == identity]
            assert len(set(rows)) == len(rows)
    assert sum(number > 0 for number in left.values()) < num_ids


@settings(deadline=None, max_examples=50)
@given(samplers(), st.integers(0, 200))
def test_an_epoch_depends_on_seed_and_number_alone(case: tuple[np.ndarray, PKSampler], epoch: int) -> None:
    labels, sampler = case
    again = PKSampler(labels, num_ids=sampler.num_ids, num_instances=sampler.num_instances, seed=sampler.seed)
    again.epoch(epoch + 1)
    np.testing.assert_array_equal(sampler.epoch(epoch), again.epoch(epoch))


def test_epochs_and_seeds_differ() -> None:
    labels = np.repeat(np.arange(20), 8)
    draws = [
        PKSampler(labels, num_ids=4, num_instances=4, seed=seed).epoch(epoch).tobytes()
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(draws)) == 9
