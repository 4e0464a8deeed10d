"""Weight files of backbones that are none of the study's transformers: names are taken as they are, behind one prefix.

timm's names, those of torchvision's ResNets (timm's are the same), and our own files are read; nothing is resized.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from reidablate.errors import UserError, plain
from reidablate.models.neck import ReidModel
from reidablate.models.weight_files import read_content

_NAMED = 5
_NET = "backbone.net."
_HEAD = ("neck.", "classifier.", "local_features.")


def fitting_values(model: ReidModel, path: Path, *, head: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors of a file as a model takes them, and the names of the file that are not used.

    Args:
        model: Whose names and shapes count; it is not touched.
        path: The file.
        head: Whether neck, classifier and local features are taken over where the file has them in the right shape.

    Raises:
        UserError: The file cannot be read, or lacks a tensor of the backbone or has it in another shape.
    """
    tensors, state = read_content(path).tensors, model.state_dict()
    prefix = _prefix(tensors, [name for name in state if name.startswith("backbone.")])
    values: dict[str, Tensor] = {}
    missing, misshaped = [], []
    for name, own in state.items():
        is_head = name.startswith(_HEAD)
        found = tensors.get(name if is_head else prefix + _inner(name))
        if is_head and (not head or found is None or found.shape != own.shape):
            continue
        if found is None:
            missing += [] if name.endswith("num_batches_tracked") else [prefix + _inner(name)]
        elif found.shape != own.shape:
            misshaped.append(f"{prefix}{_inner(name)} {tuple(found.shape)} instead of {tuple(own.shape)}")
        else:
            values[name] = found
    problems = {"missing": missing, "of another shape": misshaped}
    if said := [f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names]:
        raise UserError(
            f"{path} does not fit the backbone {model.config.backbone} ({'; '.join(said)}); choose the file's "
            "backbone and image size, or another file."
        )
    used = {name if name.startswith(_HEAD) else prefix + _inner(name) for name in values}
    return values, [name for name in tensors if name not in used]


def _inner(name: str) -> str:
    """Returns a name of our backbone as its network calls it."""
    return name.removeprefix(_NET) if name.startswith(_NET) else name.removeprefix("backbone.")


def _prefix(tensors: Mapping[str, Tensor], names: list[str]) -> str:
    """Returns what stands before the names of the network in a file: what most of its names stand behind."""
    inner = {_inner(name) for name in names}
    votes: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        votes.update(
            ".".join([*parts[:length], ""]) if length else ""
            for length in range(len(parts))
            if ".".join(parts[length:]) in inner
        )
    return votes.most_common(1)[0][0] if votes else ""


def _some(names: list[str]) -> str:
    return ", ".join(map(plain, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
