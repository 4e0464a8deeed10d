import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from reidablate.config import WeightedTripletConfig
from reidablate.losses.mining import Triplets, batch_hard
from reidablate.losses.weighted_triplet import (
    dimension_weights,
    non_dominant,
    patch_ratio,
    top_mask,
    weighted_triplet_loss,
)
from support import gradient

NUM_PATCHES, WIDTH = 15, 8  # a grid of 3 x 5
LABELS = [0, 0, 0, 1, 2, 2]

# j6: the anchor's patches; c_a, c_p, c_q are the rows of the feature.
J6_FEATURE = [(2.0, 0.0, 1.0, 1.0), (1.0, 1.2, 0.0, 2.0), (0.0, 2.0, 2.0, 0.0)]
J6_PATCHES = [(2.0, 0.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0), (0.0, 0.0, 2.0, 0.0), (1.0, 0.0, 0.0, 1.0)]


def batch(
    seed: int = 0, dtype: torch.dtype = torch.float64, num_patches: int = NUM_PATCHES, width: int = WIDTH
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Triplets]:
    """Features, patches and classifier rows of six images, and their triplets."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(6, width, generator=generator, dtype=torch.float64).to(dtype)
    patches = torch.randn(6, num_patches, width, generator=generator, dtype=torch.float64).to(dtype)
    rows = torch.randn(3, width, generator=generator, dtype=torch.float64)[LABELS].to(dtype)
    return feature, patches, rows, batch_hard(feature, torch.tensor(LABELS))


def loop_softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(s - max(scores)) for s in scores]
    return [power / sum(powers) for power in powers]


def loop_similarity(vector: np.ndarray, patches: np.ndarray, config: WeightedTripletConfig) -> list[float]:
    dots = [float(np.dot(vector, patch)) for patch in patches]
    divisor = {"softmax_scaled": math.sqrt(len(vector)), "softmax": 1.0}.get(config.similarity)
    return dots if divisor is None else loop_softmax([d / divisor for d in dots])


def loop_top(similarity: list[float], ratio: float) -> set[int]:
    order = sorted(range(len(similarity)), key=lambda k: (-similarity[k], k))
    return set(order[: math.floor(ratio * len(similarity))])


def loop_residual(
    c: np.ndarray, patches: np.ndarray, similarity: list[float], chosen: set[int], config: WeightedTripletConfig
) -> np.ndarray:
    """u of the anchor: its feature without its dominant patches."""
    dom, full = np.zeros(len(c)), np.zeros(len(c))
    best = max((similarity[k] for k in chosen), default=1.0) if config.similarity == "raw" else 1.0
    for k, patch in enumerate(patches):
        full += similarity[k] / best * patch / (len(patches) if config.similarity == "raw" else 1)
        if k in chosen:
            dom += similarity[k] / best * patch / (len(chosen) if config.similarity == "raw" else 1)
    matched = {"full_sum": full, "selected_sum": dom}.get(config.scale_match or "")
    scale = 1.0 if matched is None else np.linalg.norm(c) / max(float(np.linalg.norm(matched)), 1e-6)
    left: np.ndarray = c - scale * dom
    return left


def loop_loss(
    features: torch.Tensor,
    images: torch.Tensor,
    classifier: torch.Tensor,
    triplets: Triplets,
    config: WeightedTripletConfig,
) -> float:
    """The definition, anchor by anchor and dimension by dimension."""
    terms = []
    feature, patches, rows = features.numpy(), images.numpy(), classifier.numpy()
    for a in range(len(feature)):
        p, q = int(triplets.positive[a]), int(triplets.negative[a])
        if config.select_by == "classifier":
            left = []
            for i in (a, p, q):
                similarity = loop_similarity(rows[i], patches[i], config)
                left.append(
                    loop_residual(feature[i], patches[i], similarity, loop_top(similarity, config.ratio), config)
                )
            d_p, d_n = (float(np.linalg.norm(left[0] - other)) for other in left[1:])
        else:
            similarity = loop_similarity(feature[a], patches[a], config)
            image = a if config.pos_source == "anchor_patches" else p
            of_positive = loop_similarity(feature[p], patches[image], config)
            chosen = loop_top(similarity, config.ratio) & loop_top(of_positive, config.ratio)
            u = np.abs(loop_residual(feature[a], patches[a], similarity, chosen, config))
            if config.subtract_from == "anchor_and_positive":
                u = (u + np.abs(loop_residual(feature[p], patches[a], similarity, chosen, config))) / 2
            weight = np.zeros(WIDTH)
            for j in range(WIDTH):
                value = u[j] / max(u)
                if config.weight_form == "one_plus_inv":
                    value = 1 - value
                if value >= config.threshold:
                    weight[j] = value if config.weight_form == "max" else 1 + value
            d_p = math.sqrt(sum((weight[j] * (feature[a, j] - feature[p, j])) ** 2 for j in range(WIDTH)))
            d_n = math.sqrt(sum((weight[j] * (feature[a, j] - feature[q, j])) ** 2 for j in range(WIDTH)))
        gap = d_p - d_n
        terms.append(math.log1p(math.exp(gap)) if config.margin == "soft" else max(0.0, gap + config.margin))
    return float(np.mean(terms))


def j6_loss(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of j6, and the weight of each dimension of its anchor."""
    config = WeightedTripletConfig(**options)
    feature = torch.tensor(J6_FEATURE)
    patches = torch.tensor(J6_PATCHES).repeat(3, 1, 1)
    only_anchor = Triplets(torch.tensor([1, 1, 1]), torch.tensor([2, 2, 2]), torch.tensor([True, False, False]))
    loss = weighted_triplet_loss(feature, patches, feature, only_anchor, config=config)
    scores = (patches[:1] @ feature[:1, :, None]).squeeze(2) / 2
    selected = torch.tensor([[False, False, False, True]])
    return loss, dimension_weights(non_dominant(feature[:1], patches[:1], scores, selected, config), config)[0]


def test_vector_j6_selection() -> None:
    patches = torch.tensor(J6_PATCHES)
    anchor, positive = (patches @ torch.tensor(J6_FEATURE[i]) / 2 for i in (0, 1))
    assert anchor.softmax(0).tolist() == pytest.approx([0.473991, 0.064148, 0.174371, 0.287490], abs=1e-6)
    assert positive.softmax(0).tolist() == pytest.approx([0.235960, 0.288202, 0.086805, 0.389033], abs=1e-6)
    assert top_mask(anchor[None], 0.5).nonzero()[:, 1].tolist() == [0, 3]
    assert top_mask(positive[None], 0.5).nonzero()[:, 1].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("form", "weight", "expected"),
    [
        ("max", (1, 0, 0.681555, 0.318445), 0.345386),
        ("one_plus_max", (2, 1, 1.681555, 1.318445), 0.153947),
        ("one_plus_inv", (1, 2, 1.318445, 1.681555), 0.185418),
    ],
)
def test_vector_j6_loss_of_each_weight_form(form: str, weight: tuple[float, ...], expected: float) -> None:
    loss, found = j6_loss(weight_form=form)
    assert found.tolist() == pytest.approx(weight, abs=1e-5)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_vector_j6_distances_by_hand() -> None:
    # D_p = |z (1, -1.2, 1, -1)| and D_n = |z (2, -2, -1, 1)| with z = (1, 0, .681555, .318445).
    d_p = math.sqrt(1 + 0.681555**2 + 0.318445**2)
    d_n = math.sqrt(4 + 0.681555**2 + 0.318445**2)
    assert (d_p, d_n) == pytest.approx((1.251369, 2.136802), abs=1e-5)
    assert j6_loss(margin=1.0)[0].item() == pytest.approx(1 + d_p - d_n, abs=1e-5)


def test_vector_j6_empty_intersection_leaves_the_whole_feature() -> None:
    config = WeightedTripletConfig()
    feature, patches = torch.tensor(J6_FEATURE[:1]), torch.tensor(J6_PATCHES)[None]
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    residual = non_dominant(feature, patches, torch.zeros(1, 4), nothing, config)
    assert torch.equal(residual, feature)
    assert dimension_weights(residual, config).tolist() == [pytest.approx([1, 0, 0.5, 0.5])]


@pytest.mark.parametrize("weight_form", ["max", "one_plus_max", "one_plus_inv"])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("similarity", ["softmax_scaled", "softmax", "raw"])
@pytest.mark.parametrize("scale_match", ["full_sum", "selected_sum", None])
def test_loss_equals_the_loop(weight_form: str, threshold: float, similarity: str, scale_match: str | None) -> None:
    for pos_source, select_by, ratio, margin in itertools.product(
        ("anchor_patches", "own_patches"), ("cls", "classifier"), (0.5, 0.21), ("soft", 0.3)
    ):
        options: dict[str, Any] = {
            "weight_form": weight_form,
            "threshold": threshold,
            "similarity": similarity,
            "scale_match": scale_match,
            "pos_source": pos_source,
            "select_by": select_by,
            "ratio": ratio,
            "margin": margin,
        }
        config = WeightedTripletConfig(**options)
        inputs = batch(seed=1)
        expected = loop_loss(*inputs, config)
        assert weighted_triplet_loss(*inputs, config=config).item() == pytest.approx(expected, abs=1e-6), config


@pytest.mark.parametrize("weight_form", ["max", "one_plus_max", "one_plus_inv"])
@pytest.mark.parametrize("scale_match", ["full_sum", "selected_sum", None])
def test_subtracting_from_the_positive_too_equals_the_loop(weight_form: Any, scale_match: Any) -> None:
    config = WeightedTripletConfig(
        weight_form=weight_form, scale_match=scale_match, subtract_from="anchor_and_positive"
    )
    inputs = batch(seed=1)
    loss = weighted_triplet_loss(*inputs, config=config).item()
    assert loss == pytest.approx(loop_loss(*inputs, config), abs=1e-6)
    assert loss != weighted_triplet_loss(*inputs, config=config.model_copy(update={"subtract_from": "anchor"})).item()


def test_vector_j6_subtracting_from_the_positive_too_by_hand() -> None:
    # dom = .287490 (1, 0, 0, 1) is taken from both, scaled by |c| / |sum of all patches|, |sum|^2 as below.
    total = math.sqrt(1.235472**2 + 0.128295**2 + 0.348743**2 + 0.287490**2)
    anchor, positive = (math.sqrt(sum(v * v for v in c)) / total * 0.287490 for c in J6_FEATURE[:2])
    sizes = [(2 - anchor + abs(1 - positive)) / 2, 1.2 / 2, 1 / 2, (1 - anchor + 2 - positive) / 2]
    weight = [size / max(sizes) for size in sizes]
    d_p = math.sqrt(sum((w * d) ** 2 for w, d in zip(weight, (1, -1.2, 1, -1), strict=True)))
    d_n = math.sqrt(sum((w * d) ** 2 for w, d in zip(weight, (2, -2, -1, 1), strict=True)))
    loss, _ = j6_loss(subtract_from="anchor_and_positive", margin=1.0)
    assert loss.item() == pytest.approx(max(0.0, 1 + d_p - d_n), abs=1e-5)


def test_ratio_moves_linearly_to_its_end() -> None:
    config = WeightedTripletConfig(ratio=0.5, ratio_end=0.1)
    assert [patch_ratio(config, t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.5, 0.3, 0.1])
    assert patch_ratio(WeightedTripletConfig(ratio=0.4), 0.9) == pytest.approx(0.4)
    inputs = batch()
    late = weighted_triplet_loss(*inputs, config=config, progress=1.0)
    assert late == weighted_triplet_loss(*inputs, config=WeightedTripletConfig(ratio=0.1))


@pytest.mark.parametrize(
    ("ratio", "num_patches", "expected"), [(0.5, 15, 7), (0.29, 100, 29), (0.01, 15, 1), (1, 5, 5)]
)
def test_top_mask_takes_the_floor_and_at_least_one(ratio: float, num_patches: int, expected: int) -> None:
    scores = torch.arange(float(num_patches))[None]
    assert top_mask(scores, ratio).sum().item() == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_form": "one_plus_max", "threshold": 0.1},
        {"weight_form": "one_plus_inv", "similarity": "raw"},
        {"scale_match": "selected_sum", "pos_source": "own_patches"},
        {"scale_match": None, "margin": 0.3},
        {"select_by": "classifier"},
        {"subtract_from": "anchor_and_positive"},
    ],
)
def test_gradients_equal_finite_differences(options: dict[str, Any]) -> None:
    feature, patches, rows, triplets = batch(seed=2, num_patches=6, width=4)
    config = WeightedTripletConfig(**options)

    def loss(feature: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        return weighted_triplet_loss(feature, patches, rows, triplets, config=config)

    assert torch.autograd.gradcheck(loss, (feature.requires_grad_(), patches.requires_grad_()))


def gradients(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    feature, patches, rows, triplets = batch(seed=3)
    feature.requires_grad_()
    patches.requires_grad_()
    loss = weighted_triplet_loss(feature, patches, rows, triplets, config=WeightedTripletConfig(**options))
    of_feature, of_patches = torch.autograd.grad(loss, (feature, patches), allow_unused=True)
    return of_feature, of_patches


def test_detach_weight_keeps_patches_out_of_the_gradient() -> None:
    assert gradients(detach_weight=True)[1] is None
    assert gradients(detach_weight=False)[1].abs().max() > 1e-3


def test_detach_ratio_changes_the_gradient_and_not_the_value() -> None:
    kept, held = gradients(detach_ratio=False), gradients(detach_ratio=True)
    assert (kept[1] - held[1]).abs().max() > 1e-3
    inputs = batch(seed=3)
    one, other = (
        weighted_triplet_loss(*inputs, config=WeightedTripletConfig(detach_ratio=flag)) for flag in (False, True)
    )
    assert one == other


def test_classifier_rows_get_no_gradient() -> None:
    feature, patches, rows, triplets = batch(seed=3)
    config = WeightedTripletConfig(select_by="classifier")
    loss = weighted_triplet_loss(feature.requires_grad_(), patches, rows.requires_grad_(), triplets, config=config)
    loss.backward()
    assert rows.grad is None


@pytest.mark.parametrize("similarity", ["softmax_scaled", "softmax", "raw"])
@pytest.mark.parametrize("scale_match", ["full_sum", "selected_sum", None])
def test_empty_intersections_and_equal_images_have_finite_gradients(similarity: Any, scale_match: Any) -> None:
    # Features of opposite sign rank the patches in opposite order, so the top halves do not meet.
    feature = torch.tensor([(1.0, 2.0), (-1.0, -2.0), (0.0, 0.0), (0.0, 0.0)], requires_grad=True)
    patches = torch.tensor([(1.0, 0.1), (0.5, 0.3), (-0.5, 0.2), (-1.0, -2.0)]).repeat(4, 1, 1).requires_grad_()
    triplets = batch_hard(feature, torch.tensor([0, 0, 1, 1]))
    config = WeightedTripletConfig(similarity=similarity, scale_match=scale_match)
    loss = weighted_triplet_loss(feature, patches, feature, triplets, config=config)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(feature)).all()
    assert torch.isfinite(gradient(patches)).all()


def test_without_negatives_the_loss_is_a_zero_with_gradient() -> None:
    feature, patches, rows, _ = batch()
    feature.requires_grad_()
    triplets = batch_hard(feature, torch.zeros(6, dtype=torch.long))
    loss = weighted_triplet_loss(feature, patches, rows, triplets, config=WeightedTripletConfig())
    loss.backward()
    assert loss.item() == 0
    assert not gradient(feature).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_autocast_is_computed_in_float32(dtype: torch.dtype) -> None:
    feature, patches, rows, triplets = batch(dtype=dtype)
    config = WeightedTripletConfig()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = weighted_triplet_loss(feature, patches, rows, triplets, config=config)
    assert found.dtype == torch.float32
    assert found == weighted_triplet_loss(feature.float(), patches.float(), rows.float(), triplets, config=config)
