"""Features in MATLAB files, under the names that the field has used since its first code bases.

`{query,gallery}_f` are features, `{query,gallery}_label` pids and `{query,gallery}_cam` camids. MATLAB knows no vectors
and few integers, so ids come as (1, N) or (N, 1) and often as doubles. Our own names are read as well.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reidablate.errors import UserError, plain

Array = npt.NDArray[Any]

_FIELD = {"f": "features", "label": "pids", "cam": "camids"}
_THEIRS = {f"{side}_{ours}": f"{side}_{theirs}" for side in ("query", "gallery") for theirs, ours in _FIELD.items()}
_HDF5 = b"MATLAB 7.3 MAT-file"


def is_matlab(path: Path) -> bool:
    """Returns whether a file is read as MATLAB's, by its suffix."""
    return path.suffix.lower() == ".mat"


def read_names(path: Path) -> set[str]:
    """Returns our names of the variables in a MATLAB file; a variable without one keeps its own.

    Raises:
        UserError: The file cannot be read, or is of version 7.3, which is HDF5.
    """
    return set(_spellings(path))


def read_variable(path: Path, name: str) -> Array:
    """Returns a variable of a MATLAB file by our name: ids as a vector of whole numbers, features a row an image.

    Features are turned where their columns and not their rows are as many as the labels.

    Raises:
        UserError: The variable is missing, holds no plain numbers, or an id is not a whole number.
    """
    theirs = _spellings(path).get(name)
    if theirs is None:
        raise UserError(f"{path} holds no {name}; write it beside the others.")
    values = _load(path, theirs)
    if name.endswith(("_pids", "_camids")):
        return _whole(values, theirs, path)
    side = name.partition("_")[0]
    labels = _spellings(path).get(f"{side}_pids") if name.endswith("_features") else None
    if labels is None or values.ndim != 2:
        return values
    number = _load(path, labels).size
    return values.T if len(values) != number and values.shape[1] == number else values


def _spellings(path: Path) -> dict[str, str]:
    """Returns {our name: the file's name} of the variables in a file."""
    from scipy.io import whosmat

    if not path.is_file():
        raise UserError(f"{path} is missing; give a file of features or distances.")
    with path.open("rb") as stream:
        if stream.read(len(_HDF5)) == _HDF5:
            raise UserError(f"{path} is a MATLAB file of version 7.3 (HDF5); save it again with the option '-v7'.")
    try:
        found = [name for name, *_ in whosmat(path)]
    except Exception as error:  # scipy raises almost anything for a damaged file
        raise UserError(f"{path} is not a complete MATLAB file ({_reason(error)}); write it again.") from None
    ours = {theirs: name for name, theirs in _THEIRS.items()}
    # Texts are matrices of letters there, cut to one length, so names of images are not read.
    return {ours.get(name, name): name for name in found if not name.endswith("_names")}


def _load(path: Path, theirs: str) -> Array:
    from scipy.io import loadmat

    try:
        values = np.asarray(loadmat(path, variable_names=[theirs])[theirs])
    except Exception as error:  # see `_spellings`
        raise UserError(f"{theirs} of {path} cannot be read ({_reason(error)}); write the file again.") from None
    if values.dtype.kind not in "biuf":
        raise UserError(f"{theirs} of {path} holds no plain numbers; write a full matrix of real numbers.")
    return values


def _whole(values: Array, theirs: str, path: Path) -> Array:
    """Returns ids as a vector of integers."""
    if values.ndim != 2 or 1 not in values.shape:
        raise UserError(f"{theirs} of {path} has shape {values.shape}; give one id an image.")
    ids = values.ravel()
    with np.errstate(invalid="ignore"):
        whole = ids.astype(np.int64)
    if not np.array_equal(whole, ids):
        wrong = ids[np.flatnonzero(whole != ids)[0]]
        raise UserError(f"{theirs} of {path} holds {wrong}; give whole numbers.")
    return whole


def _reason(error: Exception) -> str:
    return plain(str(error))[:200] or type(error).__name__
