"""Cross-entropy of features of one length: the L2-constrained softmax (Ranjan et al. 2017, arXiv 1703.09507).

Legend: B batch, D feature, C classes.
"""

import torch.nn.functional as F
from torch import Tensor

from reidablate.config import LossOptions
from reidablate.losses.batch import Batch
from reidablate.losses.distance import full_precision, norm
from reidablate.sections import Factor


class L2SoftmaxOptions(LossOptions):
    """Options of the L2-constrained softmax.

    Attributes:
        scale: Length that every feature is given before the classifier. Ranjan et al. want more than log(p (C - 2) / (1
            - p)) to reach the probability p: 8.8 for 751 identities and p = 0.9.
    """

    scale: Factor = 16.0


@full_precision
def l2_softmax_loss(feature: Tensor, classifier: Tensor, labels: Tensor, *, scale: float) -> Tensor:
    """Returns the mean cross-entropy of `scale * W f / |f|` for `feature` (B, D), `classifier` (C, D), `labels` (B,).

    The paper wants a scale above log(p (C - 2) / (1 - p)), where p is the probability that the right class should
    reach: 8.8 for 751 identities and p = 0.9. Its classifier has a bias and this study's has none. A feature of zeros
    has the loss log C; lengths are cut off at 1e-6.

    >>> import torch
    >>> l2_softmax_loss(torch.tensor([[3.0, 4.0]]), torch.eye(2), torch.tensor([1]), scale=1.0)  # ln(1 + e^-0.2)
    tensor(0.5981)
    """
    return F.cross_entropy(scale * feature / norm(feature)[:, None] @ classifier.T, labels)


def l2_softmax(batch: Batch, options: L2SoftmaxOptions) -> Tensor:
    """Returns the L2-constrained softmax loss of a batch, on the feature that the classifier reads: after the neck."""
    return l2_softmax_loss(batch.feature_after_neck, batch.classifier, batch.labels, scale=options.scale)
