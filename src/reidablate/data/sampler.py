"""PK batches: P identities with K images each, so that every anchor finds positives and negatives in its batch."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reidablate.errors import UserError
from reidablate.rng import generator


class PKSampler:
    """Batches of `num_ids` identities x `num_instances` images, drawn anew for every epoch.

    An epoch cuts the shuffled images of each identity into groups of K (an identity with fewer than K images gives
    one group drawn with replacement; a remainder is left out) and then takes the next group of P identities chosen
    uniformly among those that have one left, until fewer than P have. All batches are full; how many there are
    depends on the draw. Hermans et al. 2017, section 2 (PK batches); the cutting is that of the TransReID code.

    Args:
        labels: Identity of each training image, shape (N,).
        num_ids: P.
        num_instances: K.
        seed: The run's seed; the stream is `"batches"`, keyed by the epoch.

    Raises:
        UserError: There are fewer than P identities.
    """

    def __init__(self, labels: ArrayLike, *, num_ids: int, num_instances: int, seed: int) -> None:
        assert num_ids >= 1
        assert num_instances >= 1
        labels = np.asarray(labels)
        identities, counts = np.unique(labels, return_counts=True)
        if len(identities) < num_ids:
            raise UserError(
                f"the training images show {len(identities)} identities, a batch needs {num_ids}; "
                "lower the identities per batch or train on more of the set."
            )
        self.num_ids = num_ids
        self.num_instances = num_instances
        self.seed = seed
        self._rows = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Returns the batches of an epoch as rows of the training set, shape (num_batches, P * K).

        Columns pK ... pK + K - 1 of a batch show one identity.
        """
        rng = generator(self.seed, "batches", epoch)
        groups = [self._groups(rows, rng) for rows in self._rows]
        left = np.array([len(group) for group in groups])
        batches = []
        while len(candidates := np.flatnonzero(left)) >= self.num_ids:
            chosen = rng.choice(candidates, self.num_ids, replace=False)
            batches.append(np.concatenate([groups[identity][-left[identity]] for identity in chosen]))
            left[chosen] -= 1
        return np.stack(batches)

    def _groups(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns the images of one identity in groups, shape (number of groups, K)."""
        if len(rows) < self.num_instances:
            return rng.choice(rows, (1, self.num_instances))
        whole = len(rows) // self.num_instances * self.num_instances
        return rng.permutation(rows)[:whole].reshape(-1, self.num_instances)
