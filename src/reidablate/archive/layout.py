"""What a packed study looks like: a zip whose every byte follows from the files in it.

Files are stored as they are, in the order of their names and with one date, so that a changed byte anywhere in the
zip, its own index included, can be found by writing it again.
"""

import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from reidablate.errors import UserError, check_file, reading, shortened

CHECKSUMS = "checksums.txt"
METADATA = "ro-crate-metadata.json"
RESULTS = "results"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_MOST_FILES = 10**6
_REMEDY = "give a file that `reidablate pack` wrote"


def write_zip(files: Iterable[tuple[str, Path]], out: Path) -> None:
    """Writes files under their names in the archive; the same files give the same bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for name, path in sorted(files):
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.create_system = 3
            info.file_size = path.stat().st_size  # decides whether it needs fields of 64 bits
            with path.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 2**20)


def unpack(path: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Writes the files of a packed study to an empty folder and yields (name, what is wrong) of each that is damaged.

    Raises:
        UserError: It is no zip, holds a name that leaves the folder or stands twice, a link, or more than the disk
            takes.
    """
    with reading(path, "a zip archive", remedy=_REMEDY):
        check_file(path, most_bytes=2**42)
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check_members(path, members, free=shutil.disk_usage(folder).free)
            for info in members:
                target = folder / info.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with archive.open(info) as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy, 2**20)
                except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
                    yield info.filename, shortened(error)


def _check_members(path: Path, members: list[zipfile.ZipInfo], *, free: int) -> None:
    if len(members) > _MOST_FILES:
        raise UserError(f"{path} holds {len(members):,} files, more than {_MOST_FILES:,}; {_REMEDY}.")
    seen = set[str]()
    for info in members:
        name = info.filename
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
            raise UserError(f"{path} holds the name '{shortened(name, 80)}', which leaves its folder; {_REMEDY}.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f"{path} holds the link '{shortened(name, 80)}'; {_REMEDY}.")
        if name.casefold() in seen:
            raise UserError(f"{path} holds '{shortened(name, 80)}' twice; {_REMEDY}.")
        seen.add(name.casefold())
    if (size := sum(info.file_size for info in members)) > free:
        raise UserError(f"{path} unpacks to {size:,} bytes and {free:,} are free; set TMPDIR to a larger disk.")


def files_below(folder: Path) -> dict[str, Path]:
    """Returns {name in the archive: path} of the files below a folder, sorted by name; links are not followed."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return dict(sorted((path.relative_to(folder).as_posix(), path) for path in found))
