"""The part-based convolutional baseline (Sun et al. 2018, arXiv 1711.09349, PCB): a feature for each horizontal stripe.

Legend: B batch, n = rows * cols patches in row-major order, D width, S stripes, E reduced width, C training identities.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from reidablate.errors import UserError
from reidablate.models.local_features import Classifier, LocalFeatures
from reidablate.models.tokens import Local, Tokens
from reidablate.sections import Positive, Section


class StripesOptions(Section):
    """Options of the stripes.

    Attributes:
        number: Horizontal stripes of an image.
        width: Width that the mean of a stripe is reduced to before its classifier.
    """

    number: Annotated[int, Field(ge=1, le=100)] = 6
    width: Positive = 256


def stripe_shares(rows: int, number: int) -> Tensor:
    """Returns how much of each stripe every row of a map is, (S, rows), lines sum to 1.

    Stripe i covers the rows from floor(i rows / S) up to ceil((i + 1) rows / S), as in adaptive average pooling:
    stripes share a row where S does not divide the rows.

    >>> stripe_shares(3, 2).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    shares = torch.zeros(number, rows)
    for stripe in range(number):
        first, end = stripe * rows // number, math.ceil((stripe + 1) * rows / number)
        shares[stripe, first:end] = 1 / (end - first)
    return shares


class Stripes(LocalFeatures):
    """The mean of each stripe, reduced by one linear map with batch norm and ReLU for all, a classifier for each.

    The features before the neck are the means (the paper's g), those behind it the reduced ones (h); at test time those
    of all stripes, each of length 1, stand one after the other. There is no feature of the whole then.
    """

    shares: Tensor

    def __init__(self, options: StripesOptions, backbone: Any, num_classes: int) -> None:
        """Makes the linear map and the classifiers.

        Raises:
            UserError: The backbone has no map of patches.
        """
        super().__init__()
        if backbone.grid is None:
            raise UserError("model.local_features: stripes needs a backbone whose patches lie in a grid.")
        self.grid = (int(backbone.grid[0]), int(backbone.grid[1]))
        self.register_buffer("shares", stripe_shares(self.grid[0], options.number), persistent=False)
        self.reduction = nn.Linear(backbone.width, options.width, bias=False)
        self.norm = nn.BatchNorm1d(options.width)
        self.classifiers = nn.ModuleList(Classifier(options.width, num_classes) for _ in range(options.number))

    def forward(self, tokens: Tokens) -> tuple[Local, ...]:
        """Returns the features (B, D) and (B, E) of each stripe."""
        assert tokens.patches is not None
        lines = tokens.patches.unflatten(1, self.grid).mean(dim=2)
        means = self.shares.to(lines.dtype) @ lines
        reduced = F.relu(self.norm(self.reduction(means).transpose(1, 2))).transpose(1, 2)
        pairs = zip(means.unbind(1), reduced.unbind(1), self.classifiers, strict=True)
        return tuple(Local(mean, part, classifier(part)) for mean, part, classifier in pairs)

    def tested(self, whole: Tensor, local: Sequence[Tensor]) -> Tensor:
        """Returns the features of all stripes, each of length 1, one after the other."""
        return torch.cat([F.normalize(part, dim=1) for part in local], dim=1)
