"""A study over months: parts of it are called, files are touched and damaged, jobs fail, the package is upgraded."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from reidablate.artifacts import content_hash, sha256_file
from support import BASE, nothing_to_do, planned, snakemake

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
        ("market1501/p1/seed0/features.npz", flip, {"train": 1, "evaluate": 1}),
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
