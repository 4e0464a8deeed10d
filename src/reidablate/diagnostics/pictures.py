"""Small pictures for a page: people with frames and heat, as elements that need no other file.

Legend: H x W pixels, N pictures.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from reidablate.diagnostics.faces import Pixels
from reidablate.models.position import Grid

SHOWN_PX = 128  # height at which people are stored
MOST_BYTES = 60_000  # of a cell on the main page
COLOURS = {"right": "#128a6b", "wrong": "#d23f46", "junk": "#8a95a1", "query": "#1f2933"}


def person(pixels: Pixels) -> Image.Image:
    """Returns an image (H, W, 3) at the height at which people are shown."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    width = max(1, round(SHOWN_PX * image.width / image.height))
    return image.resize((width, SHOWN_PX), Image.Resampling.BICUBIC)


def heat(values: npt.NDArray[Any], ends: tuple[float, float] | None = None) -> Image.Image:
    """Returns numbers (rows, cols) as colours from dark to bright, a pixel each; the range is that of the values.

    `ends` is a range that several maps share.
    """
    low, high = ends or (float(np.nanmin(values)), float(np.nanmax(values)))
    scaled = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    return _coloured(scaled, "viridis")


def signed_heat(values: npt.NDArray[Any], most: float) -> Image.Image:
    """Returns numbers (rows, cols) in [-most, most] as colours around a white zero, a pixel each."""
    return _coloured((values / (most or 1.0) + 1) / 2, "RdBu_r")


def scale(low: str, high: str, colours: str = "viridis") -> str:
    """Returns the legend of maps in some colours: what its two ends stand for, in words or numbers."""
    bar = element(_coloured(np.linspace(0, 1, 96)[None], colours), "", enlarge=1, kind="ramp")
    return f'<p class="scale">{escape(low)} {bar} {escape(high)}</p>'


def _coloured(scaled: npt.NDArray[Any], name: str) -> Image.Image:
    colours = mpl.colormaps[name](np.nan_to_num(scaled))
    return Image.fromarray((255 * colours[..., :3]).round().astype(np.uint8))


def overlay(pixels: Pixels, values: npt.NDArray[Any]) -> Image.Image:
    """Returns a person with a map (rows, cols) of values in [0, 1] as heat: what is dark counts little."""
    base = person(pixels)
    warm = _coloured(np.clip(values, 0, 1), "inferno").resize(base.size, Image.Resampling.BILINEAR)
    grey = base.convert("L").convert("RGB")
    return Image.blend(grey, warm, 0.6)


def with_patches(pixels: Pixels, patches: Sequence[int], grid: Grid) -> Image.Image:
    """Returns a person with some patches outlined, numbered by rank, and every pair of them joined by a line."""
    image = person(pixels)
    rows, cols = grid
    height, width = image.height / rows, image.width / cols
    centres = [((p % cols + 0.5) * width, (p // cols + 0.5) * height) for p in patches]
    draw = ImageDraw.Draw(image)
    for i, start in enumerate(centres):
        for end in centres[i + 1 :]:
            draw.line([start, end], fill="#ffd24a", width=1)
    for rank, ((x, y), p) in enumerate(zip(centres, patches, strict=True), start=1):
        left, top = p % cols * width, p // cols * height
        draw.rectangle((left, top, left + width - 1, top + height - 1), outline="#ff5a36", width=2)
        draw.text((x, y), str(rank), fill="#ffffff", stroke_width=1, stroke_fill="#000000", anchor="mm")
    return image


def sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 2) -> Image.Image:
    """Returns pictures of one size in rows and columns."""
    width, height = rows[0][0].size
    columns = max(map(len, rows))
    made = Image.new("RGB", (columns * (width + gap) - gap, len(rows) * (height + gap) - gap), "#ffffff")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            made.paste(picture, (x * (width + gap), y * (height + gap)))
    return made


def jpeg(image: Image.Image, quality: int = 82) -> bytes:
    """Returns the bytes of a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def small_jpeg(image: Image.Image, most_bytes: int = MOST_BYTES) -> bytes:
    """Returns a JPEG of at most so many bytes: lower quality first, then fewer pixels."""
    for quality in (82, 65, 45):
        if len(made := jpeg(image, quality)) <= most_bytes:
            return made
    half = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BOX)
    return small_jpeg(half, most_bytes)


def element(image: Image.Image, words: str, *, enlarge: int = 0, kind: str = "") -> str:
    """Returns an `img` element.

    Args:
        image: The picture.
        words: What it shows.
        enlarge: Pixels of the screen for each of the picture, which is then stored exactly; 0 stores a photograph.
        kind: A class of the style sheet.
    """
    stream = io.BytesIO()
    if enlarge:
        image.save(stream, "PNG")
        size = f' width="{image.width * enlarge}" height="{image.height * enlarge}"'
    else:
        stream.write(jpeg(image))
        size = f' width="{image.width}" height="{image.height}"'
    data = base64.b64encode(stream.getvalue()).decode()
    mime = "png" if enlarge else "jpeg"
    kind = kind or ("exact" if enlarge else "photo")
    return f'<img class="{kind}" alt="{escape(words)}"{size} src="data:image/{mime};base64,{data}">'


def captioned(picture: str, caption: str, kind: str = "") -> str:
    """Returns an element with words below it; `kind` is a class, such as that of a frame."""
    return f'<figure class="tile {kind}">{picture}<figcaption>{escape(caption)}</figcaption></figure>'


def strip(tiles: Sequence[str], label: str = "") -> str:
    """Returns elements in a row that wraps, behind a label."""
    head = f'<p class="label">{escape(label)}</p>' if label else ""
    return f'<div class="strip">{head}<div class="tiles">{"".join(tiles)}</div></div>'
