"""How well a training ranks the identities that it holds out, while it goes on; the test set is never read for it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidablate.config import RunConfig
from reidablate.data.holdout import Division
from reidablate.engine.extract import BATCH, Features, forward
from reidablate.engine.state import TrainingState
from reidablate.errors import UserError
from reidablate.metrics.evaluate import score_side
from reidablate.models.neck import ReidModel
from reidablate.runs import HOLDOUT, SIDES

MOST_POINTS = 12


def is_scored(epoch: int, num_epochs: int) -> bool:
    """Returns whether held-out identities are scored after an epoch (from 0): at most 12 times, evenly, and at the end.

    >>> [epoch + 1 for epoch in range(30) if is_scored(epoch, 30)]
    [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    """
    return (epoch + 1) % math.ceil(num_epochs / MOST_POINTS) == 0 or epoch + 1 == num_epochs


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """The held-out images of a training.

    Attributes:
        images: All training images of the cache, (N, H, W, 3).
        train: Their rows of the index.
        division: What is held out; nothing under most configurations.
        config: That of the training.
        device: Where it is computed.
    """

    images: np.ndarray[Any, np.dtype[np.uint8]]
    train: pd.DataFrame
    division: Division
    config: RunConfig
    device: torch.device

    def features(self, model: ReidModel) -> Features:
        """Returns the arrays of `features.npz` with the held-out images as query and gallery.

        The model is put into evaluation mode. No random number is drawn and no loader process is started, so that the
        training goes on as it would without.
        """
        model.eval()
        arrays: Features = {}
        for split, rows in (("query", self.division.query), ("gallery", self.division.gallery)):
            parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
            batches = (torch.from_numpy(self.images[part]) for part in parts)
            camids = self.train["camid"].to_numpy(np.int64)[rows]
            found = forward(model, batches, self.device, self.config.train.precision, camids=camids)
            arrays |= {f"{split}_{side}": found[side] for side in SIDES}
            arrays |= {f"{split}_{key}s": self.train[key].to_numpy(np.int64)[rows] for key in ("pid", "camid")}
            arrays[f"{split}_names"] = self.train["name"].to_numpy(str)[rows]
        return arrays

    def book(self, state: TrainingState, epoch: int) -> float | None:
        """Books the mAP after an epoch, a fraction, and returns it; None where nothing is held out, or not scored then.

        It is NaN where the features cannot be ranked, as in a network that maps all images to one point.
        """
        if not len(self.division.query) or not is_scored(epoch, self.config.train.num_epochs):
            return None
        try:
            score = score_side(self.features(state.result), self.config.model.test_feature).summary()["mAP"]
        except UserError:
            score = math.nan
        state.book_epoch(HOLDOUT, score)
        return score
