"""How data sets name and sort their images, and what their names state: person, camera and split.

What distinguishes the sets of the field is data, kept in `dataset_table` of `workflow/config/default.yaml`: how their
files are named, which folders and lists they have, and what is published about them (`Grammar`, `Published`). There
are three ways in which such folders are read (`folder.py`):

- split folders such as `bounding_box_train`, `query`, `bounding_box_test`, or the same images sorted into a folder for
  each person (`train_all`, `query`, `gallery`);
- list files, a line for each image: its path and the number of its person (MSMT17);
- a manifest, a table with the columns path, pid, camid, split (`manifest.py`), or a function of the study's own that
  returns such rows (`own_format.py`).

Grammars are strict about what carries meaning (person, camera, split) and lenient about what does not: doubled endings,
upper and lower case of endings, and what archives and operating systems leave behind. Only base names are parsed, so a
parent folder such as `run-1_c3` is never read as an identity.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from reidablate.config import Positive, Section
from reidablate.errors import UserError

Split = Literal["train", "query", "gallery"]
SPLITS: tuple[Split, ...] = ("train", "query", "gallery")
SPLIT_FOLDERS: dict[Split, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
PERSON_FOLDERS: dict[Split, str] = {"train": "train_all", "query": "query", "gallery": "gallery"}
SYNTHETIC_FILE = "SYNTHETIC"  # marks a folder of generated images
SYNTHETIC_COMMENT = "reidablate synthetic"  # begins the comment in each of them
JUNK = -1
MANIFEST = "manifest"
MANIFEST_NAMES = ("manifest.csv", "manifest.parquet")
LISTED_TRAIN_PIDS_FROM = 10_000
"""Lists number the people of train and of test from 0 each; this is added to those of train."""

_ENDINGS = re.compile(r"(?:\.(?:jpe?g|png|tiff?))+\Z", re.IGNORECASE)
LEFT_BEHIND = re.compile(r"\..*|__MACOSX|thumbs\.db|desktop\.ini|read_?me(\..*)?", re.IGNORECASE)
"""Names of entries that archives and operating systems leave in a folder."""
_NAMED = 5  # names that a sentence spells out before it only counts


class SplitCounts(Section):
    """Images and people of a split.

    Attributes:
        images: Images; those of the gallery count junk and distractors.
        ids: Identities, without junk and distractors.
    """

    images: int = 0
    ids: int = 0


class Published(Section):
    """What is published about the size of a set.

    Attributes:
        train: The training set.
        query: The queries.
        gallery: The gallery.
        junk: Gallery images that are ignored (person -1).
        distractors: Gallery images of people who are no query's.
        cameras: Cameras of the set.
    """

    train: SplitCounts = SplitCounts()
    query: SplitCounts = SplitCounts()
    gallery: SplitCounts = SplitCounts()
    junk: int = 0
    distractors: int = 0
    cameras: int


class Grammar(Section):
    """How a set names and sorts its images.

    Attributes:
        names: Regular expression of a whole base name without its endings, with the group `pid` and, unless
            `split_cameras` states the camera, `camid`.
        example: A name, for error messages.
        cameras: Cameras are numbered from 1 to this.
        distractor: The person of gallery images that are nobody's positive, None where the set has none.
        folders: The folder of each split; a set without `train` can only be tested on.
        by_person: Whether the images of each person lie in a folder of their own below.
        lists: Files that list the images of each split, with the person's number; empty where folders tell.
        split_cameras: The camera of each split where names do not state it.
    """

    names: re.Pattern[str]
    example: str
    cameras: Positive
    distractor: int | None = None
    folders: dict[Split, str] = SPLIT_FOLDERS
    by_person: bool = False
    lists: dict[Split, list[str]] = {}
    split_cameras: dict[Split, int] = {}

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the set has."""
        return tuple(split for split in SPLITS if split in self.folders)

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders and files that the set's folder holds."""
        listed = [name for split in self.lists for name in self.lists[split]]
        return tuple(dict.fromkeys([*(self.folders[split] for split in self.splits), *listed]))


@dataclass(frozen=True)
class Layout:
    """What has to be known of a data set before its folder can be read.

    Attributes:
        title: The set's usual name.
        format: `manifest`, the entry of `dataset_table` whose grammar this is, or `FILE:NAME` of a function.
        grammar: None for a manifest and a function.
        published: None where nothing is published.
    """

    title: str
    format: str
    grammar: Grammar | None = None
    published: Published | None = None

    @property
    def nobody(self) -> set[int]:
        """The pids that are no person of the set: junk and distractors."""
        distractor = None if self.grammar is None else self.grammar.distractor
        return {JUNK} if distractor is None else {JUNK, distractor}

    @property
    def is_own(self) -> bool:
        """Whether a function of the study or of an installed package reads the set."""
        return self.grammar is None and self.format != MANIFEST

    @property
    def test_only(self) -> bool:
        """Whether the set has no training images."""
        return self.grammar is not None and "train" not in self.grammar.folders


class Record(NamedTuple):
    """One image: its split, its path below the root, its unique name in the split, its person and camera."""

    split: str
    path: str
    name: str
    pid: int
    camid: int


@dataclass(frozen=True)
class Listing:
    """What a data set folder holds.

    Attributes:
        root: The folder that the paths are relative to.
        records: Sorted by split (train, query, gallery), then by name.
        ignored: Entries of the split folders that are no images, relative to the root.
    """

    root: Path
    records: tuple[Record, ...]
    ignored: tuple[str, ...]

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Those of the ignored entries that archives and operating systems do not usually leave behind."""
        return tuple(path for path in self.ignored if not LEFT_BEHIND.fullmatch(PurePosixPath(path).name))


def is_image_name(name: str) -> bool:
    """Returns whether a base name has the ending of an image and is not hidden (`._x.jpg` comes from macOS)."""
    return not name.startswith(".") and _ENDINGS.search(name) is not None


def image_key(name: str) -> str:
    """Returns a name without folders and endings, by which the files of different code bases are matched.

    >>> image_key("query/1488_c1s6_023021_00.jpg.jpg") == image_key("1488_c1s6_023021_00.JPG")
    True
    """
    return _ENDINGS.sub("", name.replace("\\", "/").rpartition("/")[2])


def parse_name(name: str, layout: Layout, split: Split = "gallery") -> tuple[int, int]:
    """Returns the person and the camera (from 1) that a base name states.

    Raises:
        UserError: The name breaks the grammar or names a camera that the set does not have.
    """
    grammar = layout.grammar
    assert grammar is not None
    ending = _ENDINGS.search(name)
    match = ending and grammar.names.fullmatch(name, 0, ending.start())
    if not match:
        raise UserError(f"{name!r} is not a {layout.title} name such as {grammar.example}; rename or remove the file.")
    found = match.groupdict()
    camid = int(found["camid"]) if "camid" in found else grammar.split_cameras[split]
    if not 1 <= camid <= grammar.cameras:
        raise UserError(
            f"{name!r} names camera {camid}, {layout.title} has 1 to {grammar.cameras}; rename or remove the file."
        )
    return int(found["pid"]), camid


def grammar_at(root: Path, grammar: Grammar) -> Grammar:
    """Returns the grammar as a folder follows it: that of the set, or the same with a folder for each person."""
    if dict(grammar.folders) != SPLIT_FOLDERS or not (root / PERSON_FOLDERS["train"]).is_dir():
        return grammar
    if any((root / SPLIT_FOLDERS[split]).is_dir() for split in ("train", "gallery")):
        return grammar
    return grammar.model_copy(update={"folders": PERSON_FOLDERS, "by_person": True})


def some(names: Sequence[str]) -> str:
    """Returns the first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def flat_counts(counts: Mapping[str, Any]) -> dict[str, int]:
    """Returns counts under plain names: "train images", ..., "junk", "distractors", "cameras"."""
    parts = {f"{split} {part}": counts[split][part] for split in SPLITS for part in ("images", "ids")}
    return parts | {name: counts[name] for name in ("junk", "distractors", "cameras")}
