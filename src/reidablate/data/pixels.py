"""One image file to upright 8-bit RGB: the only place where images are opened.

An image is read as what it shows, or refused by name: no kind of file is guessed at. Bytes of ordinary RGB images go
through unchanged.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from reidablate.errors import UserError, check_file, reason

FORMATS = ("JPEG", "PNG", "TIFF")  # whatever the ending of the name says
MOST_BYTES = 2**28
MOST_PX = 2**26
"""An image of 8192 x 8192; what decodes to more is refused, since a few bytes can claim any size."""

_DESCRIPTION = 270  # the tag of a TIFF that holds its comment
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # the tag of a TIFF that says which grey is white
_ORIENTATION = 0x0112  # of EXIF; 5 to 8 lie on their side
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what makes an image of each orientation upright
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # greys of 16 bits
_KINDS = {
    "CMYK": "inks (CMYK) have no colours of their own without a profile; save it as RGB",
    "F": "its greys have no known range; save it as RGB",
    "LAB": "Lab colours are not read; save it as RGB",
    "HSV": "HSV colours are not read; save it as RGB",
}


class Header(NamedTuple):
    """What the first bytes of an image say; the size is that of the upright image, in pixels."""

    width: int
    height: int
    format: str
    comment: bytes


class BadImage(ValueError):
    """An image that cannot be used; the message says why."""


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of an image file; a pipe or device, which may have no end, is not opened.

    Raises:
        BadImage: The file is missing, cannot be read, is no ordinary file, or is larger than `MOST_BYTES`.
    """
    try:
        check_file(path, most_bytes=MOST_BYTES)
        # A pipe that takes the file's place now must not keep us waiting for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            return stream.read()
    except UserError as error:
        raise BadImage(str(error).removeprefix(f"{path} ").rstrip(".")) from None
    except OSError as error:
        raise BadImage(reason(error)) from None


def content_hash(data: bytes) -> str:
    """Returns the 16 hexadecimal digits that an index knows a file's bytes by."""
    return hashlib.sha256(data).hexdigest()[:16]


def read_header(data: bytes, allowed: Sequence[str] = FORMATS) -> Header:
    """Returns what an image says of itself; its pixels are not decoded.

    Args:
        data: The bytes of the file.
        allowed: Names of formats as Pillow calls them.

    Raises:
        BadImage: It is no image of these formats, is larger than `MOST_PX`, or of a kind that is not read.
    """
    with _opened(data, allowed) as image:
        width, height = image.size
        if image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in {5, 6, 7, 8}:  # Pillow turns those
            width, height = height, width
        kind = image.format if image.format in {"PNG", "TIFF"} else "JPEG"
        return Header(width, height, kind, _comment(image))


def _comment(image: Image.Image) -> bytes:
    comment = getattr(image, "tag_v2", image.info).get(_DESCRIPTION if image.format == "TIFF" else "comment", b"")
    return comment if isinstance(comment, bytes) else str(comment).encode()


def decode(data: bytes, allowed: Sequence[str] = FORMATS) -> Image.Image:
    """Returns an image as it is to be seen: 8-bit RGB, upright.

    Greys become equal red, green and blue; those of 16 bits are scaled to 8 (v / 257, rounded); palettes are looked
    up; the EXIF orientation is applied.

    Raises:
        BadImage: What `read_header` refuses; pixels that cannot be decoded or are transparent, since what stands
            behind them is unknown.
    """
    with _opened(data, allowed) as image:
        image.load()
        _refuse_transparency(image)
        shown = _shallow(image) if image.mode in _DEEP else image
        colour = shown.convert("RGB")  # a copy where it is RGB already
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        return colour if turn is None else colour.transpose(turn)


@contextmanager
def _opened(data: bytes, allowed: Sequence[str]) -> Iterator[Image.Image]:
    """Yields an open image; whatever Pillow raises over it becomes a `BadImage`."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(allowed)) as image:
            _refuse_kind(image)
            yield image
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not a {', '.join(allowed[:-1])} or {allowed[-1]} image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more than {MOST_PX:,} pixels; scale it down") from None
    except Exception as error:
        raise BadImage(reason(error)) from None


def _refuse_kind(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MOST_PX:
        raise BadImage(f"{width} x {height} pixels, more than {MOST_PX:,}; scale it down")
    if image.mode in _KINDS:
        raise BadImage(_KINDS[image.mode])
    if image.format in {"PNG", "TIFF"} and getattr(image, "is_animated", False):
        raise BadImage(f"a {image.format} of several images; save one of them")
    if image.mode in _DEEP and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise BadImage("greys of 16 bits whose zero is white; save it as RGB")


def _refuse_transparency(image: Image.Image) -> None:
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"}:
        opaque = image.getchannel(image.getbands()[-1]).getextrema() == (255, 255)
    elif "transparency" not in image.info:
        return
    elif image.mode in _DEEP:
        opaque = not bool((np.asarray(image) == image.info["transparency"]).any())
    else:
        opaque = image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
    if not opaque:
        raise BadImage("it has transparent pixels, and what is behind them is unknown; save it without transparency")


def _shallow(image: Image.Image) -> Image.Image:
    """Returns greys of 16 bits as greys of 8."""
    deep = np.asarray(image).astype(np.int64)
    if deep.min() < 0 or deep.max() > 65535:
        raise BadImage("greys outside 0 ... 65535; save it as RGB")
    return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
