"""What a model knows of places: similarity of its absolute rows, its relative tables, and three properties of both.

Legend: n = rows * cols patches in row-major order, D width, L blocks, h heads, R rows of a relative table.
"""

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from reidablate.diagnostics.attention import patch_distances
from reidablate.models.position import Grid, full_index


def similarity_maps(rows: Tensor, grid: Grid) -> Tensor:
    """Returns the cosine of each patch's absolute row with all others, (n, rows, cols), from patch rows (n, D)."""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    maps: Tensor = (unit @ unit.T).view(-1, *grid)
    return maps


@dataclass(frozen=True)
class PositionProperties:
    """Three properties of a proximity between places (Wang et al. 2021, section 3), each as a number of ours.

    Attributes:
        monotonicity: Mean over patches of the rank correlation between nearness and proximity, in [-1, 1]; 1 where
            proximity always falls with the Euclidean distance on the grid.
        translation_invariance: Share of the proximity's variance over pairs of different patches that their offset
            explains, in [0, 1]; 1 where the offset alone decides.
        symmetry: Share of that variance in the symmetric part, in [0, 1]; 1 where order does not matter, as in any
            plain dot product.
    """

    monotonicity: float
    translation_invariance: float
    symmetry: float


def position_properties(proximity: Tensor, grid: Grid) -> PositionProperties:
    """Returns the properties of a proximity (n, n) between the patches of a grid; rows are queries.

    A proximity without variance has no monotonicity (0) and the other two to the full (1).
    """
    values = proximity.detach().double().cpu()
    different = ~torch.eye(len(values), dtype=torch.bool)
    centred = (values - values[different].mean()).where(different, torch.zeros(()).double())
    total = float(centred.square().sum())
    if total <= 1e-24 * float(values.square().sum()):
        return PositionProperties(0.0, 1.0, 1.0)
    offsets = full_index(grid)[different]
    members = centred[different]
    sums = torch.zeros(int(offsets.max()) + 1, dtype=members.dtype)
    counts = torch.bincount(offsets, minlength=len(sums)).clamp(min=1)
    means = sums.index_add(0, offsets, members) / counts
    within = float((members - means[offsets]).square().sum())
    symmetric = float(((centred + centred.T) / 2).square().sum())
    nearness = -patch_distances(grid, (1.0, 1.0))
    falls = [
        stats.spearmanr(nearness[a][different[a]], row[different[a]]).statistic
        for a, row in enumerate(values)
        if float(row[different[a]].std(correction=0)) > 0
    ]
    return PositionProperties(sum(falls) / len(values), 1 - within / total, symmetric / total)


def relative_maps(tables: Tensor, index: Tensor, grid: Grid) -> Tensor:
    """Returns the relative tables as maps over offsets, (L, h, 2 rows - 1, 2 cols - 1); the centre is offset 0.

    Row rows - 1 + dy and column cols - 1 + dx hold what a query gets for a key that lies dy rows above and dx columns
    left of it. Every kind of table is spread over the offsets that share its rows.

    Args:
        tables: (L, R, h).
        index: (n, n) rows of the tables for each query (row) and key (column).
        grid: Rows and columns of the patches.
    """
    rows, cols = grid
    places = full_index(grid).flatten()
    row_of = torch.zeros((2 * rows - 1) * (2 * cols - 1), dtype=torch.long, device=index.device)
    row_of[places.to(index.device)] = index.flatten()
    maps: Tensor = tables[:, row_of].permute(0, 2, 1).reshape(*tables.shape[::2], 2 * rows - 1, 2 * cols - 1)
    return maps


def first_block_proximity(rows: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """Returns what the first block's attention makes of absolute rows alone, (n, n): q . k / sqrt(d), mean of heads.

    Args:
        rows: (n, D) normalised as the block would.
        weight: (3 D, D) of its fused query, key and value layer.
        bias: (3 D,) or None.
        heads: Number of heads.
    """
    found = torch.nn.functional.linear(rows, weight, bias).unflatten(1, (3, heads, -1))
    queries, keys = found[:, 0], found[:, 1]
    mean: Tensor = torch.einsum("ahd,bhd->ab", queries, keys) / (heads * queries.shape[2] ** 0.5)
    return mean
