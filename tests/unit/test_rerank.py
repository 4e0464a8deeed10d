"""Re-ranking against a dense float64 oracle written from the definition."""

from typing import Any

import numpy as np
import pytest

from reidablate.errors import UserError
from reidablate.metrics import rerank as module
from reidablate.metrics import score, score_distances
from reidablate.metrics.checks import check_labels
from reidablate.metrics.protocol import score_by
from reidablate.metrics.rerank import Constants, RerankedDistances, rerank


def oracle(query: np.ndarray, gallery: np.ndarray, constants: Constants) -> np.ndarray:
    """Returns the re-ranked distances (Q, G) by sets and dense float64 sums, image by image."""
    features = np.concatenate((query, gallery)).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    size = len(features)
    d = np.stack([np.square(features - one).sum(axis=1) for one in features]) ** (constants.power / 2)
    d /= d.max(axis=1, keepdims=True)
    ranking = [sorted(range(size), key=lambda j: (j != i, d[i, j], j)) for i in range(size)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranking[i][: k + 1] if i in ranking[j][: k + 1]}

    codes = np.zeros((size, size))
    for i in range(size):
        own = reciprocal(i, constants.k1)
        wide = set(own)
        for j in own:
            other = reciprocal(j, int(np.around(constants.k1 / 2)))
            if len(other & own) * 3 > 2 * len(other):
                wide |= other
        members = sorted(wide)
        codes[i, members] = np.exp(-d[i, members])
        codes[i] /= codes[i].sum()
    codes = np.stack([codes[ranking[i][: constants.k2]].mean(axis=0) for i in range(size)])
    gallery_codes = codes[len(query) :]
    jaccard = [1 - np.minimum(one, gallery_codes).sum(1) / np.maximum(one, gallery_codes).sum(1) for one in codes]
    mixed = (1 - constants.weight) * np.stack(jaccard) + constants.weight * d[:, len(query) :]
    return mixed[: len(query)]


def people(
    num_queries: int, num_gallery: int, num_ids: int, *, dim: int = 24, noise: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Random features of identities under three cameras, so that neighbours are mostly but not always mutual."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num_ids, dim))
    pids = rng.integers(0, num_ids, num_queries), rng.integers(0, num_ids, num_gallery)
    query, gallery = ((centres[who] + noise * rng.standard_normal((len(who), dim))).astype(np.float32) for who in pids)
    labels = {
        "query_pids": pids[0],
        "gallery_pids": pids[1],
        "query_camids": rng.integers(0, 3, num_queries),
        "gallery_camids": rng.integers(0, 3, num_gallery),
    }
    return query, gallery, labels


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (50, 15, 0.3), (5, 1, 0.0), (3, 4, 1.0)])
def test_equal_to_the_dense_oracle(k1: int, k2: int, weight: float, power: int) -> None:
    query, gallery, _ = people(17, 110, 12)
    constants = Constants(k1, k2, weight, power)
    np.testing.assert_allclose(rerank(query, gallery, constants), oracle(query, gallery, constants), atol=1e-7)


def test_more_neighbours_than_images() -> None:
    query, gallery, _ = people(3, 9, 2)
    constants = Constants(50, 15)
    np.testing.assert_allclose(rerank(query, gallery, constants), oracle(query, gallery, constants), atol=1e-7)


def test_copies_are_ordered_by_index_and_leave_no_image_without_neighbours() -> None:
    query, gallery, _ = people(4, 60, 3)
    gallery[10:50] = gallery[10]  # more copies than neighbours
    constants = Constants(5, 3)
    found = rerank(query, gallery, constants)
    assert np.isfinite(found).all()
    # The oracle subtracts before it squares, so its distances between copies are exactly zero too.
    np.testing.assert_allclose(found, oracle(query, gallery, constants), atol=1e-7)


def test_one_query_and_one_gallery_image_that_are_the_same() -> None:
    assert rerank([[1.0, 2.0]], [[1.0, 2.0]]).tolist() == [[0.0]]


@pytest.mark.parametrize("constants", [Constants(), Constants(50, 15)])
def test_blocks_change_no_bit(constants: Constants, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery, labels = people(31, 170, 12)
    gallery[5:30] = gallery[5]
    whole = rerank(query, gallery, constants)
    wanted = score_distances(whole, **labels)
    monkeypatch.setattr(module, "DISTANCES_AT_ONCE", 900)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 7)
    assert np.array_equal(rerank(query, gallery, constants), whole)
    sides = [(labels[f"query_{key}"], labels[f"gallery_{key}"]) for key in ("pids", "camids")]
    checked = check_labels(whole.shape, pids=sides[0], camids=sides[1], names=None)
    in_tiles = score_by(RerankedDistances(query, gallery, constants), checked, block_size=13)
    assert in_tiles.summary() == wanted.summary()
    assert in_tiles.queries.equals(wanted.queries)


def test_clusters_rank_better_and_weight_one_ranks_as_before() -> None:
    query, gallery, labels = people(60, 400, 40, noise=1.6)
    plain = score(query, gallery, **labels).summary()["mAP"]
    assert score_distances(rerank(query, gallery), **labels).summary()["mAP"] > plain + 0.02
    same = score_distances(rerank(query, gallery, Constants(weight=1.0)), **labels).summary()["mAP"]
    assert same == pytest.approx(plain, abs=1e-12)


def test_distances_stay_within_zero_and_one() -> None:
    query, gallery, _ = people(20, 100, 8)
    found = rerank(query, gallery)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("constants", [(0, 1, 0.3, 2), (5, 7, 0.3, 2), (5, 0, 0.3, 2), (5, 2, 1.5, 2), (5, 2, 0.3, 3)])
def test_constants_out_of_range_are_refused(constants: tuple[int, int, float, int]) -> None:
    with pytest.raises(UserError, match="re-ranking constants are k1"):
        Constants(*constants)


def test_unusable_features_are_refused() -> None:
    query, gallery, _ = people(3, 9, 2)
    gallery[4, 3] = np.nan
    with pytest.raises(UserError, match="row 4 of gallery_features"):
        rerank(query, gallery)


@pytest.mark.slow
@pytest.mark.parametrize("constants", [Constants(), Constants(50, 15)])
def test_equal_to_the_oracle_at_a_sixteenth_of_market(constants: Constants) -> None:
    query, gallery, _ = people(210, 995, 47, dim=768, noise=2.0)
    np.testing.assert_allclose(rerank(query, gallery, constants), oracle(query, gallery, constants), atol=1e-5)
