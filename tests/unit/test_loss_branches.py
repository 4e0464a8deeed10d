"""The two unfinished triplets of March 2022, as far as they are defined, against loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from reidablate.config import LossesConfig, validate
from reidablate.errors import UserError
from reidablate.losses import Batch, Shape, StudyLoss
from reidablate.losses.branches import BranchOptions, CrossAttentionTriplet, WeightedBranch, branch_weights
from support import present

NUM_PATCHES, WIDTH, GROUPS = 15, 6, 3  # a grid of 3 x 5
LABELS = [0, 0, 0, 1, 2, 2]  # the fourth image is its own positive
MADE = [WeightedBranch, CrossAttentionTriplet]


def batch(labels: list[int] = LABELS, num_patches: int = NUM_PATCHES) -> Batch:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(len(labels), WIDTH, generator=generator, dtype=torch.float64)
    patches = torch.randn(len(labels), num_patches, WIDTH, generator=generator, dtype=torch.float64)
    found = torch.tensor(labels)
    return Batch(feature, feature, feature, feature[:3], found, found, patches=patches.requires_grad_())


def loss_of(made: Any, groups: int = GROUPS) -> Any:
    torch.manual_seed(0)
    return made(BranchOptions(groups=groups), Shape(num_classes=3, width=WIDTH)).double()


def applied(linear: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = linear.weight.detach().numpy() @ x + linear.bias.detach().numpy()
    return found


def group_means(x: np.ndarray) -> list[float]:
    size = WIDTH // GROUPS
    return [float(x[g * size : (g + 1) * size].mean()) for g in range(GROUPS)]


def distance(a: list[float], b: list[float]) -> float:
    return max(float(np.linalg.norm(np.array(a) - np.array(b))), 1e-6)


def test_the_weighted_branch_equals_the_loop() -> None:
    given, loss = batch(), loss_of(WeightedBranch)
    patches = present(given.patches).detach().numpy()
    positive, negative = given.triplets.positive.tolist(), given.triplets.negative.tolist()
    vectors = []
    for a, image in enumerate(patches):
        sizes = []
        for k in range(NUM_PATCHES):
            far, near = (float(np.linalg.norm(image[k] - patches[i][k])) for i in (negative[a], positive[a]))
            sizes.append(abs(far - max(near, 1e-6)))
        shares = [size / max(sizes) for size in sizes]
        weights = [0 if share < 0.1 else 1 + share for share in shares]
        vectors.append(
            [v for w, x in zip(weights, image, strict=True) for v in group_means(applied(loss.linear, w * x))]
        )
    terms = [
        math.log1p(math.exp(distance(vectors[a], vectors[positive[a]]) - distance(vectors[a], vectors[negative[a]])))
        for a in range(len(LABELS))
    ]
    assert loss(given).item() == pytest.approx(float(np.mean(terms)), abs=1e-7)


def test_the_cross_attention_triplet_equals_the_loop() -> None:
    given, loss = batch(), loss_of(CrossAttentionTriplet)
    patches = present(given.patches).detach().numpy()
    size = WIDTH // GROUPS
    terms = []
    for a, image in enumerate(patches):
        found = []
        for linear, other in (
            (loss.positive, int(given.triplets.positive[a])),
            (loss.negative, int(given.triplets.negative[a])),
        ):
            own, taken = [], []
            for k in range(NUM_PATCHES):
                query, both = applied(loss.anchor, image[k]), applied(linear, patches[other][k])
                own += group_means(query)
                for g in range(GROUPS):
                    part = slice(g * size, (g + 1) * size)
                    powers = np.exp(query[part] * both[:WIDTH][part])
                    taken.append(float((powers / powers.sum() * both[WIDTH:][part]).mean()))
            found.append(distance(own, taken))
        terms.append(math.log1p(math.exp(found[0] - found[1])))
    assert loss(given).item() == pytest.approx(float(np.mean(terms)), abs=1e-7)


def test_branch_weights_by_hand() -> None:
    # Distances to the negative 5 and 1, to the positive 1 and .9: shares 1 and .1 / 4, and the latter is cut off.
    patches = torch.tensor([[[0.0], [0.0]], [[1.0], [0.9]], [[5.0], [1.0]]])
    weights = branch_weights(patches, torch.tensor([1, 1, 1]), torch.tensor([2, 2, 2]))
    assert weights[0].tolist() == pytest.approx([2, 0], abs=1e-6)


@pytest.mark.parametrize("made", MADE)
def test_gradients_equal_finite_differences(made: Any) -> None:
    loss = loss_of(made)
    given = batch(num_patches=4)
    feature, labels = given.feature, given.labels

    def of(patches: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = loss(Batch(feature, feature, feature, feature[:3], labels, labels, patches=patches))
        return found

    assert torch.autograd.gradcheck(of, (present(given.patches), *loss.parameters()))


@pytest.mark.parametrize("made", MADE)
def test_one_identity_gives_zero_and_equal_patches_a_finite_gradient(made: Any) -> None:
    assert loss_of(made)(batch([1, 1, 1])).item() == 0
    given = batch()
    same = torch.ones_like(present(given.patches), requires_grad=True)
    feature, labels = given.feature, given.labels
    loss = loss_of(made)(Batch(feature, feature, feature, feature[:3], labels, labels, patches=same))
    (gradient,) = torch.autograd.grad(loss, same)
    assert torch.isfinite(gradient).all()


def test_groups_that_do_not_divide_the_width_are_refused() -> None:
    config = validate(LossesConfig, {"own": {"use": "weighted_branch", "groups": 4}}, where="x")
    with pytest.raises(UserError, match="groups: 6 dimensions are not 4 equal groups; choose a divisor"):
        StudyLoss(config, Shape(num_classes=3, width=WIDTH))
