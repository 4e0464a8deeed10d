"""How large a value is among those of its row, and weights that follow from it.

Legend: B batch, n values of a row: patches, or dimensions.
"""

from torch import Tensor

SMALLEST = 1e-12  # keeps the division by a maximum defined


def over_largest(value: Tensor) -> Tensor:
    """Returns |value| / max |value| of each row of `value` (B, n); a row of zeros stays one.

    >>> import torch
    >>> over_largest(torch.tensor([[-2.0, 1.0, 0.0]]))
    tensor([[1.0000, 0.5000, 0.0000]])
    """
    size = value.abs()
    return size / (size.amax(1, keepdim=True) + SMALLEST)


def one_plus(share: Tensor, threshold: float) -> Tensor:
    """Returns 1 + share, and 0 where the share (B, n) is below the threshold.

    >>> import torch
    >>> one_plus(torch.tensor([[1.0, 0.5, 0.05]]), threshold=0.1)
    tensor([[2.0000, 1.5000, 0.0000]])
    """
    return (1 + share).masked_fill(share < threshold, 0)
