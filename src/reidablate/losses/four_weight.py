"""Proposed 1 with a weight for each of four sides: the anchor's and the other's, towards positive and negative.

The states of 28 to 30 April 2022 (`T@c1be537`, `T@175430c`, `T@6a7d100`), before one weight was left; T is the source
study's code, see `docs/methods.md`.

Legend: B batch, n patches, D feature. a anchor, p hardest positive, q hardest negative.
"""

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, model_validator
from torch import Tensor

from reidablate.config import LossOptions, WeightedTripletConfig
from reidablate.loss_options import Need
from reidablate.losses.batch import Batch, Terms, given
from reidablate.losses.distance import full_precision, norm
from reidablate.losses.emphasis import SMALLEST, one_plus, over_largest
from reidablate.losses.mining import Triplets, mean_over_valid
from reidablate.losses.triplet import margin_terms, triplet_loss
from reidablate.losses.weighted_triplet import patch_weights, top_mask
from reidablate.sections import Margin, Share, none_word


class FourWeightOptions(LossOptions):
    """Which of the three states, and whether its weights are exchanged as they were in the last one.

    Attributes:
        margin: `soft` for log(1 + exp(d_ap - d_an)), or a number m for max(0, d_ap - d_an + m), in units of the
            distance.
        form: State of April 2022: `four_weight`, `mixed`, or the two losses of `common_and_different`.
        exchanged: Whether two of the four weights change places, as they did in the source study's runs.
        ratio: Share of the patches that are called dominant.
        aux: `naive` adds the naive triplet; or `none`.
    """

    margin: Margin = "soft"
    form: Literal["four_weight", "mixed", "common_and_different"] = "four_weight"
    exchanged: bool = False
    ratio: Share = 0.5
    aux: Annotated[Literal["naive"] | None, BeforeValidator(none_word)] = None

    @property
    def needs(self) -> frozenset[Need]:
        """Patches, and the class token that they are compared with."""
        return frozenset({"patches", "cls"})

    @model_validator(mode="after")
    def _exchanged_in_one_form(self) -> Self:
        if self.exchanged and self.form != "four_weight":
            raise ValueError("exchanged is what form: four_weight did as run; remove it, or choose that form.")
        return self


Pair = tuple[Tensor, Tensor]


def dominant_sums(feature: Tensor, patches: Tensor, others: Tensor, options: FourWeightOptions) -> tuple[Pair, Pair]:
    """Returns r dom of the anchor and of its other image, (B, D) each, and what is left of both class tokens.

    All of the anchor's patches: the shared ones lie in the top sets of both images by place, each image's set chosen
    by its own class token on its own patches. They are weighted by each class token's similarity to them: its softmax
    over sqrt(D), summed; in `common_and_different` the dot products over the largest, averaged. r is |c| / |dom|; in
    `four_weight` |c| / |sum of all own patches|, a constant.
    """
    raw = options.form == "common_and_different"
    divisor = 1.0 if raw else math.sqrt(feature.shape[1])
    views = torch.stack((feature, feature[others]), 1) @ patches.transpose(1, 2) / divisor
    own = views[:, 0]
    top = top_mask(own, options.ratio)
    config = WeightedTripletConfig(similarity="raw" if raw else "softmax_scaled")
    sums = [_sum(patches, scores, top & top[others], config) for scores in views.unbind(1)]
    if options.form == "four_weight":
        everything = (own.softmax(1)[:, None] @ patches).squeeze(1)
        ratio = (norm(feature) / norm(everything)).detach()
        ratios = [ratio, ratio[others]]
    else:
        ratios = [norm(c) / norm(dom) for c, dom in zip((feature, feature[others]), sums, strict=True)]
    scaled = (ratios[0][:, None] * sums[0], ratios[1][:, None] * sums[1])
    return scaled, (feature - scaled[0], feature[others] - scaled[1])


def _sum(patches: Tensor, scores: Tensor, selected: Tensor, config: WeightedTripletConfig) -> Tensor:
    weights, _ = patch_weights(scores, selected, config)
    return (weights[:, None] @ patches).squeeze(1)


def side_weights(common: Pair, left: Pair, form: str, *, positive: bool) -> Pair:
    """Returns the weights (B, D) of the anchor and of its other image, from r dom and u = c - r dom of both.

    With z(x) = |x| / max |x|. `four_weight`: 1 + z(u) towards the positive, 1 + z(r dom) towards the negative. `mixed`:
    1 + (1 - v / max |u|), 0 where v > max |u|, for v = 1 - z(u) towards the positive and v = z(u) towards the negative:
    the code divides by the maximum a second time.
    """
    if form == "four_weight":
        first, second = left if positive else common
        return 1 + over_largest(first), 1 + over_largest(second)
    first, second = (_mixed(u, positive=positive) for u in left)
    return first, second


def _mixed(left: Tensor, *, positive: bool) -> Tensor:
    value = 1 - over_largest(left) if positive else over_largest(left)
    share = 1 - value / (left.abs().amax(1, keepdim=True) + SMALLEST)
    return one_plus(share, 0)


@full_precision
def four_weight_loss(feature: Tensor, patches: Tensor, triplets: Triplets, options: FourWeightOptions) -> Tensor:
    """Returns the mean term over the anchors that have a negative, of `feature` (B, D) and `patches` (B, n, D).

        L = mean of sp(|w_a c_a - w_p c_p| - |w'_a c_a - w_q c_q|), element by element, or the hinge

    w_a, w_p come from the patches that a and p share, w'_a, w_q from those that a and q share; see `side_weights`.
    `exchanged` gives w'_a to p, and w_p to a towards q, as run: the code joins the four in one order and takes them
    apart in another. `common_and_different` is the sum of L with all weights 1 + z(u) and of L with 2 - z(u).

    Patches of zeros explain nothing: u is the feature itself, so its only dimension has the weight 2 towards the
    positive, and r dom is 0, so it has the weight 1 towards the negative.

    >>> from reidablate.losses.mining import batch_hard
    >>> feature, labels = torch.tensor([[1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1])
    >>> triplets, options = batch_hard(feature, labels), FourWeightOptions(margin=1.0)
    >>> four_weight_loss(feature, torch.zeros(3, 2, 1), triplets, options)  # ((4 - 3 + 1) + (4 - 1 + 1) + 0) / 3
    tensor(2.0000)
    """
    positive, negative = triplets.positive, triplets.negative
    parts = [dominant_sums(feature, patches, others, options) for others in (positive, negative)]
    if options.form == "common_and_different":
        different = [tuple(1 + over_largest(u) for u in left) for _, left in parts]
        common = [tuple(3 - weight for weight in pair) for pair in different]
        forms = [(*different[0], *different[1]), (*common[0], *common[1])]
    else:
        towards, away = (
            side_weights(*part, options.form, positive=first) for part, first in zip(parts, (True, False), strict=True)
        )
        forms = [(*towards, *away)]
    if options.exchanged:
        forms = [(of_a, away_a, of_p, of_q) for of_a, of_p, away_a, of_q in forms]
    losses = [
        margin_terms(
            norm(of_a * feature - of_p * feature[positive]),
            norm(away_a * feature - of_q * feature[negative]),
            options.margin,
        )
        for of_a, of_p, away_a, of_q in forms
    ]
    return mean_over_valid(torch.stack(losses).sum(0), triplets.valid)


def four_weight(batch: Batch, options: FourWeightOptions) -> Terms:
    """Returns the four-weight loss of a batch and, when asked for, the naive triplet beside it as `aux`."""
    main = four_weight_loss(given(batch.cls), given(batch.patches), batch.triplets, options)
    if options.aux is None:
        return main
    return {"": main, "aux": triplet_loss(batch.feature, batch.triplets, options.margin)}
