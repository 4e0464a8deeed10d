"""The vision transformer, from timm's parts, with the position options of the study.

Legend: B batch, H x W image, n = rows * cols patches, D width, h heads, d = D / h. Token 0 is CLS, token 1 + k is
patch k of the row-major grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import Attention, calculate_drop_path_rates
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reidablate.config import PATCH_PX, ModelConfig
from reidablate.models.parts import Part, Size, made_parts
from reidablate.models.position import AbsolutePosition, ClsBias, Grid, RelativeBias, RelativeKeys
from reidablate.models.stem import STEMS, patch_grid
from reidablate.models.tokens import Tokens


@dataclass(frozen=True)
class TransformerSize:
    """The size of a transformer: patch edge in pixels, token width, number of blocks and of heads."""

    patch: int
    width: int
    depth: int
    heads: int


BACKBONES: dict[str, TransformerSize] = {
    "vit_base": TransformerSize(patch=PATCH_PX["vit_base"], width=768, depth=12, heads=12),
    "vit_small": TransformerSize(patch=PATCH_PX["vit_small"], width=384, depth=12, heads=6),
    "vit_quickstart": TransformerSize(patch=PATCH_PX["vit_quickstart"], width=32, depth=2, heads=4),
}


class PositionAttention(Attention):  # type: ignore[misc]  # timm has no types
    """timm's self-attention with logits `q . k / sqrt(d) + position`, where position may depend on the query.

    On a GPU torch's fused kernels do the work. On a CPU the logits are explicit: there the fused kernel is left as
    soon as a mask needs a gradient, so the same network with and without zero tables would differ in the last bit,
    and at the lengths used here it trains no faster.
    """

    def __init__(self, width: int, heads: int, *, rpe: RelativeBias | RelativeKeys | None, cls: ClsBias | None) -> None:
        super().__init__(width, num_heads=heads, qkv_bias=True)
        self.rpe = rpe
        self.cls_position = cls
        self.added: list[Callable[[], Tensor | None]] = []  # of the parts of the transformer

    def position_bias(self) -> Tensor | None:
        """Returns the part of the position logits that depends on no query, (h, 1 + n, 1 + n); None is 0."""
        patches = self.rpe() if isinstance(self.rpe, RelativeBias) else None
        if self.cls_position is not None:
            centre = self.rpe.centre() if isinstance(self.rpe, RelativeBias) else None
            return cast(Tensor, self.cls_position(patches, centre))
        return None if patches is None else F.pad(patches, (1, 0, 1, 0))

    def position_logits(self, queries: Tensor) -> Tensor | None:
        """Returns what is added to the logits, (1 or B, h, 1 + n, 1 + n), for scaled queries (B, h, 1 + n, d)."""
        bias = self.position_bias()
        for part in self.added:
            if (more := part()) is not None:
                bias = more if bias is None else bias + more
        bias = None if bias is None else bias[None]
        if not isinstance(self.rpe, RelativeKeys):
            return bias
        keys = F.pad(self.rpe(queries[:, :, 1:]), (1, 0, 1, 0))
        return keys if bias is None else keys + bias

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns scaled queries, keys and values, each (B, h, 1 + n, d), of tokens (B, 1 + n, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return queries * self.scale, keys, values

    def weights(self, x: Tensor) -> Tensor:
        """Returns the attention weights of tokens (B, 1 + n, D): (B, h, 1 + n, 1 + n), rows sum to 1."""
        queries, keys, _ = self.queries_keys_values(x)
        return self._softmax(queries, keys)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Returns the attended tokens, (B, 1 + n, D); the two options of timm's interface stay unused."""
        assert attn_mask is None
        assert not is_causal
        queries, keys, values = self.queries_keys_values(x)
        if x.is_cuda:
            mask = self.position_logits(queries)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=1.0)
        else:
            mixed = self._softmax(queries, keys) @ values
        return cast(Tensor, self.proj(mixed.transpose(1, 2).flatten(2)))

    def _softmax(self, queries: Tensor, keys: Tensor) -> Tensor:
        logits = queries @ keys.transpose(-2, -1)
        position = self.position_logits(queries)
        return (logits if position is None else logits + position).softmax(dim=-1)


class VisionTransformer(nn.Module):
    """Stem, CLS token, absolute positions, pre-norm blocks, final norm (TransReID-SSL's); parts change what is between.

    Layer norms have eps 1e-6; drop path rises linearly from 0 in the first block to `config.drop_path` in the last and
    is the only thing here that draws random numbers (from torch's global generator of the device). With `recompute` the
    backward pass computes each block again, with the same numbers drawn, in place of keeping what is inside it.
    """

    def __init__(self, config: ModelConfig, *, cameras: tuple[int, ...] = ()) -> None:
        super().__init__()
        size = BACKBONES[config.backbone]
        self.grid, self.width = config.grid, size.width
        self.pool = config.pool
        self.recompute = False
        self.stem = STEMS[config.stem](size.patch, size.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.ape = None
        if config.ape != "none":
            cls_row = config.cls_position != "no_ape"
            self.ape = AbsolutePosition(config.ape, self.grid, size.width, cls_row=cls_row)
        rates = calculate_drop_path_rates(config.drop_path, size.depth)
        self.blocks = nn.ModuleList(_block(config, size, self.grid, rate) for rate in rates)
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        parts = made_parts(config.parts.options, Size(self.grid, size.width, size.heads, size.depth, cameras))
        self.parts = nn.ModuleDict(parts)
        for part, (number, attention) in product(parts.values(), enumerate(self.attentions)):
            if type(part).logits is not Part.logits:
                attention.added.append(partial(part.logits, number))
            attention.scale *= part.content_scale

    @property
    def attentions(self) -> list[PositionAttention]:
        """The attention of each block, in order."""
        return [cast(PositionAttention, block.attn) for block in self.blocks]

    def forward(self, images: Tensor, camids: Tensor | None = None) -> Tokens:
        """Returns the feature and the tokens of normalised images (B, 3, H, W), of the cameras (B,) if known."""
        patches = patch_grid(self.stem, images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        if self.ape is not None:
            x = x + self.ape()
        for part in self.parts.values():
            x = cast(Part, part).embedded(x, camids)
        keep = not (self.recompute and torch.is_grad_enabled())
        before = x
        for number, block in enumerate(self.blocks):
            before = x
            x = block(x) if keep else checkpoint(block, x, use_reentrant=False)
            for part in self.parts.values():
                x = cast(Part, part).after_block(x, number)
        x = self.norm(x)
        cls, patches = x[:, 0], x[:, 1:]
        feature = cls if self.pool == "cls" else patches.mean(dim=1)
        return Tokens(feature=feature, cls=cls, patches=patches, before_last=before)


def _block(config: ModelConfig, size: TransformerSize, grid: Grid, drop_path: float) -> nn.Module:
    rpe: RelativeBias | RelativeKeys | None = None
    if config.rpe.kind == "shaw_key":
        rpe = RelativeKeys(config.rpe.kind, grid, size.width // size.heads)
    elif config.rpe.kind != "none":
        rpe = RelativeBias(config.rpe.kind, grid, size.heads)
    cls = None
    if config.cls_position not in ("none", "no_ape"):
        cls = ClsBias(config.cls_position, grid[0] * grid[1], size.heads)
    norm = partial(nn.LayerNorm, eps=1e-6)
    block: nn.Module = Block(size.width, size.heads, qkv_bias=True, drop_path=drop_path, norm_layer=norm)
    block.attn = PositionAttention(size.width, size.heads, rpe=rpe, cls=cls)
    return block
