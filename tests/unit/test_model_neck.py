"""BNNeck, the whole network's outputs, and initial values that belong to names (a1, a2)."""

from typing import Any

import pytest
import torch

from reidablate.config import ModelConfig
from reidablate.models.neck import ReidModel, initialise
from reidablate.rng import torch_generator
from support import present


def _model(seed: int = 0, num_classes: int = 5, **options: Any) -> ReidModel:
    small = {"backbone": "vit_quickstart", "image_size": (48, 32), "stem": "ics"}
    model = ReidModel(ModelConfig.model_validate(small | options), num_classes=num_classes)
    initialise(model, seed)
    return model


def _images() -> torch.Tensor:
    return torch.randn(4, 3, 48, 32, generator=torch.Generator().manual_seed(7))


def test_neck_standardises_the_feature_and_feeds_the_classifier() -> None:
    model = _model().double()
    out = model(_images().double())
    before = out.feature_before_neck
    variance, mean = torch.var_mean(before, dim=0, correction=0)
    torch.testing.assert_close(out.feature_after_neck, (before - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(out.logits, out.feature_after_neck @ model.classifier.weight.T)
    assert (out.patches.shape, out.logits.shape) == ((4, 24, 32), (4, 5))


def test_neck_shift_is_frozen_at_zero_and_nothing_else_is() -> None:
    model = _model(rpe={"kind": "full"}, cls_position="untie")
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["neck.bias"]
    assert torch.equal(model.neck.bias, torch.zeros(32))
    assert model.classifier.bias is None


@pytest.mark.parametrize(
    ("options", "num_classes"),
    [
        ({"rpe": {"kind": "full"}}, 5),
        ({"rpe": {"kind": "shaw_key"}, "cls_position": "untie"}, 5),
        ({"cls_position": "no_ape", "pool": "mean", "drop_path": 0.0}, 5),
        ({"ape": "none"}, 5),
        ({}, 9),
    ],
)
def test_cells_of_one_seed_share_the_values_of_common_parameters(options: dict[str, Any], num_classes: int) -> None:
    plain = dict(_model().named_parameters())
    other = dict(_model(num_classes=num_classes, **options).named_parameters())
    common = [name for name in plain.keys() & other.keys() if plain[name].shape == other[name].shape]
    assert len(common) >= len(plain) - 1
    assert [name for name in common if not torch.equal(plain[name], other[name])] == []


def test_initial_values_depend_on_the_seed_and_not_on_the_global_generator() -> None:
    first = _model(seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        again = _model(seed=3)
    other = _model(seed=4)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    assert not torch.equal(first.backbone.cls_token, other.backbone.cls_token)


def test_each_parameter_is_drawn_from_the_stream_of_its_name() -> None:
    model = _model(seed=3)
    name = "backbone.blocks.1.attn.proj.weight"
    drawn = torch.nn.init.trunc_normal_(torch.empty(32, 32), std=0.02, generator=torch_generator(3, f"init:{name}"))
    assert torch.equal(model.get_parameter(name), drawn)
    drawn = torch.empty(5, 32).normal_(std=0.001, generator=torch_generator(3, "init:classifier.weight"))
    assert torch.equal(model.classifier.weight, drawn)


def test_initialise_forgets_what_was_there() -> None:
    fresh, used = _model(), _model()
    used.train()(_images())
    for parameter in used.parameters():
        parameter.data.add_(1.0)
    initialise(used, 0)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, used.state_dict()[name]), name


def test_initial_values_have_the_prescribed_spread() -> None:
    model = _model(num_classes=300, rpe={"kind": "full"}, cls_position="per_patch", image_size=(128, 64))
    spreads = {
        "backbone.blocks.0.attn.qkv.weight": 0.02,
        "backbone.blocks.1.mlp.fc1.weight": 0.02,
        "backbone.ape.table": 0.02,
        "backbone.blocks.0.attn.rpe.table": 0.02,
        "backbone.blocks.1.attn.cls_position.table": 0.02,
        "classifier.weight": 0.001,
        # uniform in +-1/sqrt(fan in) has sd 1/sqrt(3 fan in)
        "backbone.stem.conv1.weight": (3 * 3 * 49) ** -0.5,
        "backbone.stem.conv3.weight": (3 * 64 * 9) ** -0.5,
        "backbone.stem.projection.weight": (3 * 64 * 16) ** -0.5,
    }
    for name, spread in spreads.items():
        values = model.get_parameter(name)
        # the sd of a normal sample's sd is sd / sqrt(2 N); four of them, and uniform samples spread less
        tolerance = 4 / (2 * values.numel()) ** 0.5
        assert values.std().item() == pytest.approx(spread, rel=tolerance), name
        assert abs(values.mean().item()) < 4 * spread / values.numel() ** 0.5, name
    for name in ("backbone.norm", "backbone.blocks.0.norm1", "backbone.stem.norm1.instance", "backbone.stem.norm3"):
        assert (model.get_parameter(f"{name}.weight") == 1).all()
        assert not model.get_parameter(f"{name}.bias").any()
    assert not model.get_parameter("backbone.blocks.0.attn.qkv.bias").any()
    bound = (64 * 16) ** -0.5
    assert 0 < model.get_parameter("backbone.stem.projection.bias").abs().max() <= bound


def test_zero_initialisation_of_relative_tables() -> None:
    for kind in ("full", "shaw_key"):
        model = _model(rpe={"kind": kind, "init": "zeros"})
        assert not any(present(attention.rpe).table.any() for attention in model.backbone.attentions)
