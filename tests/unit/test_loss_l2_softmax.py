"""The L2-constrained softmax against its formula, written out."""

import math

import pytest
import torch

from reidablate.config import LossesConfig, validate
from reidablate.errors import UserError
from reidablate.losses import Batch, Shape, StudyLoss
from reidablate.losses.l2_softmax import l2_softmax_loss

LABELS = [0, 0, 1, 2]


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (4, 3))  # type: ignore[return-value]


def test_the_loss_of_one_feature_by_hand() -> None:
    # f = (3, 4) of length 5 becomes 2 (.6, .8); rows (1, 0) and (0, 1) give the logits 1.2 and 1.6.
    found = l2_softmax_loss(torch.tensor([[3.0, 4.0]]), torch.eye(2), torch.tensor([0]), scale=2.0)
    assert found.item() == pytest.approx(math.log(1 + math.exp(0.4)), abs=1e-6)


def test_the_loss_equals_the_loop() -> None:
    feature, classifier = inputs()
    terms = []
    for row, label in zip(feature.tolist(), LABELS, strict=True):
        length = math.sqrt(sum(v * v for v in row))
        logits = [16 * sum(a * b for a, b in zip(row, w, strict=True)) / length for w in classifier.tolist()]
        terms.append(math.log(sum(math.exp(v - logits[label]) for v in logits)))
    found = l2_softmax_loss(feature, classifier, torch.tensor(LABELS), scale=16.0)
    assert found.item() == pytest.approx(sum(terms) / len(terms), abs=1e-9)


def test_the_length_of_a_feature_does_not_matter() -> None:
    feature, classifier = inputs(1)
    labels = torch.tensor(LABELS)
    found = [l2_softmax_loss(factor * feature, classifier, labels, scale=16.0).item() for factor in (1, 30)]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_a_feature_of_zeros_has_the_loss_of_a_guess_and_a_finite_gradient() -> None:
    feature = torch.zeros(1, 5, requires_grad=True)
    loss = l2_softmax_loss(feature, torch.randn(3, 5), torch.tensor([0]), scale=16.0)
    (gradient,) = torch.autograd.grad(loss, feature)
    assert loss.item() == pytest.approx(math.log(3), abs=1e-6)
    assert torch.isfinite(gradient).all()


def test_gradients_equal_finite_differences() -> None:
    feature, classifier = (part.requires_grad_() for part in inputs(2))
    labels = torch.tensor(LABELS)
    assert torch.autograd.gradcheck(lambda f, w: l2_softmax_loss(f, w, labels, scale=4.0), (feature, classifier))


def test_a_configuration_uses_the_feature_after_the_neck() -> None:
    config = validate(LossesConfig, {"identity": "none", "l2": {"use": "l2_softmax", "scale": 4.0}}, where="x")
    before, after, classifier = torch.randn(4, 5), torch.randn(4, 5, requires_grad=True), torch.randn(3, 5)
    labels = torch.tensor(LABELS)
    batch = Batch(before, after, after @ classifier.T, classifier, labels, labels)
    terms = StudyLoss(config, Shape(num_classes=3, width=5))(batch)
    assert terms["l2"] == l2_softmax_loss(after, classifier, labels, scale=4.0)


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"x: losses\.l2: 'scale' is 0 but should be greater than 0"):
        validate(LossesConfig, {"l2": {"use": "l2_softmax", "scale": 0}}, where="x")
