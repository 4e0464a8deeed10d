"""What an image shows is what is cached; a kind that has no one meaning is refused by name."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidablate.data.pixels import BadImage, decode, read_bytes, read_header

BOTH = ("JPEG", "PNG")
# Two rows, three columns: upper left is red, so every turn of it is another image.
FLAT = np.zeros((2, 3, 3), np.uint8)
FLAT[0, 0] = (250, 10, 20)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def test_an_ordinary_jpeg_keeps_every_bit_also_a_progressive_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for progressive in (False, True):
        data = encoded(Image.fromarray(pixels), "JPEG", progressive=progressive)
        with Image.open(io.BytesIO(data)) as expected:
            np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(expected))


def test_greys_of_16_bits_are_scaled() -> None:
    deep = np.array([[0, 257, 32767], [32896, 65535, 128]], np.uint16)
    expected = np.round(deep / 257)
    found = np.asarray(decode(encoded(Image.fromarray(deep))))
    assert found.shape == (2, 3, 3)
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], expected)


def test_greys_and_palettes_become_their_colours() -> None:
    grey = np.array([[0, 100, 200]], np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(encoded(Image.fromarray(grey)))), np.dstack([grey] * 3))
    palette = Image.fromarray(FLAT).quantize(4)
    np.testing.assert_array_equal(np.asarray(decode(encoded(palette))), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation: int, format: str) -> None:
    turned = {
        1: FLAT, 2: FLAT[:, ::-1], 3: FLAT[::-1, ::-1], 4: FLAT[::-1], 5: FLAT.transpose(1, 0, 2),
        6: np.rot90(FLAT), 7: np.rot90(FLAT[::-1, ::-1]).transpose(0, 1, 2)[::-1], 8: np.rot90(FLAT, 3),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == 7:
        turned = FLAT[::-1, ::-1].transpose(1, 0, 2)
    data = encoded(Image.fromarray(np.ascontiguousarray(turned)), format, exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(data)), FLAT)
    assert read_header(data)[:2] == (3, 2)


def test_what_stands_behind_transparent_pixels_is_not_guessed() -> None:
    colour = Image.fromarray(FLAT).convert("RGBA")
    np.testing.assert_array_equal(np.asarray(decode(encoded(colour))), FLAT)
    colour.putpixel((0, 0), (1, 2, 3, 0))
    keyed = Image.fromarray(FLAT)
    for data in (encoded(colour), encoded(keyed, transparency=(0, 0, 0)), encoded(colour.convert("LA"))):
        with pytest.raises(BadImage, match="transparent pixels"):
            decode(data)


def test_inks_are_refused_by_name_before_anything_is_decoded() -> None:
    with pytest.raises(BadImage, match="CMYK"):
        read_header(encoded(Image.new("CMYK", (4, 4)), "JPEG"), BOTH)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_which_of_several_images_is_meant_is_not_guessed(format: str) -> None:
    pages = [Image.fromarray(FLAT), Image.fromarray(FLAT[::-1].copy())]
    with pytest.raises(BadImage, match=f"a {format} of several images"):
        read_header(encoded(pages[0], format, save_all=True, append_images=pages[1:]))


def test_greys_of_16_bits_from_white_to_black_are_refused_by_name() -> None:
    grey = Image.fromarray(np.full((2, 3), 257, np.uint16))
    data = encoded(grey, "TIFF", tiffinfo={262: 0})
    with pytest.raises(BadImage, match="whose zero is white"):
        read_header(data)


def test_a_small_file_that_claims_a_huge_image_is_refused() -> None:
    data = bytearray(encoded(Image.new("L", (4, 4))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(BadImage):
        read_header(bytes(data), BOTH)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(BadImage, match="a pipe, a device or a socket"):
        read_bytes(tmp_path / "a.jpg")
