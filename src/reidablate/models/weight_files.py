"""Weight files of any origin as named tensors. Nothing in a file is ever run.

Every failure of the libraries that read them ends in one sentence: they raise almost any exception for a damaged file.
"""

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from reidablate.errors import UserError, plain
from reidablate.initial_weights import first_bytes

METADATA = "reidablate"  # the key of our own entry in the header of a safetensors file
# Entries that hold the weights of a checkpoint; the first that is there, as DINO keeps a student beside its teacher.
_WRAPPERS = ("teacher", "model", "state_dict", "model_state_dict", "module", "net")
_DEEPEST = 4
_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
_LONGEST_REASON = 300


def _harmless() -> list[Any]:
    """Returns what a checkpoint may hold beside tensors: DINO's command line, and numbers of NumPy.

    A NumPy scalar is pickled as a call of `scalar` with a dtype and its bytes. `scalar` moved with NumPy 2, and a file
    names the place where it was when the file was written. The object dtype, which holds anything, is not among them.
    """
    scalar = np.float64(0).__reduce__()[0]
    places = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *places, *(type(np.dtype(code)) for code in "?bhilqBHILQefdgFDSU")]


@dataclass(frozen=True)
class Content:
    """What a weight file holds.

    Attributes:
        tensors: By name, as the file spells it.
        wrappers: The entries of the file in which they lie, from the outside in.
        ours: Our own entry in the header, None in a file of others.
    """

    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...] = ()
    ours: Any = None


def read_content(path: Path) -> Content:
    """Returns the named tensors of a torch or safetensors file; the bytes tell which it is, not the name.

    Raises:
        UserError: The file is missing, damaged, of another kind, holds objects that are not plain numbers, or has no
            named tensors.
    """
    head = first_bytes(path)
    is_safetensors = path.suffix == ".safetensors" or (head[8:9] == b"{" and not head.startswith(b"PK"))
    try:
        content = _read_safetensors(path) if is_safetensors else _read_torch(path)
        _refuse_unplain(content, path)
    except UserError:
        raise
    except Exception as error:  # see the head of the module
        raise UserError(_refusal(path, error)) from None
    return content


def _read_safetensors(path: Path) -> Content:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        written = (file.metadata() or {}).get(METADATA)
    return Content(tensors, ours=None if written is None else json.loads(written))


def _read_torch(path: Path) -> Content:
    with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
        warnings.simplefilter("ignore")  # of pickle protocols and storages, which are no business of the user
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    wrappers: list[str] = []
    while len(wrappers) < _DEEPEST and (name := _wrapper(found)) is not None:
        wrappers.append(str(name))
        found = found[name]
    entries = found.items() if isinstance(found, Mapping) else ()
    return Content({str(name): value for name, value in entries if isinstance(value, Tensor)}, tuple(wrappers))


def _wrapper(content: Any) -> Any:
    """Returns the name of the entry that holds the weights, None where they are not further inside."""
    if not isinstance(content, Mapping):
        return None
    inner = [name for name, value in content.items() if isinstance(value, Mapping)]
    known = next((name for name in _WRAPPERS if name in inner), None)
    if known is not None or any(isinstance(value, Tensor) for value in content.values()):
        return known
    full = [name for name in inner if any(isinstance(value, Tensor) for value in content[name].values())]
    return full[0] if len(full) == 1 else None


def _refusal(path: Path, error: Exception) -> str:
    """Returns the sentence for a file that cannot be read, with advice that follows from the cause."""
    reason = str(error)
    if found := re.search(r"GLOBAL (\S+)", reason):
        return (
            f"{path} holds an object '{plain(found[1])[:80]}', which may run code when it is read; "
            "save the weights alone with torch.save(model.state_dict(), PATH)."
        )
    if "TorchScript" in reason:
        return f"{path} is a TorchScript archive; save the weights alone with torch.save(model.state_dict(), PATH)."
    # What torch puts around the cause advises to run the code in the file.
    reason = reason.partition("WeightsUnpickler error:")[2] or reason
    reason = plain(reason.partition("Check the documentation of torch.load")[0])
    reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
    return f"{path} is not a complete weight file ({reason or type(error).__name__}); fetch it again."


def _refuse_unplain(content: Content, path: Path) -> None:
    """Refuses what is no plain tensor of finite numbers."""
    if not content.tensors:
        raise UserError(f"{path} holds no named tensors; give a file of weights.")
    for name, value in content.tensors.items():
        kind = _unplain(value)
        if kind:
            raise UserError(f"{path}: '{plain(name)}' is {kind}; save plain numbers of at most 64 bits.")
    bad = [name for name, value in content.tensors.items() if not _is_finite(value)]
    if bad:
        names = ", ".join(map(plain, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise UserError(
            f"{path} holds NaN, infinity or numbers beyond 32 bits in {len(bad)} of {len(content.tensors)} tensors "
            f"({names}); its training diverged or the file is damaged, give another."
        )


def _unplain(value: Tensor) -> str | None:
    """Returns what a tensor is that cannot be copied number by number, None if it can."""
    if value.layout is not torch.strided or value.is_nested:
        return "sparse or nested"
    if value.is_quantized or value.dtype not in _DTYPES:
        return f"stored as {str(value.dtype).removeprefix('torch.')}"
    return "without values" if value.is_meta else None


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.detach().float().isfinite().all())
