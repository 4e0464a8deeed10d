"""What a loss looks at: the hardest positive and negative of each anchor, and the top patches of each image.

Every choice is a discrete one, so nothing here carries a gradient.
Legend: B batch, D feature, n patches, k chosen patches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reidablate.losses.distance import full_precision, pairwise_distances


@dataclass(frozen=True)
class Triplets:
    """The hardest positive and negative of every anchor of a batch."""

    positive: Tensor
    """(B,) row of the farthest sample with the anchor's label; the anchor itself when it has no other."""
    negative: Tensor
    """(B,) row of the nearest sample with another label; meaningless where `valid` is false."""
    valid: Tensor
    """(B,) whether the batch holds a negative for the anchor."""


@full_precision
def batch_hard(feature: Tensor, labels: Tensor) -> Triplets:
    """Returns the batch-hard triplets of `feature` (B, D) and `labels` (B,) (Hermans et al. 2017, eq. 5).

    Identities may have any number of samples. Ties go to the lowest row.

    >>> found = batch_hard(torch.tensor([[0.0], [3.0], [4.0], [9.0]]), torch.tensor([0, 0, 1, 1]))
    >>> found.positive, found.negative
    (tensor([1, 0, 3, 2]), tensor([2, 2, 1, 1]))
    """
    with torch.no_grad():
        distances = pairwise_distances(feature, feature)
        same = labels[:, None] == labels[None, :]
        return Triplets(
            positive=distances.masked_fill(~same, -torch.inf).argmax(1),
            negative=distances.masked_fill(same, torch.inf).argmin(1),
            valid=~same.all(1),
        )


def mean_over_valid(terms: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean of `terms` (B,) where `valid` (B,); without any, a zero whose gradient is zero.

    >>> mean_over_valid(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return terms.where(valid, terms.new_zeros(())).sum() / valid.sum().clamp(min=1)


def top_patches(scores: Tensor, count: int) -> Tensor:
    """Returns the `count` best patches (B, k) of `scores` (B, n), best first; ties go to the lowest index.

    >>> top_patches(torch.tensor([[0.1, 0.9, 0.5, 0.9]]), 2)
    tensor([[1, 3]])
    """
    with torch.no_grad():
        return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
