"""The loss of a run: every term that its configuration names, and their weighted sum.

Legend: B batch, n patches, D feature, C classes.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from reidablate.config import IdentityConfig, LossesConfig, WeightedTripletConfig
from reidablate.losses.distance import at_least_float32, full_precision
from reidablate.losses.mining import Triplets, batch_hard
from reidablate.losses.position_relation import position_relation_loss
from reidablate.losses.position_triplet import position_triplet_loss
from reidablate.losses.positions import PositionState
from reidablate.losses.triplet import mean_negative_loss, triplet_loss
from reidablate.losses.weighted_triplet import weighted_triplet_loss


@dataclass(frozen=True)
class BatchOutputs:
    """What the losses need of a forward pass."""

    feature: Tensor
    """(B, D) before the neck."""
    patches: Tensor
    """(B, n, D) after the final norm."""
    logits: Tensor
    """(B, C)."""
    classifier: Tensor
    """(C, D) the classifier's rows."""


@full_precision
def identity_loss(logits: Tensor, labels: Tensor, config: IdentityConfig) -> Tensor:
    """Returns the mean cross-entropy of `logits` (B, C) against `labels` (B,)."""
    return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)


def weighted_triplet_terms(
    config: WeightedTripletConfig,
    outputs: BatchOutputs,
    labels: Tensor,
    triplets: Triplets,
    progress: float,
) -> dict[str, Tensor]:
    """Returns the weighted triplet term and, when asked for, the unweighted one that stands beside it."""
    feature, rows = outputs.feature, outputs.classifier[labels]
    main = weighted_triplet_loss(feature, outputs.patches, rows, triplets, config=config, progress=progress)
    terms = {"weighted_triplet": main}
    if config.aux == "naive":
        terms["weighted_triplet_aux"] = triplet_loss(feature, triplets, config.margin)
    elif config.aux == "mean_negative":
        terms["weighted_triplet_aux"] = mean_negative_loss(feature, labels, triplets, config.margin)
    return terms


def study_loss(
    config: LossesConfig,
    outputs: BatchOutputs,
    labels: Tensor,
    positions: PositionState,
    *,
    progress: float,
) -> dict[str, Tensor]:
    """Returns the unweighted terms by name, and their weighted sum as `total`.

    The names are those of the configuration's sections; `weighted_triplet_aux` shares the weight of its section.
    Everything is computed in at least float32 with autocast off. `progress` in [0, 1] is the share of the training
    that is done.

    Raises:
        UserError: A position loss meets a model without position parameters.
    """
    outputs = BatchOutputs(*map(at_least_float32, vars(outputs).values()))  # once, rather than in every term
    triplets = batch_hard(outputs.feature, labels)
    terms: dict[str, Tensor] = {}
    if config.identity:
        terms["identity"] = identity_loss(outputs.logits, labels, config.identity)
    if config.triplet:
        terms["triplet"] = triplet_loss(outputs.feature, triplets, config.triplet.margin)
    if config.weighted_triplet:
        terms |= weighted_triplet_terms(config.weighted_triplet, outputs, labels, triplets, progress)
    if relation := config.position_relation:
        direction = outputs.classifier[labels] if relation.select == "classifier" else outputs.feature
        terms["position_relation"] = position_relation_loss(
            direction, outputs.patches, labels, triplets.positive, positions, relation
        )
    if config.position_triplet:
        terms["position_triplet"] = position_triplet_loss(
            outputs.feature, outputs.patches, triplets, positions, config.position_triplet
        )
    weights = {name: getattr(config, name.removesuffix("_aux")).weight for name in terms}
    return terms | {"total": sum((weights[name] * term for name, term in terms.items()), outputs.feature.new_zeros(()))}
