"""Mean colours of horizontal stripes: the floor that a learned feature must beat on synthetic data.

N images, H, W height and width in pixels, S stripes.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def stripe_features(images: NDArray[np.uint8], camids: NDArray[np.integer], stripes: int = 8) -> NDArray[np.float32]:
    """Returns each image's mean RGB of `stripes` horizontal stripes, standardised within each camera.

    Stripe s covers the rows from floor(s H / S) to floor((s + 1) H / S). Every column is shifted to mean 0 and
    scaled to (population) standard deviation 1 over the images of one camera, which removes the camera's light,
    colour cast and average background; a column that is constant in a camera becomes 0. Compare the rows by
    Euclidean distance as they are, without L2 normalisation.

    Args:
        images: (N, H, W, 3) RGB.
        camids: (N,) camera of each image.
        stripes: Number of stripes, 1..H.

    Returns:
        (N, 3 S) float32, the three colours of the top stripe first.
    """
    num, height = images.shape[:2]
    assert 1 <= stripes <= height, f"{stripes} stripes do not fit {height} rows"
    edges = np.arange(stripes + 1) * height // stripes
    means = [images[:, top:bottom].mean(axis=(1, 2)) for top, bottom in pairwise(edges)]
    features = np.stack(means, axis=1).reshape(num, 3 * stripes)
    for camid in np.unique(camids):
        rows = camids == camid
        spread = features[rows].std(axis=0)
        features[rows] = (features[rows] - features[rows].mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return features.astype(np.float32)
