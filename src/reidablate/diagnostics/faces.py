"""Blurs the faces of real people in every picture that a report or a page shows.

Legend: H x W pixels.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
HEAD_SHARE = 1 / 3
"""Of the height, from the top. A head is a seventh of a person, so a tight box has it in the upper fifth; a box that a
detector drew has up to a tenth of its height above the person, and where legs are hidden a head is a quarter of it."""


def blur_face(pixels: Pixels) -> Pixels:
    """Returns an image (H, W, 3) whose upper third cannot be recognised.

    No detector of faces ships with this package: a face is expected there, in boxes drawn by hand and by a detector of
    people. It is reduced to a few pixels and enlarged again, which no sharpening undoes.
    """
    head = max(1, round(HEAD_SHARE * len(pixels)))
    image = Image.fromarray(pixels)
    part = image.crop((0, 0, image.width, head))
    few = part.resize((4, 3), Image.Resampling.BOX)
    image.paste(few.resize(part.size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2)), (0, 0))
    return np.asarray(image)
