"""Reading and writing what the stages hand to each other: atomic, free of code, one format each."""

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reidablate.errors import UserError, check_file, reading, reason, shortened

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

_TEMPORARY = ".tmp-"  # begins the names of files that are not whole yet
_FULL_BYTES = 2**20  # a disk with less is full
_RECORD_BYTES = 2**28  # far more than the plan of any study has
_AGAIN = "run the same command again, which makes it again"
_MAKE_FIRST = "run the stage that makes it first"
_HALF = re.compile("[\ud800-\udfff]")  # half of a surrogate pair: no letter, and no UTF-8
_FORMULA = re.compile(r"[=@\t\r]|[-+](?![\w.]*$)")  # what a spreadsheet would compute


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
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}-{path.name}")
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free the disk or fix the folder's rights.") from error
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        if reason is None:  # torch, safetensors and matplotlib put a full disk in words of their own
            reason = _why_full(temporary)
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}; free the disk or fix the folder's rights.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _why_full(path: Path) -> str | None:
    """Returns why a file cannot grow (the disk or a quota is full, or a limit is reached), None if it can."""
    try:
        with path.open("ab") as stream:
            stream.write(bytes(_FULL_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error.strerror
    return None


def flush(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    except (OSError, NotImplementedError) as error:  # a disk without locks
        raise UserError(f"cannot write {folder}: {reason(error)}; free the disk or fix its rights.") from error
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
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN and infinity are refused.

    A record that names its own checksum (see `write_record`) gets the one of its content.
    """
    if isinstance(value, dict) and isinstance(value.get("sha256"), dict) and path.name in value["sha256"]:
        value = sealed(value, path.name)
    write_text(path, _dumped(value, indent=2) + "\n")


def write_record(path: Path, record: Mapping[str, Any], files: Iterable[str] = ()) -> None:
    """Writes a JSON record that names, under `sha256`, the files beside it and its own content.

    What is written last vouches for the rest: `integrity.broken_files` finds a file that has changed since.

    Args:
        path: The record.
        record: Its content.
        files: Names of files in the same folder, which are there already.
    """
    digests = {**record.get("sha256", {}), **{name: sha256_file(path.parent / name) for name in files}}
    write_json(path, {**record, "sha256": {**digests, path.name: ""}})


def sealed(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns a record with the SHA-256 of its own canonical JSON under `sha256`, in the place of its file's `name`."""
    others = {key: value for key, value in record.get("sha256", {}).items() if key != name}
    digest = hashlib.sha256(canonical_json({**record, "sha256": others}).encode()).hexdigest()
    return {**record, "sha256": {**others, name: digest}}


def _is_sealed(value: Any, name: str) -> bool:
    """Whether a record's content is what was written; records of older versions do not say."""
    digests = value.get("sha256") if isinstance(value, dict) else None
    if not isinstance(digests, dict) or name not in digests:
        return True
    return bool(sealed(value, name)["sha256"][name] == digests[name])


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        UserError: The file is missing, cannot be read, is not JSON of ours, or is a record that was changed after it
            was written.
    """
    with reading(path, "a JSON file", remedy=_AGAIN, missing=_MAKE_FIRST):
        check_file(path, most_bytes=_RECORD_BYTES)
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        if "\\ud" in text.lower() and _HALF.search(json.dumps(value, ensure_ascii=False)):
            raise ValueError("half of a surrogate pair is no letter")
        if not _is_sealed(value, path.name):
            raise UserError(f"{path} is not what was written, by its own checksum; {_AGAIN}.")
        return value


def _whole(digits: str) -> int:
    if len(digits) > 19 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{shortened(digits, 40)} is beyond 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise ValueError(f"{shortened(digits, 40)} is not a finite number")
    return number


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
    key = shortened(".".join(map(str, first["loc"])))
    problem = f"'{key}': {shortened(first['msg'])}" if key else shortened(first["msg"])
    raise UserError(f"{path} has an unexpected structure ({problem}); {_AGAIN}.")


def canonical_json(value: Any) -> str:
    """Returns JSON with sorted keys and no spaces: equal values give equal text, whatever their order."""
    return _dumped(value, sort_keys=True, separators=(",", ":"))


def _dumped(value: Any, **layout: Any) -> str:
    """Returns the JSON of a value, the same for hashes and for files; half of a surrogate pair is spelled out.

    Such halves stand in the names of files that are not UTF-8, as Python reads them.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, **layout)
    return _HALF.sub(lambda half: rf"\\u{ord(half[0]):04x}", text)


def content_hash(value: Any) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Writes a data frame atomically as `.parquet` or `.csv`, by the suffix of `path`, without its index.

    In a `.csv`, text that a spreadsheet would take for a formula stands behind an apostrophe.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            _without_formulas(frame).to_csv(temporary, index=False, errors="backslashreplace")
        else:
            frame.to_parquet(temporary, index=False)


def _without_formulas(frame: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    def harmless(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value

    words = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
    return frame.assign(**{name: frame[name].map(harmless) for name in words})


def read_table(path: Path, columns: Iterable[str] = (), **options: Any) -> "pd.DataFrame":
    """Returns a data frame from a Parquet file, which may have more columns than it needs.

    Args:
        path: The file.
        columns: Columns that it must have.
        options: What `pandas.read_parquet` takes.

    Raises:
        UserError: The file is missing or broken, or lacks one of the `columns`.
    """
    import pandas as pd

    with reading(path, "a Parquet table", remedy=_AGAIN, missing=_MAKE_FIRST):
        check_file(path, most_bytes=2**40)
        frame = pd.read_parquet(path, **options)
    if missing := [name for name in columns if name not in frame.columns]:
        raise UserError(f"{path} lacks the column {', '.join(missing)}; {_AGAIN}.")
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
    import numpy as np

    with (
        reading(path, "an .npz of plain arrays", remedy=_AGAIN, missing=_MAKE_FIRST),
        path.open("rb") as stream,
        np.load(stream, allow_pickle=False) as archive,
    ):
        arrays = {name: archive[name] for name in archive.files}
    if missing := [name for name in names if name not in arrays]:
        raise UserError(f"{path} lacks the array {', '.join(missing)}; {_AGAIN}.")
    return arrays
