"""How blocks, cells and networks represent images: CKA, what skips carry, what is left of a place's own input.

Legend: N examples, D and E widths, B images, T tokens, n patches, L blocks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Returns the linear centred kernel alignment of (N, D) and (N, E), in [0, 1] (Kornblith et al. 2019, eq. 5).

    |Y' X|^2 / (|X' X| |Y' Y|) with centred columns and Frobenius norms, computed from the N x N Gram matrices where
    these are smaller; over all N at once, not in minibatches. 0 where one side does not vary.
    """
    x, y = ((side.double() - side.double().mean(0)) for side in (first, second))
    if len(x) <= min(x.shape[1], y.shape[1]):
        grams = x @ x.T, y @ y.T
        cross, own = (grams[0] * grams[1]).sum(), grams[0].norm() * grams[1].norm()
    else:
        cross, own = (y.T @ x).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return float(cross / own) if float(own) > 0 else 0.0


def cka_matrix(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Returns the linear CKA of each of `first` (rows) with each of `second` (columns), all of the same N examples."""
    return torch.tensor([[linear_cka(x, y) for y in second] for x in first])


def skip_ratios(skips: Sequence[Tensor], branches: Sequence[Tensor], *, num_prefix: int) -> Tensor:
    """Returns |skip| / |branch| at each residual, (2 L, 2): of the first token and the mean over patches.

    Per token the Euclidean lengths of what goes around attention or MLP and of what they add; the mean is over images
    (Raghu et al. 2021, section 5). Without prefix tokens the first column is NaN.

    Args:
        skips: 2 L tensors (B, T, D).
        branches: 2 L tensors (B, T, D).
        num_prefix: Tokens before the patches.
    """
    rows = []
    for skip, branch in zip(skips, branches, strict=True):
        ratio = skip.norm(dim=-1) / branch.norm(dim=-1).clamp(min=1e-12)
        first = ratio[:, 0].mean() if num_prefix else ratio.new_tensor(torch.nan)
        rows.append(torch.stack([first, ratio[:, num_prefix:].mean()]))
    return torch.stack(rows)


def input_similarity(tokens: Sequence[Tensor], *, num_prefix: int) -> Tensor:
    """Returns the mean cosine between each patch's input token and the token of its place, (L + 1,), block by block.

    Args:
        tokens: L + 1 tensors (B, T, D); the first is the input of the first block.
        num_prefix: Tokens before the patches.
    """
    start = tokens[0][:, num_prefix:]
    return torch.stack(
        [torch.nn.functional.cosine_similarity(start, after[:, num_prefix:], dim=-1).mean() for after in tokens]
    )


def cosine_rows(rows: Tensor) -> Tensor:
    """Returns the cosine between rows of (N, D), (N, N): of a classifier, which identities it mixes up."""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    found: Tensor = unit @ unit.T
    return found
