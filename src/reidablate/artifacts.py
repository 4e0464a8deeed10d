"""Reading and writing what the stages hand to each other: atomic, free of code, one format each."""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reidablate.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

_TEMPORARY = ".tmp-"  # begins the names of files that are not whole yet
_FULL_BYTES = 2**20  # a disk with less is full


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it is fsynced and renamed to `path`.

    Readers see the old file or the whole new one, never a part, also after a power loss. On an exception the
    temporary file is removed and `path` is left as it was.

    Raises:
        UserError: The folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY, suffix=f"-{path.name}")
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free the disk or fix the folder's rights.") from error
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        flush(path.parent)
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        if reason is None and shutil.disk_usage(path.parent).free < _FULL_BYTES:
            reason = os.strerror(
                errno.ENOSPC
            )  # torch, safetensors and matplotlib put a full disk in words of their own
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}; free the disk or fix the folder's rights.") from error
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def only_writer(folder: Path, name: str) -> Iterator[None]:
    """Holds the lock of a folder, so that what is written there has one writer; a second one says so and waits.

    The kernel frees the lock when its holder dies, however it dies; the next one removes what that one left half
    written. Readers need no lock: every file appears whole.

    Args:
        folder: Made if it is not there; the lock is the file `.lock` in it.
        name: What the folder holds, for the sentence of whoever waits.

    Raises:
        UserError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{name}: another process is writing {folder}; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; free the disk or fix its rights.") from error
    try:
        remove_half_written(folder)
        yield
    finally:
        lock.release()


def remove_half_written(folder: Path) -> None:
    """Deletes what killed writers left half written in a folder, which nobody else may be writing now."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        UserError: The file is missing, cannot be read or is not whole JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that makes it first.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a file that you may read.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not whole JSON ({error}); delete it and repeat the stage that makes it.") from None


def read_record(path: Path, model: type[M]) -> M:
    """Returns the content of a JSON file as a validated model.

    Raises:
        UserError: What `read_json` refuses, or the first key that is not what the model says.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    problem = f"'{key}': {first['msg']}" if key else first["msg"]
    raise UserError(f"{path} is of another form ({problem}); delete it and repeat the stage that makes it.")


def canonical_json(value: Any) -> str:
    """Returns JSON with sorted keys and no spaces: equal values give equal text, whatever their order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Writes a data frame atomically as `.parquet` or `.csv`, by the suffix of `path`, without its index."""
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


def read_table(path: Path, columns: Iterable[str] = ()) -> "pd.DataFrame":
    """Returns a data frame from a Parquet file, which may have more columns than it needs.

    Raises:
        UserError: The file is missing or broken, or lacks one of the `columns`.
    """
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that makes it first.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and repeat the stage that makes it.") from None
    if missing := [name for name in columns if name not in frame.columns]:
        raise UserError(f"{path} lacks the column {', '.join(missing)}; delete it and repeat the stage that makes it.")
    return frame


def write_npz(path: Path, arrays: Mapping[str, "np.ndarray[Any, Any]"]) -> None:
    """Writes named arrays atomically as an uncompressed `.npz` without pickled objects."""
    import numpy as np

    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **dict(arrays))


def read_npz(path: Path, names: Iterable[str] = ()) -> dict[str, "np.ndarray[Any, Any]"]:
    """Returns the arrays of an `.npz` file; pickled objects are refused.

    Raises:
        UserError: The file is missing, truncated, or holds pickled objects, or lacks one of the `names`.
    """
    import zipfile

    import numpy as np

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that makes it first.") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no whole .npz of plain arrays ({error}); make it again.") from None
    if missing := [name for name in names if name not in arrays]:
        raise UserError(f"{path} lacks the array {', '.join(missing)}; make it again.")
    return arrays
