"""A forward pass that keeps what a diagnostic looks at: attention, tokens after each block, both sides of each skip.

It works for every network whose blocks are timm's pre-norm `Block` with timm's `Attention`: the transformers of the
study and most `timm/vit_*`, `timm/deit_*`. Others have no such parts, which `transformer_parts` says in a sentence.

Legend: B images, L blocks, h heads, T tokens, n = rows * cols patches, D width.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from reidablate.models.neck import ReidModel
from reidablate.models.position import Grid
from reidablate.models.timm_backbone import TimmBackbone
from reidablate.models.vit import PositionAttention


@dataclass(frozen=True)
class TransformerParts:
    """The blocks of a transformer and how its tokens are laid out: `num_prefix` tokens, then the grid's patches."""

    blocks: list[Any]  # of `Block`
    grid: Grid
    num_prefix: int
    has_cls: bool  # token 0


def transformer_parts(model: ReidModel) -> TransformerParts | str:
    """Returns the parts of a transformer, or a sentence that says why there are none."""
    name = model.config.backbone
    if model.transformer is not None:
        return TransformerParts(list(model.transformer.blocks), model.transformer.grid, 1, has_cls=True)
    net: Any = model.backbone.net if isinstance(model.backbone, TimmBackbone) else model.backbone
    blocks = list(getattr(net, "blocks", ()))
    if not blocks or not all(type(b) is Block and type(b.attn) is Attention for b in blocks):
        return f"{name} has no plain attention blocks (timm's Block with Attention), so there is no attention to show."
    has_cls = getattr(net, "cls_token", None) is not None
    return TransformerParts(blocks, model.backbone.grid, int(net.num_prefix_tokens), has_cls=has_cls)


@dataclass
class Trace:
    """What a forward pass left, block by block.

    Attributes:
        attention: L tensors (B, h, T, T); rows are queries and sum to 1.
        tokens: L + 1 tensors (B, T, D): before the first block, and after each.
        skips: 2 L tensors (B, T, D), what goes around attention and MLP of each block in turn.
        branches: 2 L tensors (B, T, D), what attention and MLP add to it.
    """

    attention: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    skips: list[Tensor] = field(default_factory=list)
    branches: list[Tensor] = field(default_factory=list)


@contextmanager
def traced(parts: TransformerParts) -> Iterator[Trace]:
    """Yields a trace that the next forward pass of the network fills; the network is as before afterwards.

    Attention is computed explicitly meanwhile, also where a fused kernel would do it, so a gradient reaches it.
    """
    trace = Trace()
    with ExitStack() as stack:
        for block in parts.blocks:
            for norm, drop in ((block.norm1, block.drop_path1), (block.norm2, block.drop_path2)):
                stack.enter_context(_hook(norm.register_forward_pre_hook(partial(_keep_input, trace.skips))))
                stack.enter_context(_hook(drop.register_forward_hook(partial(_keep_output, trace.branches))))
            stack.enter_context(_explicit(block.attn, trace.attention))
            stack.enter_context(_hook(block.register_forward_hook(partial(_keep_output, trace.tokens))))
        first = parts.blocks[0].register_forward_pre_hook(partial(_keep_input, trace.tokens))
        stack.enter_context(_hook(first))
        yield trace


@contextmanager
def without_skips(block: Any) -> Iterator[None]:
    """Cuts both skip connections of a block: what attention and MLP compute replaces the tokens."""

    def cut(kept: list[Tensor], module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output - kept.pop()

    with ExitStack() as stack:
        for norm, drop in ((block.norm1, block.drop_path1), (block.norm2, block.drop_path2)):
            kept: list[Tensor] = []
            stack.enter_context(_hook(norm.register_forward_pre_hook(partial(_keep_input, kept))))
            stack.enter_context(_hook(drop.register_forward_hook(partial(cut, kept))))
        yield


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _keep_input(kept: list[Tensor], module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    kept.append(inputs[0])


def _keep_output(kept: list[Tensor], module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    kept.append(output)


@contextmanager
def _explicit(attention: Any, kept: list[Tensor]) -> Iterator[None]:
    def forward(x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if isinstance(attention, PositionAttention):
            weights, values = attention.weights(x), attention.queries_keys_values(x)[2]
        else:
            parts = attention.qkv(x).unflatten(-1, (3, attention.num_heads, attention.head_dim))
            queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
            queries, keys = attention.q_norm(queries) * attention.scale, attention.k_norm(keys)
            weights = (queries @ keys.transpose(-2, -1)).softmax(dim=-1)
        kept.append(weights)
        mixed = attention.norm((weights @ values).transpose(1, 2).flatten(2))
        gate = getattr(attention, "gate", None)
        out: Tensor = attention.proj(mixed if gate is None else mixed * gate(x).sigmoid())
        return out

    attention.forward = forward
    try:
        yield
    finally:
        del attention.forward


def class_gradients(model: ReidModel, parts: TransformerParts, images: Tensor) -> tuple[Trace, list[Tensor], Tensor]:
    """Returns the trace of images (B, 3, H, W), gradients of each one's best logit by its attention, and its class.

    The gradients are L tensors (B, h, T, T); the classes (B,) are the training identities with the largest logits.
    The model must be in evaluation mode, so that images do not influence each other.
    """
    with torch.enable_grad(), traced(parts) as trace:
        logits = model(images).logits
        best = logits.argmax(1)
        chosen = logits.gather(1, best[:, None]).sum()
    return trace, list(torch.autograd.grad(chosen, trace.attention)), best
