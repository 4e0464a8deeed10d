"""Element-weighted batch-hard triplets: dimensions in which two classifier rows differ count for more.

`T@25cba2f` and `T@34c0005`, March 2022; T is the source study's code, see `docs/methods.md`. Where its soft margin
passes the mean distance alone to the ranking loss, ours takes the difference that its margin form and its other terms
take.

Legend: B batch, D feature, C classes.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from reidablate.config import LossOptions
from reidablate.losses.batch import Batch, Terms
from reidablate.losses.distance import full_precision, norm
from reidablate.losses.emphasis import one_plus, over_largest
from reidablate.losses.mining import mean_over_valid
from reidablate.losses.triplet import margin_terms, mean_negative_loss
from reidablate.sections import Margin


class ElementWeightedOptions(LossOptions):
    """Options of the element-weighted triplets.

    Attributes:
        margin: `soft` for log(1 + exp(d_ap - d_an)), or a number m for max(0, d_ap - d_an + m), in units of the
            distance.
        form: Which terms are summed: `th` the hard one, `ewth` also the element-weighted one, `hnth` the hard one and
            that of all negatives, `newth` all three.
        threshold: Share of the largest difference of two classifier rows below which a dimension has weight 0.
    """

    margin: Margin = "soft"
    form: Literal["th", "ewth", "hnth", "newth"] = "newth"
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1


@torch.no_grad()
def element_weights(rows: Tensor, other: Tensor, threshold: float) -> Tensor:
    """Returns the weight (B, D) of each dimension from classifier rows `rows` and `other`, both (B, D); no gradient.

    With z = |rows - other| / max: 0 where z < threshold, else 1 + z.

    >>> element_weights(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 0.05]]), threshold=0.1)
    tensor([[2.0000, 1.5000, 0.0000]])
    """
    return one_plus(over_largest(rows - other), threshold)


@full_precision
def element_weighted_loss(feature: Tensor, rows: Tensor, batch: Batch, options: ElementWeightedOptions) -> Terms:
    """Returns the terms of `feature` (B, D) and the classifier rows of the labels, `rows` (B, D).

        hard      mean of sp(d_ap - sg(d_an))
        elements  mean of sp(|w (f_a - f_p)| - |w (f_a - f_q)|), w from the rows of a and of its hardest negative q
        negatives mean of sp(sg(d_ap) - mean over negatives j of d_aj)

    `th` is the first term, `ewth` adds `elements`, `hnth` adds `negatives`, `newth` both; a margin makes each a hinge.
    (The code calls the first term alone HTH; what it calls TH is the naive triplet.)

    Here the classifier rows of two identities differ by as much in both dimensions, so every weight is 2, which doubles
    the distances of the second term.

    >>> feature, labels = torch.tensor([[0.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 0, 1])
    >>> rows = torch.eye(2)[labels]
    >>> batch = Batch(feature, feature, rows, torch.eye(2), labels, labels)
    >>> terms = element_weighted_loss(feature, rows, batch, ElementWeightedOptions(margin=1.0))
    >>> terms[""]  # (0 + (3 - 1 + 1) + 0) / 3
    tensor(1.0000)
    >>> terms["elements"]  # (0 + (6 - 2 + 1) + 0) / 3
    tensor(1.6667)
    >>> terms["negatives"]  # (0 + (3 - 1 + 1) + 0) / 3
    tensor(1.)
    """
    triplets = batch.triplets
    towards, away = feature - feature[triplets.positive], feature - feature[triplets.negative]
    hard = margin_terms(norm(towards), norm(away).detach(), options.margin)
    terms = {"": mean_over_valid(hard, triplets.valid)}
    if options.form in ("ewth", "newth"):
        weight = element_weights(rows, rows[triplets.negative], options.threshold)
        weighted = margin_terms(norm(weight * towards), norm(weight * away), options.margin)
        terms["elements"] = mean_over_valid(weighted, triplets.valid)
    if options.form in ("hnth", "newth"):
        terms["negatives"] = mean_negative_loss(feature, batch.labels, triplets, options.margin)
    return terms


def element_weighted(batch: Batch, options: ElementWeightedOptions) -> Terms:
    """Returns the terms of the element-weighted triplet loss of a batch, which share one weight."""
    return element_weighted_loss(batch.feature, batch.rows, batch, options)
