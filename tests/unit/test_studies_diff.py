"""What `reidablate diff` says of two studies, one of which was changed in a known way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reidablate.archive.diff import diff_studies
from report_fixture import write_results


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("first") / "quickstart", cells=3, queries=30, epochs=2)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return write_results(tmp_path / "quickstart", cells=3, queries=30, epochs=2)


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def run(tables: Path) -> None:
        path = tables / name
        if path.suffix == ".json":
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
        else:
            change(pd.read_parquet(path)).to_parquet(path, index=False)

    return run


def with_option(cells: Any) -> Any:
    cells[1]["config"]["margin"] = 0.3
    return cells


def with_other_images(study: Any) -> Any:
    study["datasets"][1]["fingerprint"] = "0123456789abcdef"
    return study


def higher(metrics: pd.DataFrame) -> pd.DataFrame:
    chosen = metrics["cell"].eq("p1") & metrics["dataset"].eq("market1501") & metrics["metric"].eq("mAP")
    return metrics.assign(value=metrics["value"].where(~chosen, metrics["value"] + 0.01))


def settled(contrasts: pd.DataFrame) -> pd.DataFrame:
    chosen = contrasts["cell"].eq("p1") & contrasts["dataset"].eq("market1501") & contrasts["metric"].eq("rank5")
    return contrasts.assign(verdict=contrasts["verdict"].where(~chosen, "equivalent"))


def test_a_study_does_not_differ_from_itself(first: Path, second: Path) -> None:
    assert list(diff_studies(first, second)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (edit("cells.json", with_option), "cell p1: margin none -> 0.3"),
        (edit("cells.json", lambda cells: cells[:2]), "only in the first"),
        (edit("study.json", with_other_images), "data set occluded_duke: other images"),
        (edit("study.json", lambda study: study | {"packages": {"torch": "3.0"}}), "package torch: 2.15.0 -> 3.0"),
        (edit("runs.parquet", lambda runs: runs.assign(code_hash="feed")), "code: 5eed5eed5eed5eed -> feed"),
        (edit("runs.parquet", lambda runs: runs.drop(index=0)), "finished run market1501/naive_triplet/seed0: only"),
        (edit("metrics.parquet", higher), "market1501/p1: mAP"),
        (edit("contrasts.parquet", settled), "verdict market1501, p1 over naive_triplet, rank5: "),
    ],
    ids=["option", "cell", "images", "package", "code", "run", "score", "verdict"],
)
def test_every_kind_of_difference_has_its_line(
    first: Path, second: Path, change: Callable[[Path], None], line: str
) -> None:
    change(second / "tables")
    lines = list(diff_studies(first, second))
    assert any(line in found for found in lines), lines


def test_scores_are_compared_over_the_runs_that_both_have(first: Path, second: Path) -> None:
    edit("metrics.parquet", higher)(second / "tables")
    (line,) = diff_studies(first, second)
    old, new = (float(word.rstrip(",")) for word in (line.split()[2], line.split()[4]))
    assert new - old == pytest.approx(1, abs=0.011)
    assert line.endswith("3 of 3 runs in both score otherwise")
