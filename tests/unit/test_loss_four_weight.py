"""The four-weight forms of Proposed 1 against a loop over anchors, patches and dimensions."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from reidablate.config import LossesConfig, validate
from reidablate.errors import UserError
from reidablate.losses import Batch
from reidablate.losses.emphasis import over_largest
from reidablate.losses.four_weight import FourWeightOptions, four_weight, four_weight_loss
from reidablate.losses.mining import Triplets, batch_hard
from reidablate.losses.triplet import triplet_loss

NUM_PATCHES, WIDTH = 15, 8  # a grid of 3 x 5
LABELS = [0, 0, 0, 1, 2, 2]
FORMS: list[dict[str, Any]] = [
    {},
    {"exchanged": True},
    {"form": "mixed"},
    {"form": "common_and_different"},
    {"margin": 0.3, "ratio": 0.21},
]


def inputs(
    seed: int = 0, num_patches: int = NUM_PATCHES, width: int = WIDTH
) -> tuple[torch.Tensor, torch.Tensor, Triplets]:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(6, width, generator=generator, dtype=torch.float64)
    patches = torch.randn(6, num_patches, width, generator=generator, dtype=torch.float64)
    return feature, patches, batch_hard(feature, torch.tensor(LABELS))


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def similarity(c: np.ndarray, patches: np.ndarray, options: FourWeightOptions) -> list[float]:
    dots = [float(c @ patch) for patch in patches]
    return dots if options.form == "common_and_different" else softmax([d / math.sqrt(len(c)) for d in dots])


def length(values: np.ndarray) -> float:
    return float(np.linalg.norm(values))


def top(scores: list[float], ratio: float) -> set[int]:
    order = sorted(range(len(scores)), key=lambda k: (-scores[k], k))
    return set(order[: math.floor(ratio * len(scores))])


def z(values: np.ndarray) -> np.ndarray:
    largest = np.abs(values).max()
    found: np.ndarray = np.abs(values) / (largest if largest > 0 else 1)
    return found


def loop(
    feature: torch.Tensor,
    images: torch.Tensor,
    triplets: Triplets,
    options: FourWeightOptions,
    held: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> float:
    """Straight from the definition, anchor by anchor; what it holds constant is taken from `held`, if that is given."""
    c, patches = feature.numpy(), images.numpy()
    still_c, still = (value.numpy() for value in held or (feature, images))
    own = [similarity(c[i], patches[i], options) for i in range(len(c))]
    terms: list[float] = []
    for a in range(len(c)):
        p, q = int(triplets.positive[a]), int(triplets.negative[a])
        common, left = {}, {}
        for side, other in (("p", p), ("q", q)):
            shared = sorted(top(own[a], options.ratio) & top(own[other], options.ratio))
            for who, image in (("a", a), ("o", other)):
                scores = similarity(c[image], patches[a], options)
                dom = np.zeros(c.shape[1])
                for k in shared:
                    if options.form == "common_and_different":
                        dom += scores[k] / max(scores[j] for j in shared) * patches[a][k] / len(shared)
                    else:
                        dom += scores[k] * patches[a][k]
                if options.form == "four_weight":
                    own_scores = similarity(still_c[image], still[image], options)
                    whole = sum(s * x for s, x in zip(own_scores, still[image], strict=True))
                    above = length(still_c[image])
                else:
                    whole, above = dom, length(c[image])
                r = above / max(length(whole), 1e-6)
                common[side, who], left[side, who] = r * dom, c[image] - r * dom
        sides = [("p", "a"), ("p", "o"), ("q", "a"), ("q", "o")]
        all_weights: list[list[np.ndarray]] = []
        if options.form == "four_weight":
            weights = [1 + z((left if side == "p" else common)[side, who]) for side, who in sides]
            if options.exchanged:
                weights[1], weights[2] = weights[2], weights[1]
            all_weights.append(weights)
        elif options.form == "mixed":
            values = [1 - z(left[key]) if key[0] == "p" else z(left[key]) for key in sides]
            values = [value / np.abs(left[key]).max() for value, key in zip(values, sides, strict=True)]
            all_weights.append([np.where(value > 1, 0, 2 - value) for value in values])
        else:
            all_weights += [[1 + z(left[key]) for key in sides], [2 - z(left[key]) for key in sides]]
        for w_a, w_p, v_a, w_q in all_weights:
            gap = length(w_a * c[a] - w_p * c[p]) - length(v_a * c[a] - w_q * c[q])
            terms.append(math.log1p(math.exp(gap)) if options.margin == "soft" else max(0.0, gap + options.margin))
    return sum(terms) / len(c)


@pytest.mark.parametrize("values", FORMS, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_equals_the_loop(values: dict[str, Any], seed: int) -> None:
    options = FourWeightOptions(**values)
    given = inputs(seed)
    assert four_weight_loss(*given, options).item() == pytest.approx(loop(*given, options), abs=1e-6)


def test_without_common_patches_the_weights_are_those_of_the_class_tokens() -> None:
    # One patch of each image is dominant, and anchor and others disagree on its place: dom = 0, u = c.
    feature = torch.tensor([[4.0, 0.0, 2.0], [0.0, 4.0, 1.0], [0.0, 5.0, 0.0]])
    patches = torch.eye(3)[None].repeat(3, 1, 1)
    triplets = Triplets(torch.tensor([1, 1, 1]), torch.tensor([2, 2, 2]), torch.tensor([True, False, False]))
    # z(c_a) = (1, 0, .5) and z(c_p) = (0, 1, .25); towards the negative r dom = 0, so those weights are 1.
    towards = [2 * 4 - 0, 0 - 2 * 4, 1.5 * 2 - 1.25 * 1]
    gap = math.sqrt(sum(v * v for v in towards)) - math.sqrt(4**2 + 5**2 + 2**2)
    found = four_weight_loss(feature, patches, triplets, FourWeightOptions(ratio=0.34))
    assert found.item() == pytest.approx(math.log1p(math.exp(gap)), abs=1e-5)


def test_a_row_of_zeros_stays_one() -> None:
    assert over_largest(torch.tensor([[0.0, 0.0], [-4.0, 1.0]])).tolist() == [[0.0, 0.0], [1.0, 0.25]]


@pytest.mark.parametrize("values", FORMS, ids=str)
def test_a_batch_of_one_identity_gives_zero_and_equal_images_a_finite_gradient(values: dict[str, Any]) -> None:
    options = FourWeightOptions(**values)
    feature, patches, _ = inputs()
    alone = batch_hard(feature, torch.zeros(6, dtype=torch.int64))
    assert four_weight_loss(feature, patches, alone, options).item() == 0
    same = torch.ones(4, WIDTH, requires_grad=True)
    loss = four_weight_loss(
        same, torch.ones(4, NUM_PATCHES, WIDTH), batch_hard(same, torch.tensor([0, 0, 1, 1])), options
    )
    (gradient,) = torch.autograd.grad(loss, same)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("values", FORMS[2:4], ids=str)
def test_gradients_equal_finite_differences(values: dict[str, Any]) -> None:
    feature, patches, triplets = inputs(seed=2, num_patches=6, width=4)
    options = FourWeightOptions(**values)

    def loss(feature: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        return four_weight_loss(feature, patches, triplets, options)

    assert torch.autograd.gradcheck(loss, (feature.requires_grad_(), patches.requires_grad_()))


@pytest.mark.parametrize("values", [FORMS[0], FORMS[1], {"margin": 0.3}], ids=str)
def test_gradients_of_the_form_that_holds_its_ratio_equal_finite_differences_of_the_loop(
    values: dict[str, Any],
) -> None:
    feature, patches, triplets = inputs(seed=2, num_patches=6, width=4)
    options, step = FourWeightOptions(**values), 1e-5
    leaves = feature.clone().requires_grad_(), patches.clone().requires_grad_()
    found = torch.autograd.grad(four_weight_loss(*leaves, triplets, options), leaves)
    for which, given in enumerate((feature, patches)):
        for place in np.ndindex(*given.shape):
            sides = []
            for sign in (1, -1):
                moved = [feature.clone(), patches.clone()]
                moved[which][place] += sign * step
                sides.append(loop(moved[0], moved[1], triplets, options, held=(feature, patches)))
            assert found[which][place].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-7)


def test_the_naive_triplet_is_added_when_asked_for() -> None:
    feature, patches, triplets = inputs()
    labels = torch.tensor(LABELS)
    batch = Batch(feature, feature, feature, feature[:3], labels, labels, cls=feature, patches=patches)
    found: Any = four_weight(batch, FourWeightOptions(aux="naive"))
    assert found["aux"] == triplet_loss(feature, triplets)
    assert found[""] == four_weight(batch, FourWeightOptions())


def test_exchanged_weights_belong_to_one_form() -> None:
    section = {"own": {"use": "four_weight", "form": "mixed", "exchanged": True}}
    with pytest.raises(UserError, match=r"x: losses\.own: exchanged is what form: four_weight did as run"):
        validate(LossesConfig, section, where="x")
