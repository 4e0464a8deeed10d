"""Rank lists and hardest queries with planted answers, and the test of the study's hypothesis."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from reidablate.config import PositionRelationConfig
from reidablate.diagnostics.hypothesis import (
    FloatArray,
    histogram_overlap,
    hypothesis_test,
    pairwise_divergence,
    relation_distributions,
)
from reidablate.diagnostics.ranklists import IntArray, Retrieval, hardest, helped_and_hurt, margins, rank_list
from reidablate.losses.divergence import jsd
from reidablate.losses.positions import PositionState
from reidablate.metrics.protocol import score


def _angles(*degrees: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def _features() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Three queries in the plane; of the second the nearest image is wrong, and that by a wide margin."""
    return {
        "query_before_neck": _angles(0, 90, 180),
        "gallery_before_neck": _angles(1, 2, 3, 91, 130, 181, 200),
        "query_pids": np.array([1, 2, 3]),
        "query_camids": np.array([1, 1, 1]),
        "gallery_pids": np.array([1, 1, -1, 3, 2, 3, 1]),
        "gallery_camids": np.array([1, 2, 2, 2, 2, 2, 2]),
    }


def test_a_rank_list_frames_right_wrong_and_junk() -> None:
    shown = rank_list(Retrieval.of(_features(), "before_neck"), 0, count=3)
    assert [(s.image, s.kind, s.rank) for s in shown] == [
        (0, "junk", None),  # the query's own camera
        (1, "right", 1),
        (2, "junk", None),  # pid -1
        (3, "wrong", 2),
        (4, "wrong", 3),
    ]
    assert [s.distance for s in shown] == sorted(s.distance for s in shown)


def test_margins_are_positive_exactly_where_the_first_image_is_wrong() -> None:
    features = _features()
    found = margins(Retrieval.of(features, "before_neck"))
    right, wrong = (
        np.deg2rad([2, 40, 1]),
        np.deg2rad([91, 1, 20]),
    )  # from 0 degrees to 2 and 91, from 90 to 130 and 91, ...
    assert found == pytest.approx(2 * np.cos(wrong) - 2 * np.cos(right), abs=1e-6)


def test_a_planted_hardest_query_is_found_three_ways() -> None:
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(20), 3)
    gallery = np.eye(20)[pids] + rng.normal(0, 0.05, (60, 20))
    query = np.eye(20) + rng.normal(0, 0.05, (20, 20))
    query[13] = np.eye(20)[4]  # looks like another person
    labels: dict[str, Any] = {"query_pids": np.arange(20), "query_camids": np.zeros(20, int), "gallery_pids": pids}
    labels["gallery_camids"] = np.ones(60, int)
    names = np.array([f"q{k}" for k in range(20)])
    frame = score(query, gallery, query_names=names, **labels).queries
    retrieval = Retrieval.of({"query_x": query, "gallery_x": gallery, **labels}, "x")
    found = hardest(frame, margins(retrieval), count=1)
    assert found == {way: ["q13"] for way in ("average precision", "inverse negative penalty", "margin")}


def test_helped_and_hurt_queries_of_a_cell_against_its_reference() -> None:
    reference = pd.DataFrame({"query": list("abcd"), "average_precision": [0.5, 0.5, 0.5, 0.9]})
    cell = pd.DataFrame({"query": list("dcba"), "average_precision": [0.1, 0.5, 0.7, 1.0]})
    helped, hurt = helped_and_hurt(cell, reference)
    assert helped["query"].tolist() == ["a", "b"]
    assert helped["difference"].tolist() == pytest.approx([0.5, 0.2])
    assert hurt["query"].tolist() == ["d"]
    assert hurt[["cell", "reference"]].to_numpy().tolist() == [[0.1, 0.9]]


GRID = (4, 2)


def test_distributions_are_those_that_the_loss_compares() -> None:
    generator = torch.Generator().manual_seed(0)
    ape, patches = torch.randn(9, 6, generator=generator), torch.randn(5, 8, 6, generator=generator)
    direction = torch.randn(5, 6, generator=generator)
    options = PositionRelationConfig(patches=3)
    log_p = relation_distributions(direction, patches, PositionState(ape, None, None), options)
    best = (patches[2] @ direction[2]).argsort(descending=True)[:3] + 1
    values = torch.stack([ape[best[a]] @ ape[best[b]] for a, b in ((0, 1), (0, 2), (1, 2))])
    assert torch.allclose(log_p[2, 0], values.log_softmax(0), atol=1e-5)
    found = pairwise_divergence(log_p)
    assert found[1, 3] == pytest.approx(float(jsd(log_p[1, 0], log_p[3, 0])), abs=1e-6)
    assert np.allclose(found, found.T, atol=1e-6)


def _planted(specific: bool) -> tuple[FloatArray, IntArray, IntArray]:
    """Divergences of 12 identities, each seen twice by two cameras, with patches that are or are not its own."""
    rng = np.random.default_rng(0)
    pids, camids = np.repeat(np.arange(12), 4), np.tile([1, 1, 2, 2], 12)
    ape = torch.from_numpy(rng.normal(size=(9, 6)))
    favourites = [rng.permutation(8)[:3] for _ in range(12)]
    patches = rng.normal(0, 0.1, (48, 8, 6))
    for image, pid in enumerate(pids):
        own = favourites[pid] if specific else rng.permutation(8)[:3]
        patches[image, own, 0] += np.array([3.0, 2.0, 1.0])
    direction = torch.zeros(48, 6, dtype=torch.float64)
    direction[:, 0] = 1
    state = PositionState(ape, None, None)
    log_p = relation_distributions(direction, torch.from_numpy(patches), state, PositionRelationConfig(patches=3))
    return pairwise_divergence(log_p), pids, camids


def test_a_planted_identity_specific_relation_separates_the_histograms_and_a_shuffled_one_does_not() -> None:
    found = hypothesis_test(*_planted(specific=True), np.random.default_rng(1), num_permutations=199)
    assert found is not None
    assert found.difference > found.high
    assert found.p_value == 1 / 200
    assert found.overlap < 0.2
    assert found.num_ids == 12
    assert len(found.within) == 12 * 4  # two by two images of two cameras
    shuffled = hypothesis_test(*_planted(specific=False), np.random.default_rng(1), num_permutations=199)
    assert shuffled is not None
    assert shuffled.low < shuffled.difference < shuffled.high
    assert shuffled.p_value > 0.05
    assert shuffled.overlap > 0.5


def test_each_identity_counts_once_however_many_images_it_has() -> None:
    pids = np.array([0, 0, 1, 1, 1, 1])
    camids = np.array([1, 2, 1, 2, 1, 2])
    divergences = np.where(pids[:, None] == pids, np.where(pids == 0, 0.5, 0.1)[:, None], 0.6)
    found = hypothesis_test(divergences, pids, camids, np.random.default_rng(0), num_permutations=19)
    assert found is not None
    assert found.difference == pytest.approx((0.1 + 0.5) / 2)


def test_what_one_camera_does_to_its_images_is_no_evidence() -> None:
    """Two relations, one a camera; identities differ in nothing, so no permutation within cameras changes a thing."""
    pids, camids = np.repeat(np.arange(6), 4), np.tile([1, 2, 3, 4], 6)
    divergences = (camids[:, None] % 2 != camids % 2) * 0.4
    found = hypothesis_test(divergences, pids, camids, np.random.default_rng(0), num_permutations=19)
    assert found is not None
    assert found.difference == pytest.approx(0)
    assert found.low == pytest.approx(0)
    assert found.high == pytest.approx(0)
    assert found.p_value == 1


def test_no_identity_under_two_cameras_is_no_test() -> None:
    assert hypothesis_test(np.zeros((3, 3)), np.array([0, 0, 1]), np.array([1, 1, 2]), np.random.default_rng(0)) is None


def test_overlap_of_equal_disjoint_and_half_shared_histograms() -> None:
    values = np.arange(100.0)
    assert histogram_overlap(values, values) == pytest.approx(1)
    assert histogram_overlap(values, values + 1000) == 0
    assert histogram_overlap(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == pytest.approx(0.5)
