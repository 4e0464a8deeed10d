"""The patch triplet: patches that tell an anchor from its hardest negative count for more in a mean of patches.

`T@4104846` (cosine) and `T@b211b0b` (Euclidean), March 2022; T is the source study's code, see `docs/methods.md`.

Legend: B batch, n patches, D feature.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reidablate.config import LossOptions
from reidablate.loss_options import Need
from reidablate.losses.batch import Batch, given
from reidablate.losses.distance import full_precision, norm
from reidablate.losses.emphasis import over_largest
from reidablate.losses.mining import Triplets, mean_over_valid
from reidablate.losses.triplet import margin_terms
from reidablate.sections import Margin

LARGEST_COSINE = 1 - 1e-6  # float32 cosines of equal vectors may exceed 1, whose arc cosine is NaN


class PatchTripletOptions(LossOptions):
    """Options of the patch triplet.

    Attributes:
        margin: `soft` for log(1 + exp(d_ap - d_an)), or a number m for max(0, d_ap - d_an + m), in units of the
            distance.
        distance: How two patches of one place differ: by the angle between them (`cosine`), or by their distance.
    """

    margin: Margin = "soft"
    distance: Literal["cosine", "euclidean"] = "cosine"

    @property
    def needs(self) -> frozenset[Need]:
        """Patches."""
        return frozenset({"patches"})


@torch.no_grad()
def place_weights(patches: Tensor, other: Tensor, distance: str) -> Tensor:
    """Returns the weight (B, n) of each place from `patches` and `other`, both (B, n, D); no gradient.

    With d_k the angle between the patches k (`cosine`) or their Euclidean distance, and a_k = d_k / max d: a_k for
    `cosine`, 1 + a_k for `euclidean`.

    >>> patches, other = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[[0.0, 2.5], [0.0, 0.0]]])
    >>> place_weights(patches, other, "euclidean")  # the patches are 2.5 and 5 apart
    tensor([[1.5000, 2.0000]])
    """
    if distance == "cosine":
        size = F.cosine_similarity(patches, other, dim=2).clamp(-LARGEST_COSINE, LARGEST_COSINE).acos()
    else:
        size = norm(patches - other)
    share = over_largest(size)
    return share if distance == "cosine" else 1 + share


@full_precision
def patch_triplet_loss(patches: Tensor, triplets: Triplets, *, margin: Margin, distance: str) -> Tensor:
    """Returns the mean triplet term over the anchors that have a negative, of pooled `patches` (B, n, D).

        w_k = the weight of place k between the anchor a and its hardest negative q, a constant
        g_i = mean over k of w_k X_i,k        for i = a, p and q, always with the anchor's weights
        L   = mean of sp(|g_a - g_p| - |g_a - g_q|), or the hinge

    An anchor without another positive is its own, at 1e-6; without any valid anchor the loss is a zero with zero
    gradient.

    Here the anchor's patches differ from the negative's by 1 and 2, so that their weights are 1.5 and 2, and from the
    positive's by 0 and 1: the pooled vectors are (0 + 2) / 2 = 1 and (1.5 + 4) / 2 = 2.75 apart.

    >>> patches = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 2.0]])[:, :, None]
    >>> triplets = Triplets(torch.tensor([1, 0, 2]), torch.tensor([2, 2, 0]), torch.tensor([True, False, False]))
    >>> patch_triplet_loss(patches, triplets, margin=2.0, distance="euclidean")  # 1 - 2.75 + 2
    tensor(0.2500)
    """
    weights = place_weights(patches, patches[triplets.negative], distance)[:, None] / patches.shape[1]
    towards, away = (
        (weights @ (patches - patches[other])).squeeze(1) for other in (triplets.positive, triplets.negative)
    )
    return mean_over_valid(margin_terms(norm(towards), norm(away), margin), triplets.valid)


def patch_triplet(batch: Batch, options: PatchTripletOptions) -> Tensor:
    """Returns the patch triplet loss of a batch; triplets are mined on the feature, as those of every loss."""
    patches = given(batch.patches)
    return patch_triplet_loss(patches, batch.triplets, margin=options.margin, distance=options.distance)
