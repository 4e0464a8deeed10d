"""Weights into a model and out of it: files of other code bases, and our own safetensors.

Legend: g = rows * cols patches of a checkpoint, D width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file
from torch import Tensor

from reidablate.artifacts import atomic_path, canonical_json, sha256_file
from reidablate.errors import UserError, plain
from reidablate.models.neck import ReidModel
from reidablate.models.plain_weights import fitting_values
from reidablate.models.position import Grid
from reidablate.models.position_tables import infer_grid, place_grid, resize_positions
from reidablate.models.weight_files import METADATA, read_content
from reidablate.models.weight_names import UNUSED, Network, num_blocks, translate

_APE = "backbone.ape.table"
_PROJECTION = "backbone.stem.projection.weight"
# What a model may have and a file may lack or hold in another shape.
_OPTIONAL = re.compile(
    r"(neck|classifier|local_features)\."
    r"|backbone\.blocks\.\d+\.attn\.(rpe|cls_position)\.table$|backbone\.parts\."
)
_HEAD = ("neck.", "classifier.", "local_features.")  # what fine-tuning begins anew
_NAMED = 5  # names that a refusal spells out before it only counts


@dataclass(frozen=True)
class LoadReport:
    """What became of a weight file: names are ours, `ignored` are names of the file that were not used.

    Attributes:
        wrappers: Entries of the file in which the weights lie, from the outside in.
        prefix: What stands before the transformer's names in the file.
        positions: Grids of the file's position rows and the model's, None where there are none.
        notes: Sentences about what the file was trained with and the model lacks.
    """

    path: Path
    sha256: str
    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    wrappers: tuple[str, ...] = ()
    prefix: str = ""
    positions: tuple[Grid, Grid] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the file holds this very model: nothing resized, ignored or missing."""
        return not (self.resized or self.ignored or self.missing)

    @property
    def has_neck(self) -> bool:
        """Whether the file gave the BNNeck, without which there is no feature after it."""
        return not any(name.startswith("neck.") and not name.endswith("tracked") for name in self.missing)


@dataclass(frozen=True)
class WeightFile:
    """A weight file, read: its network, the entries around it, and the grid of its positions if it tells it."""

    path: Path
    network: Network
    wrappers: tuple[str, ...]
    grid: Grid | None

    @property
    def num_classes(self) -> int | None:
        """The number of identities of its classifier, None without one."""
        classifier = self.network.tensors.get("classifier.weight")
        return None if classifier is None or classifier.dim() != 2 else len(classifier)

    @property
    def kind(self) -> str:
        """In words what transformer the file holds."""
        tensors = self.network.tensors
        cls, table = tensors.get("backbone.cls_token"), tensors.get(_APE)
        if cls is None and table is None:
            return f"no vision transformer (its first names are {_some(list(map(self.network.spelling, tensors)))})"
        width = "unknown width" if cls is None or not cls.dim() else f"width {cls.shape[-1]}"
        rows = "no position rows" if table is None or not table.dim() else f"{len(table) - 1} position rows"
        return f"{num_blocks(tensors)} blocks of {width}, stem {self.stem}, {rows}"

    @property
    def stem(self) -> Literal["ics", "conv"]:
        """The stem by its name in `ModelConfig`."""
        return "ics" if any(name.startswith("backbone.stem.conv1.") for name in self.network.tensors) else "conv"


@dataclass(frozen=True)
class _Fit:
    """The tensors of a file as a model takes them, by our names, and what is left."""

    values: dict[str, Tensor]
    ignored: tuple[str, ...]
    resized: tuple[str, ...]
    positions: tuple[Grid, Grid] | None = field(default=None)


def load_weights(model: ReidModel, path: Path, *, head: bool = True, hw_ratio: float | None = None) -> LoadReport:
    """Returns what was loaded into `model` from a weight file.

    Accepted are our own files and those that `weight_names` knows: TransReID and TransReID-SSL (pre-trained ones, of a
    DINO checkpoint the teacher, and fine-tuned ones with their BNNeck), timm, DeiT, MAE; one prefix of all names does
    not matter. Absolute positions of another grid are resized. Only the classifier, the BNNeck, local features,
    relative tables, CLS numbers and parts may be missing or of another shape, and keep their values then; only they,
    the parts in `weight_names.UNUSED`, and the positions of a model without learned ones are ignored.

    Args:
        model: Changed in place, and only if the whole file fits.
        path: The file.
        head: Whether the BNNeck, local features and a classifier of the right shape are taken over, as evaluation
            needs; fine-tuning from a pre-trained file starts with new ones.
        hw_ratio: Rows per column of the file's grid; None infers it (see `place_grid`).

    Raises:
        UserError: The file cannot be read, holds NaN or infinity, or has names that do not fit.
    """
    if model.transformer is None:
        report, values = check_plain_fit(model, path, head=head)
    else:
        report, values = check_fit(model, read_weights(path), head=head, hw_ratio=hw_ratio)
    model.load_state_dict(values, strict=False)
    if not head:
        model.copy_initial()
    return report


def read_weights(path: Path) -> WeightFile:
    """Returns the network in a weight file.

    Raises:
        UserError: The file cannot be read, holds NaN or infinity, or not exactly one transformer.
    """
    content = read_content(path)
    network = translate(content, path)
    grid = None if content.ours is None else _written_grid(content.ours, network.tensors.get(_APE), path)
    return WeightFile(path, network, content.wrappers, grid)


def check_fit(
    model: ReidModel, file: WeightFile, *, head: bool = True, hw_ratio: float | None = None
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Returns what `load_weights` would report, and the values it would load; the model is not touched.

    Raises:
        UserError: The file does not fit the model.
    """
    state = model.state_dict()
    file = replace(file, network=file.network.known_as(model.foreign_names))
    fit = _fit(model, state, file, head=head, hw_ratio=hw_ratio)
    _refuse_misfits(model, state, fit.values, file)
    report = LoadReport(
        path=file.path,
        sha256=sha256_file(file.path),
        loaded=tuple(fit.values),
        resized=fit.resized,
        ignored=fit.ignored,
        missing=tuple(name for name in state if name not in fit.values),
        wrappers=file.wrappers,
        prefix=file.network.prefix,
        positions=fit.positions,
        notes=file.network.notes,
    )
    return report, fit.values


def check_plain_fit(model: ReidModel, path: Path, *, head: bool = True) -> tuple[LoadReport, dict[str, Tensor]]:
    """Returns the same for a model whose backbone is none of the study's transformers.

    Raises:
        UserError: The file cannot be read or does not fit the model.
    """
    values, ignored = fitting_values(model, path, head=head)
    missing = tuple(name for name in model.state_dict() if name not in values)
    return LoadReport(path, sha256_file(path), tuple(values), (), tuple(ignored), missing), values


def save_weights(model: ReidModel, path: Path) -> None:
    """Writes all weights and running statistics as safetensors, atomically; equal weights give equal bytes."""
    _write(model.state_dict(), model.backbone.grid, path)


def convert(source: Path, destination: Path, *, hw_ratio: float | None = None) -> None:
    """Writes a foreign weight file as safetensors under our names, with its BNNeck and without its unused parts.

    Args:
        source: A file that `load_weights` reads.
        destination: The safetensors file.
        hw_ratio: Rows per column of the file's grid; None infers it (see `infer_grid`).

    Raises:
        UserError: The file cannot be read, holds no position embedding, or its grid is unknown.
    """
    file = read_weights(source)
    tensors, table = file.network.tensors, file.network.tensors.get(_APE)
    if table is None or table.dim() != 2:
        first = _some([file.network.spelling(name) for name in tensors])
        raise UserError(
            f"{source} holds no '{file.network.spelling(_APE)}' with one row a token (its first names are {first}); "
            "give the weights of a vision transformer."
        )
    grid = file.grid or infer_grid(len(table) - 1, hw_ratio=hw_ratio, where=str(source))
    _write({name: value.clone() for name, value in tensors.items() if not UNUSED.match(name)}, grid, destination)


def _fit(
    model: ReidModel, state: Mapping[str, Tensor], file: WeightFile, *, head: bool, hw_ratio: float | None
) -> _Fit:
    tensors = file.network.tensors
    unused = {name for name, value in tensors.items() if _may_ignore(name, value, model, state, head=head)}
    values = {name: value for name, value in tensors.items() if name not in unused}
    positions = None
    if _APE in values and _APE in state and values[_APE].dim() == 2:
        own, number = model.backbone.grid, len(values[_APE]) - 1
        old = file.grid or place_grid(number, own, hw_ratio=hw_ratio, where=str(file.path))
        positions = old, own
        if old != own:
            values[_APE] = resize_positions(values[_APE].float(), old, own)
    projection = values.get(_PROJECTION)
    if projection is not None and projection.dim() == 2 and projection.numel() == state[_PROJECTION].numel():
        # Old timm files keep the convolution as a matrix.
        values[_PROJECTION] = projection.reshape(state[_PROJECTION].shape)
    ignored = tuple(file.network.spelling(name) for name in tensors if name in unused)
    resized = (_APE,) if positions and positions[0] != positions[1] else ()
    return _Fit(values, ignored, resized, positions)


def _may_ignore(name: str, value: Tensor, model: ReidModel, state: Mapping[str, Tensor], *, head: bool) -> bool:
    """Returns whether an entry of a file is left out by the allow-list."""
    if name not in state:
        unused_positions = name == _APE and model.config.ape != "learned"
        return bool(UNUSED.match(name) or _OPTIONAL.match(name)) or unused_positions
    is_head = name.startswith(_HEAD)
    return bool(_OPTIONAL.match(name)) and (value.shape != state[name].shape or (is_head and not head))


def _refuse_misfits(
    model: ReidModel, state: Mapping[str, Tensor], values: Mapping[str, Tensor], file: WeightFile
) -> None:
    """Raises one UserError that counts the names that do not fit and are not on the allow-list, and gives the first."""
    spelling = file.network.spelling
    if not values.keys() & {"backbone.cls_token", _APE}:
        raise UserError(
            f"{file.path} holds {file.kind}, but {model.config.backbone} is one; give the weights of a vision "
            "transformer under the names of TransReID, timm, DeiT, DINO or MAE."
        )
    missing = [spelling(name) for name in state if name not in values and not _OPTIONAL.match(name)]
    unexpected = [spelling(name) for name in values if name not in state]
    misshaped = [
        f"{spelling(name)} {_form(value)} instead of {_form(state[name])}"
        for name, value in values.items()
        if name in state and _form(value) != _form(state[name])
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    problems = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names)
    if problems:
        own = f"{len(model.backbone.blocks)} blocks of width {model.classifier.in_features}, stem {model.config.stem}"
        raise UserError(
            f"{file.path} does not fit the model ({problems}); the file has {file.kind}, the model "
            f"{model.config.backbone} {own}: choose the file's backbone and stem, or another file."
        )


def _form(value: Tensor) -> str:
    """Returns the shape of a tensor, and that it holds whole numbers if it does."""
    return f"{tuple(value.shape)}" + ("" if value.is_floating_point() else " of whole numbers")


def _some(names: list[str]) -> str:
    return ", ".join(map(plain, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")


def _written_grid(written: object, table: Tensor | None, path: Path) -> Grid:
    """Returns the grid that one of our own files tells, if it is that of its position rows."""
    grid = written.get("grid") if isinstance(written, dict) else None
    rows, cols = grid if isinstance(grid, list) and len(grid) == 2 else (0, 0)
    is_grid = type(rows) is int and type(cols) is int and min(rows, cols) > 0
    if not is_grid or (table is not None and (table.dim() != 2 or len(table) != 1 + rows * cols)):
        raise UserError(f"{path} is damaged (the grid in its header is not that of its positions); make it again.")
    return rows, cols


def _write(tensors: Mapping[str, Tensor], grid: Grid, path: Path) -> None:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # One metadata entry only: safetensors does not promise an order among several.
    metadata = {METADATA: canonical_json({"grid": list(grid)})}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata=metadata)
