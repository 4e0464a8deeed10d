"""How large a value is among those of its row, and weights that follow from it.

Legend: B batch, n values of a row: patches, or dimensions.
"""

from torch import Tensor

SMALLEST = 1e-12  # keeps the division by a maximum defined


def over_largest(value: Tensor) -> Tensor:
    """Returns |value| / max |value| of each row of `value` (B, n); a row of zeros stays one."""
    size = value.abs()
    return size / (size.amax(1, keepdim=True) + SMALLEST)


def one_plus(share: Tensor, threshold: float) -> Tensor:
    """Returns 1 + share, and 0 where the share (B, n) is below the threshold."""
    return (1 + share).masked_fill(share < threshold, 0)
