from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reidablate.config import (
    IdentityConfig,
    LossesConfig,
    PositionRelationConfig,
    PositionTripletConfig,
    TripletConfig,
    WeightedTripletConfig,
)
from reidablate.errors import UserError
from reidablate.losses import Batch, PositionState, Shape, StudyLoss
from reidablate.losses.mining import batch_hard
from reidablate.losses.triplet import mean_negative_loss, triplet_loss
from support import gradient

ROWS, COLS, WIDTH, CLASSES = 4, 2, 6, 3
NUM_PATCHES = ROWS * COLS
LABELS = [0, 0, 0, 1, 2, 2]
EVERYTHING = LossesConfig(
    identity=IdentityConfig(weight=2.0, label_smoothing=0.1),
    triplet=TripletConfig(weight=0.5, margin=0.3),
    weighted_triplet=WeightedTripletConfig(weight=3.0, aux="mean_negative"),
    position_relation=PositionRelationConfig(weight=12.0, patches=3, select="classifier", cls_term="patches"),
    position_triplet=PositionTripletConfig(weight=0.25, patches=3),
)


def study_loss(config: LossesConfig, batch: Batch) -> dict[str, torch.Tensor]:
    terms: dict[str, torch.Tensor] = StudyLoss(config, Shape(num_classes=CLASSES, width=WIDTH))(batch)
    return terms


def outputs(dtype: torch.dtype = torch.float32, progress: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "feature": (6, WIDTH),
        "patches": (6, NUM_PATCHES, WIDTH),
        "logits": (6, CLASSES),
        "classifier": (CLASSES, WIDTH),
    }
    parts = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    leaves: dict[str, Any] = {name: part.requires_grad_() for name, part in parts.items()}
    return Batch(
        **leaves,
        cls=leaves["feature"],
        feature_after_neck=leaves["feature"],
        labels=torch.tensor(LABELS),
        camids=torch.zeros(6, dtype=torch.int64),
        positions=positions(),
        progress=progress,
    )


def positions() -> PositionState:
    generator = torch.Generator().manual_seed(1)
    size = (2 * ROWS - 1) * (2 * COLS - 1)
    ape, tables, cls_bias = (
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in ((1 + NUM_PATCHES, WIDTH), (2, size, 3), (2, 3, NUM_PATCHES))
    )
    index = torch.randint(size, (NUM_PATCHES, NUM_PATCHES), generator=generator)
    return PositionState(ape, tables, index, cls_bias)


def test_every_term_has_its_name_and_the_total_is_their_weighted_sum() -> None:
    terms = study_loss(EVERYTHING, outputs())
    weights = {
        "identity": 2.0,
        "triplet": 0.5,
        "weighted_triplet": 3.0,
        "weighted_triplet_aux": 3.0,
        "position_relation": 12.0,
        "position_triplet": 0.25,
    }
    assert set(terms) == {*weights, "total"}
    expected = sum(weight * terms[name].item() for name, weight in weights.items())
    assert terms["total"].item() == pytest.approx(expected, rel=1e-6)


def test_default_is_identity_and_naive_triplet() -> None:
    batch, labels = outputs(), torch.tensor(LABELS)
    terms = study_loss(LossesConfig(), batch)
    log_p = batch.logits.log_softmax(1)
    assert list(terms) == ["identity", "triplet", "total"]
    assert terms["identity"].item() == pytest.approx(-sum(log_p[i, y].item() for i, y in enumerate(LABELS)) / 6)
    assert terms["triplet"] == triplet_loss(batch.feature, batch_hard(batch.feature, labels))


@pytest.mark.parametrize("aux", ["naive", "mean_negative"])
def test_aux_is_the_unweighted_loss_with_the_margin_of_its_section(aux: Any) -> None:
    batch, labels = outputs(), torch.tensor(LABELS)
    section = WeightedTripletConfig(aux=aux, margin=0.7)
    config = LossesConfig(identity=None, triplet=None, weighted_triplet=section)
    terms = study_loss(config, batch)
    triplets = batch_hard(batch.feature, labels)
    expected = {
        "naive": triplet_loss(batch.feature, triplets, 0.7),
        "mean_negative": mean_negative_loss(batch.feature, labels, triplets, 0.7),
    }
    assert terms["weighted_triplet_aux"] == expected[aux]


def test_progress_moves_the_ratio() -> None:
    def at(progress: float, **options: Any) -> torch.Tensor:
        config = LossesConfig(weighted_triplet=WeightedTripletConfig(**options))
        return study_loss(config, outputs(progress=progress))["weighted_triplet"]

    assert at(1.0, ratio=0.8, ratio_end=0.25) == at(0.0, ratio=0.25)
    assert at(0.0, ratio=0.8, ratio_end=0.25) == at(1.0, ratio=0.8)
    assert at(0.0, ratio=0.8) != at(0.0, ratio=0.25)


def test_selection_by_classifier_uses_the_row_of_the_label() -> None:
    labels = torch.tensor(LABELS)

    def relation(batch: Batch, select: Literal["cls", "classifier"]) -> torch.Tensor:
        config = LossesConfig(position_relation=PositionRelationConfig(patches=3, select=select))
        return study_loss(config, batch)["position_relation"]

    batch = outputs()
    on_rows = replace(batch, cls=batch.classifier[labels])
    assert relation(batch, "cls") != relation(batch, "classifier")
    assert relation(on_rows, "cls") == relation(on_rows, "classifier")


def test_no_gradient_is_missing_or_not_finite() -> None:
    batch = outputs(progress=0.3)
    state = batch.positions
    study_loss(EVERYTHING, batch)["total"].backward()
    for part in (batch.feature, batch.patches, batch.logits, state.ape, state.tables, state.cls_bias):
        assert torch.isfinite(gradient(part)).all()
        assert gradient(part).any()
    assert batch.classifier.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_autocast_gives_float32_terms(dtype: torch.dtype) -> None:
    batch = outputs(dtype)
    with torch.autocast("cpu", dtype=dtype):
        terms = study_loss(EVERYTHING, batch)
    expected = study_loss(EVERYTHING, batch.widened())
    terms["total"].backward()
    assert {name: term.item() for name, term in terms.items()} == {name: term.item() for name, term in expected.items()}
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert torch.isfinite(gradient(batch.patches)).all()


class WaitingOperations(TorchDispatchMode):
    """Notes the operations that, on a GPU, would make the host wait for a value."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        by_mask = any(i is not None and i.dtype == torch.bool for i in indices)
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"):
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_a_value_of_a_tensor() -> None:
    labels = torch.tensor(LABELS)
    loss = StudyLoss(EVERYTHING, Shape(num_classes=CLASSES, width=WIDTH))
    loss(outputs())  # the first batch is looked at
    with WaitingOperations() as operations:
        loss(outputs(progress=0.5))["total"].backward()
    assert not operations.seen
    with WaitingOperations() as operations:
        labels[labels > 0].max().item()
    assert operations.seen == {"index", "_local_scalar_dense"}


@pytest.mark.parametrize("section", ["position_relation", "position_triplet"])
def test_a_position_loss_without_positions_is_refused(section: str) -> None:
    config = LossesConfig.model_validate({section: {"patches": 3}})
    with pytest.raises(UserError, match=f"losses.{section}"):
        study_loss(config, replace(outputs(), positions=PositionState(None, None, None)))
