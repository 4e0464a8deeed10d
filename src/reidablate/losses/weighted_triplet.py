"""The patch-similarity weighted triplet loss (Proposed 1).

The part of an anchor's feature that its dominant patches do not explain says which dimensions count, and the
triplet distances are weighted by it. Dominant are the patches near both the anchor and its hardest positive.

Legend: B batch, n patches, D feature.
"""

import math

import torch
from torch import Tensor

from reidablate.config import WeightedTripletConfig
from reidablate.losses.batch import Batch, Terms, given
from reidablate.losses.distance import full_precision, norm
from reidablate.losses.emphasis import SMALLEST, over_largest
from reidablate.losses.mining import Triplets, mean_over_valid, top_patches
from reidablate.losses.triplet import margin_terms, mean_negative_loss, triplet_loss


def patch_ratio(config: WeightedTripletConfig, progress: float) -> float:
    """Returns the share of patches called dominant at `progress` in [0, 1], linear from `ratio` to `ratio_end`.

    >>> round(patch_ratio(WeightedTripletConfig(ratio=0.5, ratio_end=0.1), progress=0.5), 3)
    0.3
    """
    end = config.ratio if config.ratio_end is None else config.ratio_end
    return config.ratio + (end - config.ratio) * progress


def top_mask(scores: Tensor, ratio: float) -> Tensor:
    """Returns whether each patch is among the floor(ratio n), at least one, best of `scores` (B, n).

    >>> top_mask(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), 0.5)
    tensor([[ True, False,  True, False]])
    """
    count = max(1, math.floor(ratio * scores.shape[1] + 1e-9))  # 0.29 * 100 is 28.999999999999996
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(1, top_patches(scores, count), True)


def patch_weights(scores: Tensor, selected: Tensor, config: WeightedTripletConfig) -> tuple[Tensor, Tensor]:
    """Returns the weights (B, n) that sum the `selected` patches, and those that sum all patches.

    `softmax_scaled`, `softmax`: softmax over all patches; the division by sqrt(D) of the former is done already.
    `raw`: scores / max over the selected ones, averaged over the patches summed. An empty selection sums to 0.

    >>> scores, selected = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[True, False, True]])
    >>> patch_weights(scores, selected, WeightedTripletConfig(similarity="raw"))
    (tensor([[0.5000, 0.0000, 0.0000]]), tensor([[0.3333, 0.1667, 0.0000]]))
    """
    if config.similarity != "raw":
        weights = scores.softmax(1)
        return weights * selected, weights
    # Without a selection the largest score is -inf, and one near 0 would blow the weights up: they stay as they are.
    best = scores.masked_fill(~selected, -torch.inf).amax(1, keepdim=True)
    usable = selected.any(1, keepdim=True) & (best.abs() > SMALLEST)
    weights = scores / best.where(usable, best.new_ones(()))
    return weights * selected / selected.sum(1, keepdim=True).clamp(min=1), weights / scores.shape[1]


def non_dominant(
    feature: Tensor, patches: Tensor, scores: Tensor, selected: Tensor, config: WeightedTripletConfig
) -> Tensor:
    """Returns u = c - r dom (B, D): the feature without the sum of its selected patches.

    `scale_match` decides r: |c| / |sum of all patches|, |c| / |dom|, or 1.

    >>> feature, patches = torch.tensor([[3.0, 4.0]]), torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
    >>> scores, selected = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    >>> config = WeightedTripletConfig(similarity="raw", scale_match=None)
    >>> non_dominant(feature, patches, scores, selected, config)  # (3, 4) - 1 * (3, 0)
    tensor([[0., 4.]])
    """
    chosen, everything = patch_weights(scores, selected, config)
    dominant, total = (torch.stack((chosen, everything), 1) @ patches).unbind(1)
    if config.scale_match is None:
        return feature - dominant
    scale = norm(feature) / norm(total if config.scale_match == "full_sum" else dominant)
    if config.detach_ratio:
        scale = scale.detach()
    return feature - scale[:, None] * dominant


def dimension_weights(residual: Tensor, config: WeightedTripletConfig) -> Tensor:
    """Returns the weight (B, D) of each dimension from u (B, D): z = |u| / max |u|, or 1 + z, or 1 + (1 - z).

    Where the normalised value (z, or 1 - z for `one_plus_inv`) is below `threshold` the weight is 0.

    >>> dimension_weights(torch.tensor([[-2.0, 1.0, 0.0]]), WeightedTripletConfig())
    tensor([[1.0000, 0.5000, 0.0000]])
    """
    value = over_largest(residual)
    if config.weight_form == "one_plus_inv":
        value = 1 - value
    weight = value if config.weight_form == "max" else 1 + value
    weight = weight.masked_fill(value < config.threshold, 0)
    return weight.detach() if config.detach_weight else weight


@full_precision
def weighted_triplet_loss(
    feature: Tensor,
    patches: Tensor,
    rows: Tensor,
    triplets: Triplets,
    *,
    config: WeightedTripletConfig,
    progress: float = 0.0,
) -> Tensor:
    """Returns the mean weighted triplet term over the anchors that have a negative.

    `feature` (B, D) and `patches` (B, n, D) come from after the final norm; `rows` (B, D) are the classifier rows of
    the labels, used (as constants) by `select_by: classifier` only, where the triplet is taken on u itself.

    Here the dominant patch (3, 0) explains the first image's feature (3, 1) but for (0, 1), so that its distances count
    the second dimension alone: 0 to its positive and 3 to its negative.

    >>> from reidablate.losses.mining import batch_hard
    >>> feature, labels = torch.tensor([[3.0, 1.0], [5.0, 1.0], [3.0, 4.0]]), torch.tensor([0, 0, 1])
    >>> patches = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).expand(3, 2, 2)
    >>> options = WeightedTripletConfig(similarity="raw", scale_match=None, margin=1.0)
    >>> triplets = batch_hard(feature, labels)
    >>> weighted_triplet_loss(feature, patches, feature, triplets, config=options)  # (0 + (2 - 2.5 + 1) + 0) / 3
    tensor(0.1667)
    """
    ratio = patch_ratio(config, progress)
    divisor = math.sqrt(feature.shape[1]) if config.similarity == "softmax_scaled" else 1.0
    positive, negative = triplets.positive, triplets.negative
    if config.select_by == "classifier":
        scores = (patches @ rows.detach()[:, :, None]).squeeze(2) / divisor
        residual = non_dominant(feature, patches, scores, top_mask(scores, ratio), config)
        towards, away = residual - residual[positive], residual - residual[negative]
    else:
        views = torch.stack((feature, feature[positive]), 1)
        own, of_positive = (views @ patches.transpose(1, 2) / divisor).unbind(1)
        selected = top_mask(own, ratio)
        if config.pos_source == "anchor_patches":
            common = selected & top_mask(of_positive, ratio)
        else:
            common = selected & selected[positive]
        residual = non_dominant(feature, patches, own, common, config)
        if config.subtract_from == "anchor_and_positive":
            same_patches = non_dominant(feature[positive], patches, own, common, config)
            residual = (residual.abs() + same_patches.abs()) / 2
        weight = dimension_weights(residual, config)
        towards, away = weight * (feature - feature[positive]), weight * (feature - feature[negative])
    return mean_over_valid(margin_terms(norm(towards), norm(away), config.margin), triplets.valid)


def weighted_triplet(batch: Batch, options: WeightedTripletConfig) -> Terms:
    """Returns the weighted triplet loss of a batch and, when asked for, the unweighted one beside it as `aux`.

    The feature c of the method is the class token, also where the model's feature is the mean of the patches.
    """
    feature, patches, rows = given(batch.cls), given(batch.patches), batch.rows
    triplets = batch.triplets
    main = weighted_triplet_loss(feature, patches, rows, triplets, config=options, progress=batch.progress)
    if options.aux == "naive":
        return {"": main, "aux": triplet_loss(batch.feature, triplets, options.margin)}
    if options.aux == "mean_negative":
        return {"": main, "aux": mean_negative_loss(batch.feature, batch.labels, triplets, options.margin)}
    return main
