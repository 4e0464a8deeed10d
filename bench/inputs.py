"""Features in the size of real test sets: identities as clusters, some of them alike, under several cameras.

Legend: Q queries, G gallery images, D feature.
"""

from typing import Any, NamedTuple

import numpy as np

from reidablate.rng import generator

WIDTH = 768
# Chosen so that neither ranking nor re-ranking is nearly perfect or nearly chance.
NOISE, OWN, LOOK_ALIKES = 2.0, 0.5, 4


class Size(NamedTuple):
    """Numbers of images, identities and cameras."""

    queries: int
    gallery: int
    ids: int
    cameras: int


SIZES = {
    "market1501": Size(3368, 15913, 750, 6),
    "market1501_sixteenth": Size(210, 995, 47, 6),
    "msmt17": Size(11659, 82161, 3060, 15),
    "msmt17_quarter_of_queries": Size(2915, 82161, 3060, 15),
    "small": Size(100, 1000, 20, 3),
}


def draw(size: Size) -> dict[str, Any]:
    """Returns `query_features` (Q, D) and `gallery_features` (G, D) in float32, and pids and camids of both."""
    rng = generator(0, "bench:inputs")
    centres = OWN * rng.standard_normal((size.ids, WIDTH), np.float32)
    centres += rng.standard_normal((size.ids, WIDTH), np.float32)[np.arange(size.ids) // LOOK_ALIKES]
    found: dict[str, Any] = {}
    for side, number in (("query", size.queries), ("gallery", size.gallery)):
        pids = rng.integers(0, size.ids, number)
        features = rng.standard_normal((number, WIDTH), np.float32)
        features *= NOISE * rng.uniform(0.5, 1.5, (number, 1)).astype(np.float32)
        features += centres[pids]
        found |= {f"{side}_features": features, f"{side}_pids": pids}
        found[f"{side}_camids"] = rng.integers(0, size.cameras, number)
    return found
