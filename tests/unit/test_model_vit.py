"""The transformer: published counts, position options against slow oracles, randomness (a1, a9, c, g, j2, j10)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reidablate.config import ModelConfig
from reidablate.models.neck import ReidModel, initialise
from reidablate.models.vit import PositionAttention
from support import gradient, present

ROWS, COLS, N = 3, 2, 6
KINDS = ["full", "abs_x", "y_only", "x_only", "shaw_key"]
CLS_OPTIONS = ["none", "no_ape", "untie", "untie_beit", "untie_shared", "per_patch"]


def _config(**options: Any) -> ModelConfig:
    small = {"backbone": "vit_quickstart", "image_size": (24, 16), "stem": "conv", "drop_path": 0.0}
    return ModelConfig.model_validate(small | options)


def _model(num_classes: int = 5, **options: Any) -> ReidModel:
    model = ReidModel(_config(**options), num_classes=num_classes)
    initialise(model, 0)
    return model


def _images(num: int = 3) -> Tensor:
    return torch.randn(num, 3, 24, 16, generator=torch.Generator().manual_seed(7))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _on_meta(num_classes: int = 751, **options: Any) -> ReidModel:
    with torch.device("meta"):
        return ReidModel(ModelConfig.model_validate(options), num_classes=num_classes)


VIT_B: dict[str, Any] = {"backbone": "vit_base", "image_size": (384, 128)}
VIT_S: dict[str, Any] = {"backbone": "vit_small", "image_size": (256, 128)}


def test_vector_j2_parameter_count_of_the_base_model() -> None:
    model = _on_meta(**VIT_B)
    assert _count(model) == 89_013_312
    legacy_head = 768 * 1000 + 1000
    assert _count(model.backbone) + legacy_head == 89_204_008
    assert _count(model) + legacy_head == 89_782_312


def test_vector_j2_parameter_count_of_the_small_model() -> None:
    backbone = _on_meta(**VIT_S).backbone
    assert _count(backbone) == 23_001_024
    assert _count(backbone) + 384 * 1000 + 1000 == 23_386_024


def test_vector_j2_position_options_add_the_published_numbers() -> None:
    plain = _count(_on_meta(**VIT_B))
    assert _count(_on_meta(**VIT_B, rpe={"kind": "full"})) - plain == 101_520
    assert _count(_on_meta(**VIT_B, rpe={"kind": "abs_x"})) - plain == 54_144
    assert _count(_on_meta(**VIT_B, rpe={"kind": "shaw_key"})) - plain == 12 * 705 * 64
    assert _count(_on_meta(**VIT_B, cls_position="untie")) - plain == 288
    assert _count(_on_meta(**VIT_B, cls_position="per_patch")) - plain == 2 * 192 * 12 * 12
    assert plain - _count(_on_meta(**VIT_B, ape="none")) == 148_224
    assert plain - _count(_on_meta(**VIT_B, ape="sinusoidal")) == 148_224


def test_no_table_falls_into_a_group_of_parameters_named_bias() -> None:
    with_positions = _model(rpe={"kind": "full"}, cls_position="per_patch")
    tables = [name for name, _ in with_positions.named_parameters() if name.endswith("table")]
    assert len(tables) == 1 + 2 + 2
    assert not [name for name in tables if "bias" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_vector_j10_zero_tables_give_the_output_and_gradient_of_no_tables_bit_for_bit(kind: str) -> None:
    plain, zeros = _model(), _model(rpe={"kind": kind, "init": "zeros"})
    for image_count in (1, 3):
        images = _images(image_count)
        plain_out, zeros_out = plain.backbone(images), zeros.backbone(images)
        assert torch.equal(plain_out.feature, zeros_out.feature)
        assert torch.equal(plain_out.patches, zeros_out.patches)
    plain_out.feature.square().sum().backward()
    zeros_out.feature.square().sum().backward()
    theirs = dict(zeros.named_parameters())
    for name, parameter in plain.backbone.named_parameters():
        assert torch.equal(gradient(parameter), gradient(theirs[f"backbone.{name}"])), name


def test_without_position_terms_no_mask_is_made() -> None:
    for option in ("none", "no_ape"):
        for attention in _model(cls_position=option).backbone.attentions:
            assert attention.position_logits(torch.zeros(1, 4, 1 + N, 8)) is None


@pytest.mark.parametrize("kind", ["none", *KINDS])
@pytest.mark.parametrize("option", CLS_OPTIONS)
def test_attention_equals_a_loop_over_queries_and_keys(kind: str, option: str) -> None:
    attention = _model(rpe={"kind": kind}, cls_position=option).backbone.attentions[1].double()
    generator = torch.Generator().manual_seed(3)
    for parameter in attention.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn(2, 1 + N, 32, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), _attend_slowly(attention, x, kind, option))


def _attend_slowly(attention: PositionAttention, x: Tensor, kind: str, option: str) -> Tensor:
    """Attention from its definition: an image, a head, a pair of tokens at a time."""
    outputs = []
    for tokens in x:
        q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).split(32, dim=1)
        heads = []
        for h in range(4):
            part = slice(8 * h, 8 * h + 8)
            logits = torch.empty(1 + N, 1 + N, dtype=torch.float64)
            for a in range(1 + N):
                for b in range(1 + N):
                    logits[a, b] = q[a, part] @ k[b, part] / math.sqrt(8)
                    logits[a, b] += _position(attention, q[a, part], a, b, h, kind=kind, option=option)
            heads.append(logits.softmax(dim=1) @ v[:, part])
        outputs.append(torch.cat(heads, dim=1) @ attention.proj.weight.T + attention.proj.bias)
    return torch.stack(outputs)


def _position(
    attention: PositionAttention, query: Tensor, a: int, b: int, h: int, *, kind: str, option: str
) -> Tensor | float:
    """What the logit of token a for token b gets, by the definition of each option."""
    if a > 0 and b > 0:
        if kind == "none":
            return 0.0
        dy, dx = (a - 1) // COLS - (b - 1) // COLS, (a - 1) % COLS - (b - 1) % COLS
        full = (dy + ROWS - 1) * (2 * COLS - 1) + dx + COLS - 1
        rows = {"abs_x": (dy + ROWS - 1) * COLS + abs(dx), "y_only": dy + ROWS - 1, "x_only": dx + COLS - 1}
        row: Tensor = present(attention.rpe).table[rows.get(kind, full)]
        return query @ row / math.sqrt(8) if kind == "shaw_key" else row[h]
    if attention.cls_position is None:
        return 0.0
    table = attention.cls_position.table[:, h]
    if a == b == 0:
        centres = {"full": 2 * 3 + 1, "abs_x": 2 * 2, "y_only": 2, "x_only": 1}
        if option == "per_patch" and kind in centres:
            return present(attention.rpe).table[centres[kind], h]
        return table[2] if option == "untie_beit" else 0.0
    patch = a + b - 1
    if option == "per_patch":
        return table[patch] if a == 0 else table[N + patch]
    return table[0] if a == 0 or option == "untie_shared" else table[1]


def test_attention_weights_are_those_of_the_output() -> None:
    attention = _model(rpe={"kind": "full"}, cls_position="untie").backbone.attentions[0]
    x = torch.randn(2, 1 + N, 32, generator=torch.Generator().manual_seed(3))
    weights = attention.weights(x)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 1 + N))
    values = attention.queries_keys_values(x)[2]
    torch.testing.assert_close(attention.proj((weights @ values).transpose(1, 2).flatten(2)), attention(x))


def test_patches_are_row_major_and_follow_cls() -> None:
    model = _model(ape="none")
    with torch.no_grad():
        model.backbone.blocks = nn.ModuleList()
        model.backbone.cls_token.fill_(0.0)
        images = torch.zeros(1, 3, 24, 16)
        row, column = 2, 1
        images[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1.0
        patches = model.backbone(images).patches[0]
    different = (patches != patches[0]).any(dim=1)
    assert different.nonzero().flatten().tolist() == [row * COLS + column]


def test_mean_pooling_is_the_mean_of_the_patches_and_cls_the_normed_token() -> None:
    mean, cls = _model(pool="mean").backbone(_images()), _model().backbone(_images())
    torch.testing.assert_close(mean.feature, mean.patches.mean(dim=1))
    assert torch.equal(mean.patches, cls.patches)
    assert not torch.allclose(cls.feature, mean.feature)
    torch.testing.assert_close(cls.feature.mean(dim=1), torch.zeros(3), atol=1e-6, rtol=0)


def test_accessors_hand_out_the_effective_positions_with_their_gradients() -> None:
    model = _model(rpe={"kind": "abs_x"}, cls_position="per_patch")
    ape, tables, index, cls = model.ape_rows(), model.rpe_tables(), model.rpe_index, model.cls_bias()
    assert ape is not None
    assert tables is not None
    assert index is not None
    assert cls is not None
    assert (ape.shape, tables.shape, index.shape, cls.shape) == ((7, 32), (2, 10, 4), (6, 6), (2, 4, 6))
    last = model.backbone.attentions[1]
    assert torch.equal(tables[1][index].permute(2, 0, 1), present(last.position_bias())[:, 1:, 1:])
    assert torch.equal(cls[1], present(last.position_bias())[:, 0, 1:])
    (ape.sum() + tables.sum() + cls.sum()).backward()
    assert torch.equal(gradient(present(last.rpe).table), torch.ones(10, 4))
    assert torch.equal(gradient(present(last.cls_position).table), torch.cat([torch.ones(6, 4), torch.zeros(6, 4)]))
    assert torch.equal(gradient(present(model.backbone.ape).table), torch.ones(7, 32))


def test_accessors_are_none_where_there_is_nothing() -> None:
    model = _model(ape="none")
    assert (model.ape_rows(), model.rpe_tables(), model.rpe_index, model.cls_bias()) == (None, None, None, None)
    assert _model(rpe={"kind": "shaw_key"}).rpe_tables() is None


def test_no_ape_on_cls_changes_the_cls_row_only() -> None:
    with_row, without = _model().ape_rows(), _model(cls_position="no_ape").ape_rows()
    assert with_row is not None
    assert without is not None
    assert torch.equal(without[0], torch.zeros(32))
    assert torch.equal(with_row[1:], without[1:])


def test_drop_path_rises_linearly_from_zero() -> None:
    blocks = _on_meta(**VIT_B, drop_path=0.11).backbone.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.01 * i for i in range(12)])
    assert rates == [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]


def test_only_drop_path_draws_and_only_from_the_global_generator() -> None:
    images = _images(8)
    with torch.random.fork_rng():
        for drop_path, training, draws in [(0.0, True, False), (0.5, False, False), (0.5, True, True)]:
            model = _model(drop_path=drop_path, rpe={"kind": "full"}).train(training)
            torch.manual_seed(1)
            before = torch.get_rng_state()
            first = model.backbone(images).feature
            assert torch.equal(before, torch.get_rng_state()) is not draws
            torch.manual_seed(1)
            assert torch.equal(first, model.backbone(images).feature)


def test_layer_norms_have_the_epsilon_of_the_reference() -> None:
    norms = [m for m in _model().modules() if isinstance(m, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-6] * 5


def test_bfloat16_autocast_gives_finite_values_near_float32() -> None:
    model = _model(rpe={"kind": "shaw_key"}, cls_position="untie_beit").eval()
    with torch.no_grad():
        exact = model.backbone(_images()).feature
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model.backbone(_images()).feature
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
