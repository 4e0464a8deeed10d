"""Positions from a convolution (Chu et al. 2021, arXiv 2102.10882), the "PEG" of CPVT.

Legend: B batch, n = rows * cols patches in row-major order, D width.
"""

from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from reidablate.errors import UserError
from reidablate.models.parts import Part, Size
from reidablate.sections import Number, Positive, Section


def odd(edge: int) -> int:
    """Returns an odd number, which alone has a centre.

    Raises:
        ValueError: It is even.
    """
    if edge % 2 == 0:
        raise ValueError("an odd number")
    return edge


class ConditionalPositionOptions(Section):
    """Options of the convolution.

    Attributes:
        kernel: Edge of the kernel in patches, an odd number.
        after: Block behind which it is added, counted from 0.
    """

    kernel: Annotated[Positive, AfterValidator(odd)] = 3
    after: Number = 0


class ConditionalPosition(Part):
    """Adds to every patch a depth-wise convolution of the patches around it, after one block; CLS stays as it is.

    x_k + sum over the offsets o of a kernel of w_o * x_(k + o) + b, channel by channel; what lies outside the grid is
    0, and by these zeros a patch knows where it stands. The paper does without absolute rows.
    """

    def __init__(self, options: ConditionalPositionOptions, size: Size) -> None:
        super().__init__()
        if options.after >= size.depth:
            raise UserError(
                f"model.parts.conditional_position: there is no block {options.after} among {size.depth}, counted from "
                "0; lower 'after'."
            )
        self.grid, self.after = size.grid, options.after
        self.convolution = nn.Conv2d(
            size.width, size.width, options.kernel, padding=options.kernel // 2, groups=size.width
        )

    def after_block(self, tokens: Tensor, block: int) -> Tensor:
        """Returns the tokens (B, 1 + n, D) with what the convolution adds, behind its block."""
        if block != self.after:
            return tokens
        patches = tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid)
        added = self.convolution(patches).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, :1], tokens[:, 1:] + added], dim=1)
