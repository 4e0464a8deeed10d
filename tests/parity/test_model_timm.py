"""Our transformer and relative positions against timm's, given the same weights, on grids with rows != columns."""

from pathlib import Path

import pytest
import torch
from timm.layers import RelPosBias
from timm.layers.pos_embed_rel import gen_relative_position_index
from timm.models.vision_transformer import VisionTransformer

from reidablate.config import ModelConfig
from reidablate.models.checkpoints import load_weights
from reidablate.models.neck import ReidModel
from reidablate.models.position import full_index
from reidablate.models.vit import BACKBONES, PositionAttention


@pytest.mark.parametrize(
    ("name", "image_size", "pool"),
    [("vit_quickstart", (48, 32), "cls"), ("vit_quickstart", (48, 32), "mean"), ("vit_small", (64, 32), "cls")],
)
def test_transformer_equals_timm_given_the_same_weights(
    name: str, image_size: tuple[int, int], pool: str, tmp_path: Path
) -> None:
    size = BACKBONES[name]
    theirs = VisionTransformer(
        img_size=image_size,
        patch_size=size.patch,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        num_classes=10,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")

    config = ModelConfig.model_validate({"backbone": name, "image_size": image_size, "stem": "conv", "pool": pool})
    model = ReidModel(config, num_classes=5).eval()
    report = load_weights(model, tmp_path / "timm.pth")
    assert report.ignored == ("head.weight", "head.bias")
    images = torch.randn(2, 3, *image_size, generator=generator)
    with torch.no_grad():
        ours, tokens = model.backbone(images), theirs.forward_features(images)
    torch.testing.assert_close(ours.patches, tokens[:, 1:], atol=2e-5, rtol=1e-4)
    feature = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(ours.feature, feature, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("grid", [(2, 3), (16, 8), (24, 8), (5, 7)])
def test_relative_index_equals_timm(grid: tuple[int, int]) -> None:
    assert torch.equal(full_index(grid), gen_relative_position_index(grid))


@pytest.mark.parametrize("with_cls", [False, True])
def test_attention_bias_equals_timm(with_cls: bool) -> None:
    option = "untie_beit" if with_cls else "none"
    config = ModelConfig.model_validate(
        {"backbone": "vit_quickstart", "image_size": (48, 32), "rpe": {"kind": "full"}, "cls_position": option}
    )
    attention: PositionAttention = ReidModel(config, num_classes=5).backbone.attentions[0]
    theirs = RelPosBias(window_size=(6, 4), num_heads=4, prefix_tokens=int(with_cls))
    table = torch.randn(11 * 7 + 3 * with_cls, 4, generator=torch.Generator().manual_seed(0))
    theirs.relative_position_bias_table.data.copy_(table)
    assert attention.rpe is not None
    attention.rpe.table.data.copy_(table[:77])
    if attention.cls_position is not None:
        attention.cls_position.table.data.copy_(table[77:])
    ours = attention.position_bias()
    assert ours is not None
    expected = theirs.get_bias()[0]
    assert torch.equal(ours if with_cls else ours[:, 1:, 1:], expected)
    if not with_cls:
        assert not ours[:, 0].any()
        assert not ours[:, :, 0].any()
