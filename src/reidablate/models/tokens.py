"""What every backbone gives.

Legend: B batch, n patches, D width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """What a backbone makes of a batch, after its final norm.

    Attributes:
        feature: (B, D).
        cls: (B, D) the class token, None where there is none.
        patches: (B, n, D) row by row of the grid, None where there are none.
    """

    feature: Tensor
    cls: Tensor | None
    patches: Tensor | None
