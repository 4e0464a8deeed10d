"""Names, places and file formats of generated images in the layouts of real data sets."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reidablate.config import Style
from reidablate.data.formats import SPLITS, Grammar, Split

_DESCRIPTION = 270  # the tag of a TIFF for its comment
_VAL_EVERY = 14  # MSMT17 lists 2,373 of its 32,621 training images in list_val.txt
DOUBLED = {"query": 6, "gallery": 16, "junk": 2}
"""Names of Market-1501's published archive that end in `.jpg.jpg`: in query, and of people and junk in the gallery."""


class Sitter(NamedTuple):
    """Who is on a generated image: pid, rank among the people of train or of test, and camera from 0."""

    pid: int
    person: int
    camera: int


def names_of(style: Style, sitters: Mapping[Split, Sequence[Sitter]]) -> dict[Split, list[str]]:
    """Returns the base names of all images in the grammar of a data set, in the given order.

    Only for the data sets whose names the plan itself does not make: not market1501 and occluded_duke.
    """
    taken: dict[tuple[str, int], int] = defaultdict(int)
    names: dict[Split, list[str]] = {}
    for split in SPLITS:
        side = split if style == "occluded_reid" else "train" if split == "train" else "test"
        names[split] = []
        for sitter in sitters.get(split, ()):
            names[split].append(_name(style, sitter, taken[side, sitter.person]))
            taken[side, sitter.person] += 1
    return names


def _name(style: Style, sitter: Sitter, k: int) -> str:
    """Returns the name of the k-th image (from 0) of a person."""
    pid, person, camera = sitter.pid, sitter.person, sitter.camera + 1
    if style == "dukemtmc":
        return f"{pid:04d}_c{camera}_f{40_000 + 10 * k + pid:07d}.jpg"
    if style in ("cuhk03_detected", "cuhk03_labeled"):
        return f"{pid:04d}_c{camera}_{k + 1}.png"
    if style in ("msmt17_v1", "msmt17_v2"):
        extra = "_ex" if k % 10 == 9 else ""
        return f"{person:04d}_{k:03d}_{camera:02d}_0303morning_{person + 5 * k:04d}_{k % 3}{extra}.jpg"
    assert style == "occluded_reid"
    return f"{person + 1:03d}_{k + 1:02d}.tif"


def place_of(name: str, grammar: Grammar) -> str:
    """Returns where an image lies below the folder of its split: there, or in a folder of its person."""
    return f"{name.partition('_')[0]}/{name}" if grammar.by_person or grammar.lists else name


def lists_of(names: Mapping[Split, Sequence[str]], grammar: Grammar) -> dict[str, str]:
    """Returns the contents of the list files that name the images of a set and their people."""
    texts: dict[str, str] = {}
    for split, files in grammar.lists.items():
        lines = [f"{place_of(name, grammar)} {int(name.partition('_')[0])}\n" for name in names[split]]
        for number, file in enumerate(files):
            own = [i for i in range(len(lines)) if len(files) == 1 or (i % _VAL_EVERY == 0) == (number == 1)]
            texts[file] = "".join(lines[i] for i in own)
    return texts


def encoded(jpeg: bytes, name: str, comment: str) -> bytes:
    """Returns a JPEG as it is or in the format that the ending of a name states, with the comment kept."""
    ending = name.rpartition(".")[2]
    if ending == "jpg":
        return jpeg
    stream = io.BytesIO()
    with Image.open(io.BytesIO(jpeg)) as image:
        if ending == "png":
            text = PngInfo()
            text.add_text("comment", comment)
            image.save(stream, "PNG", pnginfo=text)
        else:
            image.save(stream, "TIFF", tiffinfo={_DESCRIPTION: comment})
    return stream.getvalue()
