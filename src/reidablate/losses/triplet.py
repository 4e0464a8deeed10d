"""The naive triplet loss: batch-hard triplets on the feature before the neck.

Legend: B batch, D feature.
"""

import torch.nn.functional as F
from torch import Tensor

from reidablate.config import Margin, TripletConfig
from reidablate.losses.batch import Batch
from reidablate.losses.distance import full_precision, norm, pairwise_distances
from reidablate.losses.mining import Triplets, mean_over_valid


def margin_terms(dist_ap: Tensor, dist_an: Tensor, margin: Margin) -> Tensor:
    """Returns log(1 + exp(dist_ap - dist_an)) for the soft margin, else max(0, dist_ap - dist_an + margin).

    >>> import torch
    >>> margin_terms(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 4.0]), margin=1.0)
    tensor([1., 0.])
    """
    gap = dist_ap - dist_an
    return F.softplus(gap) if margin == "soft" else F.relu(gap + margin)


@full_precision
def triplet_loss(feature: Tensor, triplets: Triplets, margin: Margin = "soft") -> Tensor:
    """Returns the mean triplet term of `feature` (B, D) over the anchors that have a negative.

    An anchor without another positive is its own, at the smallest distance 1e-6. Without any valid anchor the loss
    is a zero with zero gradient. Hermans et al. 2017, eq. 5, with distances not squared.

    >>> import torch
    >>> from reidablate.losses.mining import batch_hard
    >>> feature, labels = torch.tensor([[0.0], [3.0], [4.0], [9.0]]), torch.tensor([0, 0, 1, 1])
    >>> triplet_loss(feature, batch_hard(feature, labels), margin=1.0)  # (0 + (3 - 1 + 1) + (5 - 1 + 1) + 0) / 4
    tensor(2.)
    """
    dist_ap = norm(feature - feature[triplets.positive])
    dist_an = norm(feature - feature[triplets.negative])
    return mean_over_valid(margin_terms(dist_ap, dist_an, margin), triplets.valid)


@full_precision
def mean_negative_loss(feature: Tensor, labels: Tensor, triplets: Triplets, margin: Margin = "soft") -> Tensor:
    """Returns the mean triplet term between the hardest positive, held constant, and the mean negative distance.

    Only the distances to negatives carry a gradient. Anchors without a negative are left out.

    >>> import torch
    >>> from reidablate.losses.mining import batch_hard
    >>> feature, labels = torch.tensor([[0.0], [3.0], [4.0], [9.0]]), torch.tensor([0, 0, 1, 1])
    >>> mean_negative_loss(feature, labels, batch_hard(feature, labels), margin=1.0)  # (0 + 0.5 + 3.5 + 0) / 4
    tensor(1.)
    """
    dist_ap = norm(feature - feature[triplets.positive]).detach()
    different = labels[:, None] != labels[None, :]
    distances = pairwise_distances(feature, feature)
    dist_an = distances.where(different, distances.new_zeros(())).sum(1) / different.sum(1).clamp(min=1)
    return mean_over_valid(margin_terms(dist_ap, dist_an, margin), triplets.valid)


def triplet(batch: Batch, options: TripletConfig) -> Tensor:
    """Returns the naive triplet loss of a batch."""
    return triplet_loss(batch.feature, batch.triplets, options.margin)
