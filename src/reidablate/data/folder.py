"""Reading a data set folder: its images, of whom, from which camera, in which split; and whether it has changed.

Only names, lists and manifests are read here, no image is opened. What distinguishes the sets is in `formats.py`.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from reidablate.data.formats import (
    LEFT_BEHIND,
    LISTED_TRAIN_PIDS_FROM,
    MANIFEST_NAMES,
    SPLITS,
    SYNTHETIC_FILE,
    Grammar,
    Layout,
    Listing,
    Record,
    Split,
    grammar_at,
    is_image_name,
    parse_name,
    some,
)
from reidablate.errors import UserError

_NO_LETTER = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a tab would end a key; half a pair is no UTF-8


def read_folder(root: Path, layout: Layout) -> Listing:
    """Returns the images of a data set folder; only names are read, no image is opened.

    Args:
        root: The folder of the set; for a manifest the table itself or the folder that holds it. A folder marked as
            generated may hold training images alone, for pre-training.
        layout: How the set is read.

    Raises:
        UserError: A folder, file or column is missing, a name breaks the grammar, an image is not a regular file, a
            split is empty, or an image outside the gallery is junk or a distractor.
    """
    if not root.exists():
        raise UserError(f"the data set folder {root} does not exist; give the folder that holds the set.")
    if layout.grammar is None:
        from reidablate.data.manifest import read_manifest, read_own  # needs pandas

        listing, splits = read_own(root, layout) if layout.is_own else read_manifest(root), SPLITS
    else:
        grammar = grammar_at(root, layout.grammar)
        splits = _splits(root, grammar)
        listing = _read_layout(root, layout, grammar, splits)
    for split in splits:
        if not any(record.split == split for record in listing.records):
            raise UserError(f"the {split} split of {root} holds no image{_instead(listing)}.")
    for record in listing.records:
        if _NO_LETTER.search(record.path):
            raise UserError(f"in {root}: {record.path!r} has a control code or is not UTF-8; rename the file.")
        if record.split != "gallery" and record.pid in layout.nobody:
            raise UserError(
                f"{record.path} has pid {record.pid} in the {record.split} split, but junk and distractors belong to "
                "the gallery alone; move or remove the image."
            )
    return listing


def _instead(listing: Listing) -> str:
    """Returns what split folders hold in place of images, and what to do."""
    if not listing.unexpected:
        return "; check that the set was unpacked whole"
    found = f"{some(listing.unexpected)} in place of files that end in .jpg, .png or .tif"
    return f" ({found}); move images out of folders below, convert other formats, or unpack the set again"


def _splits(root: Path, grammar: Grammar) -> tuple[Split, ...]:
    """Returns the splits that a folder must have; a generated one for pre-training may have the training one alone."""
    tests = [root / grammar.folders[split] for split in grammar.splits if split != "train"]
    alone = (root / SYNTHETIC_FILE).is_file() and not any(folder.exists() for folder in tests)
    return ("train",) if alone else grammar.splits


def _read_layout(root: Path, layout: Layout, grammar: Grammar, splits: Sequence[Split]) -> Listing:
    needed = dict.fromkeys(grammar.folders[split] for split in splits)
    missing = [name for name in needed if not (root / name).is_dir()]
    missing += [name for split in splits for name in grammar.lists.get(split, ()) if not (root / name).is_file()]
    if missing:
        kind = "list" if missing[0] not in needed else "folder"
        raise UserError(
            f"{root} has no {kind} {', '.join(missing)}; a {layout.title} folder holds {', '.join(grammar.parts)}."
        )
    records: list[Record] = []
    ignored: list[str] = []
    for split in splits:
        if grammar.lists:
            found = _read_lists(root, layout, split)
        else:
            found, others = _read_split(root, layout, grammar, split)
            ignored += others
        found.sort(key=lambda record: record.name)
        records += found
    return Listing(root, tuple(records), tuple(ignored))


def _read_split(root: Path, layout: Layout, grammar: Grammar, split: Split) -> tuple[list[Record], list[str]]:
    """Returns the images of a split folder, and what else it holds."""
    folder = grammar.folders[split]
    records: list[Record] = []
    ignored: list[str] = []
    for relative, entry in _entries(root / folder, by_person=grammar.by_person):
        name, path = entry.name, f"{folder}/{relative}"
        if not is_image_name(name):
            ignored.append(path.encode(errors="backslashreplace").decode())
            continue
        try:
            pid, camid = parse_name(name, layout, split)
        except UserError as error:
            raise UserError(f"in {root / path.removesuffix(f'/{name}')}: {error}") from None
        if not entry.is_file():
            raise _not_a_file(root / path)
        # Where the split is the camera, query and gallery use the same base names for different images.
        records.append(Record(split, path, path if grammar.split_cameras else name, pid, camid))
    return records, sorted(ignored)


def _not_a_file(path: Path) -> UserError:
    return UserError(f"{path} is not a regular file but a folder, a pipe or a link to nothing; replace or remove it.")


def _entries(folder: Path, *, by_person: bool) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yields the entries of a folder, and of the folders of people in it, with their paths relative to it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if by_person and not LEFT_BEHIND.fullmatch(entry.name) and entry.is_dir():
                yield from ((f"{entry.name}/{name}", below) for name, below in _entries(Path(entry), by_person=False))
            else:
                yield entry.name, entry


def _read_lists(root: Path, layout: Layout, split: Split) -> list[Record]:
    """Returns the images that the lists of a split name; the list states the person, the name the camera."""
    grammar = layout.grammar
    assert grammar is not None
    folder, first = grammar.folders[split], LISTED_TRAIN_PIDS_FROM if split == "train" else 0
    records: list[Record] = []
    lost: list[str] = []
    for listed in grammar.lists[split]:
        for relative, number in _listed(root / listed):
            name = relative.rpartition("/")[2]
            try:
                _, camid = parse_name(name, layout, split)
            except UserError as error:
                raise UserError(f"in {root / listed}: {error}") from None
            if not os.path.isfile(f"{root}/{folder}/{relative}"):
                lost.append(f"{folder}/{relative}")
            records.append(Record(split, f"{folder}/{relative}", name, first + number, camid))
    if lost:
        raise UserError(
            f"{root} lacks {len(lost)} of the {len(records)} images that its lists of the {split} split name "
            f"({some(lost)}); unpack the set again."
        )
    names = {record.name for record in records}
    if len(names) < len(records):
        raise UserError(f"an image stands twice in {' and '.join(grammar.lists[split])} of {root}; remove one line.")
    return records


def _listed(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the relative path and the person's number of each line of a list."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); unpack the set again.") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        relative, _, person = line.strip().rpartition(" ")
        inside = PurePosixPath(relative)
        if not relative or not re.fullmatch("[0-9]{1,9}", person) or inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"line {number} of {path} is {line!r}; write the path of an image and a person's number.")
        yield relative, int(person)


def source_of(root: Path, layout: Layout) -> dict[str, str]:
    """Returns what an index is built from, without opening an image: the place, the format, the state of the files."""
    from reidablate.data.own_format import code_of

    form = code_of(layout.format) if layout.is_own else layout.format
    return {"root": str(root.resolve()), "format": form, "listing": listing_hash(root, layout)}


def listing_hash(root: Path, layout: Layout) -> str:
    """Returns a hash that changes when an image of a set comes, goes, or changes its name, size or time of change.

    Lists and manifests count with their bytes and with the images that they name. Planning calls this, so what is
    missing or broken is no error here: reading the set will say what is wrong.
    """
    digest = hashlib.sha256()
    if layout.is_own:
        from reidablate.data.own_format import own_rows

        _digest_states(digest, root, sorted(row[0] for row in own_rows(root, layout)))
        return digest.hexdigest()[:16]
    if layout.grammar is None:
        from reidablate.data.manifest import manifest_rows  # needs pandas

        manifests = [root] if root.is_file() else [root / name for name in MANIFEST_NAMES if (root / name).is_file()]
        for manifest in manifests:
            digest.update(manifest.read_bytes())
            with suppress(UserError):
                _digest_states(digest, manifest.parent, sorted(row[0] for row in manifest_rows(manifest)))
        return digest.hexdigest()[:16]
    grammar = grammar_at(root, layout.grammar)
    for split in grammar.splits:
        folder = root / grammar.folders[split]
        if not folder.is_dir():
            continue
        digest.update(f"{grammar.folders[split]}\0".encode())
        with suppress(OSError, UserError):
            _digest_states(digest, folder, sorted(_named_images(root, grammar, split)))
    return digest.hexdigest()[:16]


def _named_images(root: Path, grammar: Grammar, split: Split) -> Iterator[str]:
    """Yields the images of a split, relative to its folder."""
    if grammar.lists:
        for name in grammar.lists[split]:
            yield from (relative for relative, _ in _listed(root / name))
        return
    for relative, entry in _entries(root / grammar.folders[split], by_person=grammar.by_person):
        if is_image_name(entry.name):
            yield relative


def _digest_states(digest: "hashlib._Hash", folder: Path, names: Iterable[str]) -> None:
    """Adds the name, size and time of change of files to a digest; of one that is not there, its name."""
    for name in names:
        digest.update(f"{name}\0".encode(errors="surrogateescape"))
        with suppress(OSError, ValueError):  # ValueError: no name of a file
            state = os.stat(f"{folder}/{name}")
            digest.update(f"{state.st_size} {state.st_mtime_ns}\0".encode())
