"""Losses on local features, each with its own classifier and its own triplets.

Legend: B batch, E width of a local feature, C classes.
"""

import torch
from torch import Tensor

from reidablate.config import IdentityConfig, LossOptions
from reidablate.loss_options import Need
from reidablate.losses.batch import Batch
from reidablate.losses.identity import identity_loss
from reidablate.losses.mining import batch_hard
from reidablate.losses.triplet import triplet_loss
from reidablate.sections import Margin


class LocalIdentityOptions(IdentityConfig):
    """Cross-entropy over the training identities."""

    @property
    def needs(self) -> frozenset[Need]:
        """Local features."""
        return frozenset({"local features"})


class LocalTripletOptions(LossOptions):
    """Batch-hard triplet loss.

    Attributes:
        margin: `soft` for log(1 + exp(d_ap - d_an)), or a number m for max(0, d_ap - d_an + m), in units of the
            distance.
    """

    margin: Margin = "soft"

    @property
    def needs(self) -> frozenset[Need]:
        """Local features."""
        return frozenset({"local features"})


def local_identity(batch: Batch, options: LocalIdentityOptions) -> Tensor:
    """Returns the mean over the local features of the identity loss of each.

    >>> from reidablate.models.tokens import Local
    >>> feature, labels = torch.tensor([[0.0], [3.0], [4.0]]), torch.tensor([0, 0, 1])
    >>> part = Local(feature, feature, logits=torch.zeros(3, 2))
    >>> batch = Batch(feature, feature, part.logits, torch.eye(2), labels, labels, local=(part, part))
    >>> local_identity(batch, LocalIdentityOptions())  # ln 2
    tensor(0.6931)
    """
    return torch.stack([identity_loss(part.logits, batch.labels, options) for part in batch.local]).mean()


def local_triplet(batch: Batch, options: LocalTripletOptions) -> Tensor:
    """Returns the mean over the local features, before their necks, of the triplet loss of each, mined by itself.

    >>> from reidablate.models.tokens import Local
    >>> feature, labels = torch.tensor([[0.0], [3.0], [4.0]]), torch.tensor([0, 0, 1])
    >>> parts = tuple(Local(scale * feature, feature, torch.zeros(3, 2)) for scale in (1, 2))
    >>> batch = Batch(feature, feature, feature, torch.eye(2), labels, labels, local=parts)
    >>> local_triplet(batch, LocalTripletOptions(margin=1.0))  # ((3 - 1 + 1) / 3 + (6 - 2 + 1) / 3) / 2
    tensor(1.3333)
    """
    terms = [
        triplet_loss(part.before_neck, batch_hard(part.before_neck, batch.labels), options.margin)
        for part in batch.local
    ]
    return torch.stack(terms).mean()
