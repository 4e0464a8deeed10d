"""The position triplet loss: position relations as vectors, pulled to the positive and pushed from the negative.

Legend: B batch, D feature, n patches, L blocks, h heads, M pairs.
"""

from torch import Tensor

from reidablate.config import PositionTripletConfig
from reidablate.losses.batch import Batch, given
from reidablate.losses.distance import full_precision, norm
from reidablate.losses.mining import Triplets, mean_over_valid
from reidablate.losses.positions import PositionState, choose_patches, relation_values, require_positions
from reidablate.losses.triplet import margin_terms


@full_precision
def position_triplet_loss(
    feature: Tensor,
    patches: Tensor,
    triplets: Triplets,
    positions: PositionState,
    config: PositionTripletConfig,
) -> Tensor:
    """Returns the mean soft-margin term between position vectors, or with `negative: false` the mean pull alone.

    The vector of an image holds the relation values of its top patches, not normalised: of all blocks and heads one
    after the other (`concat`, L h M numbers), or with the tables averaged over them (`mean`, M numbers). Anchors
    without a negative are left out, except from the pull.

    Raises:
        UserError: The model has no position parameters, or fewer patches than asked for.

    With two patches of an image there is one pair, so one number: 1, 2 and 0 for the three images here.

    >>> import torch
    >>> rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> patches = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [3.0, 1.0, 2.0]])[:, :, None]
    >>> triplets = Triplets(torch.tensor([1, 0, 2]), torch.tensor([2, 2, 0]), torch.tensor([True, True, True]))
    >>> options = PositionTripletConfig(patches=2)
    >>> loss = position_triplet_loss(torch.ones(3, 1), patches, triplets, PositionState(rows, None, None), options)
    >>> loss  # (sp(1 - 1) + sp(1 - 2) + sp(0 - 1)) / 3
    tensor(0.4399)
    """
    require_positions(positions, "position_triplet")
    chosen = choose_patches(feature, patches, config.patches)
    ape_shift = 0 if config.ape_offset == "author_bug" else 1
    values = relation_values(positions, chosen, config.pairs, ape_shift=ape_shift, grad_to_rpe=config.grad_to_rpe)
    vectors = values.mean((1, 2)) if config.bias == "mean" else values.flatten(1)
    towards = norm(vectors - vectors[triplets.positive])
    if not config.negative:
        return towards.mean()
    away = norm(vectors - vectors[triplets.negative])
    return mean_over_valid(margin_terms(towards, away, "soft"), triplets.valid)


def position_triplet(batch: Batch, options: PositionTripletConfig) -> Tensor:
    """Returns the position triplet loss of a batch; patches are chosen by the class token."""
    return position_triplet_loss(given(batch.cls), given(batch.patches), batch.triplets, batch.positions, options)
