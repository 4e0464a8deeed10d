"""The position-relation loss (Proposed 2): images of a person should relate their top patches alike.

Only position parameters are trained by it: the choice of patches is discrete.

Legend: B batch, D feature, n patches, L blocks, h heads, M pairs, G groups, E entries of a distribution.
"""

from torch import Tensor

from reidablate.config import PositionRelationConfig
from reidablate.losses.batch import Batch, given
from reidablate.losses.distance import full_precision
from reidablate.losses.divergence import DIVERGENCES, LOWEST_LOG
from reidablate.losses.positions import (
    PositionState,
    choose_patches,
    cls_relation_values,
    relation_values,
    require_positions,
)


def log_distributions(values: Tensor, grouping: str) -> Tensor:
    """Returns the log-probabilities (B, G, E) of `values` (B, L, h, M), normalised within each group.

    `head`: L h groups of M, block-major. `layer`: L groups of h M. `sample`: one group of L h M.
    The reshaped groupings are normalised as `head`; what they change is the sum, see `group_mean`.

    >>> import torch
    >>> log_distributions(torch.zeros(1, 2, 4, 3), "layer").exp()[0, 0, :2]  # one of 4 x 3 in each of two blocks
    tensor([0.0833, 0.0833])
    """
    if grouping == "layer":
        return values.flatten(2).log_softmax(-1)
    if grouping == "sample":
        return values.flatten(1).log_softmax(-1)[:, None]
    # The pairs lie outermost in memory: a softmax over that axis copies nothing and is vectorised over L h.
    return values.movedim(3, 1).log_softmax(1).movedim(1, 3).flatten(1, 2)


def group_mean(divergences: Tensor, grouping: str, num_heads: int) -> Tensor:
    """Returns the mean over samples and groups of `divergences` (B, G).

    `layer_reshaped` and `sample_reshaped` sum the heads of a block, or of all blocks, before the mean, as the
    published code did: h and L h times the mean over heads.

    >>> import torch
    >>> group_mean(torch.tensor([[0.1, 0.3]]), "layer_reshaped", num_heads=2)
    tensor(0.4000)
    """
    factors = {"layer_reshaped": num_heads, "sample_reshaped": divergences.shape[1]}
    return divergences.mean() * factors.get(grouping, 1)


def identity_mean(log_p: Tensor, labels: Tensor) -> Tensor:
    """Returns, for each sample, the normalised geometric mean of `log_p` (B, G, E) over its identity's samples.

    >>> import torch
    >>> log_p = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log()
    >>> identity_mean(log_p, torch.tensor([0, 0]))[0].exp()  # sqrt(0.45) and sqrt(0.05), over their sum
    tensor([[0.7500, 0.2500]])
    """
    same = (labels[:, None] == labels[None, :]).to(log_p.dtype)
    mean = (same / same.sum(1, keepdim=True)) @ log_p.clamp(min=LOWEST_LOG).flatten(1)
    return mean.reshape(log_p.shape).log_softmax(-1)


def divergences_to_target(log_p: Tensor, labels: Tensor, positive: Tensor, config: PositionRelationConfig) -> Tensor:
    """Returns the divergences (B, G) of each sample's distributions (B, G, E) to those of its target.

    The hardest positive q of an anchor p enters as D(p, q); the mean g of an identity as D(g, p). Both sides carry
    gradients.
    """
    divergence = DIVERGENCES[config.divergence]
    if config.target == "identity_mean":
        return divergence(identity_mean(log_p, labels), log_p)
    return divergence(log_p, log_p[positive])


def divergence_to_target(values: Tensor, labels: Tensor, positive: Tensor, config: PositionRelationConfig) -> Tensor:
    """Returns the mean divergence of the distributions of `values` (B, L, h, M) to those of their targets.

    >>> import torch
    >>> values = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()[:, None, None]
    >>> each_other = torch.tensor([1, 0])
    >>> divergence_to_target(values, torch.tensor([0, 0]), each_other, PositionRelationConfig())
    tensor(0.1017)
    """
    log_p = log_distributions(values, config.grouping)
    return group_mean(divergences_to_target(log_p, labels, positive, config), config.grouping, values.shape[2])


def scale_and_shift(config: PositionRelationConfig, width: int) -> tuple[float, int]:
    """Returns the factor of the absolute dot products and the row that patch 0 takes; see `relation_values`."""
    return width**-0.5 if config.abs_scale == "inv_sqrt_d" else 1.0, 0 if config.ape_offset == "author_bug" else 1


def direction_of(batch: Batch, options: PositionRelationConfig) -> Tensor:
    """Returns (B, D) what patches are chosen by: the class token, or the classifier row of the label."""
    return batch.rows if options.select == "classifier" else given(batch.cls)


@full_precision
def position_relation_loss(
    direction: Tensor,
    patches: Tensor,
    labels: Tensor,
    positive: Tensor,
    positions: PositionState,
    config: PositionRelationConfig,
) -> Tensor:
    """Returns the mean divergence between the position relations of each image and its hardest positive.

    The top patches are those of `patches` (B, n, D) nearest to `direction` (B, D): the feature, or the classifier row
    of the label. `positive` (B,) is the row of the hardest positive; an image that is its own adds a zero. With
    `cls_term` the relations of CLS to the chosen patches are compared too and added.

    Raises:
        UserError: The model has no position parameters, or fewer patches than asked for.

    The rows of the first image's two patches are 0, so its distribution over the four pairs is even; the best patch of
    the second has the product ln 3 with itself, so that its distribution is (3, 1, 1, 1) / 6.

    >>> import torch
    >>> rows = torch.tensor([[1.0], [1.0], [1.0], [3.0]]).log().sqrt()  # of CLS and of three patches
    >>> patches = torch.tensor([[3.0, 2.0, 1.0], [2.0, 1.0, 3.0]])[:, :, None]
    >>> labels, each_other = torch.tensor([0, 0]), torch.tensor([1, 0])
    >>> state, options = PositionState(rows, None, None), PositionRelationConfig(patches=2, pairs="product")
    >>> position_relation_loss(torch.ones(2, 1), patches, labels, each_other, state, options)  # (0.0354 + 0.0323) / 2
    tensor(0.0338)
    """
    require_positions(positions, "position_relation")
    chosen = choose_patches(direction, patches, config.patches, by_token=config.order == "token_index")
    abs_scale, ape_shift = scale_and_shift(config, patches.shape[2])
    values = relation_values(
        positions, chosen, config.pairs, abs_scale=abs_scale, ape_shift=ape_shift, grad_to_rpe=config.grad_to_rpe
    )
    loss = divergence_to_target(values, labels, positive, config)
    if config.cls_term is None:
        return loss
    to_cls = cls_relation_values(
        positions, chosen, abs_scale=abs_scale, ape_shift=ape_shift, grad_to_rpe=config.grad_to_rpe
    )
    return loss + divergence_to_target(to_cls, labels, positive, config)


def position_relation(batch: Batch, options: PositionRelationConfig) -> Tensor:
    """Returns the position-relation loss of a batch; patches are chosen by the class token or the classifier row."""
    direction, positive = direction_of(batch, options), batch.triplets.positive
    return position_relation_loss(direction, given(batch.patches), batch.labels, positive, batch.positions, options)
