"""An identity-disjoint part of the training images, with query and gallery of its own.

It is what a curve or a choice of options may look at while the test set stays unread. Shapes: N training images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reidablate.config import TrainConfig
from reidablate.errors import UserError
from reidablate.rng import generator

LEAST = 2  # identities: one alone is always found

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """Which training images are trained on, and which are held out; rows count among the training images, from 0.

    Attributes:
        rows: Of the images that are trained on, ascending.
        labels: Their training labels, 0..C-1.
        query: Of held-out images that are searched with, ascending; empty where nothing is held out.
        gallery: Of held-out images that are searched, ascending.
    """

    rows: Rows
    labels: Rows
    query: Rows
    gallery: Rows


def divide(labels: NDArray[Any], camids: NDArray[Any], train: TrainConfig) -> Division:
    """Returns a division of the training images that is the same for every seed and cell.

    The share `train.holdout` of the identities is held out, at least `LEAST`. They are drawn by strata: the identities
    that two cameras saw, sorted by their number of images, are cut into as many equal parts as are wanted, and one is
    drawn from each. Of each held-out identity, one image of every camera that has several is a query, or one image in
    all where no camera has several; the others are the gallery. So every query has a match by another camera. What is
    left is trained on, or the share `train.fraction` of its identities, rounded up to those of a batch.

    Args:
        labels: Identity of each image, 0..C-1, shape (N,).
        camids: Camera of each image, shape (N,).
        train: The options of the training.

    Raises:
        UserError: Too few identities were seen by two cameras, or too few are left for a batch.
    """
    num_ids = int(labels.max()) + 1
    held = _held_out(labels, camids, train.holdout) if train.holdout else np.empty(0, np.int64)
    left = np.setdiff1d(np.arange(num_ids), held)
    if len(held) and len(left) < train.num_ids:
        raise UserError(
            f"train.holdout: {train.holdout:g} leaves {len(left)} of {num_ids} training identities, a batch needs "
            f"{train.num_ids}; hold out fewer, or lower the identities per batch."
        )
    order = generator(0, "fraction").permutation(len(left))
    kept = np.sort(left[order[: max(train.num_ids, round(train.fraction * len(left)))]])
    rows = np.flatnonzero(np.isin(labels, kept))
    query = _queries(labels, camids, held)
    gallery = np.setdiff1d(np.flatnonzero(np.isin(labels, held)), query)
    return Division(rows, np.searchsorted(kept, labels[rows]), query, gallery)


def _held_out(labels: NDArray[Any], camids: NDArray[Any], share: float) -> Rows:
    """Returns the identities to hold out, ascending."""
    identities, counts = np.unique(labels, return_counts=True)
    seen_by = np.unique(np.stack([labels, camids]), axis=1)[0]
    eligible = np.flatnonzero(np.bincount(seen_by, minlength=len(identities)) > 1)
    wanted = max(LEAST, round(share * len(identities)))
    if len(eligible) < wanted:
        raise UserError(
            f"train.holdout: {share:g} is {wanted} of {len(identities)} training identities, but only {len(eligible)} "
            "were seen by two cameras, which a query and its match need; hold out fewer, or none."
        )
    rng = generator(0, "holdout")
    shuffled = rng.permutation(eligible)  # identities with as many images may stand in either stratum
    strata = np.array_split(shuffled[np.argsort(counts[shuffled], kind="stable")], wanted)
    return np.sort([int(rng.choice(stratum)) for stratum in strata])


def _queries(labels: NDArray[Any], camids: NDArray[Any], held: Rows) -> Rows:
    rng = generator(0, "holdout_queries")
    chosen: list[int] = []
    for identity in held:
        rows = np.flatnonzero(labels == identity)
        by_camera = [rows[camids[rows] == camid] for camid in np.unique(camids[rows])]
        several = [images for images in by_camera if len(images) > 1]
        chosen += [int(rng.choice(images)) for images in several or [rows]]
    return np.sort(np.array(chosen, np.int64))
