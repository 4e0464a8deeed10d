"""What the position losses of a batch are made of, as numbers to log: nothing here is trained or draws a number.

Legend: B batch, L blocks, h heads, M pairs, G groups, E entries of a distribution.
"""

import torch
from torch import Tensor

from reidablate.config import LossesConfig, PositionRelationConfig, PositionTripletConfig
from reidablate.losses.batch import Batch, given
from reidablate.losses.position_relation import (
    direction_of,
    divergences_to_target,
    log_distributions,
    scale_and_shift,
)
from reidablate.losses.positions import PositionState, choose_patches, relation_values


@torch.no_grad()
def relation_numbers(batch: Batch, losses: LossesConfig) -> dict[str, Tensor]:
    """Returns scalars about the relation values of a batch, by name; empty without a position loss.

    Of each position loss, `NAME_rpe_share`: see `rpe_share`. Of the position-relation loss also
    `position_relation_max_probability` and `position_relation_entropy` (nats), means over images and groups, and where
    each group belongs to one block `position_relation_block_1`, ...: its mean divergence, not weighted and not summed
    over heads.
    """
    found: dict[str, Tensor] = {}
    if (relation := losses.position_relation) is not None:
        batch = batch.widened()
        scale, shift = scale_and_shift(relation, given(batch.patches).shape[2])
        by_token = relation.order == "token_index"
        chosen = choose_patches(
            direction_of(batch, relation), given(batch.patches), relation.patches, by_token=by_token
        )
        values = relation_values(batch.positions, chosen, relation.pairs, abs_scale=scale, ape_shift=shift)
        found["position_relation_rpe_share"] = rpe_share(
            batch.positions, chosen, relation, abs_scale=scale, ape_shift=shift
        )
        found |= _distribution_numbers(values, batch, relation)
    if (triplet := losses.position_triplet) is not None:
        batch = batch.widened()
        chosen = choose_patches(given(batch.cls), given(batch.patches), triplet.patches)
        shift = 0 if triplet.ape_offset == "author_bug" else 1
        found["position_triplet_rpe_share"] = rpe_share(batch.positions, chosen, triplet, ape_shift=shift)
    return found


def rpe_share(
    positions: PositionState,
    chosen: Tensor,
    options: PositionRelationConfig | PositionTripletConfig,
    *,
    abs_scale: float = 1.0,
    ape_shift: int = 1,
) -> Tensor:
    """Returns the relative tables' share of the relation values' variance, in [0, 1]; the absolute rows have the rest.

    Each part's variance is that over the pairs of an image, block and head, which alone the softmax sees, averaged over
    all of them: v_RPE / (v_APE + v_RPE). Their covariance is left out. Where nothing varies it is 0.
    """
    parts = (PositionState(positions.ape, None, None), PositionState(None, positions.tables, positions.index))
    variances = [
        relation_values(part, chosen, options.pairs, abs_scale=abs_scale, ape_shift=ape_shift)
        .var(-1, correction=0)
        .mean()
        if part.ape is not None or part.tables is not None
        else chosen.new_zeros((), dtype=torch.float32)
        for part in parts
    ]
    return variances[1] / (variances[0] + variances[1]).clamp(min=torch.finfo(torch.float32).tiny)


def _distribution_numbers(values: Tensor, batch: Batch, options: PositionRelationConfig) -> dict[str, Tensor]:
    log_p = log_distributions(values, options.grouping)
    found = {
        "position_relation_max_probability": log_p.amax(-1).exp().mean(),
        "position_relation_entropy": -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1).mean(),
    }
    num_blocks = values.shape[1]
    if num_blocks > 1 and log_p.shape[1] % num_blocks == 0:
        divergences = divergences_to_target(log_p, batch.labels, batch.triplets.positive, options)
        blocks = divergences.unflatten(1, (num_blocks, -1)).mean((0, 2))
        found |= {f"position_relation_block_{number}": block for number, block in enumerate(blocks, start=1)}
    return found
