"""Files with the very names and shapes of released weights and with numbers that tell the tensors apart.

Names and shapes are those of ViT-S with 12 blocks (width 384) as these write them: damo-cv/TransReID (`make_model.py`,
`vit_pytorch.py`), damo-cv/TransReID-SSL (`transreid_pytorch`, `dino`), timm, facebookresearch/deit,
facebookresearch/dino and facebookresearch/mae. Tensor i holds one number everywhere, expanded from one element, so that
a file is small and made in milliseconds; position rows differ from row to row.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

WIDTH = 384
Tensors = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]

BLOCK: dict[str, tuple[int, ...]] = {
    "norm1.weight": (WIDTH,),
    "norm1.bias": (WIDTH,),
    "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.qkv.bias": (3 * WIDTH,),
    "attn.proj.weight": (WIDTH, WIDTH),
    "attn.proj.bias": (WIDTH,),
    "norm2.weight": (WIDTH,),
    "norm2.bias": (WIDTH,),
    "mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "mlp.fc1.bias": (4 * WIDTH,),
    "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
    "mlp.fc2.bias": (WIDTH,),
}
CONV_STEM: dict[str, tuple[int, ...]] = {"proj.weight": (WIDTH, 3, 16, 16), "proj.bias": (WIDTH,)}
_IBN: dict[str, tuple[int, ...]] = {
    **{f"IN.{name}": (32,) for name in ("weight", "bias")},
    **{f"BN.{name}": (32,) for name in ("weight", "bias", "running_mean", "running_var")},
    "BN.num_batches_tracked": (),
}
ICS_STEM: dict[str, tuple[int, ...]] = {
    "conv.0.weight": (64, 3, 7, 7),
    **{f"conv.1.{name}": shape for name, shape in _IBN.items()},
    "conv.3.weight": (64, 64, 3, 3),
    **{f"conv.4.{name}": shape for name, shape in _IBN.items()},
    "conv.6.weight": (64, 64, 3, 3),
    **{f"conv.7.{name}": (64,) for name in ("weight", "bias", "running_mean", "running_var")},
    "conv.7.num_batches_tracked": (),
    "proj.weight": (WIDTH, 64, 8, 8),
    "proj.bias": (WIDTH,),
}
NECK: dict[str, tuple[int, ...]] = {
    **{name: (WIDTH,) for name in ("weight", "bias", "running_mean", "running_var")},
    "num_batches_tracked": (),
}


def numbered(shapes: Shapes, start: int = 1) -> Tensors:
    """Tensors of these shapes; the i-th holds the number `start + i` everywhere, counters as whole numbers."""
    return {
        name: torch.tensor(start + i if name.endswith("tracked") else float(start + i)).expand(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def positions(rows: int) -> Tensor:
    """Position rows (1, rows, D) that all differ, with no pattern that a wrong axis would keep."""
    return torch.randn(1, rows, WIDTH, generator=torch.Generator().manual_seed(rows))


def transformer(patches: int, *, stem: str = "conv", special: int = 1, start: int = 1) -> Tensors:
    """The transformer alone under timm's names; `special` tokens have a position row each before the patches."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, special + patches, WIDTH)}
    shapes |= {f"patch_embed.{name}": shape for name, shape in (ICS_STEM if stem == "ics" else CONV_STEM).items()}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(12) for name, shape in BLOCK.items()}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    return numbered(shapes, start) | {"pos_embed": positions(special + patches)}


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def transreid(patches: int = 128, *, stem: str = "conv", cameras: int = 0, parts: bool = False) -> Tensors:
    """A fine-tuned file of TransReID or TransReID-SSL, with camera embeddings and jigsaw parts where asked for."""
    found = prefixed(transformer(patches, stem=stem), "base.")
    if cameras:
        found["base.sie_embed"] = torch.full((cameras, 1, WIDTH), 0.5)
    found |= numbered({"base.fc.weight": (1000, WIDTH), "base.fc.bias": (1000,)}, 900)
    if parts:
        for branch, start in (("b1", 2000), ("b2", 3000)):
            shapes = {f"{branch}.0.{name}": shape for name, shape in BLOCK.items()}
            found |= numbered(shapes | {f"{branch}.1.weight": (WIDTH,), f"{branch}.1.bias": (WIDTH,)}, start)
    for i, end in enumerate(["", "_1", "_2", "_3", "_4"] if parts else [""]):
        found |= numbered({f"classifier{end}.weight": (751, WIDTH)}, 4000 + i)
        found |= numbered({f"bottleneck{end}.{name}": shape for name, shape in NECK.items()}, 5000 + 10 * i)
    return found


def dino(patches: int = 128, *, stem: str = "ics", parallel: bool = True) -> dict[str, Any]:
    """A whole checkpoint of DINO's training: student, teacher, optimiser, command line."""
    head = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2, 1)}
    teacher = prefixed(transformer(patches, stem=stem), "backbone.") | head
    student = prefixed(transformer(patches, stem=stem, start=7000), "backbone.") | head
    return {
        "student": prefixed(student, "module."),
        "teacher": prefixed(teacher, "module." if parallel else ""),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.0005, global_crops_scale=(0.4, 1.0)),
        "dino_loss": {"center": torch.zeros(1, 2)},
    }


def mae(patches: int = 196) -> dict[str, Any]:
    """A checkpoint of MAE with its decoder (width 512, 8 blocks, shortened to one)."""
    decoder = {
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, patches + 1, 512),
        "decoder_embed.weight": (512, WIDTH),
    }
    decoder |= {"decoder_embed.bias": (512,), "decoder_blocks.0.norm1.weight": (512,), "decoder_norm.weight": (512,)}
    decoder |= {"decoder_pred.weight": (768, 512), "decoder_pred.bias": (768,)}
    args = argparse.Namespace(model="mae_vit", mask_ratio=0.75)
    return {"model": transformer(patches) | numbered(decoder, 8000), "epoch": 399, "args": args}


def deit(patches: int = 196) -> dict[str, Any]:
    """A distilled DeiT: a second special token with a position row and a head of its own."""
    heads = {f"{head}.{part}": shape for head in ("head", "head_dist") for part, shape in HEAD.items()}
    extra = {"dist_token": (1, 1, WIDTH), **heads}
    return {"model": transformer(patches, special=2) | numbered(extra, 8000)}


HEAD: dict[str, tuple[int, ...]] = {"weight": (1000, WIDTH), "bias": (1000,)}


def timm(patches: int = 196) -> Tensors:
    """A file of timm's `vit_small_patch16_224`."""
    return transformer(patches) | numbered({f"head.{part}": shape for part, shape in HEAD.items()}, 900)


def lightning(tensors: Tensors, prefix: str = "model.") -> dict[str, Any]:
    """The same tensors in a checkpoint of PyTorch Lightning, behind the name of the module that holds them."""
    return {"epoch": 9, "state_dict": prefixed(tensors, prefix), "hyper_parameters": {"lr": 0.1}}


def torchreid(tensors: Tensors) -> dict[str, Any]:
    """The same tensors in a checkpoint that keeps its best scores as NumPy numbers."""
    scores = {"rank1": np.float64(0.941), "epoch": np.int64(60), "is_best": np.bool_(True), "mAP": np.float32(0.871)}
    return {"state_dict": prefixed(tensors, "module."), **scores}


def saved(content: Any, path: Path) -> Path:
    """Writes a torch file and returns its path."""
    torch.save(content, path)
    return path
