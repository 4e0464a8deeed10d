import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidablate.config import PositionRelationConfig
from reidablate.losses.divergence import DIVERGENCES, jsd
from reidablate.losses.mining import batch_hard
from reidablate.losses.position_relation import divergence_to_target
from reidablate.losses.triplet import triplet_loss
from support import gradient

seeds = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None, derandomize=True)


def normal(seed: int, *shape: int, spread: float = 1.0) -> torch.Tensor:
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@quick
@given(seeds, st.floats(0.01, 300), st.sampled_from(sorted(DIVERGENCES)))
def test_divergences_are_not_negative_and_have_a_finite_gradient(seed: int, spread: float, name: str) -> None:
    logits = normal(seed, 2, 3, 5, spread=spread).requires_grad_()
    value = DIVERGENCES[name](*logits.log_softmax(-1))
    value.sum().backward()
    assert value.min() > -1e-12
    assert torch.isfinite(gradient(logits)).all()


@quick
@given(seeds, st.floats(0.01, 300))
def test_jsd_is_symmetric_and_at_most_ln2(seed: int, spread: float) -> None:
    p, q = normal(seed, 2, 3, 5, spread=spread).log_softmax(-1)
    assert jsd(p, q) == pytest.approx(jsd(q, p), abs=1e-12)
    assert jsd(p, q).max() <= math.log(2) + 1e-12


@quick
@given(seeds)
def test_jsd_and_ag_mean_add_up_to_half_of_sym_kl(seed: int) -> None:
    # Taneja 1995: JSD + AG = (KL(p||q) + KL(q||p)) / 4, and JSD <= AG.
    p, q = normal(seed, 2, 3, 5).log_softmax(-1)
    ag, both = DIVERGENCES["ag_mean"](p, q), DIVERGENCES["sym_kl"](p, q)
    assert jsd(p, q) + ag == pytest.approx(both / 2, abs=1e-12)
    assert (jsd(p, q) <= ag + 1e-12).all()


@quick
@given(seeds, st.permutations(range(3)), st.floats(-100, 100))
def test_order_of_heads_and_a_constant_change_nothing(seed: int, heads: list[int], constant: float) -> None:
    values = normal(seed, 4, 2, 3, 6)
    labels, positive = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 3, 2])
    for grouping in ("head", "layer", "sample", "layer_reshaped", "sample_reshaped"):
        config = PositionRelationConfig(grouping=grouping)
        loss = divergence_to_target(values, labels, positive, config)
        moved = divergence_to_target(values[:, :, list(heads)] + constant, labels, positive, config)
        assert moved.item() == pytest.approx(loss.item(), abs=1e-10)


@quick
@given(seeds, st.lists(st.integers(0, 3), min_size=2, max_size=9), st.randoms(use_true_random=False))
def test_order_of_the_batch_does_not_change_the_triplet_loss(seed: int, drawn: list[int], random: Random) -> None:
    feature, labels = normal(seed, len(drawn), 4), torch.tensor(drawn)
    order = torch.tensor(random.sample(range(len(labels)), len(labels)))
    one = triplet_loss(feature, batch_hard(feature, labels))
    other = triplet_loss(feature[order], batch_hard(feature[order], labels[order]))
    assert one.item() == pytest.approx(other.item(), abs=1e-12)


@quick
@given(seeds, st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_mined_samples_have_the_right_labels_and_distances(seed: int, drawn: list[int]) -> None:
    feature, labels = normal(seed, len(drawn), 4), torch.tensor(drawn)
    triplets = batch_hard(feature, labels)
    distances = torch.cdist(feature, feature, compute_mode="donot_use_mm_for_euclid_dist")
    for i, label in enumerate(labels):
        same = labels == label
        assert labels[triplets.positive[i]] == label
        assert distances[i, triplets.positive[i]] == distances[i][same].max()
        assert triplets.valid[i] == (~same).any()
        if triplets.valid[i]:
            assert distances[i, triplets.negative[i]] == distances[i][~same].min()
