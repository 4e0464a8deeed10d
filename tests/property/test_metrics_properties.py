"""Scores against a slow oracle written from the definitions, and the laws every evaluation obeys."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from reidablate.errors import UserError
from reidablate.metrics import cmc, score, score_distances
from reidablate.metrics.protocol import Scores

SCORES = [
    "average_precision",
    "average_precision_trapezoid",
    "average_precision_optimistic",
    "average_precision_pessimistic",
    "inverse_negative_penalty",
    "first_hit_rank",
    "num_positives",
]


def relevance(
    distances: np.ndarray, pids: np.ndarray, camids: np.ndarray, *, pid: int, camid: int, order: Sequence[int]
) -> list[bool]:
    """Returns the list of true and false down the ranking of one query; `order` breaks ties."""
    ranking = sorted(range(len(pids)), key=lambda j: (distances[j], order[j]))
    counted = [j for j in ranking if pids[j] != -1 and (pids[j], camids[j]) != (pid, camid)]
    return [pids[j] == pid for j in counted]


def steps(hits: list[bool]) -> Fraction:
    precision = [Fraction(sum(hits[: k + 1]), k + 1) for k in range(len(hits)) if hits[k]]
    return sum(precision, Fraction(0)) / len(precision)


def trapezoids(hits: list[bool]) -> Fraction:
    total = Fraction(0)
    for k in range(len(hits)):
        if hits[k]:
            before = Fraction(sum(hits[:k]), k) if k else Fraction(1)
            total += (before + Fraction(sum(hits[: k + 1]), k + 1)) / 2
    return total / sum(hits)


def inverse_negative_penalty(hits: list[bool]) -> Fraction:
    last = max(k + 1 for k in range(len(hits)) if hits[k])
    return Fraction(sum(hits), last)


def oracle(distances: np.ndarray, labels: dict[str, Any]) -> tuple[list[Any], int]:
    """Returns the rows of all valid queries and the number of invalid ones, one query after the other."""
    rows = []
    pids, camids = labels["gallery_pids"], labels["gallery_camids"]
    for i, (pid, camid) in enumerate(zip(labels["query_pids"], labels["query_camids"], strict=True)):
        as_given = range(len(pids))
        # A tie broken by "is no positive" favours the positives, by "is a positive" it harms them.
        positive = [p == pid for p in pids]
        kind = {"pid": pid, "camid": camid}
        hits = relevance(distances[i], pids, camids, order=as_given, **kind)
        if any(hits):
            best = relevance(distances[i], pids, camids, order=[not p for p in positive], **kind)
            worst = relevance(distances[i], pids, camids, order=positive, **kind)
            scored = (steps(hits), trapezoids(hits), steps(best), steps(worst), inverse_negative_penalty(hits))
            rows.append((str(i), *map(float, scored), hits.index(True) + 1, sum(hits)))
    return rows, len(labels["query_pids"]) - len(rows)


@st.composite
def problems(
    draw: st.DrawFn, max_gallery: int = 12, ties: bool = True, num_cameras: int = 3
) -> tuple[np.ndarray, dict[str, Any]]:
    """Small problems with junk, distractors, invalid queries and, if wanted, ties."""
    num_queries, num_gallery = draw(st.integers(1, 5)), draw(st.integers(1, max_gallery))

    def numbers(low: int, high: int, size: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)))

    if ties:
        distances = numbers(0, 3, num_queries * num_gallery).reshape(num_queries, num_gallery)
    else:
        distances = np.array([draw(st.permutations(range(num_gallery))) for _ in range(num_queries)])
    labels = {
        "query_pids": numbers(-1, 3, num_queries),
        "gallery_pids": numbers(-1, 3, num_gallery),
        "query_camids": numbers(1, num_cameras, num_queries),
        "gallery_camids": numbers(1, num_cameras, num_gallery),
    }
    return distances, labels


def scored(distances: np.ndarray, labels: dict[str, Any]) -> Scores:
    """Returns the scores of a problem; leaves aside what is refused, constant distances and no valid query."""
    assume(distances.shape[1] == 1 or np.ptp(distances) > 0)
    assume(oracle(distances, labels)[0])
    return score_distances(distances, **labels)


def with_gallery(labels: dict[str, Any], index: Any) -> dict[str, Any]:
    return {key: value[index] if key.startswith("gallery") else value for key, value in labels.items()}


@pytest.mark.parametrize("num_cameras", [2, 60])
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_scores_equal_the_slow_oracle(num_cameras: int, data: st.DataObject) -> None:
    distances, labels = data.draw(problems(num_cameras=num_cameras))
    assume(distances.shape[1] == 1 or np.ptp(distances) > 0)
    check_against_oracle(distances, labels, block_size=data.draw(st.integers(1, 6)))


def check_against_oracle(distances: np.ndarray, labels: dict[str, Any], *, block_size: int) -> None:
    wanted, num_invalid = oracle(distances, labels)
    if not wanted:
        with pytest.raises(UserError, match="no query has a positive"):
            score_distances(distances, **labels)
        return
    found = score_distances(distances, **labels, block_size=block_size)
    assert found.num_invalid == num_invalid
    rows = found.queries[["query", *SCORES]].itertuples(index=False, name=None)
    for row, want in zip(rows, wanted, strict=True):
        assert row[0] == want[0]
        assert row[1:] == pytest.approx(want[1:], abs=1e-12)


@pytest.mark.slow
@settings(deadline=None, max_examples=4000)
@given(problems(max_gallery=25, num_cameras=4), st.integers(1, 9))
def test_thousands_of_cases_equal_the_slow_oracle(problem: tuple[np.ndarray, dict[str, Any]], block_size: int) -> None:
    distances, labels = problem
    assume(distances.shape[1] == 1 or np.ptp(distances) > 0)
    check_against_oracle(distances, labels, block_size=block_size)


@settings(deadline=None, max_examples=60)
@given(problems(max_gallery=5))
def test_bounds_are_the_extremes_over_all_orders_of_ties(problem: tuple[np.ndarray, dict[str, Any]]) -> None:
    distances, labels = problem
    found = scored(distances, labels).queries
    pids, camids = labels["gallery_pids"], labels["gallery_camids"]
    row: Any
    for row in found.itertuples():
        every = [
            steps(relevance(distances[int(row.query)], pids, camids, pid=row.pid, camid=row.camid, order=order))
            for order in permutations(range(len(pids)))
        ]
        assert row.average_precision_optimistic == pytest.approx(float(max(every)), abs=1e-12)
        assert row.average_precision_pessimistic == pytest.approx(float(min(every)), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(problems(ties=False))
def test_average_precision_equals_scikit_learn_without_ties(problem: tuple[np.ndarray, dict[str, Any]]) -> None:
    check_against_scikit_learn(*problem)


@pytest.mark.slow
@settings(deadline=None, max_examples=3000)
@given(problems(max_gallery=30, ties=False))
def test_thousands_of_cases_equal_scikit_learn(problem: tuple[np.ndarray, dict[str, Any]]) -> None:
    check_against_scikit_learn(*problem)


def check_against_scikit_learn(distances: np.ndarray, labels: dict[str, Any]) -> None:
    found = scored(distances, labels).queries
    pids, camids = labels["gallery_pids"], labels["gallery_camids"]
    row: Any
    for row in found.itertuples():
        counted = (pids != -1) & ~((pids == row.pid) & (camids == row.camid))
        want = average_precision_score(pids[counted] == row.pid, -distances[int(row.query), counted])
        assert row.average_precision == pytest.approx(want, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(problems(ties=False), st.randoms(use_true_random=False))
def test_order_of_the_gallery_is_nothing_without_ties(
    problem: tuple[np.ndarray, dict[str, Any]], random: Random
) -> None:
    distances, labels = problem
    found = scored(distances, labels)
    order = random.sample(range(distances.shape[1]), distances.shape[1])
    shuffled = score_distances(distances[:, order], **with_gallery(labels, order))
    pd.testing.assert_frame_equal(shuffled.queries, found.queries, check_exact=True)


@settings(deadline=None, max_examples=50)
@given(problems(), st.randoms(use_true_random=False))
def test_bounds_do_not_depend_on_the_order_of_the_gallery(
    problem: tuple[np.ndarray, dict[str, Any]], random: Random
) -> None:
    distances, labels = problem
    bounds = ["average_precision_pessimistic", "average_precision_optimistic"]
    found = scored(distances, labels).queries
    order = random.sample(range(distances.shape[1]), distances.shape[1])
    shuffled = score_distances(distances[:, order], **with_gallery(labels, order)).queries
    pd.testing.assert_frame_equal(shuffled[bounds], found[bounds], check_exact=True)
    for table in (found, shuffled):
        assert (table[bounds[0]] <= table["average_precision"]).all()
        assert (table["average_precision"] <= table[bounds[1]]).all()


@settings(deadline=None, max_examples=50)
@given(problems(), st.lists(st.floats(0, 1e6, width=32), min_size=4, max_size=4, unique=True))
def test_any_increasing_map_of_distances_scores_the_same(
    problem: tuple[np.ndarray, dict[str, Any]], heights: list[float]
) -> None:
    distances, labels = problem
    found = scored(distances, labels)
    mapped = score_distances(np.array(sorted(heights))[distances], **labels)
    pd.testing.assert_frame_equal(mapped.queries, found.queries, check_exact=True)


@settings(deadline=None, max_examples=50)
@given(problems(), st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3)), min_size=1, max_size=5))
def test_junk_anywhere_changes_nothing(
    problem: tuple[np.ndarray, dict[str, Any]], added: list[tuple[int, int]]
) -> None:
    distances, labels = problem
    found = scored(distances, labels)
    places = [min(place, distances.shape[1]) for place, _ in added]
    more = labels | {
        "gallery_pids": np.insert(labels["gallery_pids"], places, -1),
        "gallery_camids": np.insert(labels["gallery_camids"], places, [camid for _, camid in added]),
    }
    widened = np.insert(distances, places, 0, axis=1)
    assume(np.ptp(widened) > 0)  # constant distances are refused
    wider = score_distances(widened, **more)
    pd.testing.assert_frame_equal(wider.queries, found.queries, check_exact=True)


@settings(deadline=None, max_examples=50)
@given(problems())
def test_perfect_by_one_measure_is_perfect_by_all(problem: tuple[np.ndarray, dict[str, Any]]) -> None:
    table = scored(*problem).queries
    perfect = table["average_precision"] == 1
    assert perfect.equals(table["inverse_negative_penalty"] == 1)
    assert perfect.equals(table["average_precision_trapezoid"] == 1)
    assert (table["average_precision_trapezoid"] <= table["average_precision"] + 1e-15).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 40))
def test_cmc_never_falls_and_counts_hits(first_hits: list[int], max_rank: int) -> None:
    curve = cmc(np.array(first_hits), max_rank)
    assert curve.shape == (max_rank,)
    assert (np.diff(curve) >= 0).all()
    for k in range(1, max_rank + 1):
        assert curve[k - 1] == pytest.approx(sum(hit <= k for hit in first_hits) / len(first_hits))


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_block_size_changes_no_bit_of_features_with_copies(data: st.DataObject) -> None:
    _, labels = data.draw(problems(max_gallery=30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    palette = rng.standard_normal((6, data.draw(st.integers(2, 70)))).astype(np.float32)
    which = [rng.integers(0, 6, len(labels[key])) for key in ("query_pids", "gallery_pids")]
    assume(all(len(index) == 1 or np.ptp(index) for index in which))
    unit = palette.astype(np.float64) / np.linalg.norm(palette.astype(np.float64), axis=1, keepdims=True)
    # Copies have one place in this table of distances, so the oracle sees their ties without rounding.
    distances = np.square(unit[:, None] - unit[None]).sum(axis=2)[np.ix_(*which)]
    wanted, _ = oracle(distances, labels)
    assume(wanted)
    query, gallery = palette[which[0]], palette[which[1]]
    whole = score(query, gallery, **labels)
    in_blocks = score(query, gallery, **labels, block_size=data.draw(st.integers(1, 8)))
    pd.testing.assert_frame_equal(in_blocks.queries, whole.queries, check_exact=True)
    np.testing.assert_allclose(whole.queries[SCORES], [row[1:] for row in wanted], atol=1e-12)
