"""What `clean` lists and removes, and what it never touches."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from reidablate.artifacts import write_json
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planning import plan
from reidablate.study import Study
from reidablate.tidying import clean_study, find_items

RESULTS = Path("results/tiny")
RUNS = RESULTS / "market1501"
COMMAND = [sys.executable, "-c", "from reidablate.cli import main; main()", "clean"]


@pytest.fixture(scope="module")
def scored(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run, trained and scored. Treat it as read-only."""
    out = tmp_path_factory.mktemp("scored") / "run"
    spec = train_spec(tiny_study, dataset="market1501", cell="p1", seed=0)
    train_run(type(spec)(**{**vars(spec), "out": out}))
    evaluate_run(out)
    return out


@pytest.fixture
def study(project: Path, settings: dict[str, object], scored: Path) -> Study:
    """A planned study with one scored run, as the current folder."""
    made = plan({**settings, "cells": "naive_triplet,p1", "datasets": "market1501"})
    made.write()
    shutil.copytree(scored, RUNS / "p1" / "seed0")
    return made


def files() -> dict[Path, int]:
    return {path: path.stat().st_size for path in RESULTS.rglob("*") if path.is_file() and path.name != ".lock"}


def clean(*arguments: str) -> str:
    return subprocess.run([*COMMAND, *arguments], check=True, capture_output=True, text=True).stdout


def place(path: Path, content: str = "x" * 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_a_study_without_waste_has_nothing_to_clean(study: Study) -> None:
    before = files()
    assert clean("--yes") == "nothing to clean\n"
    assert files() == before


def test_exactly_what_is_listed_is_removed(
    study: Study, settings: dict[str, object], scored: Path, project: Path
) -> None:
    shutil.copytree(scored, RUNS / "gone" / "seed0")
    waste = {
        *(path for path in (RUNS / "gone").rglob("*") if path.is_file() and path.name != ".lock"),
        place(RUNS / "p1" / "seed0" / "state" / "0" / "epoch.pt"),
        place(RESULTS / "data" / "elsewhere" / "cache" / "train.npy"),
        place(RESULTS / "tables" / ".tmp-1-runs.parquet"),
        place(RUNS / "p1" / ".seed0.reproduce" / "state" / "0" / "epoch.pt"),
        study.path,
    }
    (project / "ablations" / "half.yaml").write_text("name: half\nlosses: [")
    shutil.copytree(scored, RUNS / "half" / "seed0")
    shutil.copytree(scored, RUNS / "p2_weight_12" / "seed0")
    shutil.copytree(scored, RUNS / "p1" / "seed7")  # without a record of what was ever planned
    (RUNS / "p1" / "seed1" / "state" / "0").mkdir(parents=True)
    for kept in (
        RUNS / "p1" / "seed1" / "state" / "0" / "epoch.pt",  # an interrupted training
        RESULTS / "data" / "market1501" / "cache" / "train.npy",
        RESULTS / "data" / "occluded_duke" / "cache" / "train.npy",
        RESULTS / "data" / "pretrain" / "cache" / "train.npy",
        RESULTS / "imported" / "market1501" / "gone" / "metrics.json",
        RESULTS / "imported" / "market1501" / ".tmp-1-metrics.json",
        RESULTS / "plans" / "sources.zip",
        RESULTS / "notes" / "mine" / "seed0" / "notes.txt",
    ):
        place(kept)
    plan({**settings, "cells": "p1", "datasets": "market1501"}).write()
    before = files()
    listed = clean()
    assert files() == before
    assert listed.endswith("add --yes to remove.\n")
    assert "runs of deleted cells\n  results/tiny/market1501/gone/seed0  " in listed
    removed = clean("--yes")
    assert files() == {path: size for path, size in before.items() if path not in waste}
    assert not (RUNS / "gone").exists()
    assert removed.replace(" removed.", "") == listed.replace(" in all; add --yes to remove.", "")
    assert clean("--yes") == "nothing to clean\n"


def test_it_works_from_anywhere_on_the_study_that_is_named(
    study: Study, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(RUNS / "p1" / "seed0" / "state" / "0" / "epoch.pt")
    monkeypatch.chdir(tmp_path)
    assert "states of scored runs\n  results/tiny/market1501/p1/seed0/state  " in clean("--study", str(project))
    assert "1 item, " in clean("--yes", "--study", str(project))
    assert not (project / RUNS / "p1" / "seed0" / "state").exists()


def test_the_sizes_are_those_of_the_files(study: Study) -> None:
    folder = RUNS / "gone" / "seed3"
    place(folder / "provenance.json", "x" * 1500)
    place(folder / "state" / "a.pt", "x" * 1_000_000)
    (item,) = find_items(RESULTS)
    assert item.size_bytes == 1_001_500
    assert clean_study(RESULTS, remove=False)[-1] == "1 item, 1.0 MB in all; add --yes to remove."


def test_the_plan_behind_the_tables_stays(study: Study, settings: dict[str, object]) -> None:
    write_json(RESULTS / "tables" / "study.json", {"plan_hash": study.hash})
    newer = plan({**settings, "cells": "p1", "datasets": "market1501"})
    newer.write()
    newest = plan({**settings, "cells": "naive_triplet", "datasets": "market1501"})
    newest.write()
    assert [item.path for item in find_items(RESULTS)] == [newer.path]


def test_seeds_and_data_sets_that_were_never_planned_are_known_from_the_record_of_the_study(
    study: Study, scored: Path
) -> None:
    for run in ("market1501/p1/seed5", "market1501/p1/seed7", "market1501/p1_rpe/seed9", "mars/p1/seed0"):
        shutil.copytree(scored, RESULTS / run)
    write_json(RESULTS / "study.json", {"runs": {"market1501": {"p1": [0, 5], "p1_rpe": [9]}}, "more": 1})
    assert {(item.kind, str(item.path.relative_to(RESULTS))) for item in find_items(RESULTS)} == {
        ("runs of seeds that are not planned", "market1501/p1/seed7"),
        ("runs on data sets that are not planned", "mars/p1/seed0"),
    }


def test_the_state_of_a_run_that_is_trained_again_stays(study: Study) -> None:
    place(RUNS / "p1" / "seed0" / "state" / "0" / "epoch.pt")
    (RUNS / "p1" / "seed0" / "provenance.json").unlink()  # as Snakemake does first
    assert find_items(RESULTS) == []


def test_a_run_that_a_process_still_writes_is_left_alone(study: Study, scored: Path) -> None:
    shutil.copytree(scored, RUNS / "gone" / "seed0")
    before = files()
    with FileLock(RUNS / "gone" / "seed0" / ".lock"):
        assert re.search(r"gone/seed0 .* in use and left alone\n1 item, 0 B removed\.", clean("--yes"))
    assert files() == before
    clean("--yes")
    assert not (RUNS / "gone").exists()


def test_it_waits_for_the_call_that_is_using_the_study(study: Study, scored: Path) -> None:
    shutil.copytree(scored, RUNS / "gone" / "seed0")
    lock = os.open(RESULTS / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = subprocess.Popen([*COMMAND, "--yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "waiting for it" in process.stderr.readline()
    assert (RUNS / "gone").exists()
    os.close(lock)
    assert "1 item" in process.communicate()[0]
    assert not (RUNS / "gone").exists()


def test_a_study_of_another_working_directory_is_refused(
    study: Study, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = RESULTS.resolve()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UserError, match="was planned as results/tiny from another working directory"):
        find_items(results)


def test_a_folder_that_is_no_study_is_refused(project: Path) -> None:
    Path("photos").mkdir()
    with pytest.raises(UserError, match="photos holds no plan of a study"):
        clean_study(Path("photos"), remove=True)
    assert list(Path("photos").iterdir()) == []
