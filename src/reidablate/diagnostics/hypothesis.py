"""The claim under Proposed 2, tested: images of one identity have similar position relations among their main patches.

Legend: N images, n patches, D width, G groups, E entries of a distribution, C identities, S permutations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reidablate.config import PositionRelationConfig
from reidablate.losses.divergence import jsd
from reidablate.losses.position_relation import log_distributions
from reidablate.losses.positions import PositionState, choose_patches, relation_values

FloatArray = npt.NDArray[np.float64]


def relation_distributions(
    direction: Tensor, patches: Tensor, positions: PositionState, options: PositionRelationConfig
) -> Tensor:
    """Returns the log-distributions (N, G, E) over the pairs of each image's top patches, as the loss sees them.

    Args:
        direction: (N, D) what patches are compared with.
        patches: (N, n, D).
        positions: Position parameters of the model.
        options: Of the loss; cells without it take its defaults.
    """
    chosen = choose_patches(direction, patches, options.patches, by_token=options.order == "token_index")
    scale = patches.shape[2] ** -0.5 if options.abs_scale == "inv_sqrt_d" else 1.0
    shift = 0 if options.ape_offset == "author_bug" else 1
    values = relation_values(positions, chosen, options.pairs, abs_scale=scale, ape_shift=shift)
    return log_distributions(values, options.grouping)


def pairwise_divergence(log_p: Tensor) -> FloatArray:
    """Returns the Jensen-Shannon divergence in nats between all images, (N, N), mean of groups, from (N, G, E)."""
    rows = [jsd(log_p[i].expand_as(log_p), log_p).mean(1) for i in range(len(log_p))]
    return torch.stack(rows).double().cpu().numpy()


@dataclass(frozen=True)
class HypothesisTest:
    """Whether divergences are smaller within identities than between.

    Attributes:
        within: Divergences of the pairs of one identity.
        between: Those of pairs of two identities.
        difference: Mean over identities of (mean between - mean within), in nats; above 0 in favour of the claim.
        low: 2.5 % quantile of that difference when identities are drawn by lot.
        high: 97.5 % quantile, likewise.
        p_value: Share of the draws, the observed one among them, with at least this difference (one-sided).
        overlap: Common area of both histograms, in [0, 1].
        num_ids: Identities that have a pair.
    """

    within: FloatArray
    between: FloatArray
    difference: float
    low: float
    high: float
    p_value: float
    overlap: float
    num_ids: int


def hypothesis_test(
    divergences: FloatArray,
    pids: npt.NDArray[np.int64],
    camids: npt.NDArray[np.int64],
    rng: np.random.Generator,
    *,
    num_permutations: int = 999,
) -> HypothesisTest | None:
    """Returns the test, None if no identity was seen by two cameras.

    Only pairs of images of different cameras count, so that one camera's frames of one moment do not decide. Under the
    null hypothesis identities do not matter: they are permuted among the images of each camera, which leaves alone what
    a camera does to all of its images. Each identity counts once, however many images it has.

    Args:
        divergences: (N, N), symmetric.
        pids: (N,).
        camids: (N,).
        rng: Source of the permutations.
        num_permutations: How many.
    """
    counted = camids[:, None] != camids[None, :]
    _, labels = np.unique(pids, return_inverse=True)
    same = counted & (labels[:, None] == labels[None, :])
    if not same.any():
        return None
    statistic = _Statistic.of(divergences, counted, same, labels)
    places = np.arange(len(labels))
    observed = statistic(places)
    cameras = [np.flatnonzero(camids == camid) for camid in np.unique(camids)]
    drawn = np.empty(num_permutations)
    for number in range(num_permutations):
        for images in cameras:
            places[images] = rng.permutation(images)
        drawn[number] = statistic(places)
    low, high = np.quantile(drawn, [0.025, 0.975])
    upper = np.triu(counted, 1)
    within, between = divergences[upper & same], divergences[upper & ~same]
    return HypothesisTest(
        within=within,
        between=between,
        difference=observed,
        low=float(low),
        high=float(high),
        p_value=float((1 + (drawn >= observed - 1e-12).sum()) / (1 + len(drawn))),
        overlap=histogram_overlap(within, between),
        num_ids=len(np.unique(labels[same.any(1)])),
    )


def histogram_overlap(first: FloatArray, second: FloatArray, bins: int = 40) -> float:
    """Returns the common area of two histograms over equal bins of their joint range, in [0, 1]."""
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    if low == high:
        return 1.0
    shares = [np.histogram(values, bins, (low, high))[0] / len(values) for values in (first, second)]
    return float(np.minimum(*shares).sum())


@dataclass(frozen=True)
class _Statistic:
    """The mean over identities of mean divergence to others minus mean divergence within.

    Called with the image (N,) that stands in the place of each: as images only change places within a camera, which
    pairs count and how many each identity has stays as it was.
    """

    divergences: FloatArray
    first: npt.NDArray[np.intp]  # (P,) both places of each pair of one identity that counts
    second: npt.NDArray[np.intp]
    labels: npt.NDArray[np.intp]  # (N,) identity of each place
    totals: FloatArray  # (N,) sum of an image's divergences that count
    num_within: npt.NDArray[Any]  # by identity
    num_between: npt.NDArray[Any]

    @classmethod
    def of(
        cls,
        divergences: FloatArray,
        counted: npt.NDArray[np.bool_],
        same: npt.NDArray[np.bool_],
        labels: npt.NDArray[np.intp],
    ) -> "_Statistic":
        within, everything = (np.bincount(labels, part.sum(1).astype(float)) for part in (same, counted))
        totals = np.where(counted, divergences, 0.0).sum(1)
        first, second = np.nonzero(same)
        return cls(divergences, first, second, labels, totals, within, everything - within)

    def __call__(self, places: npt.NDArray[np.intp]) -> float:
        pairs = self.divergences[places[self.first], places[self.second]]
        within = np.bincount(self.labels[self.first], pairs, len(self.num_within))
        between = np.bincount(self.labels, self.totals[places]) - within
        there = (self.num_within > 0) & (self.num_between > 0)
        gaps = between[there] / self.num_between[there] - within[there] / self.num_within[there]
        return float(gaps.mean())
