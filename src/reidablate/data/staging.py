"""Data sets on a disk of the node, copied once from the file system that the nodes of a cluster share."""

import os
import shutil
import sys
from pathlib import Path

from reidablate.artifacts import atomic_path, content_hash, only_writer, sha256_file
from reidablate.errors import UserError
from reidablate.integrity import broken_files

_PARTS = {"index": "index.json", "cache": "cache.json"}  # and the record that vouches for the files beside it


def staged(data: Path, folder: str | None) -> Path:
    """Returns the folder to read a data set from: a copy of it on a disk of this machine, if one is wanted.

    The copy is named by the checksums of the records of index and cache, so all jobs and studies of a user share it,
    and each checks its files against these records. The first job copies, the others wait for it. Where there is no
    room for it, a line says so and the data set is read where it is.

    Args:
        data: Folder with the data set's `index/` and `cache/`.
        folder: `execution.stage_to`, in which variables of the environment may stand; None for no copy.

    Raises:
        UserError: The path names a variable that is not set or is not absolute, or the data set is not there.
    """
    if folder is None:
        return data
    copy = _home(folder) / f"reidablate-{os.getuid()}" / _name(data)
    try:
        with only_writer(copy, str(data)):
            for part, record in _PARTS.items():
                _copy(data / part, copy / part, record)
    except UserError as error:
        print(f"{data} is read where it is and not from {copy}: {error}", file=sys.stderr, flush=True)
        return data
    return copy


def _home(folder: str) -> Path:
    path = os.path.expandvars(folder)
    if "$" in path or not os.path.isabs(path):
        raise UserError(
            f"execution.stage_to is {folder!r}, on this machine {path!r}, which is not an absolute path; name a folder "
            "of its own disk, such as /tmp, or a variable that is set in every job."
        )
    return Path(path)


def _name(data: Path) -> str:
    records = [data / part / record for part, record in _PARTS.items()]
    if missing := [path for path in records if not path.is_file()]:
        raise UserError(f"{missing[0]} is missing; run the stage that makes it first.")
    return content_hash([sha256_file(path) for path in records])


def _copy(source: Path, copy: Path, record: str) -> None:
    """Copies the files of a folder that are damaged or not there yet, the record last: without it none is believed."""
    broken = broken_files(copy)
    believed = (copy / record).is_file() and record not in broken
    for path in sorted(source.glob("[!.]*"), key=lambda path: path.name == record):
        if not believed or path.name in broken or not (copy / path.name).is_file():
            with atomic_path(copy / path.name) as temporary:
                shutil.copyfile(path, temporary)
