"""Features of a few identities in the plane, by t-SNE.

Legend: N images, D width.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

NEEDS = "t-SNE needs scikit-learn; install it with pip install 'reidablate[diagnose]'."


def tsne(features: npt.NDArray[Any], *, seed: int) -> npt.NDArray[np.float64] | None:
    """Returns places (N, 2) of features (N, D) compared by cosine (van der Maaten and Hinton 2008).

    None where scikit-learn is not installed. Neighbours mean something, distances between groups do not.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    perplexity = min(15.0, (len(unit) - 1) / 3)
    made: npt.NDArray[Any] = TSNE(
        perplexity=perplexity,
        init="pca",
        random_state=seed,
        max_iter=500,
        method="exact" if len(unit) < 50 else "barnes_hut",
    ).fit_transform(unit.astype(np.float32))
    return made.astype(np.float64)
