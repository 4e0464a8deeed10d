"""What training logs of position losses: known values, a slow loop, and not a bit of the weights."""

import math
from typing import Any

import pytest
import torch

from reidablate.config import LossesConfig, ModelConfig, PositionRelationConfig
from reidablate.engine.forward import batch_of
from reidablate.engine.state import TrainingState
from reidablate.losses import Batch, PositionState, Shape, StudyLoss
from reidablate.losses.relation_log import relation_numbers, rpe_share
from reidablate.models.neck import ReidModel, initialise
from reidablate.models.position import full_index

GRID = (4, 2)
LABELS = torch.tensor([0, 0, 1, 1, 1])


def _batch(ape: float, rpe: float) -> Batch:
    """Five images, two blocks of three heads; the position parameters are of these sizes."""
    generator = torch.Generator().manual_seed(0)
    feature, patches, rows, tables = (
        torch.randn(*shape, generator=generator) for shape in ((5, 6), (5, 8, 6), (9, 6), (2, 21, 3))
    )
    positions = PositionState(ape * rows, rpe * tables, full_index(GRID))
    return Batch(
        feature=feature, feature_after_neck=feature, logits=feature, classifier=feature[:2], labels=LABELS,
        camids=LABELS, cls=feature, patches=patches, positions=positions,
    )  # fmt: skip


def _losses(**options: Any) -> LossesConfig:
    return LossesConfig.model_validate({"position_relation": {"patches": 4, **options}})


@pytest.mark.parametrize(("ape", "rpe", "share"), [(0, 1, 1), (1, 0, 0), (0, 0, 0), (1, 1e-4, 0)])
def test_the_share_of_the_tables_where_one_part_does_not_vary(ape: float, rpe: float, share: float) -> None:
    found = relation_numbers(_batch(ape, rpe), _losses())
    assert float(found["position_relation_rpe_share"]) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("name", ["position_relation", "position_triplet"])
def test_the_share_is_the_ratio_of_variances_over_pairs(name: str) -> None:
    batch = _batch(0.7, 1.3)
    assert batch.positions.ape is not None
    assert batch.positions.tables is not None
    assert batch.patches is not None
    absolute, relative = [], []
    for image in range(5):
        best = (batch.patches[image] @ batch.feature[image]).argsort(descending=True)[:4].tolist()
        pairs = [(best[a], best[b]) for a in range(4) for b in range(a + 1, 4)]
        rows = batch.positions.ape[1:]
        absolute.append(torch.stack([rows[a] @ rows[b] for a, b in pairs]).var(correction=0))
        for block in range(2):
            for head in range(3):
                table = batch.positions.tables[block, :, head]
                own = torch.stack([table[full_index(GRID)[a, b]] for a, b in pairs])
                relative.append(own.var(correction=0))
    expected = torch.stack(relative).mean() / (torch.stack(absolute).mean() + torch.stack(relative).mean())
    found = relation_numbers(batch, LossesConfig.model_validate({name: {"patches": 4}}))
    assert float(found[f"{name}_rpe_share"]) == pytest.approx(float(expected), rel=1e-5)


def test_equal_relations_have_the_largest_entropy() -> None:
    found = relation_numbers(_batch(0, 0), _losses())  # 6 pairs, none of which differs
    assert float(found["position_relation_entropy"]) == pytest.approx(math.log(6), rel=1e-5)
    assert float(found["position_relation_max_probability"]) == pytest.approx(1 / 6, rel=1e-5)
    sharp = relation_numbers(_batch(100, 0), _losses())
    assert float(sharp["position_relation_entropy"]) < 0.05
    assert float(sharp["position_relation_max_probability"]) > 0.98


@pytest.mark.parametrize("grouping", ["head", "layer", "layer_reshaped"])
def test_the_blocks_have_the_loss_as_their_mean(grouping: str) -> None:
    batch, losses = _batch(0.7, 1.3), _losses(grouping=grouping)
    found = relation_numbers(batch, losses)
    blocks = [found[f"position_relation_block_{number}"] for number in (1, 2)]
    loss = StudyLoss(losses, Shape(num_classes=2, width=6))(_with_gradients(batch))["position_relation"]
    factor = 3 if grouping == "layer_reshaped" else 1  # it sums the heads
    assert factor * float(torch.stack(blocks).mean()) == pytest.approx(float(loss.detach()), rel=1e-5)


def _with_gradients(batch: Batch) -> Batch:
    assert batch.positions.ape is not None
    batch.positions.ape.requires_grad_(True)
    return batch


def test_one_group_for_all_blocks_has_no_loss_per_block_and_other_losses_log_nothing() -> None:
    batch = _batch(1, 1)
    assert not [name for name in relation_numbers(batch, _losses(grouping="sample")) if "block" in name]
    assert relation_numbers(batch, LossesConfig.model_validate({"triplet": {}})) == {}
    chosen = torch.tensor([[0, 3], [1, 2]])
    only = PositionState(batch.positions.ape, None, None)
    assert float(rpe_share(only, chosen, PositionRelationConfig(patches=2))) == 0


def test_logging_moves_no_gradient_and_no_random_number() -> None:
    config = {"backbone": "vit_quickstart", "image_size": (32, 16), "stem": "conv", "rpe": {"kind": "full"}}
    losses = LossesConfig.model_validate({"triplet": {}, "position_relation": {}, "position_triplet": {}})
    images = torch.randn(5, 3, 32, 16, generator=torch.Generator().manual_seed(1))

    def gradients(logged: bool) -> list[torch.Tensor | None]:
        model = ReidModel(ModelConfig.model_validate(config), num_classes=2)
        initialise(model, 0)
        torch.default_generator.manual_seed(5)
        batch = batch_of(model, model(images), labels=LABELS, camids=LABELS, progress=0.0)
        if logged:
            assert len(relation_numbers(batch, losses)) == 6
        StudyLoss(losses, Shape(num_classes=2, width=32))(batch)["total"].backward()
        return [parameter.grad for parameter in model.parameters()] + [torch.rand(3)]

    for plain, logged in zip(gradients(False), gradients(True), strict=True):
        assert (plain is None and logged is None) or torch.equal(plain, logged)  # type: ignore[arg-type]


def test_a_history_of_an_older_version_goes_on_with_gaps() -> None:
    model = ReidModel(ModelConfig.model_validate({"backbone": "vit_quickstart", "image_size": (32, 16)}), num_classes=2)
    fit = TrainingState(model=model, loss=StudyLoss(_losses(), Shape(2, 32)), optimiser=None, scaler=None)  # type: ignore[arg-type]
    old, new = {"total": torch.tensor(1.0)}, {"total": torch.tensor(2.0), "share": torch.tensor(0.5)}
    fit.add_steps([old, old], 1.0)
    fit.add_steps([new], 1.0)
    assert fit.steps["total"].tolist() == [1, 1, 2]
    assert fit.steps["share"].isnan().tolist() == [True, True, False]
    fit.add_history({"total": torch.ones(2)})
    fit.add_history(fit.steps)
    assert fit.history["share"].isnan().tolist() == [True] * 4 + [False]
