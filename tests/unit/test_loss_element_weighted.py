"""The element-weighted triplet against a loop over anchors and dimensions."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch

from reidablate.losses import Batch
from reidablate.losses.element_weighted import ElementWeightedOptions, element_weighted, element_weights

WIDTH, CLASSES = 6, 3
LABELS = [0, 0, 0, 1, 2, 2]  # the fourth image is its own positive
FORMS = get_args(ElementWeightedOptions.model_fields["form"].annotation)


def batch(seed: int = 0, labels: list[int] = LABELS) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(len(labels), WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    classifier = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    found = torch.tensor(labels)
    return Batch(feature, feature, feature @ classifier.T, classifier, found, found)


def loop(given: Batch, options: ElementWeightedOptions) -> dict[str, float]:
    """The three terms, straight from the definition."""
    feature, rows = given.feature.detach().numpy(), given.classifier.detach().numpy()
    labels = given.labels.tolist()

    def term(near: float, far: float) -> float:
        gap = near - far
        return math.log1p(math.exp(gap)) if options.margin == "soft" else max(0.0, gap + options.margin)

    found: dict[str, list[float]] = {"": [], "elements": [], "negatives": []}
    for a, label in enumerate(labels):
        distances = [max(float(np.linalg.norm(feature[a] - other)), 1e-6) for other in feature]
        p = max((i for i, other in enumerate(labels) if other == label), key=lambda i: distances[i])
        negatives = [i for i, other in enumerate(labels) if other != label]
        q = min(negatives, key=lambda i: distances[i])
        sizes = np.abs(rows[label] - rows[labels[q]])
        weights = [0 if s / max(sizes) < options.threshold else 1 + s / max(sizes) for s in sizes]
        near, far = (
            max(math.sqrt(sum((w * d) ** 2 for w, d in zip(weights, feature[a] - feature[i], strict=True))), 1e-6)
            for i in (p, q)
        )
        found[""].append(term(distances[p], distances[q]))
        found["elements"].append(term(near, far))
        found["negatives"].append(term(distances[p], sum(distances[i] for i in negatives) / len(negatives)))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("margin", ["soft", 0.3])
def test_terms_equal_the_loop(form: Any, margin: Any) -> None:
    options = ElementWeightedOptions(form=form, margin=margin, threshold=0.3)
    found: Any = element_weighted(batch(), options)
    kept = {"th": [""], "ewth": ["", "elements"], "hnth": ["", "negatives"], "newth": ["", "elements", "negatives"]}
    expected = loop(batch(), options)
    assert sorted(found) == kept[form]
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: expected[name] for name in kept[form]}, abs=1e-7
    )


def test_weights_by_hand() -> None:
    weights = element_weights(torch.tensor([[1.0, 0.0, 0.05]]), torch.tensor([[0.0, 0.5, 0.0]]), 0.1)
    assert weights.tolist() == [[2.0, 1.5, 0.0]]
    assert element_weights(torch.ones(1, 3), torch.ones(1, 3), 0.1).tolist() == [[0.0, 0.0, 0.0]]


def test_the_first_term_pulls_alone_and_the_third_pushes_alone() -> None:
    given = batch(labels=[0, 0, 1, 1])
    terms: Any = element_weighted(given, ElementWeightedOptions())
    first, third = (torch.autograd.grad(terms[name], given.feature, retain_graph=True)[0] for name in ("", "negatives"))
    assert torch.allclose(first[:2].sum(0), torch.zeros(WIDTH, dtype=torch.float64), atol=1e-12)  # within an identity
    assert not torch.allclose(third[:2].sum(0), torch.zeros(WIDTH, dtype=torch.float64), atol=1e-3)
    (of_rows,) = torch.autograd.grad(sum(terms.values()), given.classifier, allow_unused=True)
    assert of_rows is None  # the classifier is not trained by it


def test_a_batch_of_one_identity_gives_zero_and_no_gradient() -> None:
    given = batch(labels=[1, 1, 1])
    terms: Any = element_weighted(given, ElementWeightedOptions())
    total: torch.Tensor = sum(terms.values(), torch.zeros(()))
    (gradient,) = torch.autograd.grad(total, given.feature)
    assert total.item() == 0
    assert not gradient.any()


def test_equal_features_give_a_finite_gradient() -> None:
    given = batch()
    same = torch.ones_like(given.feature, requires_grad=True)
    terms: Any = element_weighted(
        Batch(same, same, same, given.classifier, given.labels, given.labels), ElementWeightedOptions()
    )
    (gradient,) = torch.autograd.grad(sum(terms.values()), same)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form: Any) -> None:
    # Held values are what a finite difference would move: each side of a difference is checked with the other held.
    given = batch(seed=4)
    triplets, rows = given.triplets, given.rows.detach()
    weight = element_weights(rows, rows[triplets.negative], 0.1)
    feature = given.feature
    held = feature.detach().clone()

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x.square().sum(-1).clamp(min=1e-12).sqrt()

    def by_hand(f: torch.Tensor) -> torch.Tensor:
        gaps = [norm(f - f[triplets.positive]) - norm(held - held[triplets.negative])]
        if form in ("ewth", "newth"):
            gaps.append(norm(weight * (f - f[triplets.positive])) - norm(weight * (f - f[triplets.negative])))
        if form in ("hnth", "newth"):
            others = [[j for j, other in enumerate(LABELS) if other != label] for label in LABELS]
            far = torch.stack([norm(f[a] - f[j]).mean() for a, j in enumerate(others)])
            gaps.append(norm(held - held[triplets.positive]) - far)
        return torch.stack([torch.nn.functional.softplus(gap).mean() for gap in gaps]).sum()

    assert torch.autograd.gradcheck(by_hand, (feature,))
    terms: Any = element_weighted(given, ElementWeightedOptions(form=form))
    (found,) = torch.autograd.grad(sum(terms.values()), feature)
    (expected,) = torch.autograd.grad(by_hand(feature), feature)
    assert torch.allclose(found, expected, atol=1e-12)
