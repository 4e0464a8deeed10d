"""Comparing two files query by query."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from typer.testing import CliRunner

from reidablate.cli import app
from reidablate.errors import UserError
from reidablate.metrics import score
from reidablate.metrics.compare import LABEL, WARNING, compare_files
from support import present

METRICS = ["mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10"]
Pair = tuple[tuple[dict[str, Any], dict[str, Any]], list[Path]]


def labels(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "query_pids": rng.integers(0, 30, 80),
        "gallery_pids": rng.integers(-1, 30, 400),
        "query_camids": rng.integers(0, 3, 80),
        "gallery_camids": rng.integers(0, 3, 400),
    }


def problem(noise: float, seed: int) -> dict[str, Any]:
    """Features around the centre of each identity; the labels are the same for all seeds."""
    given, rng = labels(), np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((31, 16))
    for side in ("query", "gallery"):
        pids = given[f"{side}_pids"]
        given[f"{side}_features"] = centres[pids] + noise * rng.standard_normal((len(pids), 16))
    return given


def saved(folder: Path, name: str, given: dict[str, Any]) -> Path:
    np.savez(folder / name, **given)
    return folder / name


def reordered(given: dict[str, Any], order: np.ndarray) -> dict[str, Any]:
    return {key: value[order] if key.startswith("query") else value for key, value in given.items()}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    given = problem(1.2, 1), problem(0.9, 2)
    return given, [saved(tmp_path, f"{name}.npz", one) for name, one in zip("ab", given, strict=True)]


def test_interval_is_the_cluster_robust_one_of_statsmodels(pair: Pair) -> None:
    given, paths = pair
    found = compare_files(*paths)
    tables = [score(**one).queries for one in given]
    difference = (tables[1]["average_precision"] - tables[0]["average_precision"]).to_numpy()
    pids = tables[0]["pid"].to_numpy()
    fit = sm.OLS(difference, np.ones_like(difference)).fit(cov_type="cluster", cov_kwds={"groups": pids})
    row = found.metrics["mAP"]
    assert list(found.metrics) == METRICS
    assert row["difference"] == pytest.approx(difference.mean(), abs=1e-12)
    assert row["first"] == pytest.approx(score(**given[0]).summary()["mAP"], abs=1e-12)
    assert present(row["second"]) - present(row["first"]) == pytest.approx(row["difference"], abs=1e-12)
    # statsmodels multiplies by (Q - 1) / (Q - 1) for one coefficient and by G / (G - 1), so its error is ours.
    counts = np.unique(pids, return_counts=True)[1]
    df = counts.sum() ** 2 / np.square(counts).sum() - 1
    from scipy import stats

    assert present(row["high"]) - present(row["difference"]) == pytest.approx(
        stats.t.ppf(0.975, df) * fit.bse[0], rel=1e-9
    )
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(difference.mean() / fit.bse[0], df), rel=1e-9)
    assert (found.num_queries, found.num_identities) == (len(pids), len(counts))
    assert found.label == LABEL


def test_names_that_differ_in_folders_and_endings_alone_are_paired(pair: Pair, tmp_path: Path) -> None:
    (first, second), _ = pair
    names = np.array([f"{pid:04}_{i}.jpg" for i, pid in enumerate(first["query_pids"])])
    order = np.random.default_rng(0).permutation(80)
    doubled = np.array([f"query/{name}.jpg" if i % 5 == 0 else f"query/{name}" for i, name in enumerate(names)])
    paths = [
        saved(tmp_path, "one.npz", {**first, "query_names": names}),
        saved(tmp_path, "two.npz", reordered({**second, "query_names": doubled}, order)),
    ]
    same = saved(tmp_path, "same.npz", {**second, "query_names": names})
    assert compare_files(*paths).metrics == compare_files(paths[0], same).metrics


def test_queries_are_paired_by_name_in_any_order(pair: Pair, tmp_path: Path) -> None:
    (first, second), paths = pair
    names = np.array([f"{pid:04}_{i}.jpg" for i, pid in enumerate(first["query_pids"])])
    order = np.random.default_rng(0).permutation(80)
    named = [
        saved(tmp_path, "c.npz", first | {"query_names": names}),
        saved(tmp_path, "d.npz", reordered(second | {"query_names": names}, order)),
    ]
    found, wanted = compare_files(*named), compare_files(*paths)
    for metric in METRICS:
        assert found.metrics[metric] == pytest.approx(wanted.metrics[metric], abs=1e-12)
    with pytest.raises(UserError, match="the queries differ"):
        compare_files(paths[0], saved(tmp_path, "e.npz", reordered(second, order)))
    renamed = saved(tmp_path, "f.npz", second | {"query_names": np.char.add(names, "x")})
    with pytest.raises(UserError, match="query_names 00"):
        compare_files(named[0], renamed)


def test_a_file_equals_itself(pair: Pair) -> None:
    _, (path, _) = pair
    for row in compare_files(path, path).metrics.values():
        assert (row["difference"], row["low"], row["high"], row["p_value"], row["p_better"]) == (0, 0, 0, 1, 0.5)


def test_one_identity_gives_no_interval(tmp_path: Path) -> None:
    given = [problem(noise, seed) for noise, seed in ((1.2, 1), (0.9, 2))]
    own = given[0]["query_pids"] == given[0]["query_pids"][0]
    paths = [saved(tmp_path, f"{i}.npz", reordered(one, own)) for i, one in enumerate(given)]
    found = compare_files(*paths)
    assert found.label.startswith("no interval")
    assert {row["low"] for row in found.metrics.values()} == {None}


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("gallery_pids", lambda x: np.where(x == 3, 4, x), "the galleries differ"),
        ("query_camids", lambda x: (x + 1) % 3, "the queries differ, query_camids"),
    ],
)
def test_another_test_set_is_refused(
    pair: Pair, tmp_path: Path, key: str, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    (_, second), paths = pair
    with pytest.raises(UserError, match=words):
        compare_files(paths[0], saved(tmp_path, "g.npz", second | {key: change(second[key])}))


def test_fewer_queries_are_refused(pair: Pair, tmp_path: Path) -> None:
    (_, second), paths = pair
    with pytest.raises(UserError, match="80 and 79 queries"):
        compare_files(paths[0], saved(tmp_path, "g.npz", reordered(second, np.arange(79))))


def test_sides_of_the_neck_are_chosen_and_missing_ones_refused(pair: Pair, tmp_path: Path) -> None:
    (first, second), paths = pair
    both = {key: value for key, value in first.items() if not key.endswith("features")}
    for side, given in (("before_neck", first), ("after_neck", second)):
        both |= {f"{s}_{side}": given[f"{s}_features"] for s in ("query", "gallery")}
    path = saved(tmp_path, "both.npz", both)
    assert compare_files(path, path, side="after_neck").metrics["mAP"]["first"] == score(**second).summary()["mAP"]
    assert compare_files(path, paths[1]).metrics == compare_files(*paths).metrics
    with pytest.raises(UserError, match="holds features and no after_neck"):
        compare_files(path, paths[1], side="after_neck")
    with pytest.raises(UserError, match="no side of the neck"):
        compare_files(path, path, side="neck")


def test_the_command_says_what_the_interval_is_silent_about(pair: Pair) -> None:
    _, paths = pair
    arguments = ["compare", *map(str, paths)]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "query sampling alone; one run each says nothing about training noise" in " ".join(shown.stdout.split())
    assert f"{100 * present(compare_files(*paths).metrics['mAP']['difference']):+.2f}" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert found["metrics"] == compare_files(*paths).metrics
    assert found["label"] == LABEL


def test_a_name_of_a_file_is_shown_as_it_is_and_steers_no_terminal(pair: Pair, tmp_path: Path) -> None:
    _, (one, two) = pair
    other = tmp_path / "a[" / "red]\x1b[31m.npz"
    other.parent.mkdir()
    other.write_bytes(one.read_bytes())
    shown = CliRunner().invoke(app, ["compare", str(other), str(two)], catch_exceptions=False).stdout
    assert f"first: {tmp_path}/a[/red].npz\n" in shown


def test_a_verdict_says_on_which_side_of_zero_the_interval_lies_and_warns(pair: Pair) -> None:
    _, paths = pair
    found, turned = compare_files(*paths), compare_files(*paths[::-1])
    for metric, row in found.metrics.items():
        low, high = present(row["low"]), present(row["high"])
        assert found.verdicts[metric] == ("improves" if low > 0 else "worsens" if high < 0 else "undecided")
    assert (found.verdicts["mAP"], turned.verdicts["mAP"]) == ("improves", "worsens")
    same = compare_files(paths[0], paths[0])
    assert set(same.verdicts.values()) == {"undecided"}
    done = CliRunner().invoke(app, ["compare", *map(str, paths)], env={"COLUMNS": "140"}, catch_exceptions=False)
    assert "improves" in done.stdout
    assert f"{WARNING}." in done.stdout
