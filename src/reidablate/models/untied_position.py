"""Untied positions with a reset class token (Ke et al. 2021, arXiv 2006.15595, TUPE).

Legend: n = rows * cols patches in row-major order, D width, h heads, d = D / h.
"""

import math

import torch
from torch import Tensor, nn

from reidablate.models.parts import Part, Size
from reidablate.sections import Section


class UntiedPosition(Part):
    """Adds logits of positions alone, from projections of their own, shared by all blocks (Ke et al. 2021, TUPE-A).

    With p the layer norm of a learned row for every patch and U_Q, U_K of width D:

        logit(a,b) = q_a . k_b / sqrt(2 d) + (p_a U_Q) . (p_b U_K) / sqrt(2 d)     head by head, a, b patches
        CLS -> anything: t1, patch -> CLS: t2                                      in place of the second term

    The rows are not added to the tokens, so a model has `ape: none` beside it. The paper's rows are as many as tokens;
    that of CLS is reset, so it has none here.
    """

    content_scale = 0.5**0.5

    def __init__(self, options: Section, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.table = nn.Parameter(torch.zeros(size.grid[0] * size.grid[1], size.width))
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.queries = nn.Linear(size.width, size.width, bias=False)
        self.keys = nn.Linear(size.width, size.width, bias=False)
        self.resets = nn.Parameter(torch.zeros(2, size.heads))

    def logits(self, block: int) -> Tensor:
        """Returns the logits of positions, (h, 1 + n, 1 + n), the same in every block."""
        rows = self.norm(self.table)
        queries, keys = (
            side(rows).unflatten(1, (self.heads, -1)).transpose(0, 1) for side in (self.queries, self.keys)
        )
        patches = queries @ keys.transpose(1, 2) / math.sqrt(2 * queries.shape[2])
        from_cls, to_cls = self.resets.to(patches.dtype)
        number = patches.shape[1]
        below = torch.cat([to_cls[:, None, None].expand(-1, number, 1), patches], dim=2)
        return torch.cat([from_cls[:, None, None].expand(-1, 1, 1 + number), below], dim=1)
