"""Backbones of timm and of a study's own: features, patches, refusals and weights."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from reidablate.config import ModelConfig, RunConfig, validate
from reidablate.errors import UserError
from reidablate.models.checkpoints import load_weights, save_weights
from reidablate.models.neck import ReidModel, initialise
from reidablate.requirements import require_parts

SMALL = {"backbone": "timm/resnet10t", "image_size": [64, 32], "drop_path": 0.0}


def model(**options: Any) -> ReidModel:
    return ReidModel(validate(ModelConfig, {**SMALL, **options}, where="x"), num_classes=3)


def config(losses: dict[str, Any] | None = None, **options: Any) -> RunConfig:
    data = {"model": {**SMALL, **options}, "losses": losses or {}, "train": {"lr": 0.1, "epochs": 1}}
    return validate(RunConfig, data, where="x")


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def test_a_convolutional_network_gives_its_pooled_map_and_its_places() -> None:
    net = model().eval()
    found = net(images())
    reference = timm.create_model("resnet10t", num_classes=0).eval()
    reference.load_state_dict(net.backbone.net.state_dict())
    assert torch.equal(found.feature_before_neck, reference.forward_features(images()).mean((2, 3)))
    assert found.patches is not None
    assert (found.cls, found.patches.shape, net.backbone.grid) == (None, (2, 2 * 1, 512), (2, 1))
    assert (net.ape_rows(), net.rpe_tables(), net.rpe_index, net.cls_bias()) == (None, None, None, None)


def test_a_transformer_gives_its_class_token_and_its_patches_at_another_size() -> None:
    net = model(backbone="timm/vit_tiny_patch16_224").eval()
    found = net(images())
    assert found.patches is not None
    assert (found.patches.shape, net.backbone.grid) == ((2, 4 * 2, 192), (4, 2))
    tokens = net.backbone.net.forward_features(images())
    assert torch.equal(found.feature_before_neck, tokens[:, 0])
    pooled = model(backbone="timm/vit_tiny_patch16_224", pool="mean").eval()
    pooled.load_state_dict(net.state_dict())
    assert torch.equal(pooled(images()).feature_before_neck, tokens[:, 1:].mean(1))


def test_the_last_stage_of_a_resnet_keeps_the_size_of_the_one_before() -> None:
    for name in (
        "timm/resnet18",
        "timm/resnet10t",
    ):  # with a strided convolution, and with a pool, beside the last stage
        grids = [model(backbone=name, last_stride=stride).backbone.grid for stride in (2, 1)]
        assert grids == [(2, 1), (4, 2)]
    with pytest.raises(UserError, match=r"last_stride: timm/vit_tiny_patch16_224 has no last stage of a ResNet"):
        model(backbone="timm/vit_tiny_patch16_224", last_stride=1)


def test_initial_values_follow_the_seed_alone() -> None:
    nets = [model() for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        torch.rand(1)
        initialise(net, seed)
    same, again, other = (net.state_dict() for net in nets)
    assert all(torch.equal(value, again[name]) for name, value in same.items())
    assert not torch.equal(same["backbone.net.conv1.0.weight"], other["backbone.net.conv1.0.weight"])
    assert not torch.equal(same["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize("prefix", ["", "module.base.", "backbone.net."])
def test_weights_are_taken_behind_any_prefix(tmp_path: Path, prefix: str) -> None:
    reference = timm.create_model("resnet10t")
    file = tmp_path / "weights.safetensors"
    save_file({prefix + name: value.contiguous() for name, value in reference.state_dict().items()}, file)
    net = model()
    report = load_weights(net, file, head=False)
    assert torch.equal(net.state_dict()["backbone.net.layer4.0.conv1.weight"], reference.layer4[0].conv1.weight)
    assert {name.removeprefix(prefix) for name in report.ignored} == {"fc.weight", "fc.bias"}


def test_a_models_own_file_is_read_whole_and_that_of_another_refused(tmp_path: Path) -> None:
    net = model()
    initialise(net, 0)
    save_weights(net, tmp_path / "model.safetensors")
    again = model()
    assert load_weights(again, tmp_path / "model.safetensors").is_exact
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    with pytest.raises(UserError, match=r"does not fit the backbone timm/resnet18 \(\d+ missing: .*choose the file's"):
        load_weights(model(backbone="timm/resnet18"), tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"backbone": "resnet50"},
            "'model.backbone' is 'resnet50' but should be vit_quickstart, vit_small, vit_base, tim",
        ),
        ({"rpe": {"kind": "full"}}, "model: rpe.kind: timm/resnet10t has no such option; leave it at none."),
        ({"ape": "none"}, "model: ape: timm/resnet10t has no such option; leave it at learned."),
        ({"cls_position": "untie"}, "model: cls_position: timm/resnet10t has no such option"),
        ({"backbone": "vit_quickstart", "last_stride": 1}, "model: last_stride: vit_quickstart is no ResNet"),
        ({"backbone": "nets:build"}, "there is no methods/nets.py and no installed module 'nets'"),
    ],
)
def test_what_a_backbone_does_not_have_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        config(**options)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("options", "losses", "sentence"),
    [
        ({"backbone": "timm/resnet500"}, {}, "timm has no 'resnet500'; did you mean 'resnet50"),
        ({"drop_path": 0.1, "backbone": "timm/vgg11"}, {}, "timm/vgg11 has no drop path; set it to 0."),
        (
            {"backbone": "timm/vit_tiny_patch16_224", "image_size": [60, 8]},
            {},
            "cannot be built for images of 60 x 8",
        ),
        ({}, {"weighted_triplet": {}}, "x: losses.weighted_triplet needs cls, which the backbone timm/resnet10t does"),
        (
            {"backbone": "timm/vit_tiny_patch16_224"},
            {"position_relation": {}},
            "losses.position_relation needs positions, which the backbone timm/vit_tiny_patch16_224 does not give",
        ),
    ],
)
def test_what_only_the_network_tells_is_refused_while_planning(
    options: dict[str, Any], losses: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        require_parts(config(losses, **options), "x")
    assert sentence in str(caught.value)


OWN = """
import torch
from torch import nn

from reidablate.config import ModelConfig
from reidablate.models.tokens import Tokens


class Mean(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.width, self.grid = 5, (1, 1)
        self.net = nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> Tokens:
        return Tokens(feature=self.net(images.mean((2, 3))), cls=None, patches=None)
"""


def test_a_backbone_of_the_study_is_built_and_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "nets.py").write_text(OWN)
    own = config(backbone="nets:Mean")
    require_parts(own, "x")
    with pytest.raises(UserError, match="needs cls and patches, which the backbone nets:Mean does not give"):
        require_parts(config({"weighted_triplet": {}}, backbone="nets:Mean"), "x")
    net = ReidModel(own.model, num_classes=2)
    initialise(net, 0)
    assert net(images()).feature_before_neck.shape == (2, 5)
    assert own.plugins == ["nets:Mean"]
    with pytest.raises(UserError, match=r"^methods/nets.py, line 16: model.backbone nets:Mean failed: IndexError: Dim"):
        net(torch.zeros(2, 3))
    (tmp_path / "methods" / "nets.py").write_text(OWN.replace("mean((2, 3))", "amax((2, 3))"))
    assert config(backbone="nets:Mean").hash != own.hash
    with pytest.raises(UserError, match="'nets:Mean' was changed since this was planned"):
        ReidModel(own.model, num_classes=2)
