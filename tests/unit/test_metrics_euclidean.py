"""Euclidean distance of features as they are: exact like the cosine, and the order that other code bases rank by."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from reidablate.errors import UserError
from reidablate.metrics import score, score_distances
from reidablate.metrics.breakdown import by_camera_pair
from reidablate.metrics.checks import check_labels
from reidablate.metrics.compare import compare_files
from reidablate.metrics.distances import (
    FeatureEstimates,
    LengthEstimates,
    feature_distances,
    fixed_point,
    longest,
)
from reidablate.metrics.files import Options, score_file
from support import run_cli


def whole_numbers(features: np.ndarray, unit: float) -> np.ndarray:
    """Returns features in whole steps as Python's own numbers, which never round."""
    return fixed_point(features, unit).astype(np.int64).astype(object)


def exact_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Returns the exact squared distances (Q, G) in units of 2^-50 of the longest feature."""
    unit = max(longest(query), longest(gallery))
    x, y = whole_numbers(query, unit), whole_numbers(gallery, unit)
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x], dtype=object)


def labelled(rng: np.random.Generator, num_queries: int, num_gallery: int, num_ids: int) -> dict[str, Any]:
    return {
        "query_pids": rng.integers(1, num_ids + 1, num_queries),
        "gallery_pids": rng.integers(-1, num_ids + 1, num_gallery),
        "query_camids": rng.integers(0, 2, num_queries),
        "gallery_camids": rng.integers(0, 3, num_gallery),
    }


def uneven(rng: np.random.Generator, number: int, width: int) -> np.ndarray:
    """Returns features of lengths that differ by a factor of ten, so that directions rank them otherwise."""
    return rng.standard_normal((number, width)) * rng.uniform(1, 10, (number, 1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_it_ranks_as_distances_in_float64_do_and_not_as_the_cosine_does(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    query, gallery = (uneven(rng, n, 24).astype(dtype) for n in (40, 300))
    labels = labelled(rng, 40, 300, num_ids=20)
    found = score(query, gallery, **labels, distance="euclidean")
    wanted = score_distances(cdist(query.astype(float), gallery.astype(float)), **labels)
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)
    assert found.summary()["mAP"] != score(query, gallery, **labels).summary()["mAP"]


def test_on_features_of_one_length_it_is_the_cosine() -> None:
    rng = np.random.default_rng(1)
    query, gallery = (rng.choice([-1.0, 1.0], (n, 16)) for n in (30, 200))  # every row has length 4, so ties are exact
    labels = labelled(rng, 30, 200, num_ids=15)
    by_length, by_angle = (score(query, gallery, **labels, distance=name) for name in ("euclidean", "cosine"))
    pd.testing.assert_frame_equal(by_length.queries, by_angle.queries, check_exact=True)


def near_ties(rng: np.random.Generator, number: int, centre: np.ndarray) -> np.ndarray:
    """Returns images closer to a centre, and to each other, than float32 tells apart."""
    return centre + rng.choice([0, 1e-9, 1e-7], (number, 1)) * rng.standard_normal((number, len(centre)))


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    apart=st.integers(0, 40),
    near=st.integers(1, 12),
    block_size=st.integers(1, 60),
    scale=st.sampled_from([1e-12, 1.0, 3e7]),
)
def test_near_ties_score_as_whole_numbers_do(seed: int, apart: int, near: int, block_size: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 30))
    query = scale * uneven(rng, 5, width)
    gallery = scale * np.concatenate((near_ties(rng, near, rng.standard_normal(width)), uneven(rng, apart, width)))
    rng.shuffle(gallery)
    labels = labelled(rng, 5, near + apart, num_ids=3)
    try:
        found = score(query, gallery, **labels, block_size=block_size, distance="euclidean")
        distances = exact_distances(query, gallery).astype(np.float64)  # below 2^53, so nothing rounds
        wanted = score_distances(distances, **labels)
    except UserError:  # no positive, one feature far longer than the others, or all of them equal
        assume(False)
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)


def test_groups_of_near_ties_in_a_large_gallery_and_by_camera() -> None:
    rng = np.random.default_rng(3)
    centre = 5 * rng.standard_normal(96)
    gallery = uneven(rng, 3000, 96)
    gallery[rng.permutation(3000)[:1500]] = near_ties(rng, 1500, centre)
    query = np.concatenate((uneven(rng, 20, 96), near_ties(rng, 10, centre)))
    labels = labelled(rng, 30, 3000, num_ids=60)
    unit = max(longest(query), longest(gallery))
    x, y = (fixed_point(side, unit).astype(np.int64) for side in (query, gallery))
    distances = np.stack([np.square(row - y).sum(axis=1) for row in x])
    wanted = score_distances(distances, **labels)
    for block_size in (700, 8192):
        found = score(query, gallery, **labels, block_size=block_size, distance="euclidean")
        pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)
    pids, camids = ((labels[f"query_{ids}"], labels[f"gallery_{ids}"]) for ids in ("pids", "camids"))
    checked = check_labels((30, 3000), pids=pids, camids=camids, names=None)
    pairs = by_camera_pair(feature_distances(query, gallery, distance="euclidean"), checked)
    for row in pairs.to_dict("records"):
        rows = labels["query_camids"] == row["query_camid"]
        columns = labels["gallery_camids"] == row["gallery_camid"]
        part = {key: value[rows if "query" in key else columns] for key, value in labels.items()}
        wanted = score_distances(distances[rows][:, columns], **part)
        assert row["mAP"] == pytest.approx(wanted.summary()["mAP"], abs=1e-15)


def in_every_order(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Returns the estimate of two prepared rows with a product as BLAS and as the worst orders of summation give it."""
    halves, (x, y) = (x[-1], y[-1]), (x[:-1], y[:-1])
    products = x * y
    rising = np.sort(products)
    orders = [products, products[::-1], rising, rising[::-1], np.concatenate((rising[1::2], rising[::2]))]
    found = [*(np.add.accumulate(order)[-1] for order in orders), (x[None] @ y[None].T)[0, 0]]
    return [product + halves[0] + halves[1] for product in found]


@pytest.mark.parametrize("width", [1, 2, 3, 64, 768, 2048])
def test_no_order_of_summation_leaves_the_bound(width: int) -> None:
    rng = np.random.default_rng(width)
    ones, spike = np.ones(width), np.full(width, 1e-4)
    spike[0] = 1.0
    sides = [(ones, ones), (ones, -ones), (spike, spike), (ones, 1e-3 * ones)]
    sides += [(rng.standard_normal(width), 3 * rng.standard_normal(width)), (rng.random(width), rng.random(width))]
    sides += [(np.exp2(-30 * rng.random(width)), np.exp2(-30 * rng.random(width)))]
    # Of many shades of nearly equal parts, some round the same way at nearly every addition.
    shades = (1 + 1e-3 * rng.random((300, width)) for _ in range(2))
    worst = 0.0
    for query, gallery in [*sides, *zip(*shades, strict=True)]:
        estimates = feature_distances(query[None], gallery[None], distance="euclidean").estimates
        assert isinstance(estimates, LengthEstimates)
        x, y = estimates.queries(np.array([0]))[0], estimates.gallery(np.array([0]))[0]
        assert x.dtype == y.dtype == np.float32
        half = Fraction(int(exact_distances(query[None], gallery[None])[0, 0]), 2**51)
        errors = [abs(Fraction(float(found)) - half) for found in in_every_order(x, y)]
        assert max(errors) <= Fraction(estimates.error())
        low, high = estimates.windows(np.array([float(2**51 * half)]))[0]
        assert all(low < found < high for found in in_every_order(x, y))
        worst = max(worst, float(max(errors)) / estimates.error())
    # The bound is no empty one: a bound twenty times smaller would have been broken.
    assert worst > 0.05 or width < 64


def test_the_cosine_keeps_its_own_estimates() -> None:
    assert isinstance(feature_distances(np.eye(3), np.eye(3)).estimates, FeatureEstimates)


def saved(folder: Path, name: str, arrays: dict[str, Any]) -> Path:
    np.savez(folder / name, **arrays)
    return folder / name


def problem(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = labelled(rng, 30, 200, num_ids=10)
    return {"query_features": uneven(rng, 30, 8), "gallery_features": uneven(rng, 200, 8), **labels}


def test_the_command_line_says_what_was_compared(tmp_path: Path) -> None:
    given = problem()
    path = saved(tmp_path, "theirs.npz", given)
    said = run_cli("score", str(path), "--distance", "euclidean", "--slices", str(tmp_path / "slices.csv"))
    wanted = score(**given, distance="euclidean").summary()
    assert f"{100 * wanted['mAP']:.2f}" in said
    assert "distance: Euclidean on features as they are" in said
    sliced = pd.read_csv(tmp_path / "slices.csv").dropna(subset="num_positives")
    assert np.average(sliced["mAP"], weights=sliced["num_queries"]) == pytest.approx(wanted["mAP"])


def test_queries_are_pooled_as_they_are(tmp_path: Path) -> None:
    given = problem()
    found, _ = score_file(saved(tmp_path, "theirs.npz", given), Options(multi_query=True, distance="euclidean"))
    pairs = sorted(set(zip(given["query_pids"], given["query_camids"], strict=True)))
    rows = [(given["query_pids"] == pid) & (given["query_camids"] == camid) for pid, camid in pairs]
    pooled = np.stack([given["query_features"][row].mean(axis=0) for row in rows])
    ids: dict[str, Any] = dict(zip(("query_pids", "query_camids"), np.array(pairs).T, strict=True))
    wanted = score_distances(
        cdist(pooled, given["gallery_features"]),
        **ids,
        gallery_pids=given["gallery_pids"],
        gallery_camids=given["gallery_camids"],
    )
    assert found["features"].summary()["mAP"] == pytest.approx(wanted.summary()["mAP"], abs=1e-12)


def test_two_files_are_compared_by_it(tmp_path: Path) -> None:
    given, other = problem(), problem()
    other["gallery_features"] = other["gallery_features"] / np.linalg.norm(
        other["gallery_features"], axis=1, keepdims=True
    )
    paths = saved(tmp_path, "a.npz", given), saved(tmp_path, "b.npz", other)
    found = compare_files(*paths, distance="euclidean").metrics["mAP"]
    assert found["first"] == score(**given, distance="euclidean").summary()["mAP"]
    assert found["second"] == score(**other, distance="euclidean").summary()["mAP"]
    said = run_cli("compare", *map(str, paths), "--distance", "cosine")
    assert "+0.00" in said  # lengths are nothing to the cosine


def _zeroed(given: dict[str, Any]) -> dict[str, Any]:
    return given | {"gallery_features": np.vstack((np.zeros((1, 8)), given["gallery_features"][1:]))}


def test_a_feature_without_length_has_a_place() -> None:
    given = _zeroed(problem())
    found = score(**given, distance="euclidean")
    labels = {key: value for key, value in given.items() if "features" not in key}
    wanted = score_distances(cdist(given["query_features"], given["gallery_features"]), **labels)
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)
    with pytest.raises(UserError, match=r"row 0 of gallery_features has the length 0\.0"):
        score(**given)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"query_features": np.full((30, 8), np.nan)}, "row 0 of query_features has the length nan"),
        ({"gallery_features": np.full((200, 8), 2.0)}, "all 200 rows are equal"),
        (
            {"gallery_features": np.vstack((1e5 * np.ones((1, 8)), np.random.default_rng(0).random((199, 8))))},
            r"row 0 of gallery_features is 2.828e\+05 long and",
        ),
        ({"query_features": np.zeros((30, 8))}, "query_features are constant"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        score(**{**problem(), **change}, distance="euclidean")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(distance="euclidean", rerank="20,6,0.3"), "re-ranking is of L2-normalised features"),
        (Options(distance="euclidean"), "holds distances alone"),
    ],
)
def test_it_is_refused_where_it_means_nothing(tmp_path: Path, options: Options, sentence: str) -> None:
    given = problem()
    if options.rerank is None:
        given["distances"] = cdist(given.pop("query_features"), given.pop("gallery_features"))
    with pytest.raises(UserError, match=sentence):
        score_file(saved(tmp_path, "theirs.npz", given), options)


def test_an_unknown_distance_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--distance is 'l1' but should be cosine or euclidean"):
        run_cli("score", str(saved(tmp_path, "theirs.npz", problem())), "--distance", "l1")
