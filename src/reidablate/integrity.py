"""Whether files are still what was written: checksums that every record keeps, and when they are computed again.

A record is written after the files beside it and names their SHA-256 and its own under `sha256`; a record of what
follows from other records names theirs under `made_of`. Records of version 0.1.0 name fewer files or none; what has no
known checksum is not checked.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reidablate.artifacts import read_json, sha256_file, write_json
from reidablate.errors import UserError

RECORDS = (
    "index.json", "cache.json", "floors.json", "provenance.json", "metrics.json", "study.json", "statistics.json",
    "report.json",
)  # fmt: skip

_State = tuple[int, int, int, int]


class Digests:
    """SHA-256 of files, computed at first use and again when a file's size, times or inode have changed.

    Args:
        memory: A JSON file that carries them from one process to the next, read now and written by `save`. It is a
            convenience: a missing or broken one costs time alone.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, tuple[_State, str]] = {}
        self._changed = False
        if memory is not None:
            self._known = _remembered(memory)

    def of(self, path: Path) -> str:
        """Returns the SHA-256 of a file.

        Raises:
            OSError: The file cannot be read.
        """
        key, state = str(path.resolve()), _state(path)
        known = self._known.get(key)
        if known is None or known[0] != state:
            known = (state, sha256_file(path))
            self._known[key] = known
            self._changed = True
        return known[1]

    def save(self) -> None:
        """Writes the memory if there is one and anything is new; files that are gone are forgotten."""
        if self._memory is None or not self._changed:
            return
        kept = {key: [*state, digest] for key, (state, digest) in self._known.items() if Path(key).exists()}
        write_json(self._memory, kept)
        self._changed = False


_of_this_process = Digests()


def sha256_cached(path: Path, digests: Digests | None = None) -> str:
    """Returns the SHA-256 of a file, computed once in this process as long as the file does not change.

    Args:
        path: The file.
        digests: A memory to use instead of that of the process.

    Raises:
        OSError: The file cannot be read.
    """
    return (_of_this_process if digests is None else digests).of(path)


def verify(path: Path, expected: str | None, digests: Digests | None = None) -> bool:
    """Returns whether a file is there with the `expected` SHA-256; if that is not known, whether it is there."""
    try:
        return path.is_file() and (expected is None or sha256_cached(path, digests) == expected)
    except OSError:
        return False


def check(path: Path, record: Path, digests: Any) -> None:
    """Checks a file, before it is read, against the `sha256` of the record beside it.

    Args:
        path: The file.
        record: The record, named in the sentence.
        digests: What stands in the record under `sha256`, None in those of older versions.

    Raises:
        UserError: The file is there and is not the one that the record names.
    """
    expected = digests.get(path.name) if isinstance(digests, dict) else None
    if expected is not None and path.is_file() and not verify(path, expected):
        raise UserError(
            f"{path} is damaged: it is not the file whose checksum {record.name} names; run the same command again, "
            "which makes it again."
        )


def digests_of(paths: Iterable[Path]) -> dict[str, str]:
    """Returns `{name: SHA-256}` of the files that are there, to be recorded as what something was made of."""
    return {path.name: sha256_cached(path) for path in paths if path.is_file()}


def is_made_of(record: Path, paths: Iterable[Path]) -> bool:
    """Returns whether a record names, under `made_of`, exactly these files as they are now."""
    try:
        found = read_json(record)
    except UserError:
        return False
    return isinstance(found, dict) and found.get("made_of") == digests_of(paths)


def refuse_broken(folder: Path, records: Sequence[str] = RECORDS) -> None:
    """Checks the files of a folder before they are read.

    Args:
        folder: The folder.
        records: The records that are believed, and whose files are read.

    Raises:
        UserError: One of them is not what its record names.
    """
    if names := broken_files(folder, records=records):
        raise UserError(
            f"{folder}: {' and '.join(names)} damaged, by the checksums beside it; run the same command again, which "
            "makes it again."
        )


def broken_files(folder: Path, digests: Digests | None = None, *, records: Sequence[str] = RECORDS) -> list[str]:
    """Returns the names of the files in a folder that are not what its records say, in the order they were written.

    It serves for every folder of a study: a run, the index and cache of a data set, the tables, the report. A record
    that cannot be read, or is not what was written by its own checksum, is one of them, and vouches for nothing. Files
    that are not there are none of them.

    Args:
        folder: The folder.
        digests: A memory for the checksums, None for that of this process.
        records: The records that are looked at.
    """
    broken: dict[str, None] = {}
    for name in records:
        if not (folder / name).is_file():
            continue
        try:
            record = read_json(folder / name)
        except UserError:
            broken[name] = None
            continue
        named = record.get("sha256") if isinstance(record, dict) else None
        for other, expected in named.items() if isinstance(named, dict) else ():
            path = folder / other
            if other != name and path.is_file() and not verify(path, str(expected), digests):
                broken[other] = None
    return list(broken)


def _state(path: Path) -> _State:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _remembered(memory: Path) -> dict[str, tuple[_State, str]]:
    try:
        known = read_json(memory).items()
        return {str(key): ((int(a), int(b), int(c), int(d)), str(digest)) for key, (a, b, c, d, digest) in known}
    except (UserError, AttributeError, TypeError, ValueError):
        return {}
