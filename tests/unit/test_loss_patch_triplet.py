"""The patch triplet against a loop over anchors and places."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from reidablate.losses.mining import Triplets, batch_hard
from reidablate.losses.patch_triplet import patch_triplet_loss, place_weights

NUM_PATCHES, WIDTH = 15, 6  # a grid of 3 x 5
LABELS = [0, 0, 0, 1, 2, 2]  # the fourth image is its own positive


def inputs(seed: int = 0, num_patches: int = NUM_PATCHES) -> tuple[torch.Tensor, Triplets]:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(6, WIDTH, generator=generator, dtype=torch.float64)
    patches = torch.randn(6, num_patches, WIDTH, generator=generator, dtype=torch.float64)
    return patches, batch_hard(feature, torch.tensor(LABELS))


def loop(patches: torch.Tensor, triplets: Triplets, distance: str, margin: Any) -> float:
    terms = []
    images = patches.numpy()
    for a in range(len(images)):
        p, q = int(triplets.positive[a]), int(triplets.negative[a])
        sizes = []
        for mine, other in zip(images[a], images[q], strict=True):
            cosine = float(mine @ other) / float(np.linalg.norm(mine) * np.linalg.norm(other))
            sizes.append(math.acos(cosine) if distance == "cosine" else float(np.linalg.norm(mine - other)))
        weights = [size / max(sizes) + (distance == "euclidean") for size in sizes]
        pooled = {}
        for i in (a, p, q):
            pooled[i] = sum(w * x for w, x in zip(weights, images[i], strict=True)) / len(weights)
        gap = max(float(np.linalg.norm(pooled[a] - pooled[p])), 1e-6) - float(np.linalg.norm(pooled[a] - pooled[q]))
        terms.append(math.log1p(math.exp(gap)) if margin == "soft" else max(0.0, gap + margin))
    return float(np.mean(terms))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("margin", ["soft", 0.3])
def test_loss_equals_the_loop(distance: str, margin: Any) -> None:
    patches, triplets = inputs()
    found = patch_triplet_loss(patches, triplets, margin=margin, distance=distance).item()
    assert found == pytest.approx(loop(patches, triplets, distance, margin), abs=1e-7)


def test_weights_by_hand() -> None:
    # Angles of 90 and 45 degrees; distances sqrt(2) and 1.
    mine, other = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    assert place_weights(mine, other, "cosine")[0].tolist() == pytest.approx([1, 0.5], abs=1e-6)
    assert place_weights(mine, other, "euclidean")[0].tolist() == pytest.approx([2, 1 + math.sqrt(0.5)], abs=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equal_patches_and_patches_of_zeros_give_a_finite_gradient(distance: str) -> None:
    for value in (0.0, 1.0):
        patches = torch.full((4, NUM_PATCHES, WIDTH), value, requires_grad=True)
        triplets = batch_hard(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
        loss = patch_triplet_loss(patches, triplets, margin="soft", distance=distance)
        (gradient,) = torch.autograd.grad(loss, patches)
        assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
        assert torch.isfinite(gradient).all()


def test_a_batch_of_one_identity_gives_zero_and_no_gradient() -> None:
    patches = torch.randn(3, NUM_PATCHES, WIDTH, requires_grad=True)
    triplets = batch_hard(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64))
    loss = patch_triplet_loss(patches, triplets, margin="soft", distance="cosine")
    (gradient,) = torch.autograd.grad(loss, patches)
    assert loss.item() == 0
    assert not gradient.any()


def test_gradients_equal_finite_differences_of_the_pooled_patches() -> None:
    # The weights are constants of the loss, and would move with the patches: they are the same at every place here.
    patches, triplets = inputs(2, num_patches=1)
    patches.requires_grad_()

    def loss(patches: torch.Tensor) -> torch.Tensor:
        return patch_triplet_loss(patches, triplets, margin="soft", distance="cosine")

    assert torch.autograd.gradcheck(loss, (patches,))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_gradient_with_constant_weights_equals_finite_differences(distance: str) -> None:
    patches, triplets = inputs(3, num_patches=6)
    weights = place_weights(patches, patches[triplets.negative], distance)

    def by_hand(patches: torch.Tensor) -> torch.Tensor:
        pooled = [
            (weights[:, :, None] * patches[i]).mean(1) for i in (slice(None), triplets.positive, triplets.negative)
        ]
        near, far = ((pooled[0] - other).square().sum(1).clamp(min=1e-12).sqrt() for other in pooled[1:])
        return torch.nn.functional.softplus(near - far).mean()

    patches.requires_grad_()
    assert torch.autograd.gradcheck(by_hand, (patches,))
    (expected,) = torch.autograd.grad(by_hand(patches), patches)
    (found,) = torch.autograd.grad(patch_triplet_loss(patches, triplets, margin="soft", distance=distance), patches)
    assert torch.allclose(found, expected, atol=1e-12)
