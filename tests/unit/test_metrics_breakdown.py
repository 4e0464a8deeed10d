"""Slices of a retrieval against loops that score every query of every part by itself."""

import itertools
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reidablate.cli import app
from reidablate.errors import UserError
from reidablate.metrics.breakdown import by_camera_pair, by_num_positives
from reidablate.metrics.checks import check_labels
from reidablate.metrics.distances import FeatureDistances
from reidablate.metrics.files import Options, ranked, read_file, score_file

KEYS = ["query_camid", "gallery_camid"]


def drawn(seed: int = 0, num_queries: int = 23, num_gallery: int = 90) -> dict[str, Any]:
    """A retrieval of 6 people before 4 cameras with junk, distractors and images that occur twice."""
    rng = np.random.default_rng(seed)
    return {
        "query_features": rng.standard_normal((num_queries, 3)).astype(np.float32),
        "gallery_features": rng.standard_normal((num_gallery // 2, 3)).astype(np.float32).repeat(2, axis=0),
        "query_pids": rng.integers(1, 7, num_queries),
        "gallery_pids": rng.integers(-1, 7, num_gallery),
        "query_camids": rng.integers(0, 4, num_queries),
        "gallery_camids": rng.integers(0, 4, num_gallery),
    }


def saved(folder: Path, given: dict[str, Any]) -> Path:
    np.savez(folder / "a.npz", **given)
    return folder / "a.npz"


def slow(
    distances: np.ndarray[Any, Any], given: dict[str, Any]
) -> dict[tuple[int, int], tuple[int, int, float, float]]:
    """Returns {(query camera, gallery camera): (scored, left out, mAP, Rank-1)}, image by image."""
    found = {}
    cameras = sorted(set(given["query_camids"].tolist()))
    for a, b in itertools.product(cameras, sorted(set(given["gallery_camids"].tolist()))):
        precisions, hits, left_out = [], [], 0
        for i in np.flatnonzero(given["query_camids"] == a):
            searched = [j for j, c in enumerate(given["gallery_camids"]) if c == b and given["gallery_pids"][j] != -1]
            searched.sort(key=lambda j, i=i: (distances[i, j], j))  # type: ignore[misc]
            right = [given["gallery_pids"][j] == given["query_pids"][i] for j in searched]
            if any(right):
                ranks = [rank for rank, hit in enumerate(right, start=1) if hit]
                precisions.append(sum(k / rank for k, rank in enumerate(ranks, start=1)) / len(ranks))
                hits.append(right[0])
            else:
                left_out += 1
        if a != b:
            means = [float(np.mean(values)) if values else math.nan for values in (precisions, hits)]
            found[a, b] = (len(precisions), left_out, means[0], means[1])
    return found


def directions(given: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Returns one minus the cosine, rounded so that images that occur twice tie."""
    q, g = given["query_features"].astype(np.float64), given["gallery_features"].astype(np.float64)
    distances: np.ndarray[Any, Any] = np.round(
        1 - (q @ g.T) / np.sqrt((q**2).sum(1)[:, None] * (g**2).sum(1)[None]), 12
    )
    return distances


@pytest.mark.parametrize("seed", range(8))
def test_every_pair_of_cameras_scores_as_image_by_image(tmp_path: Path, seed: int) -> None:
    given = drawn(seed)
    (problem,) = read_file(saved(tmp_path, given)).values()
    table = by_camera_pair(*ranked(problem, Options()))
    wanted = slow(directions(given), given)
    assert list(zip(*(table[key] for key in KEYS), strict=True)) == sorted(wanted)
    for row in table.itertuples():
        expected = wanted[row.query_camid, row.gallery_camid]  # type: ignore[index]
        assert (row.num_queries, row.num_invalid) == expected[:2]
        assert (row.mAP, row.rank1) == pytest.approx(expected[2:], abs=1e-12, nan_ok=True)


def test_given_and_re_ranked_distances_are_sliced_not_computed_anew(tmp_path: Path) -> None:
    given = drawn(3)
    distances = np.random.default_rng(0).random((23, 90))
    labels = {key: value for key, value in given.items() if not key.endswith("features")}
    (problem,) = read_file(saved(tmp_path, {**labels, "distances": distances})).values()
    table = by_camera_pair(*ranked(problem, Options())).set_index(KEYS)
    assert table["mAP"].to_dict() == pytest.approx({k: v[2] for k, v in slow(distances, given).items()}, nan_ok=True)

    from reidablate.metrics.rerank import Constants, rerank

    given["query_features"] = np.random.default_rng(1).random((23, 5))
    given["gallery_features"] = np.random.default_rng(2).random((90, 5))
    (problem,) = read_file(saved(tmp_path, given)).values()
    table = by_camera_pair(*ranked(problem, Options(rerank="5,2,0.3"))).set_index(KEYS)
    counted = given["gallery_pids"] != -1  # junk takes no part in the neighbourhoods
    reranked = np.full((23, 90), np.nan)
    reranked[:, counted] = rerank(given["query_features"], given["gallery_features"][counted], Constants(5, 2, 0.3))
    assert table["mAP"].to_dict() == pytest.approx({k: v[2] for k, v in slow(reranked, given).items()}, nan_ok=True)


def test_a_camera_that_answers_nobody_is_counted_and_has_no_score(tmp_path: Path) -> None:
    given = {
        "query_features": np.eye(3), "gallery_features": np.eye(3)[[0, 1, 2, 2]],
        "query_pids": np.array([1, 2, 1]), "query_camids": np.array([0, 0, 1]),
        "gallery_pids": np.array([1, 2, 5, -1]), "gallery_camids": np.array([1, 0, 2, 3]),
    }  # fmt: skip
    (problem,) = read_file(saved(tmp_path, given)).values()
    table = by_camera_pair(*ranked(problem, Options())).set_index(KEYS)
    assert list(table.index) == [(0, 1), (0, 2), (1, 0), (1, 2)]  # camera 3 holds nothing but junk
    assert table["num_queries"].tolist() == [1, 0, 0, 0]
    assert table["num_invalid"].tolist() == [1, 2, 1, 1]
    assert [table[name].iloc[0] for name in ("mAP", "rank1")] == [1.0, 1.0]
    assert table["mAP"].iloc[1:].isna().all()


def test_numbers_of_positives_part_the_queries(tmp_path: Path) -> None:
    scores, _ = score_file(saved(tmp_path, drawn(5)), Options())
    queries = scores["features"].queries
    table = by_num_positives(scores["features"])
    wanted = queries.groupby("num_positives")["average_precision"].agg(["size", "mean"])
    assert table["num_positives"].tolist() == wanted.index.tolist()
    assert table["num_queries"].tolist() == wanted["size"].tolist()
    assert table["mAP"].tolist() == pytest.approx(wanted["mean"].tolist())
    weighted = (table["rank1"] * table["num_queries"]).sum() / table["num_queries"].sum()
    assert weighted == pytest.approx(scores["features"].summary()["rank1"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_score_writes_both_kinds_of_slices_for_every_side(tmp_path: Path, suffix: str) -> None:
    given = drawn(2)
    sides = {
        f"{part}_{side}": given[f"{part}_features"]
        for part in ("query", "gallery")
        for side in ("before_neck", "after_neck")
    }
    labels = {key: value for key, value in given.items() if not key.endswith("features")}
    out = tmp_path / f"slices{suffix}"
    done = CliRunner().invoke(app, ["score", str(saved(tmp_path, {**labels, **sides})), "--slices", str(out)])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert set(zip(table["side"], table["slice_by"], strict=True)) == set(
        itertools.product(("before_neck", "after_neck"), ("camera_pair", "num_positives"))
    )
    pairs = table[(table["side"] == "before_neck") & (table["slice_by"] == "camera_pair")].set_index(KEYS)
    assert pairs["mAP"].to_dict() == pytest.approx(
        {k: v[2] for k, v in slow(directions(given), given).items()}, nan_ok=True
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--slices", "a.txt"], "a.txt should end in .parquet or .csv"),
        (["--per-query", "a.txt"], "a.txt should end in .parquet or .csv"),
        (["--per-query", "a.csv", "--slices", "./a.csv"], "--per-query and --slices both name a.csv"),
        (["--slices", "a.csv", "--single-gallery-shot", "1"], "no one gallery to slice"),
    ],
)
def test_a_table_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    done = CliRunner().invoke(app, ["score", str(tmp_path / "missing.npz"), *options])
    assert isinstance(done.exception, UserError)
    assert sentence in str(done.exception)


def test_the_gallery_of_a_camera_is_never_held_as_a_copy() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((40_000, 256), dtype=np.float32)
    distances = FeatureDistances(gallery[:4].copy(), gallery)
    labels = check_labels(
        (4, len(gallery)),
        pids=(np.arange(4), np.arange(len(gallery)) // 2),
        camids=(np.zeros(4, int), np.ones(len(gallery), int)),
        names=None,
    )
    tracemalloc.start()
    try:
        table = by_camera_pair(distances, labels)
        assert tracemalloc.get_traced_memory()[1] < gallery.nbytes / 2
    finally:
        tracemalloc.stop()
    assert table["num_queries"].tolist() == [4]


def test_queries_of_one_camera_leave_no_row_for_it_in_its_own_gallery(tmp_path: Path) -> None:
    given = drawn(1) | {"query_camids": np.ones(23, np.int64)}
    (problem,) = read_file(saved(tmp_path, given)).values()
    table = by_camera_pair(*ranked(problem, Options()))
    assert list(zip(*(table[key] for key in KEYS), strict=True)) == [(1, 0), (1, 2), (1, 3)]
    assert table["num_queries"].dtype == np.int64
