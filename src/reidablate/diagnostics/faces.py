"""Faces of real people are not shown.

Legend: H x W pixels.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
HEAD_SHARE = 0.2  # of the height: where the box of a standing person has the face


def blur_face(pixels: Pixels) -> Pixels:
    """Returns an image (H, W, 3) whose upper fifth cannot be recognised.

    No detector ships with this package: the face of a standing person is expected there, as it is in the boxes of the
    data sets. It is reduced to a few pixels and enlarged again, which no sharpening undoes.
    """
    head = max(1, round(HEAD_SHARE * len(pixels)))
    image = Image.fromarray(pixels)
    part = image.crop((0, 0, image.width, head))
    few = part.resize((4, 3), Image.Resampling.BOX)
    image.paste(few.resize(part.size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2)), (0, 0))
    return np.asarray(image)
