import math
from typing import Any

import numpy as np
import pytest
import torch

from reidablate.config import Pairs, PositionRelationConfig
from reidablate.errors import UserError
from reidablate.losses.divergence import DIVERGENCES
from reidablate.losses.mining import batch_hard
from reidablate.losses.position_relation import (
    divergence_to_target,
    group_mean,
    log_distributions,
    position_relation_loss,
)
from reidablate.losses.positions import PAIRS, PositionState, relation_values
from reidablate.models.position import full_index
from support import gradient, present

ROWS, COLS, WIDTH, BLOCKS, HEADS = 4, 2, 6, 2, 3
NUM_PATCHES = ROWS * COLS
LABELS = torch.tensor([0, 0, 0, 1, 2, 2])
GROUPINGS = ("head", "layer", "sample", "layer_reshaped", "sample_reshaped")


def config(**options: Any) -> PositionRelationConfig:
    return PositionRelationConfig(**({"patches": 3} | options))


def grid_index() -> torch.Tensor:
    cells = [(y, x) for y in range(ROWS) for x in range(COLS)]
    index = [[(y - v + ROWS - 1) * (2 * COLS - 1) + (x - u + COLS - 1) for v, u in cells] for y, x in cells]
    return torch.tensor(index)


def state(seed: int = 0, /, **changes: torch.Tensor | None) -> PositionState:
    generator = torch.Generator().manual_seed(100 + seed)
    size = (2 * ROWS - 1) * (2 * COLS - 1)
    parts: dict[str, torch.Tensor | None] = {
        "ape": torch.randn(1 + NUM_PATCHES, WIDTH, generator=generator, dtype=torch.float64),
        "tables": torch.randn(BLOCKS, size, HEADS, generator=generator, dtype=torch.float64),
        "index": grid_index(),
        "cls_bias": torch.randn(BLOCKS, HEADS, NUM_PATCHES, generator=generator, dtype=torch.float64),
    }
    return PositionState(**(parts | changes))


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Directions and patches of six images of three identities, and the rows of the hardest positives."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(6, WIDTH, generator=generator, dtype=torch.float64)
    patches = torch.randn(6, NUM_PATCHES, WIDTH, generator=generator, dtype=torch.float64)
    return feature, patches, batch_hard(feature, LABELS).positive


def loss_of(positions: PositionState, seed: int = 0, **options: Any) -> torch.Tensor:
    feature, patches, positive = batch(seed)
    return position_relation_loss(feature, patches, LABELS, positive, positions, config(**options))


def loop_softmax(values: list[float]) -> np.ndarray:
    powers = np.exp(np.array(values) - max(values))
    shares: np.ndarray = powers / powers.sum()
    return shares


def loop_divergence(name: str, p: np.ndarray, q: np.ndarray) -> float:
    total, m = 0.0, (p + q) / 2
    for a, b, c in zip(p, q, m, strict=True):
        total += {
            "jsd": (a * math.log(a / c) + b * math.log(b / c)) / 2,
            "ag_mean": (c * math.log(c / a) + c * math.log(c / b)) / 2,
            "kl": a * math.log(a / b),
            "sym_kl": (a * math.log(a / b) + b * math.log(b / a)) / 2,
        }[name]
    return total


def loop_groups(values: list[list[list[float]]], grouping: str) -> list[np.ndarray]:
    """Distributions of one sample from values[block][head] = list of entries."""
    if grouping == "layer":
        return [loop_softmax([v for head in block for v in head]) for block in values]
    if grouping == "sample":
        return [loop_softmax([v for block in values for head in block for v in head])]
    return [loop_softmax(head) for block in values for head in block]


def loop_sample_values(
    positions: PositionState, tokens: list[int], settings: PositionRelationConfig
) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """Pair values and CLS values of one image, by block and head."""
    scale = WIDTH**-0.5 if settings.abs_scale == "inv_sqrt_d" else 1
    ape, tables, index, cls_bias = (x.detach().numpy() for x in vars(positions).values())
    first = 0 if settings.ape_offset == "author_bug" else 1
    pairs = list(PAIRS[settings.pairs](range(len(tokens))))
    pair_values = [
        [
            [
                scale * ape[first + tokens[i]].dot(ape[first + tokens[j]])
                + tables[block, index[tokens[i], tokens[j]], head]
                for i, j in pairs
            ]
            for head in range(HEADS)
        ]
        for block in range(BLOCKS)
    ]
    cls_values = [
        [[scale * ape[0].dot(ape[first + k]) + cls_bias[block, head, k] for k in tokens] for head in range(HEADS)]
        for block in range(BLOCKS)
    ]
    return pair_values, cls_values


def loop_loss(
    direction: torch.Tensor,
    patches: torch.Tensor,
    positive: torch.Tensor,
    positions: PositionState,
    settings: PositionRelationConfig,
) -> float:
    """The definition, image by image and group by group."""
    images = []
    for vector, image in zip(direction, patches, strict=True):
        scores = [float(vector.dot(patch)) for patch in image]
        tokens = sorted(range(NUM_PATCHES), key=lambda k: -scores[k])[: settings.patches]
        tokens = sorted(tokens) if settings.order == "token_index" else tokens
        images.append(loop_sample_values(positions, tokens, settings))
    total = 0.0
    for part in (0, 1) if settings.cls_term else (0,):
        groups = [loop_groups(image[part], settings.grouping) for image in images]
        found = []
        for i, own in enumerate(groups):
            for g, p in enumerate(own):
                if settings.target == "identity_mean":
                    peers = [groups[j][g] for j in range(6) if LABELS[j] == LABELS[i]]
                    mean = np.exp(np.mean([np.log(peer) for peer in peers], axis=0))
                    found.append(loop_divergence(settings.divergence, mean / mean.sum(), p))
                else:
                    found.append(loop_divergence(settings.divergence, p, groups[positive[i]][g]))
        per_sample = {"layer_reshaped": BLOCKS, "sample_reshaped": 1}.get(settings.grouping, len(groups[0]))
        total += sum(found) / (len(groups) * per_sample)
    return total


def j7_values() -> torch.Tensor:
    """Values of the toy anchor and positive: a 2 x 2 grid, one block, two heads with opposite tables."""
    table = torch.tensor([0.1, 0.03, 0.8, 0.5, 0.07, 0.2, 0.4, 0.01, 0.06])
    index = torch.tensor([[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]])
    ape = torch.tensor([(5.0, 7.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 2.0)])
    positions = PositionState(ape, torch.stack((table, -table), 1)[None], index)
    return relation_values(positions, torch.tensor([[2, 0, 3], [0, 2, 1]]), "combinations")


def j7_loss(**options: Any) -> float:
    labels, positive = torch.tensor([0, 0]), torch.tensor([1, 0])
    return divergence_to_target(j7_values(), labels, positive, config(**options)).item()


def test_vector_j7_values() -> None:
    anchor, positive = j7_values()[:, 0]
    assert anchor.tolist() == [pytest.approx([1.01, 2.5, 0.1]), pytest.approx([0.99, 1.5, -0.1])]
    assert positive.tolist() == [pytest.approx([1.03, 0.5, 1.4]), pytest.approx([0.97, -0.5, 0.6])]


def test_vector_j7_head_wise() -> None:
    anchor, positive = log_distributions(j7_values(), "head").exp().tolist()
    assert anchor[0] == pytest.approx([0.171244, 0.759826, 0.068930], abs=1e-5)
    assert anchor[1] == pytest.approx([0.333166, 0.554818, 0.112016], abs=1e-5)
    assert positive[0] == pytest.approx([0.329344, 0.193853, 0.476803], abs=1e-5)
    assert positive[1] == pytest.approx([0.520654, 0.119712, 0.359634], abs=1e-5)
    heads = [loop_divergence("jsd", np.array(p), np.array(q)) for p, q in zip(anchor, positive, strict=True)]
    assert heads == pytest.approx([0.188099, 0.120653], abs=1e-5)
    assert j7_loss() == pytest.approx(0.154376, abs=1e-5)


def test_vector_j7_ag_mean_and_its_reshaped_form() -> None:
    assert j7_loss(divergence="ag_mean") == pytest.approx(0.183766, abs=1e-5)
    assert j7_loss(divergence="ag_mean", grouping="layer_reshaped") == pytest.approx(0.367532, abs=1e-5)


def test_vector_j7_layer_wise() -> None:
    anchor, positive = log_distributions(j7_values(), "layer")[:, 0].exp().tolist()
    assert anchor == pytest.approx([0.113873, 0.505266, 0.045837, 0.111618, 0.185877, 0.037528], abs=1e-5)
    assert positive == pytest.approx([0.206392, 0.121483, 0.298801, 0.194373, 0.044691, 0.134260], abs=1e-5)
    assert j7_loss(grouping="layer") == pytest.approx(0.165115, abs=1e-5)


@pytest.mark.parametrize(
    ("pairs", "grouping", "shape"),
    [
        ("combinations", "head", (144, 10)),
        ("combinations", "layer", (12, 120)),
        ("combinations", "sample", (1, 1440)),
        ("combinations_with_replacement", "head", (144, 15)),
        ("combinations_with_replacement", "layer", (12, 180)),
        ("permutations", "head", (144, 20)),
    ],
)
def test_vector_j8_shapes(pairs: Pairs, grouping: str, shape: tuple[int, int]) -> None:
    positions = PositionState(None, torch.randn(12, 705, 12), torch.randint(705, (192, 192)))
    values = relation_values(positions, torch.arange(10).reshape(2, 5), pairs)
    distributions = log_distributions(values, grouping)
    assert distributions.shape == (2, *shape)
    assert distributions.exp().sum(-1) == pytest.approx(torch.ones(2, shape[0]), abs=1e-5)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("target", ["hardest_positive", "identity_mean"])
def test_loss_equals_the_loop(grouping: str, target: str) -> None:
    for seed, (divergence, pairs) in enumerate(zip(DIVERGENCES, PAIRS, strict=True)):
        settings = config(divergence=divergence, grouping=grouping, target=target, pairs=pairs, cls_term="patches")
        feature, patches, positive = batch(seed)
        expected = loop_loss(feature, patches, positive, state(seed), settings)
        found = position_relation_loss(feature, patches, LABELS, positive, state(seed), settings)
        assert found.item() == pytest.approx(expected, abs=1e-9), settings


@pytest.mark.parametrize("pairs", PAIRS)
def test_head_wise_jsd_equals_the_loop(pairs: str) -> None:
    feature, patches, positive = batch(9)
    expected = loop_loss(feature, patches, positive, state(9), config(pairs=pairs))
    assert loss_of(state(9), 9, pairs=pairs).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "options", [{"order": "token_index"}, {"abs_scale": "inv_sqrt_d"}, {"ape_offset": "author_bug"}, {"patches": 5}]
)
def test_remaining_options_equal_the_loop_and_matter(options: dict[str, Any]) -> None:
    feature, patches, positive = batch(7)
    expected = loop_loss(feature, patches, positive, state(7), config(**options, cls_term="patches"))
    found = loss_of(state(7), 7, **options, cls_term="patches").item()
    assert found == pytest.approx(expected, abs=1e-9)
    if options != {"order": "token_index"}:
        assert found != pytest.approx(loss_of(state(7), 7, cls_term="patches").item(), abs=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_gradients_equal_finite_differences(divergence: str, grouping: str) -> None:
    ape, tables, cls_bias = (present(state().ape), present(state().tables), present(state().cls_bias))
    for target in ("hardest_positive", "identity_mean"):

        def loss(ape: torch.Tensor, tables: torch.Tensor, cls_bias: torch.Tensor, target: str = target) -> torch.Tensor:
            positions = state(ape=ape, tables=tables, cls_bias=cls_bias)
            return loss_of(positions, divergence=divergence, grouping=grouping, target=target, cls_term="patches")

        inputs = tuple(x.detach().requires_grad_() for x in (ape, tables, cls_bias))
        assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


def leaves(**changes: torch.Tensor | None) -> PositionState:
    positions = state(**changes)
    for part in (positions.ape, positions.tables, positions.cls_bias):
        if part is not None:
            part.requires_grad_()
    return positions


@pytest.mark.parametrize("grad_to_rpe", [True, False])
def test_vector_j10_only_position_parameters_are_trained(grad_to_rpe: bool) -> None:
    feature, patches, positive = batch()
    positions = leaves()
    settings = config(grad_to_rpe=grad_to_rpe)
    feature.requires_grad_()
    patches.requires_grad_()
    position_relation_loss(feature, patches, LABELS, positive, positions, settings).backward()
    assert feature.grad is None
    assert patches.grad is None
    assert not gradient(positions.ape)[0].any()
    assert gradient(positions.ape)[1:].any()
    assert (present(positions.tables).grad is not None and bool(gradient(positions.tables).any())) is grad_to_rpe


def test_vector_j10_the_published_offset_does_train_the_cls_row() -> None:
    positions = leaves(ape=present(state().ape) * 0.3)
    feature, patches, positive = batch()
    patches[:, 0] = 10 * feature  # patch 0 is chosen in every image
    position_relation_loss(feature, patches, LABELS, positive, positions, config(ape_offset="author_bug")).backward()
    assert gradient(positions.ape)[0].any()


def test_vector_j10_reshaped_groupings_are_the_head_wise_loss_times_12_and_144() -> None:
    values = torch.randn(4, 12, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, positive = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 3, 2])
    loss = {
        grouping: divergence_to_target(values, labels, positive, config(grouping=grouping)).item()
        for grouping in ("head", "layer", "layer_reshaped", "sample_reshaped")
    }
    assert loss["layer_reshaped"] / loss["head"] == pytest.approx(12.0, abs=1e-12)
    assert loss["sample_reshaped"] / loss["head"] == pytest.approx(144.0, abs=1e-11)
    assert loss["layer"] / loss["head"] != pytest.approx(12.0, rel=0.1)


def test_vector_j10_reshaped_groupings_equal_the_published_reshaping() -> None:
    # Softmax over the pairs of a head, reshaped so that a row holds all heads of a block, sum over each row.
    values = torch.randn(4, BLOCKS, HEADS, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels, positive = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 3, 2])
    for grouping, rows in (("layer_reshaped", BLOCKS), ("sample_reshaped", 1)):
        p = values.softmax(-1).reshape(4 * rows, -1)
        q = values.softmax(-1)[positive].reshape(4 * rows, -1)
        log_m = ((p + q) / 2).log()
        kl_div = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)
        expected = 0.5 * (kl_div(p.log(), log_m) + kl_div(q.log(), log_m))
        found = divergence_to_target(values, labels, positive, config(grouping=grouping, divergence="ag_mean"))
        assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_vector_j12_the_loss_at_the_initial_spread_is_finite_at_the_published_size() -> None:
    rows, cols, blocks, heads = 24, 8, 12, 12
    generator = torch.Generator().manual_seed(0)
    ape = 0.02 * torch.randn(1 + rows * cols, 768, generator=generator)
    tables = (0.02 * torch.randn(blocks, (2 * rows - 1) * (2 * cols - 1), heads, generator=generator)).requires_grad_()
    positions = PositionState(ape.requires_grad_(), tables, full_index((rows, cols)))
    feature, patches = (torch.randn(shape, generator=generator) for shape in ((6, 768), (6, rows * cols, 768)))
    positive = batch_hard(feature, LABELS).positive
    settings = PositionRelationConfig(grouping="sample_reshaped")  # the sum over 144 heads
    loss = position_relation_loss(feature, patches, LABELS, positive, positions, settings)
    loss.backward()
    assert 0 < loss.item() < 144 * math.log(2)
    assert gradient(ape).isfinite().all()
    assert gradient(tables).isfinite().all()


def test_vector_j10_equal_images_have_zero_loss_and_zero_gradient() -> None:
    feature, patches, _ = batch()
    feature, patches = feature[:1].repeat(6, 1), patches[:1].repeat(6, 1, 1)
    positions = leaves()
    loss = position_relation_loss(feature, patches, LABELS, torch.tensor([1, 2, 0, 3, 5, 4]), positions, config())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert gradient(positions.ape).abs().max() < 1e-15
    assert gradient(positions.tables).abs().max() < 1e-15


def test_a_lone_image_adds_a_zero() -> None:
    values = torch.randn(3, 1, 1, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 0, 1])
    pair = divergence_to_target(values[:2], labels[:2], torch.tensor([1, 0]), config())
    all_three = divergence_to_target(values, labels, torch.tensor([1, 0, 2]), config())
    assert all_three.item() == pytest.approx(pair.item() * 2 / 3, abs=1e-7)


def test_without_tables_the_absolute_part_is_the_only_group() -> None:
    positions = state(tables=None)
    assert loss_of(positions, grouping="layer_reshaped") == loss_of(positions, grouping="head")
    assert loss_of(positions).item() > 0.01


def test_without_absolute_rows_the_tables_alone_count() -> None:
    positions = leaves(ape=None)
    loss_of(positions).backward()
    assert gradient(positions.tables).any()


def test_cls_term_is_added_with_weight_one_and_trains_the_cls_row() -> None:
    positions = leaves()
    without = loss_of(positions)
    loss = loss_of(positions, cls_term="patches")
    loss.backward()
    assert loss.item() > without.item()
    assert gradient(positions.ape)[0].any()
    assert gradient(positions.cls_bias).any()


def test_group_mean_sums_the_heads_of_a_block() -> None:
    divergences = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])  # blocks (1, 2, 3) and (4, 5, 6)
    assert group_mean(divergences, "head", 3).item() == 3.5
    assert group_mean(divergences, "layer_reshaped", 3).item() == (6 + 15) / 2
    assert group_mean(divergences, "sample_reshaped", 3).item() == 21


def test_far_apart_distributions_reach_ln2_with_a_finite_gradient() -> None:
    values = torch.tensor([[1e4, 0.0, 0.0], [0.0, 0.0, 1e4]])[:, None, None].requires_grad_()
    loss = divergence_to_target(values, torch.tensor([0, 0]), torch.tensor([1, 0]), config())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.isfinite(gradient(values)).all()


def test_a_model_without_positions_is_refused() -> None:
    with pytest.raises(UserError, match=r"losses.position_relation"):
        loss_of(PositionState(None, None, None))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_autocast_is_computed_in_float32(dtype: torch.dtype) -> None:
    feature, patches, positive = (x.to(dtype) if x.is_floating_point() else x for x in batch())
    positions = state(
        ape=present(state().ape).float(),
        tables=present(state().tables).float(),
        cls_bias=present(state().cls_bias).float(),
    )
    settings = config(cls_term="patches", target="identity_mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = position_relation_loss(feature, patches, LABELS, positive, positions, settings)
    wide = position_relation_loss(feature.float(), patches.float(), LABELS, positive, positions, settings)
    assert found.dtype == torch.float32
    assert found == wide
