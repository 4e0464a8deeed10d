"""Rollout, relevance and distances on attention whose outcome is known; a grid of 4 x 2, with and without CLS."""

import math

import pytest
import torch
from torch import Tensor

from reidablate.config import ModelConfig
from reidablate.diagnostics.attention import (
    class_relevance,
    gradient_rollout,
    mean_distance,
    patch_distances,
    rollout,
    token_map,
)
from reidablate.diagnostics.network import (
    TransformerParts,
    class_gradients,
    traced,
    transformer_parts,
    without_skips,
)
from reidablate.models.neck import ReidModel, initialise

GRID = (4, 2)
N = 8


def _copies(patch: int, num_prefix: int, blocks: int = 2, heads: int = 3) -> list[Tensor]:
    """Attention in which every token attends to one patch alone."""
    size = num_prefix + N
    weights = torch.zeros(2, heads, size, size)
    weights[..., num_prefix + patch] = 1
    return [weights] * blocks


def _random(num_prefix: int, blocks: int = 3, heads: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    size = num_prefix + N
    return [torch.rand(2, heads, size, size, generator=rng).softmax(-1) for _ in range(blocks)]


@pytest.mark.parametrize("num_prefix", [0, 1])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_attention_that_copies_one_patch_has_its_rollout_on_that_patch(num_prefix: int, fusion: str) -> None:
    found = rollout(_copies(5, num_prefix), fusion=fusion, discard=0.0)  # type: ignore[arg-type]
    shown = token_map(found, GRID, num_prefix=num_prefix, has_cls=bool(num_prefix))
    assert shown.shape == (2, 4, 2)
    assert torch.all(shown.flatten(1).argmax(1) == 5)
    assert float(shown[0, 2, 1]) == 1  # patch 5 = row 2, column 1
    if num_prefix:  # the other patches pass nothing to CLS: two blocks of (A + I) / 2 leave 1/4 on CLS itself
        assert torch.allclose(found[0, 0], torch.tensor([0.25, 0, 0, 0, 0, 0, 0.75, 0, 0]))


def test_rollout_is_the_product_of_the_blocks_written_out() -> None:
    attention = _random(1)
    found = rollout(attention, fusion="max", discard=0.5)
    expected = torch.eye(9)
    for weights in attention:
        fused = weights[1].max(0).values.flatten()
        for index in sorted(range(81), key=lambda i: float(fused[i]))[:40]:
            if index:
                fused[index] = 0
        step = (fused.view(9, 9) + torch.eye(9)) / 2
        expected = (step / step.sum(1, keepdim=True)) @ expected
    assert torch.allclose(found[1], expected, atol=1e-6)
    assert torch.allclose(found.sum(-1), torch.ones(2, 9))


def test_discarding_keeps_the_attention_of_cls_to_itself() -> None:
    weights = torch.full((1, 1, 9, 9), 0.1)
    weights[..., 0, 0] = 0.001  # the smallest of all
    weights[..., 0, 3] = 0.9
    found = rollout([weights], discard=0.9)
    assert torch.allclose(found[0, 0, 0], torch.tensor((0.001 + 1) / (0.001 + 1 + 0.9)))


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_gradient_rollout_drops_what_speaks_against_the_class(num_prefix: int) -> None:
    attention = [torch.full((1, 2, num_prefix + N, num_prefix + N), 1 / (num_prefix + N))]
    slope = torch.full_like(attention[0], -1.0)
    slope[..., num_prefix + 3] = 1.0
    found = gradient_rollout(attention, [slope], discard=0.0)
    shown = token_map(found, GRID, num_prefix=num_prefix, has_cls=bool(num_prefix))
    if num_prefix:
        assert shown[0].nonzero().tolist() == [[1, 1]]  # patch 3 alone
    else:  # the mean of patch rows holds each patch's own skip connection too
        assert shown[0].flatten().argmax() == 3


def test_relevance_of_two_blocks_written_out() -> None:
    attention, gradients = _random(1, blocks=2), [torch.randn(2, 2, 9, 9) for _ in range(2)]
    first, second = (
        torch.stack([(w[0, h] * g[0, h]).clamp(min=0) for h in range(2)]).mean(0)
        for w, g in zip(attention, gradients, strict=True)
    )
    eye = torch.eye(9)
    expected = eye + first + second @ (eye + first)
    assert torch.allclose(class_relevance(attention, gradients)[0], expected, atol=1e-6)


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_relevance_of_a_patch_that_every_head_copies_is_on_that_patch(num_prefix: int) -> None:
    attention = _copies(5, num_prefix)
    slopes = [torch.ones_like(weights) for weights in attention]
    shown = token_map(class_relevance(attention, slopes), GRID, num_prefix=num_prefix, has_cls=bool(num_prefix))
    assert torch.all(shown.flatten(1).argmax(1) == 5)
    assert float(shown[0, 2, 1]) == 1
    if num_prefix:
        assert shown[0].count_nonzero() == 1
    against = [-slope for slope in slopes]  # what speaks against the class counts nothing
    kept = class_relevance(attention, against)
    assert torch.equal(kept, torch.eye(num_prefix + N).expand_as(kept))


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
def test_a_map_is_the_row_of_cls_or_the_mean_of_the_patches(num_prefix: int) -> None:
    matrix = torch.zeros(1, num_prefix + N, num_prefix + N)
    matrix[0, 0, num_prefix:] = torch.arange(1.0, N + 1)
    matrix[0, num_prefix:, num_prefix + 2] += 16.0
    mean = token_map(matrix, GRID, num_prefix=num_prefix, has_cls=False)[0].flatten()
    assert int(mean.argmax()) == 2
    if num_prefix:
        cls = token_map(matrix, GRID, num_prefix=num_prefix, has_cls=True)[0]
        assert torch.allclose(cls, torch.arange(1.0, N + 1).view(GRID) / N)
        assert mean.count_nonzero() == 1  # the row of CLS is left out


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_uniform_attention_has_the_mean_distance_of_the_grid(num_prefix: int) -> None:
    size = num_prefix + N
    uniform = torch.full((3, 2, size, size), 1 / size)
    places = [(8.0 * (k // 2), 16.0 * (k % 2)) for k in range(N)]
    expected = sum(math.dist(a, b) for a in places for b in places) / N**2
    found = mean_distance(uniform, GRID, num_prefix=num_prefix, patch_px=(8.0, 16.0))
    assert torch.allclose(found, torch.full((2,), expected))


def test_attention_to_itself_has_no_distance() -> None:
    weights = torch.eye(9).expand(1, 1, 9, 9)
    assert float(mean_distance(weights, GRID, num_prefix=1, patch_px=(8.0, 8.0))) == 0
    assert float(patch_distances(GRID, (8.0, 8.0))[0, 3]) == pytest.approx(math.hypot(8, 8))


def _model(**options: object) -> ReidModel:
    base = {"backbone": "vit_quickstart", "image_size": (32, 16), "stem": "conv", "drop_path": 0.0}
    model = ReidModel(ModelConfig.model_validate(base | options), num_classes=4)
    if model.transformer is not None:
        initialise(model, 0)
    return model.eval()


def _parts(model: ReidModel) -> TransformerParts:
    parts = transformer_parts(model)
    assert isinstance(parts, TransformerParts)
    return parts


MODELS: list[dict[str, object]] = [
    {"rpe": {"kind": "full", "init_sd": 1.0}, "cls_position": "untie"},
    {"rpe": {"kind": "shaw_key", "init_sd": 1.0}, "pool": "mean"},
    {"backbone": "timm/deit_tiny_distilled_patch16_224", "image_size": (64, 32), "stem": "ics"},
    {"backbone": "timm/test_vit2", "image_size": (64, 32), "stem": "ics"},  # a register in place of CLS
]


@pytest.mark.parametrize("options", MODELS, ids=lambda options: str(options.get("backbone", options.get("rpe"))))
def test_a_traced_pass_is_the_pass_itself_and_leaves_the_network_as_it_was(options: dict[str, object]) -> None:
    model = _model(**options)
    parts = _parts(model)
    images = torch.randn(2, 3, *model.config.image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(images).feature_before_neck
        with traced(parts) as trace:
            found = model(images).feature_before_neck
        again = model(images).feature_before_neck
    assert torch.allclose(found, plain, atol=1e-5)
    assert torch.equal(again, plain)
    size = parts.num_prefix + parts.grid[0] * parts.grid[1]
    assert all(weights.shape[2:] == (size, size) for weights in trace.attention)
    assert torch.allclose(trace.attention[0].sum(-1), torch.ones(()), atol=1e-5)
    assert len(trace.tokens) == len(parts.blocks) + 1
    for block in range(len(parts.blocks)):  # what goes round and what is added are the next tokens
        after = trace.skips[2 * block + 1] + trace.branches[2 * block + 1]
        assert torch.allclose(after, trace.tokens[block + 1], atol=1e-5)
        assert torch.equal(trace.skips[2 * block], trace.tokens[block])


def test_gradients_are_those_of_a_finite_difference() -> None:
    model = _model(rpe={"kind": "full"}).double()
    parts = _parts(model)
    images = torch.randn(2, 3, 32, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trace, gradients, best = class_gradients(model, parts, images)
    assert [g.shape for g in gradients] == [a.shape for a in trace.attention]
    attention, step = parts.blocks[-1].attn, 1e-6
    values = attention.queries_keys_values(parts.blocks[-1].norm1(trace.tokens[-2]))[2]
    moved = trace.attention[-1].clone()
    moved[1, 2, 0, 4] += step  # image 1, head 2, CLS to patch 3

    def logit(weights: Tensor) -> Tensor:
        x = trace.tokens[-2] + attention.proj((weights @ values).transpose(1, 2).flatten(2))
        x = model.backbone.norm(x + parts.blocks[-1].mlp(parts.blocks[-1].norm2(x)))
        scores: Tensor = model.classifier(model.neck(x[:, 0]))[1, best[1]]
        return scores.detach()

    slope = (logit(moved) - logit(trace.attention[-1])) / step
    assert float(slope) == pytest.approx(float(gradients[-1][1, 2, 0, 4]), rel=1e-4)


def test_a_block_without_skips_gives_what_its_branches_compute() -> None:
    model = _model()
    block = _parts(model).blocks[1]
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        with without_skips(block):
            cut = block(x)
        inner = block.attn(block.norm1(x))
        assert torch.allclose(cut, block.mlp(block.norm2(inner)), atol=1e-5)
        assert not torch.allclose(block(x), cut)


def test_a_network_without_attention_blocks_says_so_in_a_sentence() -> None:
    for name in ("timm/resnet10t", "timm/xcit_nano_12_p16_224"):
        found = transformer_parts(_model(backbone=name, image_size=(64, 64), stem="ics"))
        assert isinstance(found, str)
        assert name in found
        assert found.endswith(".")
