"""Mean colours of horizontal stripes: the floor that a learned feature must beat on synthetic data.

N images, H, W height and width in pixels, S stripes.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
"""Images read at a time, so that memory-mapped ones need no memory of their own."""


def stripe_means(images: NDArray[np.uint8], stripes: int = 8) -> NDArray[np.float64]:
    """Returns each image's mean RGB of `stripes` horizontal stripes, (N, 3 S), the top stripe's colours first.

    Stripe s covers the rows from floor(s H / S) to floor((s + 1) H / S).

    Args:
        images: (N, H, W, 3) RGB, also memory-mapped.
        stripes: Number of stripes, 1..H.
    """
    num, height = images.shape[:2]
    assert 1 <= stripes <= height, f"{stripes} stripes do not fit {height} rows"
    edges = np.arange(stripes + 1) * height // stripes
    features = np.empty((num, 3 * stripes))
    for start in range(0, num, BLOCK):
        block = images[start : start + BLOCK]
        means = [block[:, top:bottom].mean(axis=(1, 2)) for top, bottom in pairwise(edges)]
        features[start : start + BLOCK] = np.concatenate(means, axis=1)
    return features


def standardise_by_camera(features: NDArray[np.float64], camids: NDArray[np.integer]) -> NDArray[np.float64]:
    """Returns features (N, D) shifted to mean 0 and scaled to (population) sd 1 within each camera.

    This removes the camera's light, colour cast and average background. A column that is constant in a camera
    becomes 0.
    """
    result = np.empty_like(features)
    for camid in np.unique(camids):
        rows = camids == camid
        spread = features[rows].std(axis=0)
        result[rows] = (features[rows] - features[rows].mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return result
