import math

import numpy as np
import pytest
import torch

from reidablate.config import Margin
from reidablate.losses.distance import norm, pairwise_distances
from reidablate.losses.mining import batch_hard, mean_over_valid, top_patches
from reidablate.losses.triplet import mean_negative_loss, triplet_loss
from support import gradient

UNEVEN = [0, 0, 0, 1, 2, 2]  # identity 1 has one sample only


def features(num: int = 6, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def loop_triplet(feature: np.ndarray, labels: list[int], margin: Margin, *, negatives: str = "hardest") -> float:
    """The definition, pair by pair."""
    terms = []
    for i, anchor in enumerate(feature):
        positives = [np.linalg.norm(anchor - x) for x, y in zip(feature, labels, strict=True) if y == labels[i]]
        others = [np.linalg.norm(anchor - x) for x, y in zip(feature, labels, strict=True) if y != labels[i]]
        if others:
            gap = float(max(positives) - (min(others) if negatives == "hardest" else np.mean(others)))
            terms.append(softplus(gap) if margin == "soft" else max(0.0, gap + margin))
    return float(np.mean(terms))


def test_vector_j5_batch_hard_soft_and_hard_margin() -> None:
    feature = torch.tensor([(0.0, 0.0), (3.0, 4.0), (1.0, 0.0), (1.0, 2.0)])
    labels = torch.tensor([0, 0, 1, 1])
    triplets = batch_hard(feature, labels)
    assert norm(feature - feature[triplets.positive]).tolist() == pytest.approx([5, 5, 2, 2])
    assert norm(feature - feature[triplets.negative]).tolist() == pytest.approx([1, 2.828427, 1, 2.236068], abs=1e-6)
    assert triplet_loss(feature, triplets).item() == pytest.approx(2.048251, abs=1e-6)
    assert triplet_loss(feature, triplets, 0.3).item() == pytest.approx(2.033876, abs=1e-6)


@pytest.mark.parametrize("margin", ["soft", 0.3])
def test_losses_equal_the_loop_with_uneven_identities(margin: Margin) -> None:
    feature, labels = features(), torch.tensor(UNEVEN)
    triplets = batch_hard(feature, labels)
    hard = triplet_loss(feature, triplets, margin).item()
    mean = mean_negative_loss(feature, labels, triplets, margin).item()
    assert hard == pytest.approx(loop_triplet(feature.numpy(), UNEVEN, margin), abs=1e-6)
    assert mean == pytest.approx(loop_triplet(feature.numpy(), UNEVEN, margin, negatives="mean"), abs=1e-6)


def test_a_lone_sample_is_its_own_positive() -> None:
    triplets = batch_hard(features(), torch.tensor(UNEVEN))
    assert triplets.positive[3] == 3
    assert triplets.valid.all()


def test_anchors_without_a_negative_are_left_out_and_the_loss_is_a_zero_with_gradient() -> None:
    feature = features().requires_grad_()
    labels = torch.zeros(6, dtype=torch.long)
    triplets = batch_hard(feature, labels)
    assert not triplets.valid.any()
    for loss in (triplet_loss(feature, triplets), mean_negative_loss(feature, labels, triplets)):
        (gradient,) = torch.autograd.grad(loss, feature)
        assert loss.item() == 0
        assert not gradient.any()


def test_mean_over_valid_ignores_what_is_not_valid() -> None:
    terms = torch.tensor([1.0, torch.inf, 4.0], requires_grad=True)
    mean = mean_over_valid(terms, torch.tensor([True, False, True]))
    mean.backward()
    assert mean.item() == 2.5
    assert gradient(terms).tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("margin", ["soft", 0.3])
def test_gradients_equal_finite_differences(margin: Margin) -> None:
    feature, labels = features(seed=3).requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 2])
    triplets = batch_hard(feature, labels)
    assert torch.autograd.gradcheck(lambda x: triplet_loss(x, triplets, margin), (feature,))


def test_mean_negative_trains_the_negative_distances_only() -> None:
    feature, labels = features(4, seed=4), torch.tensor([0, 0, 1, 1])
    triplets = batch_hard(feature, labels)
    fixed = norm(feature - feature[triplets.positive])

    def with_constant_positives(x: torch.Tensor) -> torch.Tensor:
        distances = pairwise_distances(x, x)
        means = torch.stack([distances[i][labels != labels[i]].mean() for i in range(4)])
        return torch.nn.functional.softplus(fixed - means).mean()

    x = feature.requires_grad_()
    (gradient,) = torch.autograd.grad(mean_negative_loss(x, labels, triplets), x)
    (expected,) = torch.autograd.grad(with_constant_positives(x), x)
    assert torch.autograd.gradcheck(with_constant_positives, (x,))
    assert gradient == pytest.approx(expected, abs=1e-12)


def test_identical_features_have_a_finite_gradient() -> None:
    feature = torch.ones(4, 3, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    triplets = batch_hard(feature, labels)
    loss = triplet_loss(feature, triplets) + mean_negative_loss(feature, labels, triplets)
    loss.backward()
    assert loss.item() == pytest.approx(2 * math.log(2))
    assert torch.isfinite(gradient(feature)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_autocast_is_computed_in_float32(dtype: torch.dtype) -> None:
    feature, labels = features().to(dtype), torch.tensor(UNEVEN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        triplets = batch_hard(feature, labels)
        found = [triplet_loss(feature, triplets), mean_negative_loss(feature, labels, triplets)]
    wide = feature.float()
    expected = [triplet_loss(wide, triplets), mean_negative_loss(wide, labels, triplets)]
    assert found == expected
    assert found[0].dtype == torch.float32
    assert torch.equal(pairwise_distances(wide, wide), pairwise_distances(feature, feature))


def test_top_patches_break_ties_by_index() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert top_patches(scores, 4).tolist() == [[1, 2, 4, 0], [4, 0, 1, 2]]
