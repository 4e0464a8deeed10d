"""What other code bases call the tensors of our network: TransReID, TransReID-SSL, timm, DeiT, DINO and MAE.

A file holds one transformer, whose names share a prefix (`base.`, `backbone.`, none, or one that nobody knows), and
beside it what was trained on its feature: neck, classifier, parts. Nothing is guessed from a shape.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from reidablate.errors import UserError, plain
from reidablate.models.weight_files import Content

# Names within the transformer (left) that differ from ours; a name stands for itself or a prefix before a dot.
_OURS = {
    "patch_embed.conv.0": "stem.conv1",
    "patch_embed.conv.1.IN": "stem.norm1.instance",
    "patch_embed.conv.1.BN": "stem.norm1.batch",
    "patch_embed.conv.3": "stem.conv2",
    "patch_embed.conv.4.IN": "stem.norm2.instance",
    "patch_embed.conv.4.BN": "stem.norm2.batch",
    "patch_embed.conv.6": "stem.conv3",
    "patch_embed.conv.7": "stem.norm3",
    "patch_embed.proj": "stem.projection",
    "pos_embed": "ape.table",
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_BESIDE = {"bottleneck": "neck"}
_MARKS = (
    *("cls_token", "pos_embed", "ape.table", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight", "norm.bias"),
    *("patch_embed.proj.weight", "stem.projection.weight"),
)
_BESIDE_NAME = re.compile(r"(neck|classifier|bottleneck(_\d+)?|classifier_\d+|b[12]\.\d+)\.")
_WRAPPED = re.compile(r"(module\.|_orig_mod\.)+")  # what parallel and compiled modules put before every name

# Never used: heads of the pre-training, the second token of DeiT, cameras and parts of TransReID, MAE's decoder.
UNUSED = re.compile(
    r"(backbone\.)?(fc|head|head_dist|pre_logits|decoder_(embed|blocks|norm|pred)|bottleneck_\d+|classifier_\d+|b[12])\."
    r"|backbone\.(dist_token|sie_embed|mask_token|masked_embed|decoder_pos_embed)$"
)


@dataclass(frozen=True)
class Network:
    """The tensors of a file under our names.

    Attributes:
        tensors: By our name; a name that is not ours stays, behind `backbone.` where it stood in the transformer.
        prefix: What stands before the transformer's names in the file.
        is_ours: Whether the file spells the names as we do.
        known: What a model told of the names of the file, theirs to ours.
    """

    tensors: dict[str, Tensor]
    prefix: str
    is_ours: bool
    known: dict[str, str] = field(default_factory=dict)

    def known_as(self, names: Mapping[str, str]) -> "Network":
        """Returns the network with these names replaced, each of which stands for itself or a prefix before a dot."""
        tensors = {_rename(name, names): value for name, value in self.tensors.items()}
        return replace(self, tensors=tensors, known=dict(names))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what the file has and no model that it is known to uses."""
        notes = []
        if "backbone.sie_embed" in self.tensors:
            notes.append("trained with camera or view embeddings (sie_embed), which are not used; its scores change")
        if any(name.startswith("b2.0.") for name in self.tensors):
            notes.append("trained with jigsaw parts; its global branch (b1) is used and its part features are not")
        return tuple(notes)

    def spelling(self, name: str) -> str:
        """Returns how the file spells a name of ours, without its prefix."""
        if self.is_ours:
            return name
        name = _rename(name, {ours: theirs for theirs, ours in self.known.items()})
        inner = name.removeprefix("backbone.")
        return _rename(inner, _THEIRS) if inner != name else _rename(name, {v: k for k, v in _BESIDE.items()})


def translate(content: Content, path: Path) -> Network:
    """Returns the one transformer of a file, and what belongs to it, under our names.

    Raises:
        UserError: The file holds several transformers, or the same name twice.
    """
    named = _bare(content.tensors, path)
    prefix = _prefix(named, path)
    if content.wrappers[-1:] == ("teacher",):  # DINO's head was trained for another task
        named = {name: value for name, value in named.items() if name.startswith(prefix)}
    outer = _common_prefix(named, prefix)
    tensors: dict[str, Tensor] = {}
    for name, value in named.items():
        inner = name.removeprefix(prefix) if name.startswith(prefix) else None
        if inner is None or (not prefix and _BESIDE_NAME.match(name)):
            tensors[_rename(name.removeprefix(outer), _BESIDE)] = value
        else:
            tensors[f"backbone.{_rename(inner, _OURS)}"] = value
    tensors = _with_global_branch(tensors)
    return Network(_with_flat_positions(tensors), prefix, is_ours=f"{prefix}stem.projection.weight" in named)


def num_blocks(tensors: Mapping[str, Tensor]) -> int:
    """Returns the number of blocks of a transformer under our names."""
    found = (re.match(r"backbone\.blocks\.(\d{1,4})\.", name) for name in tensors)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _bare(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, value in tensors.items():
        bare = name[match.end() :] if (match := _WRAPPED.match(name)) else name
        if bare in named:
            raise UserError(f"{path} holds '{plain(bare)}' twice, once behind 'module.'; save one of them.")
        named[bare] = value
    return named


def _prefix(names: Mapping[str, Tensor], path: Path) -> str:
    """Returns what stands before the names of the transformer: the prefix under which most of its parts are found."""
    votes = Counter(
        name.removesuffix(mark) for name in names for mark in _MARKS if name == mark or name.endswith(f".{mark}")
    )
    most = max(votes.values(), default=0)
    found = [prefix for prefix, number in votes.items() if number == most]
    if len(found) > 1 and most > 1:
        networks = ", ".join(f"'{plain(prefix)}'" for prefix in found[:5])
        raise UserError(f"{path} holds {len(found)} transformers (behind {networks}); save one of them alone.")
    return found[0] if len(found) == 1 else ""


def _common_prefix(names: Mapping[str, Tensor], inner: str) -> str:
    """Returns the longest part of the transformer's prefix, up to a dot, with which all names start."""
    parts = inner.split(".")
    prefixes = (".".join([*parts[:length], ""]) for length in range(len(parts) - 1, 0, -1))
    return next((prefix for prefix in prefixes if all(name.startswith(prefix) for name in names)), "")


def _with_global_branch(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a network with jigsaw parts as its global branch: `b1` is the last block and the norm that were trained.

    In TransReID's `build_transformer_local` those of the transformer itself are copied at the start and never run.
    """
    places = {"b1.0.": f"backbone.blocks.{num_blocks(tensors) - 1}.", "b1.1.": "backbone.norm."}
    branch = {
        place + name.removeprefix(part): value
        for part, place in places.items()
        for name, value in tensors.items()
        if name.startswith(part)
    }
    rest = {name: value for name, value in tensors.items() if not name.startswith(tuple(places))}
    return rest | branch


def _with_flat_positions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a network whose position rows are a matrix, without that of a distillation token."""
    table = tensors.get("backbone.ape.table")
    if table is None or table.dim() != 3 or len(table) != 1:
        return tensors
    rows = table[0]
    if "backbone.dist_token" in tensors:
        rows = torch.cat([rows[:1], rows[2:]])
    return tensors | {"backbone.ape.table": rows}


def _rename(name: str, names: Mapping[str, str]) -> str:
    """Returns `name` with the entry of `names` that it equals or starts with replaced."""
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
