"""Reading and writing weights: TransReID-SSL and timm files, and our own safetensors.

Legend: g = rows * cols patches of a checkpoint, n of the model, D width.
"""

import argparse
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reidablate.artifacts import atomic_path, canonical_json, sha256_file
from reidablate.errors import UserError
from reidablate.models.neck import ReidModel
from reidablate.models.position import Grid

# Names of TransReID-SSL and timm (left) that differ from ours; a name stands for itself or a prefix before a dot.
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

_APE = "backbone.ape.table"
_PROJECTION = "backbone.stem.projection.weight"
# The allow-list: what a model may have and a file may lack or hold in another shape, and what is never used.
_OPTIONAL = re.compile(r"(neck|classifier)\.|backbone\.blocks\.\d+\.attn\.(rpe|cls_position)\.table$")
_UNUSED = re.compile(r"backbone\.((fc|head|head_dist|pre_logits)\.|dist_token$)")
_METADATA = "reidablate"


@dataclass(frozen=True)
class LoadReport:
    """What became of a weight file: names are ours, `ignored` are names of the file that were not used."""

    path: Path
    sha256: str
    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the file holds this very model: nothing resized, ignored or missing."""
        return not (self.resized or self.ignored or self.missing)


@dataclass(frozen=True)
class _Weights:
    """A file's tensors under our names; `grid` is None where the file does not tell it."""

    tensors: dict[str, Tensor]
    grid: Grid | None
    is_ours: bool

    def name_in_file(self, name: str) -> str:
        """Returns how the file spells a name of ours."""
        return name if self.is_ours else _rename(name.removeprefix("backbone."), _THEIRS)


def load_weights(model: ReidModel, path: Path, *, head: bool = True, hw_ratio: int | None = None) -> LoadReport:
    """Returns what was loaded into `model` from a weight file.

    Accepted are TransReID-SSL files (whole DINO checkpoints, of which the teacher's backbone is taken, and converted
    ones), files with timm's names, and our own. Absolute positions of another grid are resized. Only the classifier,
    the BNNeck, relative tables and CLS numbers may be missing or of another shape, and keep their values then; only
    they, a foreign `fc`, `head` or distillation token, and the positions of a model without learned ones are ignored.

    Args:
        model: Changed in place, and only if the whole file fits.
        path: The file; its suffix tells safetensors from torch files.
        head: Whether the BNNeck and a classifier of the right shape are taken over, as evaluation needs; fine-tuning
            from a pre-trained file starts with new ones.
        hw_ratio: Rows per column of the file's grid; None infers it (see `infer_grid`).

    Raises:
        UserError: The file cannot be read, or names that do not fit: all of them are listed.
    """
    weights = _read(path)
    state = model.state_dict()
    ignored = {name for name, value in weights.tensors.items() if _may_ignore(name, value, model, state, head=head)}
    values = {name: value for name, value in weights.tensors.items() if name not in ignored}
    resized: list[str] = []
    if _APE in values and _APE in state and values[_APE].dim() == 2:
        values[_APE], is_resized = _fit_positions(values[_APE], model.backbone.grid, weights.grid, hw_ratio, path)
        resized += [_APE] * is_resized
    projection = values.get(_PROJECTION)
    if projection is not None and projection.dim() == 2 and projection.numel() == state[_PROJECTION].numel():
        # Old timm files keep the convolution as a matrix.
        values[_PROJECTION] = projection.reshape(state[_PROJECTION].shape)
    _refuse_misfits(values, state, weights, path)
    model.load_state_dict(values, strict=False)
    return LoadReport(
        path=path,
        sha256=sha256_file(path),
        loaded=tuple(values),
        resized=tuple(resized),
        ignored=tuple(weights.name_in_file(name) for name in weights.tensors if name in ignored),
        missing=tuple(name for name in state if name not in values),
    )


def save_weights(model: ReidModel, path: Path) -> None:
    """Writes all weights and running statistics as safetensors, atomically; equal weights give equal bytes."""
    _write(model.state_dict(), model.backbone.grid, path)


def convert(source: Path, destination: Path, *, hw_ratio: int | None = None) -> None:
    """Writes the backbone of a foreign weight file as safetensors under our names, without its unused heads.

    Args:
        source: A file that `load_weights` reads.
        destination: The safetensors file.
        hw_ratio: Rows per column of the file's grid; None infers it (see `infer_grid`).

    Raises:
        UserError: The file cannot be read, holds no position embedding, or its grid is unknown.
    """
    weights = _read(source)
    if _APE not in weights.tensors:
        raise UserError(f"{source} holds no '{weights.name_in_file(_APE)}'; give the weights of a vision transformer.")
    grid = weights.grid or infer_grid(len(weights.tensors[_APE]) - 1, hw_ratio=hw_ratio, where=str(source))
    _write({name: value for name, value in weights.tensors.items() if not _UNUSED.match(name)}, grid, destination)


def infer_grid(num_patches: int, *, hw_ratio: int | None = None, where: str) -> Grid:
    """Returns the (rows, cols) of g patches whose rows are a whole multiple r of its columns.

    `rows = floor(sqrt(g r))`, `cols = rows // r`, as TransReID-SSL does with r = 2 for weights trained at 256 x 128
    and r = 1 for ImageNet. Without r the first of 1, 2, 3, 4 that leaves no patch over is taken.

    Raises:
        UserError: No such grid has g patches; `where` names the file.
    """
    for ratio in (1, 2, 3, 4) if hw_ratio is None else (hw_ratio,):
        rows = math.isqrt(num_patches * ratio)
        if rows * (rows // ratio) == num_patches:
            return rows, rows // ratio
    raise UserError(
        f"{where}: {num_patches} position rows are no grid with height/width ratio {hw_ratio or '1 to 4'}; "
        "give the ratio of the images the weights were trained on."
    )


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Returns absolute rows (1 + g, D) for another grid, (1 + n, D): CLS kept, patches interpolated bilinearly."""
    patches = table[1:].T.reshape(1, -1, *old)
    patches = F.interpolate(patches, size=new, mode="bilinear", align_corners=False)
    return torch.cat([table[:1], patches[0].flatten(1).T])


def _may_ignore(name: str, value: Tensor, model: ReidModel, state: Mapping[str, Tensor], *, head: bool) -> bool:
    """Returns whether an entry of a file is left out by the allow-list."""
    if name not in state:
        unused_positions = name == _APE and model.config.ape != "learned"
        return bool(_UNUSED.match(name) or _OPTIONAL.match(name)) or unused_positions
    is_head = name.startswith(("neck.", "classifier."))
    return bool(_OPTIONAL.match(name)) and (value.shape != state[name].shape or (is_head and not head))


def _fit_positions(table: Tensor, new: Grid, old: Grid | None, hw_ratio: int | None, path: Path) -> tuple[Tensor, bool]:
    """Returns absolute rows on the grid `new` and whether they had to be resized; `old` may be unknown."""
    if old is None:
        same_number = len(table) - 1 == new[0] * new[1]
        old = new if same_number else infer_grid(len(table) - 1, hw_ratio=hw_ratio, where=str(path))
    return (table, False) if old == new else (resize_positions(table.float(), old, new), True)


def _refuse_misfits(values: Mapping[str, Tensor], state: Mapping[str, Tensor], weights: _Weights, path: Path) -> None:
    """Raises one UserError that lists every name that does not fit and is not on the allow-list."""
    missing = [weights.name_in_file(name) for name in state if name not in values and not _OPTIONAL.match(name)]
    unexpected = [weights.name_in_file(name) for name in values if name not in state]
    misshaped = [
        f"{weights.name_in_file(name)} {tuple(value.shape)} instead of {tuple(state[name].shape)}"
        for name, value in values.items()
        if name in state and value.shape != state[name].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    problems = "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)
    if problems:
        raise UserError(f"{path} does not fit the model ({problems}); choose its backbone and stem, or another file.")


def _write(tensors: Mapping[str, Tensor], grid: Grid, path: Path) -> None:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # One metadata entry only: safetensors does not promise an order among several.
    metadata = {_METADATA: canonical_json({"grid": list(grid)})}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata=metadata)


def _read(path: Path) -> _Weights:
    if not path.is_file():
        raise UserError(f"{path} is missing; correct the path of the weights.")
    if path.suffix != ".safetensors":
        return _translate(_read_torch(path), path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error}); fetch or make it again.") from None
    if _METADATA not in metadata:
        return _translate(tensors, path)
    rows, cols = json.loads(metadata[_METADATA])["grid"]
    return _Weights(tensors, (rows, cols), is_ours=True)


def _read_torch(path: Path) -> Any:
    """Returns the content of a torch file, without running code from it."""
    try:
        # DINO stores its command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, LookupError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path} is no whole torch file of plain tensors ({reason}); fetch it again.") from None


def _translate(content: Any, path: Path) -> _Weights:
    """Returns the backbone of a foreign checkpoint under our names."""
    is_dino = False
    for wrapper in ("model", "state_dict", "teacher"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content, is_dino = content[wrapper], wrapper == "teacher"
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no named tensors; give a file of weights.")
    tensors = {str(name).removeprefix("module."): value for name, value in content.items()}
    if is_dino:
        tensors = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
    tensors = {_rename(name.removeprefix("backbone."), _OURS): value for name, value in tensors.items()}
    if "ape.table" in tensors and tensors["ape.table"].dim() == 3:
        rows = tensors["ape.table"][0]
        # A distilled transformer has a second special token, whose row is dropped.
        tensors["ape.table"] = torch.cat([rows[:1], rows[2:]]) if "dist_token" in tensors else rows
    return _Weights({f"backbone.{name}": value for name, value in tensors.items()}, None, is_ours=False)


def _rename(name: str, names: Mapping[str, str]) -> str:
    """Returns `name` with the entry of `names` that it equals or starts with replaced."""
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
