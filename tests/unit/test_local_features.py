"""TransReID's camera embedding and jigsaw module and PCB's stripes, against loops on a grid of 3 rows and 5 columns."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reidablate.config import LossesConfig, ModelConfig, RunConfig, validate
from reidablate.data.augment import to_float
from reidablate.engine.extract import forward
from reidablate.engine.forward import batch_of
from reidablate.errors import UserError
from reidablate.losses import Batch, Shape, StudyLoss
from reidablate.losses.local_losses import LocalIdentityOptions, LocalTripletOptions, local_identity, local_triplet
from reidablate.models.camera_embedding import CameraEmbedding, CameraEmbeddingOptions
from reidablate.models.jigsaw import shuffled
from reidablate.models.neck import ReidModel, ReidOutput, initialise
from reidablate.models.parts import Size
from reidablate.models.stripes import stripe_shares
from reidablate.models.tokens import Local
from reidablate.requirements import require_parts
from support import present

ROWS, COLS, WIDTH = 3, 5, 32
CAMERAS = (1, 4, 6)
JIGSAW = {"use": "jigsaw"}
STRIPES = {"use": "stripes", "number": 2, "width": 6}
CAMERA: dict[str, Any] = {"camera_embedding": {}}
LOSSES = {"local_identity": {"use": "local_identity"}, "local_triplet": {"use": "local_triplet"}}


def model(seed: int = 0, *, image_size: tuple[int, int] = (24, 40), **options: Any) -> ReidModel:
    config = {"backbone": "vit_quickstart", "image_size": image_size, "stem": "conv", "drop_path": 0.0, **options}
    made = ReidModel(ModelConfig.model_validate(config), num_classes=3, cameras=CAMERAS)
    initialise(made, seed)
    return made


def images(number: int = 4) -> torch.Tensor:
    return torch.randn(number, 3, 24, 40, generator=torch.Generator().manual_seed(0))


def outputs(made: ReidModel, camids: list[int] | None = None) -> ReidOutput:
    with torch.no_grad():
        found: ReidOutput = made.eval()(images(), None if camids is None else torch.tensor(camids))
    return found


# The camera embedding


def test_every_token_gets_three_times_the_row_of_its_camera_and_unknown_ones_get_nothing() -> None:
    part = CameraEmbedding(CameraEmbeddingOptions(), Size((ROWS, COLS), WIDTH, 4, 2, CAMERAS)).double()
    part.table.data.normal_(generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(3, 1 + ROWS * COLS, WIDTH, dtype=torch.float64)
    found = part.embedded(tokens, torch.tensor([6, 1, 5]))
    for image, row in enumerate([2, 0, None]):
        for token in range(1 + ROWS * COLS):
            expected = tokens[image, token] if row is None else tokens[image, token] + 3 * part.table[row, 0]
            assert torch.allclose(found[image, token], expected, atol=1e-12)
    assert part.embedded(tokens, None) is tokens


def test_the_gradient_of_the_camera_rows_equals_finite_differences() -> None:
    part = CameraEmbedding(CameraEmbeddingOptions(scale=2), Size((ROWS, COLS), 4, 2, 2, CAMERAS)).double()
    tokens = torch.randn(3, 1 + ROWS * COLS, 4, dtype=torch.float64, requires_grad=True)
    camids = torch.tensor([4, 4, 6])
    assert torch.autograd.gradcheck(lambda x, _: part.embedded(x, camids), (tokens, part.table))
    part.embedded(tokens, camids).sum().backward()
    assert present(part.table.grad)[:, 0, 0].tolist() == [0, 2 * 2 * 16, 2 * 16]  # tokens of images of each camera


def test_camera_rows_start_as_in_the_published_code_and_move_no_other_value() -> None:
    plain, told = model(), model(parts=CAMERA)
    rows = told.state_dict()["backbone.parts.camera_embedding.table"]
    assert rows.shape == (3, 1, WIDTH)  # as there
    assert rows.std().item() == pytest.approx(0.02, rel=0.25)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, told.state_dict()[name])


def test_only_a_model_that_reads_cameras_depends_on_them() -> None:
    told, plain = model(parts=CAMERA), model()
    assert told.reads_cameras
    assert not plain.reads_cameras
    one, other, unknown = (outputs(told, [camera] * 4).feature_before_neck for camera in (1, 4, 3))
    assert not torch.equal(one, other)
    assert torch.equal(unknown, outputs(told).feature_before_neck)
    assert torch.equal(outputs(plain, [1] * 4).feature_before_neck, outputs(plain).feature_before_neck)
    assert torch.equal(unknown, outputs(plain).feature_before_neck)


def test_extraction_gives_every_image_the_camera_of_its_row_and_is_told_of_none_elsewhere() -> None:
    made = model(parts=CAMERA, local_features=JIGSAW).eval()
    pixels = torch.randint(256, (5, 24, 40, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    camids = np.array([6, 1, 4, 4, 9])
    device, parts = torch.device("cpu"), [pixels[:3], pixels[3:]]
    found = forward(made, parts, device, "fp32", camids=camids)
    elsewhere = forward(made, parts, device, "fp32")
    for row in range(5):
        with torch.no_grad():
            image = to_float(pixels[row : row + 1])
            expected = made.tested(made(image, torch.tensor([camids[row]])), "before_neck")
            unknown = made.tested(made(image), "before_neck")
        assert torch.allclose(torch.from_numpy(found["before_neck"][row]), expected[0], atol=1e-5)
        assert torch.allclose(torch.from_numpy(elsewhere["before_neck"][row]), unknown[0], atol=1e-5)
        assert torch.allclose(expected, unknown, atol=1e-5) == (camids[row] == 9)


# The jigsaw module


@pytest.mark.parametrize(("number", "shift", "groups"), [(15, 4, 2), (18, 4, 2), (12, 5, 3), (8, 0, 1)])
def test_patches_are_shifted_and_dealt_from_the_groups_in_turn(number: int, shift: int, groups: int) -> None:
    order = [(k + shift) % number for k in range(number)]
    if number % groups:
        order.append(order[-2])
    length = len(order) // groups
    expected = [order[group * length + place] for place in range(length) for group in range(groups)]
    patches = torch.arange(number).reshape(1, number, 1).expand(2, -1, 3)
    assert shuffled(patches, shift=shift, groups=groups)[1, :, 2].tolist() == expected


def test_each_local_feature_is_the_class_token_of_a_quarter_of_the_shuffled_patches() -> None:
    made = model(local_features=JIGSAW).eval()
    local: Any = present(made.local_features)
    with torch.no_grad():
        tokens = made.backbone(images())
        before = present(tokens.before_last)
        assert torch.equal(made.backbone.norm(made.backbone.blocks[-1](before))[:, 0], tokens.feature)
        order = shuffled(before[:, 1:], shift=4, groups=2)
        found = outputs(made).local
        assert len(found) == 4
        for k, part in enumerate(found):
            rows = torch.cat([before[:, :1], order[:, 3 * k : 3 * (k + 1)]], dim=1)  # 15 // 4 patches
            expected = local.norm(local.block(rows))[:, 0]
            assert torch.equal(part.before_neck, expected)
            assert torch.equal(part.after_neck, local.necks[k](expected))
            assert torch.equal(part.logits, part.after_neck @ local.classifiers[k].weight.T)


def test_the_tested_feature_is_that_of_the_whole_and_a_quarter_of_each_part() -> None:
    made = model(local_features=JIGSAW)
    found = outputs(made)
    for side in ("before_neck", "after_neck"):
        tested = made.tested(found, side)
        assert tested.shape == (4, 5 * WIDTH)
        assert torch.equal(tested[:, :WIDTH], getattr(found, f"feature_{side}"))
        assert torch.equal(tested[:, 2 * WIDTH : 3 * WIDTH], getattr(found.local[1], side) / 4)


def test_the_second_last_block_starts_as_a_copy_also_after_weights_are_loaded() -> None:
    made = model(local_features=JIGSAW)
    made.backbone.blocks[-1].mlp.fc1.weight.data.add_(1)
    made.copy_initial()
    local: Any = present(made.local_features)
    for own, other in ((local.block, made.backbone.blocks[-1]), (local.norm, made.backbone.norm)):
        for name, value in other.state_dict().items():
            assert torch.equal(own.state_dict()[name], value)
    assert local.block.mlp.fc1.weight.data_ptr() != made.backbone.blocks[-1].mlp.fc1.weight.data_ptr()
    assert local.classifiers[2].weight.std().item() == pytest.approx(0.001, rel=0.3)


def test_one_part_and_one_group_without_a_shift_see_all_patches_and_give_the_global_feature() -> None:
    found = outputs(model(local_features={**JIGSAW, "parts": 1, "groups": 1, "shift": 0}))
    assert torch.allclose(found.local[0].before_neck, found.feature_before_neck, atol=1e-6)


# The stripes


@pytest.mark.parametrize(("rows", "number"), [(24, 6), (16, 6), (3, 6), (3, 2)])
def test_stripes_are_those_of_adaptive_average_pooling(rows: int, number: int) -> None:
    maps = torch.randn(2, 4, rows, 5, generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool2d(maps, (number, 1))[..., 0]
    found = maps.mean(3) @ stripe_shares(rows, number).T
    assert torch.allclose(found, expected, atol=1e-6)


def test_each_stripe_is_a_mean_reduced_by_one_map_and_judged_by_its_own_classifier() -> None:
    made = model(local_features=STRIPES).eval()
    local: Any = present(made.local_features)
    patches = present(outputs(made).patches)
    found = outputs(made).local
    for stripe, rows in enumerate([(0, 1), (1, 2)]):  # 3 rows: both stripes share the one in the middle
        mean = torch.stack([patches[:, row * COLS + column] for row in rows for column in range(COLS)]).mean(0)
        with torch.no_grad():
            reduced = F.relu(local.norm(mean @ local.reduction.weight.T))
        assert torch.allclose(found[stripe].before_neck, mean, atol=1e-6)
        assert torch.allclose(found[stripe].after_neck, reduced, atol=1e-6)
        assert torch.allclose(found[stripe].logits, reduced @ local.classifiers[stripe].weight.T, atol=1e-6)
    tested = made.tested(outputs(made), "before_neck").unflatten(1, (2, WIDTH))
    assert torch.allclose(tested.norm(dim=2), torch.ones(4, 2))
    assert torch.allclose(tested[:, 1], F.normalize(found[1].before_neck, dim=1))
    assert made.tested(outputs(made), "after_neck").shape == (4, 12)


def test_the_norm_of_the_stripes_has_one_mean_for_all_stripes() -> None:
    made = model(local_features=STRIPES).train()
    local: Any = present(made.local_features)
    found = made(images())
    reduced = torch.stack([part.before_neck @ local.reduction.weight.T for part in found.local], dim=1).flatten(0, 1)
    expected = F.relu((reduced - reduced.mean(0)) / (reduced.var(0, unbiased=False) + 1e-5).sqrt())
    together = torch.stack([part.after_neck for part in found.local], dim=1).flatten(0, 1)
    assert torch.allclose(together, expected, atol=1e-4)


# Gradients and losses


@pytest.mark.parametrize("local", [{**JIGSAW, "parts": 2}, STRIPES], ids=["jigsaw", "stripes"])
def test_gradients_of_local_features_equal_finite_differences(local: dict[str, Any]) -> None:
    made = model(image_size=(24, 16), local_features=local).double().eval()
    inner: Any = present(made.local_features)
    for parameter in inner.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    tokens = made.backbone(torch.randn(2, 3, 24, 16, dtype=torch.float64))

    def logits(*_: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.logits.square().sum() for part in inner(tokens)])

    small = ("block.norm2.weight", "norm.weight", "necks.0.weight", "classifiers.1.weight", "reduction.")
    checked = [value for name, value in inner.named_parameters() if name.startswith(small)]
    assert len(checked) >= 3
    assert torch.autograd.gradcheck(logits, tuple(checked))


def local_batch(number: int = 3, labels: tuple[int, ...] = (0, 0, 1, 1, 2, 2)) -> Batch:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    parts = tuple(Local(draw(len(labels), 5), draw(len(labels), 4), draw(len(labels), 3)) for _ in range(number))
    found, whole = torch.tensor(labels), draw(len(labels), 5)
    return Batch(whole, whole, draw(len(labels), 3), draw(3, 5), found, found, local=parts)


def test_local_losses_are_means_over_parts_that_are_mined_by_themselves() -> None:
    given = local_batch()
    labels = given.labels.tolist()
    identity, triplet = [], []
    for part in given.local:
        rows = part.logits.detach()
        identity += [
            math.log(sum(math.exp(v) for v in row.tolist())) - row[y].item()
            for row, y in zip(rows, labels, strict=True)
        ]
        feature = part.before_neck.detach()
        for a, label in enumerate(labels):
            distances = [max((feature[a] - other).norm().item(), 1e-6) for other in feature]
            near = max(d for d, other in zip(distances, labels, strict=True) if other == label)
            far = min(d for d, other in zip(distances, labels, strict=True) if other != label)
            triplet.append(math.log1p(math.exp(near - far)))
    assert local_identity(given, LocalIdentityOptions()).item() == pytest.approx(sum(identity) / 18, abs=1e-9)
    assert local_triplet(given, LocalTripletOptions()).item() == pytest.approx(sum(triplet) / 18, abs=1e-9)


def test_gradients_of_local_losses_equal_finite_differences_and_are_finite_where_features_are_equal() -> None:
    given = local_batch()

    def total(*_: torch.Tensor) -> torch.Tensor:
        return local_identity(given, LocalIdentityOptions()) + local_triplet(given, LocalTripletOptions())

    leaves = tuple(value for part in given.local for value in (part.before_neck, part.logits))
    assert torch.autograd.gradcheck(total, leaves)
    same = torch.ones(4, 5, requires_grad=True)
    equal = Batch(
        same, same, same, same, labels := torch.tensor([0, 0, 1, 1]), labels, local=(Local(same, same, same),)
    )
    (found,) = torch.autograd.grad(local_triplet(equal, LocalTripletOptions()), same)
    assert torch.isfinite(found).all()
    alone = local_batch(labels=(1, 1, 1))
    assert local_triplet(alone, LocalTripletOptions()).item() == 0


@pytest.mark.parametrize("local", [JIGSAW, STRIPES], ids=["jigsaw", "stripes"])
def test_a_step_trains_every_parameter_of_the_local_features(local: dict[str, Any]) -> None:
    made = model(local_features=local, parts=CAMERA).train()
    camids, labels = torch.tensor([1, 4, 6, 1]), torch.tensor([0, 0, 1, 1])
    loss = StudyLoss(LossesConfig.model_validate({**LOSSES, "identity": "none"}), Shape(num_classes=3, width=WIDTH))
    batch = batch_of(made, made(images(), camids), labels=labels, camids=camids, progress=0.0)
    loss(batch)["total"].backward()
    for name, parameter in [*made.named_parameters()]:
        if name.startswith(("local_features.", "backbone.parts.")) and parameter.requires_grad:
            assert torch.isfinite(present(parameter.grad)).all(), name
            assert present(parameter.grad).any(), name


# What is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"local_features": {"use": "jigsw"}},
            r"model\.local_features: there is no 'jigsw' to use; did you mean 'jigsaw'",
        ),
        ({"local_features": {"use": "jigsaw", "part": 4}}, r"model\.local_features: unknown key 'part'; did you mean"),
        ({"local_features": {"shift": 4}}, r"key 'local_features\.use' is missing"),
        ({"local_features": {"use": "jigsaw", "parts": 0}}, r"model\.local_features: 'parts' is 0 but should be"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(ModelConfig, {"backbone": "vit_quickstart", "image_size": [24, 40], **options}, where="x")


@pytest.mark.parametrize(
    ("model_options", "losses", "sentence"),
    [
        ({}, LOSSES, r"losses\.local_identity needs local features, which the model does not make; name what makes"),
        (
            {"local_features": JIGSAW, "rpe": {"kind": "full"}},
            {},
            "jigsaw attends to a part of the patches, and logits",
        ),
        ({"local_features": JIGSAW, "parts": {"vertical_windows": {}}}, {}, "jigsaw attends to a part of the patches"),
        (
            {"local_features": {**JIGSAW, "groups": 4, "parts": 5}, "image_size": (24, 24)},
            {},
            "jigsaw cannot cut 9 patch",
        ),
        ({"local_features": JIGSAW, "backbone": "timm/resnet18"}, {}, "jigsaw needs one of the study's transformers"),
    ],
)
def test_planning_refuses_what_cannot_be_made(
    model_options: dict[str, Any], losses: dict[str, Any], sentence: str
) -> None:
    options = {"backbone": "vit_quickstart", "image_size": [24, 40], "stem": "conv", "drop_path": 0.0, **model_options}
    config = validate(RunConfig, {"model": options, "losses": losses, "train": {"lr": 1, "epochs": 1}}, where="x")
    with pytest.raises(UserError, match=sentence):
        require_parts(config, "y")
