"""Where the folders of data sets lie below a root, under the spellings and nestings in which archives are unpacked.

A set is looked for under the names of its entry in `dataset_table`. Upper and lower case, hyphens, underscores, dots
and blanks in these names do not matter. The set may lie in the folder of that name itself or up to two folders below,
as when an archive was unpacked into a folder of its own name.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reidablate.data.formats import MANIFEST_NAMES, PERSON_FOLDERS, Layout, grammar_at
from reidablate.data.table import DatasetEntry, Table, layout_of
from reidablate.errors import UserError

_ARCHIVE = re.compile(r"\.(zip|rar|7z|tar|tgz|tar\.\w+)\Z", re.IGNORECASE)
_DEPTH = 2  # folders below one of a known name in which a set is looked for
_MOST = 200  # a folder with more entries is full of images or people, not of data sets
_SHOWN = 8


@dataclass(frozen=True)
class Whereabouts:
    """What was found of one data set.

    Attributes:
        root: Its folder, None where there is none.
        folder: A folder of the right name that is not complete, None where there is none.
        incomplete: What is wrong with it, as a sentence; empty where nothing is.
        looked_in: The places of the names in the table.
    """

    root: Path | None
    folder: Path | None
    incomplete: str
    looked_in: tuple[Path, ...]


def find_set(data_root: Path, entry: DatasetEntry, layout: Layout) -> Whereabouts:
    """Returns where a data set lies below a root, or in it when the root itself has one of its names.

    Raises:
        UserError: It lies complete in more than one place.
    """
    looked_in = tuple(data_root / name for name in entry.folders)
    named = list(_named(data_root, entry.folders))
    complete: dict[Path, Path] = {}
    for folder in named:
        for place in _places(folder, layout):
            complete.setdefault(place.resolve(), place)
    best = [place for place in complete.values() if not _sorted_by_person(place, layout)] or [*complete.values()]
    if len(best) > 1:
        raise UserError(
            f"{entry.title} lies in {' and in '.join(map(str, best))}; rename or remove all but one, or give the "
            "place of the one you mean with --config data_root=..."
        )
    if best:
        return Whereabouts(best[0], None, "", looked_in)
    if not named and (useless := _not_a_folder(data_root, entry.folders)):
        return Whereabouts(None, useless[0], useless[1], looked_in)
    if not named:
        return Whereabouts(None, None, "", looked_in)
    partial = max(named, key=lambda folder: len(_parts_of(folder, layout)))
    return Whereabouts(None, partial, _what_is_wrong(partial, entry, layout), looked_in)


def _what_is_wrong(folder: Path, entry: DatasetEntry, layout: Layout) -> str:
    parts = MANIFEST_NAMES if layout.grammar is None else layout.grammar.parts
    lacks = [part for part in parts if not (folder / part).exists()] or list(parts)
    return (
        f"{folder} is not a complete {entry.title} folder: it lacks {', '.join(lacks)} and holds "
        f"{what_is_in(folder)}; unpack the set there, or rename or remove the folder."
    )


def _not_a_folder(data_root: Path, names: Sequence[str]) -> tuple[Path, str] | None:
    """Returns an entry of a root that is called like a set, or like an archive of it, and what to do with it."""
    known = {_plain(name) for name in names}
    for name in _names_in(data_root):
        path = data_root / name
        if _plain(_ARCHIVE.sub("", name)) in known and not path.is_dir():
            if path.is_symlink():
                return path, f"{path} is a link to nothing; correct or remove it."
            return path, f"{path} is a file; unpack it there, or move it elsewhere."
    return None


def settle(root: Path, layout: Layout) -> Path:
    """Returns the folder of a set that lies in `root` or up to two folders below; `root` itself where there is none."""
    places = {place.resolve(): place for place in _places(root, layout)}
    return next(iter(places.values())) if len(places) == 1 else root


def detect(root: Path, table: Table) -> list[str]:
    """Returns the data sets of the table whose folders and lists a folder has; a set of one's own must be named."""
    layouts = {name: layout_of(name, table) for name in table}
    return [
        name for name, layout in layouts.items() if not layout.is_own and _is_complete(settle(root, layout), layout)
    ]


def stray_sets(data_root: Path, table: Table) -> list[Path]:
    """Returns what looks like a data set, whatever it is called: a root, a folder in it, or one a folder below."""
    marks = {part for name in table for part in _marks(layout_of(name, table))}
    inner = _folders(data_root)
    folders = [data_root, *inner, *(below for folder in inner for below in _folders(folder))]
    return [folder for folder in folders if any((folder / mark).exists() for mark in marks)]


def _marks(layout: Layout) -> Iterable[str]:
    """Returns names that are found in data set folders of a layout and hardly anywhere else."""
    if layout.is_own:
        return ()
    if layout.grammar is None:
        return MANIFEST_NAMES
    return {PERSON_FOLDERS["train"], *layout.grammar.parts} - {"train", "test", "query", "gallery"}


def what_is_in(folder: Path) -> str:
    """Returns the names of the first few entries of a folder as words."""
    if not folder.is_dir():
        return "nothing, for it is not a folder" if os.path.lexists(folder) else "nothing, for it does not exist"
    entries = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more or "nothing"


def _named(data_root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yields the folders below a root that have one of the names, and the root itself if it has one."""
    own = Path(os.path.abspath(data_root))
    for name in names:
        parts = [_plain(part) for part in name.split("/")]
        yield from _below(data_root, parts)
        if [_plain(part) for part in own.parts[-len(parts) :]] == parts and data_root.is_dir():
            yield data_root


def _below(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    for name in _names_in(folder):
        if _plain(name) == parts[0] and (folder / name).is_dir():
            yield from _below(folder / name, parts[1:])


def _plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", name).lower()


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX")))
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, links to folders included, unless it is full of images or people."""
    names = _names_in(folder)
    return [folder / name for name in names if (folder / name).is_dir()] if len(names) <= _MOST else []


def _places(folder: Path, layout: Layout, depth: int = _DEPTH) -> Iterator[Path]:
    """Yields the complete folders of a set in a folder or below; below a complete one none is looked for."""
    if _is_complete(folder, layout):
        yield folder
    elif depth and not _parts_of(folder, layout):
        for below in _folders(folder):
            yield from _places(below, layout, depth - 1)


def _is_complete(folder: Path, layout: Layout) -> bool:
    if layout.is_own:  # its function alone knows what belongs to it
        return folder.is_dir()
    if layout.grammar is None:
        return folder.is_file() or bool(_parts_of(folder, layout))
    return len(_parts_of(folder, layout)) == len(layout.grammar.parts)


def _sorted_by_person(folder: Path, layout: Layout) -> bool:
    return layout.grammar is not None and grammar_at(folder, layout.grammar) is not layout.grammar


def _parts_of(folder: Path, layout: Layout) -> list[str]:
    """Returns the folders and lists of a set that a folder has."""
    parts = MANIFEST_NAMES if layout.grammar is None else grammar_at(folder, layout.grammar).parts
    return [part for part in parts if (folder / part).exists()]
