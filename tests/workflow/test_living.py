"""A study over months: parts of it are called, files are touched and damaged, jobs fail, the package is upgraded."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from reidablate.artifacts import content_hash, sha256_file
from reidablate.runs import SCORES_VERSION
from support import BASE, ROOT, nothing_to_do, planned, snakemake

pytestmark = pytest.mark.slow

BEHIND = {"aggregate": 1, "statistics": 1, "report": 1}


def runs(study: Path) -> dict[tuple[str, int], str]:
    table = pd.read_parquet(study / "results" / "tiny" / "tables" / "runs.parquet")
    return dict(zip(zip(table["cell"], table["seed"], strict=True), table["status"], strict=True))


def scores(study: Path) -> pd.DataFrame:
    return pd.read_parquet(study / "results" / "tiny" / "tables" / "queries.parquet")


def as_of_0_1_0(results: Path) -> None:
    """Takes out of a study what that version did not write."""
    for name in ("study.json", "checksums.json"):
        (results / name).unlink(missing_ok=True)
    for path in results.glob("**/*.json"):
        if "plans" in path.parts or "tables" in path.parts:
            continue
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            continue
        for key in ("science_version", "scores_version"):
            record.pop(key, None)
        if path.name == "provenance.json":
            record["config_hash"] = content_hash(record["config"])  # with the defaults
            record["sha256"] = {name: digest for name, digest in record["sha256"].items() if name != path.name}
        else:
            record.pop("sha256", None)
        path.write_text(json.dumps(record))
    (plan,) = (results / "plans").glob("*.json")
    record = json.loads(plan.read_text())
    for key in ("planned", "asked", "palette"):
        del record[key]
    plan.write_text(json.dumps(record))
    about = json.loads((results / "tables" / "study.json").read_text())
    del about["made_of"]
    (results / "tables" / "study.json").write_text(json.dumps(about))


@pytest.mark.parametrize("with_records", [True, False])
def test_a_study_of_0_1_0_goes_on_without_a_training(study: Path, with_records: bool) -> None:
    as_of_0_1_0(study / "results" / "tiny")
    if not with_records:
        shutil.rmtree(".snakemake")
    before = scores(study)
    assert planned(snakemake("-n")) == BEHIND
    done = snakemake()
    assert done.returncode == 0, done.stderr
    assert set(runs(study).values()) == {"finished"}
    pd.testing.assert_frame_equal(scores(study), before)
    assert nothing_to_do(snakemake("-n"))


def test_times_and_places_of_files_repeat_nothing_and_a_dry_run_leaves_no_plan(study: Path) -> None:
    plans = {path.name for path in (study / "results" / "tiny" / "plans").iterdir()}
    for path in (study / "results").glob("**/*"):
        os.utime(path)
    moved = study.with_name("moved somewhere else")
    study.rename(moved)
    os.chdir(moved)
    jobs = planned(snakemake("-n", config=[*BASE[:2], "cells=naive_triplet", "seeds=1"]))
    assert not jobs.keys() & {"synthesize", "index", "cache", "pretrain", "train", "evaluate"}
    more = snakemake("-n", config=[*BASE[:2], "cells=p1_rpe", "seeds=1"])
    assert planned(more)["train"] == 1
    assert more.stderr.count("market1501/p1_rpe seed 0") == 1
    assert "naive_triplet" not in more.stderr.split("1 run to train")[1].splitlines()[0]
    assert {path.name for path in (moved / "results" / "tiny" / "plans").iterdir()} == plans


def test_a_failed_call_hides_nothing_and_the_next_one_has_nothing_to_mend(study: Path) -> None:
    (study / "ablations" / "big.yaml").write_text("name: big\nextends: p1\ntrain: {num_ids: 64}\n")
    before = scores(study)
    failed = snakemake(config=[*BASE[:2], "cells=naive_triplet,p1,big", "seeds=1"])
    assert failed.returncode == 1
    finished = {("naive_triplet", 0), ("naive_triplet", 1), ("p1", 0), ("p1", 1)}
    assert runs(study) == {**dict.fromkeys(finished, "finished"), ("big", 0): "missing"}
    pd.testing.assert_frame_equal(scores(study), before)
    shutil.rmtree(study / "results" / "tiny" / "tables")  # what a killed call may leave behind beside a whole report
    again = snakemake()
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(scores(study), before)
    (study / "ablations" / "big.yaml").unlink()
    assert snakemake().returncode == 0
    assert set(runs(study)) == finished


def later_release(sources: Path) -> None:
    """Copies the package and edits the copy as a release may: a docstring, an optional section, a column, a metric."""
    package = sources / "reidablate"
    shutil.copytree(ROOT / "src" / "reidablate", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in (
        ("losses/triplet.py", '"""', '"""In other words: '),
        ("synthetic/occluders.py", '"""', '"""In other words: '),
        ("config.py", r"class RunConfig\(Section\):", "class Later(Section):\n    weight: float = 1.0\n\n\n\\g<0>"),
        ("config.py", "    model: ModelConfig\n", "    later: Later | None = None\n\\g<0>"),
        ("runs.py", r"SCORES_VERSION = \d+", f"SCORES_VERSION = {SCORES_VERSION + 1}"),
        ("runs.py", r"QUERY_COLUMNS = \(", '\\g<0>"reciprocal_rank",'),
        (
            "metrics/evaluate.py",
            r"result\.queries\.assign\(",
            '\\g<0>reciprocal_rank=1 / result.queries["first_hit_rank"], ',
        ),
        ("metrics/protocol.py", '"num_queries":', '"MRR": float((1 / self.columns["first_hit_rank"]).mean()), \\g<0>'),
    ):
        text, count = re.subn(old, new, (package / name).read_text(), count=1)
        assert count == 1
        (package / name).write_text(text)


def test_an_upgrade_with_a_new_section_and_a_new_metric_scores_every_run_again_and_trains_new_ones_alone(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {path: path.stat().st_mtime_ns for path in study.glob("results/tiny/**/model.safetensors")}
    later_release(study / "src")
    monkeypatch.setenv("PYTHONPATH", str(study / "src"))
    (study / "ablations" / "mine.yaml").write_text(
        "name: mine\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.25}}\n"
    )
    config = [*BASE[:2], "cells=mine", "seeds=1"]
    dry = snakemake("-n", config=config)
    assert planned(dry) == {"train": 1, "evaluate": 5, **BEHIND}
    assert "1 run to train: market1501/mine seed 0." in dry.stderr
    done = snakemake(config=config)
    assert done.returncode == 0, done.stderr
    assert set(runs(study).values()) == {"finished"}
    assert len(runs(study)) == 5
    metrics = pd.read_parquet(study / "results" / "tiny" / "tables" / "metrics.parquet")
    assert (metrics["metric"] == "MRR").sum() == 5 * 2
    means = scores(study).groupby(["cell", "seed", "side"])["reciprocal_rank"].mean()
    reported = metrics[metrics["metric"] == "MRR"].set_index(["cell", "seed", "side"])["value"]
    pd.testing.assert_series_equal(reported.sort_index(), means, check_names=False)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert nothing_to_do(snakemake("-n", config=config))


def cut(path: Path) -> None:
    os.truncate(path, 100)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def praise(path: Path) -> None:
    record = json.loads(path.read_text())
    record["before_neck"]["mAP"] = 0.95
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "damage", "jobs"),
    [
        ("market1501/p1/seed0/queries.parquet", cut, {"evaluate": 1}),
        ("market1501/p1/seed0/metrics.json", praise, {"evaluate": 1}),
        ("market1501/p1/seed0/features.npz", flip, {"train": 1, "evaluate": 1}),  # extracted from its weights
    ],
)
def test_what_is_damaged_is_named_and_made_again(
    study: Path, name: str, damage: Callable[[Path], None], jobs: dict[str, int]
) -> None:
    path = study / "results" / "tiny" / name
    before, table = sha256_file(path), scores(study)
    damage(path)
    dry = snakemake("-n")
    assert planned(dry) == {**jobs, **BEHIND}
    assert path.name in dry.stderr
    done = snakemake()
    assert done.returncode == 0, done.stderr
    assert sha256_file(path) == before
    pd.testing.assert_frame_equal(scores(study), table)
    assert nothing_to_do(snakemake("-n"))
