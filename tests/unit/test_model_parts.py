"""Parts of the transformer: each against its formula in loops, on a grid of 3 rows and 5 columns."""

import copy
import math
from typing import Any

import pytest
import torch

from reidablate.config import ModelConfig, validate
from reidablate.errors import UserError
from reidablate.models.conditional_position import ConditionalPosition, ConditionalPositionOptions
from reidablate.models.neck import ReidModel, initialise
from reidablate.models.parts import Size
from reidablate.models.untied_position import UntiedPosition
from reidablate.models.vertical_windows import VerticalWindows, VerticalWindowsOptions
from reidablate.sections import Section
from support import present

ROWS, COLS, WIDTH, HEADS = 3, 5, 4, 2
SIZE = Size(grid=(ROWS, COLS), width=WIDTH, heads=HEADS, depth=2)
ALL: dict[str, dict[str, Any]] = {
    "conditional_position": {},
    "vertical_windows": {"columns": 2},
    "untied_position": {},
}


def filled(module: torch.nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    module.double()
    for parameter in module.parameters():
        parameter.data.normal_(generator=generator)
    return module


def model(parts: dict[str, Any], **options: Any) -> ReidModel:
    config = {"backbone": "vit_quickstart", "image_size": (24, 40), "stem": "conv", "drop_path": 0.0, "parts": parts}
    made = ReidModel(ModelConfig.model_validate({**config, **options}), num_classes=3)
    initialise(made, 0)
    return made.eval()


def test_the_convolution_equals_a_loop_over_places_and_leaves_the_class_token() -> None:
    part = filled(ConditionalPosition(ConditionalPositionOptions(after=1), SIZE))
    tokens = torch.randn(2, 1 + ROWS * COLS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = tokens.clone()
    weight, bias = part.convolution.weight, part.convolution.bias
    for y in range(ROWS):
        for x in range(COLS):
            for i in range(3):
                for j in range(3):
                    other = (y + i - 1, x + j - 1)
                    if 0 <= other[0] < ROWS and 0 <= other[1] < COLS:
                        seen = tokens[:, 1 + other[0] * COLS + other[1]]
                        expected[:, 1 + y * COLS + x] += (weight[:, 0, i, j] * seen).detach()
            expected[:, 1 + y * COLS + x] += bias.detach()
    assert torch.allclose(part.after_block(tokens, 1), expected, atol=1e-12)
    assert torch.equal(part.after_block(tokens, 0), tokens)


def test_patches_see_their_columns_alone_in_the_first_blocks() -> None:
    part = VerticalWindows(VerticalWindowsOptions(columns=2), SIZE)
    assert VerticalWindows(VerticalWindowsOptions(share=0.25), Size((3, 5), 4, 2, depth=12)).blocks == 3
    assert part.logits(1) is None
    mask = present(part.logits(0))[0]
    for a in range(1 + ROWS * COLS):
        for b in range(1 + ROWS * COLS):
            together = a == 0 or b == 0 or (a - 1) % COLS // 2 == (b - 1) % COLS // 2
            assert mask[a, b].item() == (0 if together else -math.inf)


def test_attention_leaves_out_other_columns() -> None:
    windowed = model({"vertical_windows": {"columns": 1}})
    tokens = torch.randn(1, 1 + ROWS * COLS, 32, generator=torch.Generator().manual_seed(0))
    attentions = present(windowed.transformer).attentions
    weights = attentions[0].weights(tokens)[0, :, 1:, 1:].reshape(4, ROWS, COLS, ROWS, COLS)
    own = torch.einsum("hyxzx->hyzx", weights).sum().item()
    assert own == pytest.approx(weights.sum().item(), rel=1e-6)
    assert attentions[1].weights(tokens).min() > 0


def test_untied_positions_equal_the_loop() -> None:
    part = filled(UntiedPosition(Section(), SIZE))
    found = part.logits(0)
    rows = torch.nn.functional.layer_norm(part.table, (WIDTH,), part.norm.weight, part.norm.bias, 1e-6)
    d = WIDTH // HEADS
    for head in range(HEADS):
        take = slice(head * d, (head + 1) * d)
        for a in range(1 + ROWS * COLS):
            for b in range(1 + ROWS * COLS):
                if a == 0:
                    expected = part.resets[0, head]
                elif b == 0:
                    expected = part.resets[1, head]
                else:
                    query, key = part.queries.weight @ rows[a - 1], part.keys.weight @ rows[b - 1]
                    expected = sum(query[take] * key[take]) / math.sqrt(2 * d)
                assert found[head, a, b].item() == pytest.approx(expected.item(), abs=1e-9)


def test_untied_positions_scale_the_content_by_the_root_of_two_d_and_are_shared_by_the_blocks() -> None:
    untied, plain = model({"untied_position": {}}, ape="none"), model({}, ape="none")
    for ours, theirs in zip(present(untied.transformer).attentions, present(plain.transformer).attentions, strict=True):
        assert ours.scale == pytest.approx(theirs.scale / math.sqrt(2))
    assert sum(name.startswith("backbone.parts.") for name in untied.state_dict()) == 6
    assert "backbone.ape.table" not in untied.state_dict()


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_parts_equal_finite_differences(name: str) -> None:
    if name == "vertical_windows":
        assert not list(model({name: {}}).backbone.parts.parameters())  # nothing to train
        return
    if name == "conditional_position":
        part = filled(ConditionalPosition(ConditionalPositionOptions(), SIZE))
        tokens = torch.randn(2, 1 + ROWS * COLS, WIDTH, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, *_: part.after_block(x, 0), (tokens, *part.parameters()))
    else:
        part = filled(UntiedPosition(Section(), SIZE))
        assert torch.autograd.gradcheck(lambda *_: part.logits(0), tuple(part.parameters()))


def test_a_network_with_every_part_trains_each_of_their_parameters() -> None:
    made = model(ALL, ape="none").train()
    feature = made(torch.randn(4, 3, 24, 40, generator=torch.Generator().manual_seed(0)))
    feature.logits.logsumexp(1).mean().backward()
    for parameter in made.backbone.parts.parameters():
        assert torch.isfinite(present(parameter.grad)).all()
        assert present(parameter.grad).any()


def test_without_parts_nothing_changes_and_parts_move_no_other_initial_value() -> None:
    plain, parted = model({}), model(ALL)
    assert not any("parts" in name for name in plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, parted.state_dict()[name])


def test_a_copy_has_parts_of_its_own() -> None:
    made = model({"untied_position": {}})
    twin = copy.deepcopy(made)
    images = torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = made(images).feature_before_neck
        twin.backbone.parts["untied_position"].table.normal_()
        assert torch.equal(made(images).feature_before_neck, before)
        assert not torch.equal(twin(images).feature_before_neck, before)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"conditional": {}}, r"unknown key 'model\.parts\.conditional'; did you mean 'conditional_position'\?"),
        (
            {"conditional_position": {"kernel": 2}},
            r"model\.parts\.conditional_position: 'kernel' is 2 but should be an odd",
        ),
        ({"conditional_position": {"size": 3}}, r"model\.parts\.conditional_position: unknown key 'size'"),
    ],
)
def test_a_wrong_part_is_refused_in_a_sentence(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(ModelConfig, {"backbone": "vit_quickstart", "image_size": [24, 40], "parts": parts}, where="x")


def test_other_backbones_have_no_parts_and_no_block_is_counted_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"parts: timm/resnet18 has no such option"):
        validate(
            ModelConfig,
            {"backbone": "timm/resnet18", "image_size": [24, 40], "parts": {"untied_position": {}}},
            where="x",
        )
    with pytest.raises(UserError, match="there is no block 2 among 2"):
        model({"conditional_position": {"after": 2}})
