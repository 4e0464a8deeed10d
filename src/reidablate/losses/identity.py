"""The identity loss: cross-entropy over the training identities.

Legend: B batch, C classes.
"""

import torch.nn.functional as F
from torch import Tensor

from reidablate.config import IdentityConfig
from reidablate.losses.batch import Batch
from reidablate.losses.distance import full_precision


@full_precision
def identity_loss(logits: Tensor, labels: Tensor, config: IdentityConfig) -> Tensor:
    """Returns the mean cross-entropy of `logits` (B, C) against `labels` (B,).

    >>> import torch
    >>> identity_loss(torch.zeros(2, 4), torch.tensor([0, 3]), IdentityConfig())  # ln 4
    tensor(1.3863)
    """
    return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)


def identity(batch: Batch, options: IdentityConfig) -> Tensor:
    """Returns the identity loss of a batch."""
    return identity_loss(batch.logits, batch.labels, options)
