"""Two unfinished triplets of March 2022 on patches: by patch weights, and by a product of patches called attention.

Under-specified: the code (`T@a7d2519`, `T@918eb32`; T is the source study's, see `docs/methods.md`) feeds them the
tokens before the last block through a branch of its own and calls itself unfinished; here they read the patches after
the final norm, beside the other losses. What they were run with is not recorded.

Legend: B batch, n patches, D feature, G groups of D / G dimensions. a anchor, p hardest positive, q hardest negative.
"""

import torch
from torch import Tensor, nn

from reidablate.config import LossOptions
from reidablate.errors import UserError
from reidablate.loss_options import Need
from reidablate.losses.batch import Batch, given
from reidablate.losses.distance import norm
from reidablate.losses.emphasis import one_plus, over_largest
from reidablate.losses.mining import mean_over_valid
from reidablate.losses.total import Shape
from reidablate.losses.triplet import margin_terms, triplet_loss
from reidablate.sections import Margin, Positive

THRESHOLD = 0.1  # of a patch's share, below which its weight is 0


class BranchOptions(LossOptions):
    """The margin, and into how many groups the dimensions of a patch are averaged.

    Attributes:
        margin: `soft` for log(1 + exp(d_ap - d_an)), or a number m for max(0, d_ap - d_an + m), in units of the
            distance.
        groups: Number of groups, which divides the width of the feature.
    """

    margin: Margin = "soft"
    groups: Positive = 16

    @property
    def needs(self) -> frozenset[Need]:
        """Patches."""
        return frozenset({"patches"})


def grouped(patches: Tensor, groups: int) -> Tensor:
    """Returns patches (B, n, D) as (B, n, G, D / G).

    >>> grouped(torch.arange(4.0)[None, None], groups=2).tolist()
    [[[[0.0, 1.0], [2.0, 3.0]]]]
    """
    return patches.reshape(*patches.shape[:2], groups, -1)


def branch_weights(patches: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Returns the weight (B, n) of each patch: with s = ||X_a - X_q| - |X_a - X_p|| / max, 0 where s < 0.1, else 1 + s.

    It carries a gradient, as in the code.

    >>> patches = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])[:, :, None]
    >>> positive, negative = torch.tensor([1, 0, 2]), torch.tensor([2, 2, 0])
    >>> branch_weights(patches, positive, negative)[0]  # of |0 - 1| and |2 - 0|
    tensor([1.5000, 2.0000])
    """
    return one_plus(over_largest(norm(patches - patches[negative]) - norm(patches - patches[positive])), THRESHOLD)


class _Branch(nn.Module):
    """A loss with linear layers of its own.

    Raises:
        UserError: The groups do not divide D.
    """

    def __init__(self, options: BranchOptions, shape: Shape) -> None:
        super().__init__()
        if shape.width % options.groups:
            raise UserError(
                f"groups: {shape.width} dimensions are not {options.groups} equal groups; choose a divisor."
            )
        self.options = options


class WeightedBranch(_Branch):
    """The triplet on g = the group means of A (w_k X_k) of all patches, A linear, every image by its own weights.

    With one patch its weight is 2, so with A = 1 and groups of one dimension all distances are doubled:

    >>> feature, labels = torch.tensor([[0.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 0, 1])
    >>> batch = Batch(feature, feature, feature, feature, labels, labels, patches=feature[:, None])
    >>> loss = WeightedBranch(BranchOptions(margin=1.0, groups=2), Shape(num_classes=2, width=2))
    >>> loss.linear.weight.data, loss.linear.bias.data = torch.eye(2), torch.zeros(2)
    >>> loss(batch).detach()  # (0 + (6 - 2 + 1) + 0) / 3
    tensor(1.6667)
    """

    def __init__(self, options: BranchOptions, shape: Shape) -> None:
        """Makes A."""
        super().__init__(options, shape)
        self.linear = nn.Linear(shape.width, shape.width)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the triplet loss of the vectors (B, n G) of a batch."""
        patches, triplets = given(batch.patches), batch.triplets
        weights = branch_weights(patches, triplets.positive, triplets.negative)
        vectors = grouped(self.linear(weights[:, :, None] * patches), self.options.groups).mean(3).flatten(1)
        return triplet_loss(vectors, triplets, self.options.margin)


class CrossAttentionTriplet(_Branch):
    """The triplet between an anchor's patches and what they take from those of one place in the other images.

    With q = A X_a, (k, v) = P X_p or N X_q, patch by patch and A, P, N linear: softmax of q * k inside each group,
    times v, averaged over the group, against the group means of q. No patch looks at another place.

    In groups of one dimension the softmax is 1, so with A, P and N the identity it is the naive triplet of the patches:

    >>> feature, labels = torch.tensor([[0.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 0, 1])
    >>> batch = Batch(feature, feature, feature, feature, labels, labels, patches=feature[:, None])
    >>> loss = CrossAttentionTriplet(BranchOptions(margin=1.0, groups=2), Shape(num_classes=2, width=2))
    >>> for linear, rows in (loss.anchor, 1), (loss.positive, 2), (loss.negative, 2):
    ...     linear.weight.data, linear.bias.data = torch.eye(2).repeat(rows, 1), torch.zeros(2 * rows)
    >>> loss(batch).detach()  # (0 + (3 - 1 + 1) + 0) / 3
    tensor(1.0000)
    """

    def __init__(self, options: BranchOptions, shape: Shape) -> None:
        """Makes A, P and N."""
        super().__init__(options, shape)
        self.anchor = nn.Linear(shape.width, shape.width)
        self.positive, self.negative = (nn.Linear(shape.width, 2 * shape.width) for _ in range(2))

    def forward(self, batch: Batch) -> Tensor:
        """Returns the mean triplet term over the anchors that have a negative."""
        patches, triplets = given(batch.patches), batch.triplets
        queries = grouped(self.anchor(patches), self.options.groups)
        own = queries.mean(3).flatten(1)
        near = norm(own - self._taken(queries, self.positive(patches[triplets.positive])))
        far = norm(own - self._taken(queries, self.negative(patches[triplets.negative])))
        return mean_over_valid(margin_terms(near, far, self.options.margin), triplets.valid)

    def _taken(self, queries: Tensor, keys_and_values: Tensor) -> Tensor:
        keys, values = (grouped(part, self.options.groups) for part in keys_and_values.chunk(2, dim=2))
        return (torch.softmax(queries * keys, dim=3) * values).mean(3).flatten(1)
