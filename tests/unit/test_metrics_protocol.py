"""Which images count, what is refused, and that the arithmetic is exact."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reidablate.errors import UserError
from reidablate.metrics import score, score_distances
from reidablate.metrics.checks import check_labels
from reidablate.metrics.distances import Distances, FeatureDistances, GivenDistances, fixed_point
from reidablate.metrics.protocol import Scores, score_by

METRICS = ["mAP", "mAP_trapezoid", "mAP_optimistic", "mAP_pessimistic", "mINP", "rank1", "rank5", "rank10", "rank20"]


def problem(
    num_queries: int = 6, num_gallery: int = 40, dim: int = 19, num_ids: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Random float32 features of a few identities under three cameras, some of them exact copies of each other."""
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((num_queries, dim)).astype(np.float32)
    gallery = rng.standard_normal((num_gallery, dim)).astype(np.float32)
    gallery[rng.integers(0, num_gallery, num_gallery // 2)] = gallery[0]
    labels = {
        "query_pids": rng.integers(1, num_ids + 1, num_queries),
        "gallery_pids": rng.integers(-1, num_ids + 1, num_gallery),
        "query_camids": rng.integers(0, 3, num_queries),
        "gallery_camids": rng.integers(0, 3, num_gallery),
    }
    return query, gallery, labels


def assert_same(left: Scores, right: Scores) -> None:
    pd.testing.assert_frame_equal(left.queries, right.queries, check_exact=True)
    assert left.num_invalid == right.num_invalid


def test_junk_and_own_camera_are_ignored_and_distractors_count() -> None:
    # Query: pid 7, camid 1. Order of what counts: distractor, positive, stranger, positive, (out: junk, own camera).
    scores = score_distances(
        [[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]],
        query_pids=[7],
        gallery_pids=[-1, 0, 7, 7, 3, 7],
        query_camids=[1],
        gallery_camids=[2, 1, 1, 2, 2, 3],
        query_names=["0007_c2s1_000001_00.jpg"],
    )
    assert scores.num_invalid == 0
    assert scores.queries.to_dict("records") == [
        {
            "query": "0007_c2s1_000001_00.jpg",
            "pid": 7,
            "camid": 1,
            "average_precision": (1 / 2 + 2 / 4) / 2,
            "average_precision_trapezoid": ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2,
            "average_precision_optimistic": (1 / 2 + 2 / 4) / 2,
            "average_precision_pessimistic": (1 / 2 + 2 / 4) / 2,
            "inverse_negative_penalty": 2 / 4,
            "first_hit_rank": 2,
            "num_positives": 2,
        }
    ]


def test_summary_is_the_mean_over_valid_queries() -> None:
    # Query 0 hits at rank 1, query 2 at rank 2; query 1 has its pid under its own camera only.
    scores = score_distances(
        [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],
        query_pids=[5, 8, 6],
        gallery_pids=[5, 6, 8],
        query_camids=[0, 0, 0],
        gallery_camids=[1, 1, 0],
    )
    assert scores.queries["query"].tolist() == ["0", "2"]
    assert scores.summary() == {
        "mAP": 0.75,
        "mAP_trapezoid": (1 + 0.25) / 2,
        "mAP_optimistic": 0.75,
        "mAP_pessimistic": 0.75,
        "mINP": 0.75,
        "rank1": 0.5,
        "rank5": 1.0,
        "rank10": 1.0,
        "rank20": 1.0,
        "num_queries": 2,
        "num_invalid": 1,
    }


def test_features_rank_like_cosine_similarity_in_float64() -> None:
    query, gallery, labels = problem()
    gallery[:] = np.random.default_rng(3).standard_normal(gallery.shape)  # no ties
    unit_query, unit_gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery.astype(float)))
    by_cosine = score_distances(1 - unit_query.astype(float) @ unit_gallery.T, **labels)
    assert_same(score(query, gallery, **labels), by_cosine)


def test_distances_are_exact_whole_numbers() -> None:
    query, gallery, _ = problem(dim=513)
    distances = FeatureDistances(query, gallery)
    everything = np.arange(len(query)), np.arange(len(gallery))
    found = distances.between(distances.queries(everything[0]), distances.gallery(everything[1]))
    x, y = ([[int(v) for v in row] for row in fixed_point(side)] for side in (query, gallery))
    exact = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in y] for p in x]
    assert [[int(v) for v in row] for row in found] == exact
    # In units of 2^-50 they are the squared distances of the directions.
    unit_query, unit_gallery = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (query, gallery))
    wanted = np.square(unit_query[:, None].astype(float) - unit_gallery[None].astype(float)).sum(axis=2)
    np.testing.assert_allclose(found * 2.0**-50, wanted, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-140, 1e-3, 7.0, 1e140])
def test_length_of_features_is_nothing(scale: float) -> None:
    query, gallery, labels = problem()
    scaled = gallery.astype(np.float64) * np.where(np.arange(len(gallery)) % 2, scale, 1.0)[:, None]
    once = score(query, gallery, **labels)
    pd.testing.assert_frame_equal(score(query, scaled, **labels).queries, once.queries)


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 39, 40, 41])
def test_block_size_changes_no_bit(block_size: int) -> None:
    query, gallery, labels = problem()
    assert_same(score(query, gallery, **labels, block_size=block_size), score(query, gallery, **labels))


@pytest.mark.parametrize("block_size", [37, 300])
def test_block_size_changes_no_bit_over_many_tiles(block_size: int) -> None:
    query, gallery, labels = problem(num_queries=300, num_gallery=700, dim=130, num_ids=40)
    assert_same(score(query, gallery, **labels, block_size=block_size), score(query, gallery, **labels))


def test_one_identity_everywhere_is_split_into_blocks_of_bounded_pairs() -> None:
    query, gallery, labels = problem(num_queries=50, num_gallery=90, num_ids=1)
    assert_same(score(query, gallery, **labels, block_size=8), score(query, gallery, **labels))


@pytest.mark.parametrize("of", [FeatureDistances, lambda query, gallery: GivenDistances(np.abs(query @ gallery.T))])
def test_progress_ends_with_every_pair_of_a_query_and_an_image_that_counts(of: Callable[..., Distances]) -> None:
    query, gallery, labels = problem(num_queries=50, num_gallery=300)
    pids, camids = ((labels[f"query_{ids}"], labels[f"gallery_{ids}"]) for ids in ("pids", "camids"))
    told: list[tuple[int, int]] = []
    checked = check_labels((50, 300), pids=pids, camids=camids, names=None)
    score_by(of(query, gallery), checked, block_size=64, progress=lambda done, total: told.append((done, total)))
    total = 50 * int((labels["gallery_pids"] != -1).sum())
    assert told[-1] == (total, total)
    assert len(told) > 4
    assert sorted(told) == told


def test_row_of_fixed_point_depends_on_that_row_alone() -> None:
    _, gallery, _ = problem(dim=1000)
    whole = fixed_point(gallery)
    for i in range(len(gallery)):
        assert np.array_equal(fixed_point(gallery[i : i + 1])[0], whole[i])
    assert np.array_equal(fixed_point(np.asfortranarray(gallery)), whole)


def test_copies_tie_exactly_and_the_gallery_order_decides() -> None:
    feature = np.random.default_rng(0).standard_normal((3, 257)).astype(np.float32)
    query, positive, other = feature
    labels: dict[str, Any] = {"query_pids": [1], "query_camids": [0], "gallery_camids": [1, 1, 1]}
    first = score([query], [positive, positive, other], gallery_pids=[1, 2, 3], **labels).queries.iloc[0]
    second = score([query], [positive, positive, other], gallery_pids=[2, 1, 3], **labels).queries.iloc[0]
    assert second["first_hit_rank"] == first["first_hit_rank"] + 1
    for row in (first, second):
        assert row["average_precision_optimistic"] == 1 / first["first_hit_rank"]
        assert row["average_precision_pessimistic"] == 1 / second["first_hit_rank"]


def test_a_copy_of_the_query_comes_first() -> None:
    rng = np.random.default_rng(1)
    query = rng.standard_normal((1, 768)).astype(np.float32)
    near = query + 3e-6 * rng.standard_normal((200, 768)).astype(np.float32)
    gallery = np.concatenate((near, -query, query))
    scores = score(
        query,
        gallery,
        query_pids=[1],
        gallery_pids=[2] * 201 + [1],
        query_camids=[0],
        gallery_camids=[1] * 202,
    )
    assert scores.queries["average_precision"].tolist() == [1]


def test_memory_mapped_half_precision_strided_and_read_only_input(tmp_path: Path) -> None:
    query, gallery, labels = problem()
    query, gallery = query.astype(np.float16), gallery.astype(np.float16)
    wanted = score(query.astype(np.float64), gallery.astype(np.float64), **labels)
    mapped = np.memmap(tmp_path / "gallery", dtype=np.float16, mode="w+", shape=gallery.shape)
    mapped[:] = gallery
    mapped.flush()
    mapped = np.memmap(tmp_path / "gallery", dtype=np.float16, mode="r", shape=gallery.shape)
    strided = np.repeat(query, 2, axis=1)[:, ::2]
    backwards = np.ascontiguousarray(gallery[::-1])[::-1]
    assert_same(score(query, mapped, **labels), wanted)
    assert_same(score(strided, backwards, **labels), wanted)
    assert_same(score(np.asfortranarray(query), np.asfortranarray(gallery), **labels), wanted)
    assert_same(score(query.tolist(), gallery.tolist(), **labels), wanted)


def test_given_distances_may_be_of_any_precision_and_stay_untouched() -> None:
    _, _, labels = problem()
    whole = np.random.default_rng(5).integers(0, 30, (6, 40))
    wanted = score_distances(whole, **labels)
    for dtype in (np.uint8, np.float16, np.float32, np.float64):
        matrix = whole.astype(dtype)
        matrix.setflags(write=False)
        assert_same(score_distances(matrix, **labels, block_size=5), wanted)


def peak_bytes(num_queries: int, num_gallery: int, num_ids: int, block_size: int) -> int:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((num_queries, 4)), rng.standard_normal((num_gallery, 4))
    labels: dict[str, Any] = {
        "query_pids": np.arange(num_queries) % num_ids,
        "gallery_pids": np.arange(num_gallery) % num_ids,
        "query_camids": np.zeros(num_queries, int),
        "gallery_camids": np.ones(num_gallery, int),
    }
    tracemalloc.start()
    try:
        score(*features, **labels, block_size=block_size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded_by_the_block_whatever_the_numbers_of_images() -> None:
    assert peak_bytes(128, 4_096, num_ids=512, block_size=512) < 3e6  # a whole matrix of distances would take 4 MB
    assert peak_bytes(512, 8_192, num_ids=512, block_size=512) < 5e6  # and here 34 MB


def test_memory_is_bounded_by_the_block_whatever_the_number_of_positives() -> None:
    assert peak_bytes(200, 4_000, num_ids=1, block_size=128) < 6e6  # the 800,000 positives at once take 60 MB


def valid() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "query_features": rng.standard_normal((2, 3)),
        "gallery_features": rng.standard_normal((4, 3)),
        "query_pids": np.array([1, 2]),
        "gallery_pids": np.array([1, 2, 3, 1]),
        "query_camids": np.array([0, 0]),
        "gallery_camids": np.array([1, 1, 1, 1]),
    }


def changed(array: np.ndarray, index: int | tuple[int, int], value: float) -> np.ndarray:
    copy = np.array(array)
    copy[index] = value
    return copy


@pytest.mark.parametrize(
    ("key", "change", "sentence"),
    [
        ("query_features", lambda x: changed(x, (1, 2), np.nan), "row 1 of query_features has the length nan"),
        ("gallery_features", lambda x: changed(x, (3, 0), -np.inf), "row 3 of gallery_features has the length inf"),
        ("gallery_features", lambda x: changed(x, 2, 0), "row 2 of gallery_features has the length 0.0"),
        ("gallery_features", lambda x: np.ones_like(x) * [[1], [2], [3], [4]], "gallery_features are constant"),
        ("query_features", lambda x: 1 + 1e-7 * x, "query_features are constant"),
        ("query_features", lambda x: x[:, :2], "2 columns and gallery_features 3"),
        ("query_features", lambda x: x[:0], "query side is empty"),
        ("gallery_features", lambda x: x[:0], "gallery side is empty"),
        ("gallery_features", lambda x: x[0], "matrix of real numbers"),
        ("gallery_features", lambda x: x.astype(str), "matrix of real numbers"),
        ("gallery_features", lambda x: x + 1j, "matrix of real numbers"),
        ("query_pids", lambda x: x[:1], r"query_pids has shape \(1,\), not \(2,\)"),
        ("gallery_pids", lambda x: x[:, None], r"gallery_pids has shape \(4, 1\)"),
        ("gallery_pids", lambda x: x.astype(float), "gallery_pids holds float64 such as 1.0"),
        ("gallery_camids", lambda x: np.array(["c1", "c2", "c3", "c4"]), "gallery_camids holds <U2 such as c1"),
        ("query_camids", lambda x: x == 0, "query_camids holds bool"),
        ("query_pids", lambda x: x + 7, "no query has a positive"),
        ("gallery_pids", lambda x: np.full_like(x, -1), "no query has a positive"),
        ("gallery_camids", lambda x: np.zeros_like(x), "no query has a positive"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(
    key: str, change: Callable[[np.ndarray], np.ndarray], sentence: str
) -> None:
    given = valid()
    score(**given)
    given[key] = change(given[key])
    with pytest.raises(UserError, match=sentence):
        score(**given)


@pytest.mark.parametrize(
    ("value", "sentence"), [({"query_names": ["a"]}, "query_names"), ({"block_size": 0}, "block_size")]
)
def test_bad_options_are_refused_with_a_sentence(value: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        score(**valid(), **value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: changed(d, (1, 2), np.nan), "row 1 of distances holds nan"),
        (lambda d: changed(d, (0, 0), np.inf), "row 0 of distances holds inf"),
        (lambda d: -d, "of distances holds -"),
        (lambda d: np.zeros_like(d), "distances are constant"),
        (lambda d: d.T, "query_pids has shape"),
        (lambda d: d[:, :0], "gallery side is empty"),
    ],
)
def test_bad_distances_are_refused_with_a_sentence(change: Callable[[np.ndarray], np.ndarray], sentence: str) -> None:
    labels = {key: value for key, value in valid().items() if "features" not in key}
    distances = 1 + np.arange(8.0).reshape(2, 4)
    score_distances(distances, **labels)
    with pytest.raises(UserError, match=sentence):
        score_distances(change(distances), **labels)


def test_a_single_query_and_a_single_gallery_image() -> None:
    scores = score([[1.0, 2.0]], [[2.0, 1.0]], query_pids=[1], gallery_pids=[1], query_camids=[0], gallery_camids=[1])
    assert scores.summary() == {**dict.fromkeys(METRICS, 1.0), "num_queries": 1, "num_invalid": 0}
