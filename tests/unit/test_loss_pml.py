"""Losses of pytorch-metric-learning by name, against the package itself."""

from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses, miners

from reidablate.config import LossesConfig, validate
from reidablate.errors import UserError
from reidablate.losses import Batch, Shape, StudyLoss

SHAPE = Shape(num_classes=3, width=8)


def batch() -> Batch:
    feature = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    return Batch(feature, feature, feature[:, :3], torch.eye(3, 8), labels, labels)


def made(**options: Any) -> StudyLoss:
    sections = {"metric": {"use": "pml", **options}}
    return StudyLoss(validate(LossesConfig, sections, where="x"), SHAPE)


def test_a_loss_and_its_miner_are_those_of_the_package() -> None:
    found = made(loss="TripletMarginLoss", args={"margin": 0.3}, miner="BatchHardMiner")(batch())["metric"]
    given = batch()
    pairs = miners.BatchHardMiner()(given.feature, given.labels)
    assert found == losses.TripletMarginLoss(margin=0.3)(given.feature, given.labels, pairs)


def test_sizes_are_filled_in_and_parameters_are_trained() -> None:
    loss = made(loss="ProxyAnchorLoss", lr_factor=100)
    ((name, factor, (proxies,)),) = loss.parameter_groups()
    assert (name, factor, proxies.shape) == ("metric", 100, (3, 8))
    loss(batch())["total"].backward()
    assert proxies.grad is not None
    assert proxies.grad.abs().sum() > 0


def test_the_identity_names_package_and_version() -> None:
    ((_, section),) = [pair for pair in made_config().sections() if pair[0] == "metric"]
    assert getattr(section, "code", "").startswith("pytorch-metric-learning 2.")


def made_config() -> LossesConfig:
    return LossesConfig.model_validate({"metric": {"use": "pml", "loss": "CircleLoss"}})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"loss": "CircelLoss"},
            "x: losses.metric: pytorch-metric-learning has no loss 'CircelLoss'; did you mean 'CircleLoss'?",
        ),
        ({"loss": "CircleLoss", "args": {"mm": 1}}, "CircleLoss of pytorch-metric-learning refuses its arguments"),
        (
            {"loss": "CircleLoss", "miner": "BatchHadMiner"},
            "pytorch-metric-learning has no miner 'BatchHadMiner'; did you mean 'BatchHardMiner'?",
        ),
        ({}, "losses.metric: key 'loss' is missing; add it."),
    ],
)
def test_what_the_package_does_not_have_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        made(**options)
    assert sentence in str(caught.value)
