"""Estimates in float32 never decide what they cannot: their bound holds, and near ties score as exactly as all else."""

import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reidablate.errors import UserError
from reidablate.metrics import score, score_distances
from reidablate.metrics.distances import STEPS_PER_UNIT, FeatureDistances, FeatureEstimates, fixed_point
from reidablate.metrics.ranking import Tally
from support import present


def whole_numbers(features: np.ndarray) -> np.ndarray:
    """Returns directions in whole steps as Python's own numbers, which never round."""
    return fixed_point(np.asarray(features)).astype(np.int64).astype(object)


def exact_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Returns the exact squared distances (Q, G) in units of 2^-50."""
    x, y = whole_numbers(query), whole_numbers(gallery)
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x], dtype=object)


def in_every_order(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Returns the float32 product of two rows as BLAS and as the worst orders of summation give it."""
    products = x * y
    rising = np.sort(products)
    orders = [products, products[::-1], rising, rising[::-1], np.concatenate((rising[1::2], rising[::2]))]
    found = [np.add.accumulate(order)[-1] for order in orders]
    return [*found, (x[None] @ y[None].T).item(), np.float32(0) + x @ y]


def adversaries(width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(width)
    ones = np.ones(width)
    spike = np.full(width, 1e-4)
    spike[0] = 1.0
    sides = {
        "equal parts": (ones, ones),
        "opposite": (ones, -ones),
        "one large part": (spike, spike),
        "a large part that cancels": (spike, spike * np.where(np.arange(width) % 2, 1, -1)),
        "random": (rng.standard_normal(width), rng.standard_normal(width)),
        "positive": (rng.random(width), rng.random(width)),
        "over many sizes": (np.exp2(-30 * rng.random(width)), np.exp2(-30 * rng.random(width))),
    }
    # Of many shades of nearly equal parts, some round the same way at nearly every addition.
    shades = (1 + 1e-3 * rng.random((300, width)) for _ in range(2))
    return [*sides.values(), *zip(*shades, strict=True)]


@pytest.mark.parametrize("width", [1, 2, 3, 64, 768, 2048])
def test_no_order_of_summation_leaves_the_bound(width: int) -> None:
    worst = 0.0
    for query, gallery in adversaries(width):
        estimates = FeatureEstimates(query[None], gallery[None])
        x, y = estimates.queries(np.array([0]))[0], estimates.gallery(np.array([0]))[0]
        middle = Fraction(int(exact_distances(query[None], gallery[None])[0, 0]), 2**51) - 1
        errors = [abs(Fraction(float(found)) - middle) for found in in_every_order(x, y)]
        assert max(errors) <= Fraction(estimates.error())
        worst = max(worst, float(max(errors)) / estimates.error())
    # The bound is no empty one: a bound ten times smaller would have been broken.
    assert worst > 0.1 or width < 64


@given(st.lists(st.integers(0, 2**52), min_size=1, max_size=20), st.integers(1, 4096))
@settings(deadline=None)
def test_windows_hold_every_estimate_the_bound_allows(distances: list[int], width: int) -> None:
    estimates = FeatureEstimates(np.ones((1, width)), np.ones((1, width)))
    windows = estimates.windows(np.array(sorted(distances), dtype=np.float64))
    assert windows.dtype == np.float32
    assert (np.diff(windows, axis=0) >= 0).all()
    error = Fraction(estimates.error())
    for distance, (low, high) in zip(sorted(distances), windows, strict=True):
        middle = Fraction(distance, 2**51) - 1
        assert Fraction(float(low)) < middle - error
        assert Fraction(float(high)) > middle + error
        assert Fraction(float(high)) - Fraction(float(low)) < 2 * error + Fraction(1, 2**21)


def test_estimates_count_what_is_clear_and_list_what_is_open() -> None:
    # One query with positives of windows [1, 2) and [4, 5); columns 0..6, infinity at what is ignored.
    tally = Tally(np.array([1.5, 4.5]), np.array([100, 200]), np.array([0]))
    windows = np.array([[1, 2], [4, 5]], np.float32)
    tile = np.array([[0.5, 4.0, 1.0, np.inf, 2.0, 5.0, 1.9]], np.float32)
    assert tally.add_estimates(0, tile, windows, at_most=2) is None
    positives, columns = present(tally.add_estimates(0, tile, windows, at_most=3))
    assert (positives.tolist(), columns.tolist()) == ([0, 0, 1], [2, 6, 1])
    # By column: 2 is closer than the first positive, 6 ties with it and stands before it, 1 ties with the second.
    tally.add_pairs(positives, np.array([12, 16, 211]), np.array([1.4, 1.5, 4.5]))
    ranks = tally.ranks()
    # Before the first: columns 0, 2, 6. Before the second: 0, 4, and 2 and 6 which are clear of it.
    assert ranks.written.tolist() == [1 + 3, 2 + 4]
    assert ranks.optimistic.tolist() == [1 + 2, 2 + 4]
    assert ranks.pessimistic.tolist() == [1 + 3, 2 + 5]


def labelled(rng: np.random.Generator, num_queries: int, num_gallery: int, num_ids: int) -> dict[str, Any]:
    return {
        "query_pids": rng.integers(1, num_ids + 1, num_queries),
        "gallery_pids": rng.integers(-1, num_ids + 1, num_gallery),
        "query_camids": rng.integers(0, 2, num_queries),
        "gallery_camids": rng.integers(0, 3, num_gallery),
    }


def near_ties(rng: np.random.Generator, kind: str, number: int, centre: np.ndarray) -> np.ndarray:
    """Returns images near a centre: closer together than float32 tells, one step of float32 apart, or copies."""
    noise = rng.standard_normal((number, len(centre)))
    if kind == "below float32":
        return centre + 1e-9 * noise
    if kind == "one step apart":
        images = np.repeat(centre[None].astype(np.float32), number, axis=0)
        row, column = np.arange(number), rng.integers(0, len(centre), number)
        images[row, column] = np.nextafter(images[row, column], np.float32(np.inf))
        return images
    if kind == "half precision":
        return (centre + 1e-3 * noise).astype(np.float16)
    return (centre + rng.integers(0, 3, (number, 1)) * 1e-7 * noise[:1]).astype(np.float64)


KINDS = ["below float32", "one step apart", "half precision", "few copies"]


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32),
    apart=st.integers(0, 40),
    near=st.integers(1, 12),
    block_size=st.integers(1, 60),
)
def test_near_ties_score_as_whole_numbers_do(kind: str, seed: int, apart: int, near: int, block_size: int) -> None:
    rng = np.random.default_rng(seed)
    width = int(rng.integers(2, 30))
    centre = rng.standard_normal(width)
    query = rng.standard_normal((5, width))
    gallery = np.concatenate((near_ties(rng, kind, near, centre), rng.standard_normal((apart, width))))
    rng.shuffle(gallery)
    labels = labelled(rng, 5, near + apart, num_ids=3)
    distances = exact_distances(query, gallery).astype(np.float64)  # below 2^53, so nothing rounds
    assume(distances.min() < distances.max())
    try:
        wanted = score_distances(distances, **labels)
        found = score(query, gallery, **labels, block_size=block_size)
    except UserError:  # no positive, or all of one direction
        assume(False)
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [20, 1500])
def test_groups_of_near_ties_in_a_large_gallery(kind: str, number: int) -> None:
    rng = np.random.default_rng(number)
    width, num_gallery = 96, 3000
    centre = rng.standard_normal(width)
    gallery = rng.standard_normal((num_gallery, width))
    gallery[rng.permutation(num_gallery)[:number]] = near_ties(rng, kind, number, centre)
    query = np.concatenate((rng.standard_normal((20, width)), near_ties(rng, kind, 10, centre)))
    labels = labelled(rng, len(query), num_gallery, num_ids=60)
    # Differences of whole steps, squared and summed in int64: exact, and no product of matrices.
    x, y = (fixed_point(side).astype(np.int64) for side in (query, gallery))
    distances = np.stack([np.square(row - y).sum(axis=1) for row in x])
    wanted = score_distances(distances, **labels)
    for block_size in (700, 8192):
        found = score(query, gallery, **labels, block_size=block_size)
        pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)


@pytest.mark.parametrize("first_near", [0, 1700])
def test_more_queries_than_a_tile_has_rows(first_near: int) -> None:
    rng = np.random.default_rng(1)
    centre = rng.standard_normal(8)
    query, gallery = rng.standard_normal((2000, 8)), rng.standard_normal((50, 8))
    labels = labelled(rng, 2000, 50, num_ids=30)
    # Queries go by identity, so the near ties of these identities begin in this row.
    ids = np.sort(labels["query_pids"])[first_near:]
    close = np.isin(labels["gallery_pids"], ids[:300])
    gallery[close] = near_ties(rng, "below float32", close.sum(), centre)
    found = score(query, gallery, **labels, block_size=2000)
    wanted = score_distances(exact_distances(query, gallery).astype(np.float64), **labels)
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)


def test_estimates_and_distances_are_of_the_same_directions() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((4, 50)), rng.standard_normal((9, 50)).astype(np.float16)
    distances = FeatureDistances(query, gallery)
    rows, columns = np.arange(4), np.arange(9)
    exact = distances.between(distances.queries(rows), distances.gallery(columns)) / (2 * STEPS_PER_UNIT**2) - 1
    estimates = distances.estimates
    found = estimates.between(estimates.queries(rows), estimates.gallery(columns))
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() <= estimates.error()


@pytest.mark.parametrize("spread", [1e-5, 1e-1])
def test_memory_is_bounded_by_the_block_however_many_near_ties(spread: float) -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((256, 4)), 1 + spread * rng.standard_normal((8192, 4))
    labels: dict[str, Any] = {
        "query_pids": np.arange(256),
        "gallery_pids": np.arange(8192) % 512,
        "query_camids": np.zeros(256, int),
        "gallery_camids": np.ones(8192, int),
    }
    tracemalloc.start()
    try:
        score(query, gallery, **labels, block_size=512)
        assert tracemalloc.get_traced_memory()[1] < 5e6  # a whole matrix of distances would take 17 MB
    finally:
        tracemalloc.stop()
