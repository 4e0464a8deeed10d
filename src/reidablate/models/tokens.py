"""What every backbone returns, and the features of parts of an image: the types that necks and losses read.

Legend: B batch, n patches, D width, E width of a local feature, F that behind its neck, C training identities.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """What a backbone makes of a batch, after its final norm.

    Attributes:
        feature: (B, D).
        cls: (B, D) the class token, None where there is none.
        patches: (B, n, D) row by row of the grid, None where there are none.
        before_last: (B, 1 + n, D) what the last block of one of the study's transformers read; None of others.
    """

    feature: Tensor
    cls: Tensor | None
    patches: Tensor | None
    before_last: Tensor | None = None


@dataclass(frozen=True)
class Local:
    """The feature of a part of each image, on both sides of its neck, and what its own classifier says."""

    before_neck: Tensor  # (B, E)
    after_neck: Tensor  # (B, F)
    logits: Tensor  # (B, C)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Local":
        """Returns it with every tensor changed."""
        return Local(change(self.before_neck), change(self.after_neck), change(self.logits))
