"""A study that is killed, or called twice at once, ends with the bits of one that was left alone."""

import fcntl
import itertools
import os
import random
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pandas as pd
import pytest

from reidablate.artifacts import read_json, sha256_file
from support import BASE, planned, snakemake, start_snakemake

pytestmark = pytest.mark.slow

RESULTS = Path("results/tiny")
STAGES = ("synthesize", "train", "evaluate")  # those that a test stops in the middle
LOCK = ".lock"


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage logs what it writes, and one that `WATCH_STOP` names stops itself; see `watch/sitecustomize.py`."""
    monkeypatch.setenv("WATCH_LOG", str(tmp_path / "watch.log"))
    path = [str(Path(__file__).parent / "watch"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


@pytest.fixture
def fresh(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: None) -> Iterator[Path]:
    """The project without results, as the current folder, where every stage logs what it writes."""
    folder = tmp_path / "fresh"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    monkeypatch.chdir(folder)
    yield folder
    for entry in Path("/proc").glob("[0-9]*"):  # whatever a failed test has left
        with suppress(OSError):
            if int(entry.name) != os.getpid() and (entry / "cwd").resolve() == folder.resolve():
                os.kill(int(entry.name), signal.SIGKILL)


def call() -> "subprocess.Popen[str]":
    """Starts the study in a process group of its own."""
    return start_snakemake(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait(process: "subprocess.Popen[str]", condition: Callable[[], object]) -> None:
    """Returns as soon as the condition holds, which must be before the process ends."""
    while not condition():
        assert process.poll() is None
        select.select([], [], [], 0.05)


def live(stage: str) -> dict[int, str]:
    """Returns the processes that run a stage of the study in the current folder, and their state (`T`: stopped).

    A stage that the host runs is its command, which waits, and a fork of the host, which has the name of the stage.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            by_itself = stage in words[2:4] and words[1].endswith("reidablate")
            forked = (entry / "comm").read_text().strip() == stage
            if (by_itself or forked) and (entry / "cwd").resolve() == Path.cwd():
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, UnicodeDecodeError):  # it has just ended
            continue
    return found


def resume(orphans: set[int]) -> set[int]:
    """Lets stopped processes go on; returns those that have not ended."""
    left = {pid for stage in STAGES for pid in live(stage)} & orphans
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return left


def num_files(folder: Path) -> int:
    """Returns how many files lie in a folder while others write there; `rglob` would trip over what vanishes."""
    return sum(len(files) for _, _, files in os.walk(folder))


def text_of(logs: Path) -> str:
    """Returns what all logs of a folder say."""
    text = ""
    for log in logs.rglob("*.log"):
        with suppress(FileNotFoundError):  # Snakemake removes a log before it starts the job again
            text += log.read_text()
    return text


def same_as(finished: Path) -> None:
    """Asserts that the study in the current folder has the scores, weights and features of the finished one."""
    there = finished / RESULTS
    for name in ("metrics", "queries"):
        ours, theirs = (pd.read_parquet(root / "tables" / f"{name}.parquet") for root in (RESULTS, there))
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    runs = sorted(path.relative_to(there) for path in there.glob("market1501/*/seed*"))
    assert len(runs) == 4
    assert sorted(path.relative_to(RESULTS) for path in RESULTS.glob("market1501/*/seed*")) == runs
    for run, name in itertools.product(runs, ("model.safetensors", "features.npz")):
        assert sha256_file(RESULTS / run / name) == sha256_file(there / run / name)


def writers(log: str) -> dict[str, list[tuple[int, int, int]]]:
    """Returns for every folder that has a lock who wrote below it and when: (first, last, pid), in order of time."""
    spans: dict[tuple[str, int], list[int]] = {}
    for line in log.splitlines():
        time, pid, path = line.split(" ", 2)
        folder = next(parent for parent in Path(path).parents if (parent / LOCK).exists())
        if not path.endswith(LOCK):
            spans.setdefault((str(folder), int(pid)), []).append(int(time))
    found: dict[str, list[tuple[int, int, int]]] = {}
    for (name, number), times in spans.items():
        found.setdefault(name, []).append((min(times), max(times), number))
    return {folder: sorted(entries) for folder, entries in found.items()}


def shared(found: dict[str, list[tuple[int, int, int]]]) -> list[str]:
    """Returns the folders that one process wrote to while another was not done with it."""
    return [
        folder
        for folder, entries in found.items()
        if any(second[0] <= first[1] for first, second in itertools.pairwise(entries))
    ]


def never_two_writers() -> None:
    found = writers(Path(os.environ["WATCH_LOG"]).read_text())
    names = {str(Path(folder).relative_to(RESULTS.resolve())) for folder in found}
    assert {"data/market1501/images", "data/market1501/cache", "tables", "market1501/p1/seed0"} <= names
    assert shared(found) == []


def test_the_check_for_two_writers_finds_them(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    one = f"1 7 {tmp_path}/a\n4 7 {tmp_path}/state/b\n"
    assert shared(writers(f"{one}2 8 {tmp_path}/{LOCK}\n5 8 {tmp_path}/a\n")) == []
    assert shared(writers(f"{one}3 8 {tmp_path}/a\n5 8 {tmp_path}/a\n")) == [str(tmp_path)]


def test_jobs_that_outlive_snakemake_and_those_of_the_next_call_never_write_together(
    fresh: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphans: set[int] = set()
    before = ""
    for stage in (*STAGES, ""):  # where Snakemake is killed while a job holds a folder
        monkeypatch.setenv("WATCH_STOP", stage)
        process = call()
        if orphans:
            wait(process, lambda logs=RESULTS / "logs" / before: "another process is writing" in text_of(logs))  # type: ignore[misc]
            wait(process, lambda orphans=orphans: not resume(orphans))  # type: ignore[misc]
        if stage:
            wait(process, lambda stage=stage: any(state == "T" for state in live(stage).values()))  # type: ignore[misc]
            process.kill()
            process.wait()
            orphans, before = set(live(stage)), stage
    assert process.wait(timeout=600) == 0
    same_as(finished)
    never_two_writers()


def test_a_study_killed_with_all_its_jobs_at_any_moment_goes_on(fresh: Path, finished: Path) -> None:
    total = num_files(finished / RESULTS)
    rng = random.Random(0)
    for share in sorted(rng.uniform(0.02, 0.95) for _ in range(4)):
        process = call()
        wait(process, lambda share=share: num_files(RESULTS) >= share * total)  # type: ignore[misc]
        select.select([], [], [], rng.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = snakemake()
    assert done.returncode == 0, done.stderr
    same_as(finished)
    never_two_writers()


def test_two_calls_at_once_end_with_one_study(fresh: Path, finished: Path) -> None:
    calls = [start_snakemake(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    wait(calls[0], lambda: live("train"))
    dry = snakemake("-n")  # planning waits for nobody
    assert dry.returncode == 0
    assert "waiting" not in dry.stderr
    said = [process.communicate(timeout=600)[0] for process in calls]
    assert [process.returncode for process in calls] == [0, 0], said
    assert any("another call is using the study in results/tiny; waiting for it" in text for text in said)
    assert sum("Nothing to be done" in text for text in said) == 1
    same_as(finished)
    never_two_writers()


def test_a_call_takes_its_turn_before_snakemake_looks(study: Path) -> None:
    scores = RESULTS / "market1501" / "p1" / "seed0" / "metrics.json"
    scores.rename("metrics.json")
    with (RESULTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a call holds it that is about to make this file
        process = start_snakemake(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = list(itertools.takewhile(lambda line: "waiting for it" not in line, process.stderr))
        assert process.poll() is None
        assert not any("DAG" in line or "Job stats" in line for line in said), said
        Path("metrics.json").rename(scores)
    assert "Nothing to be done" in process.communicate(timeout=600)[1]
    assert process.returncode == 0


MINE = "name: mine\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.25}}\n"
GROWN = [*BASE[:2], "cells=naive_triplet,p1,mine"]
NARROW = [*BASE[:2], "cells=mine"]


@pytest.fixture
def in_training(watched: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts a call as the leader of a group, as a shell does, and returns it with a training that has just begun.

    The training, and each that follows, stays as it is until `ended` lets it go on.
    """

    def start(config: list[str], stderr: TextIO) -> "subprocess.Popen[str]":
        monkeypatch.setenv("WATCH_STOP", "train")
        process = start_snakemake(config=config, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
        monkeypatch.delenv("WATCH_STOP")
        wait(process, stopped)
        return process

    return start


def stopped() -> list[int]:
    """Returns the trainings that have stopped themselves."""
    return [pid for pid, state in live("train").items() if state == "T"]


def ended(process: "subprocess.Popen[str]") -> int:
    """Lets every training go on until the call ends, and returns its exit status."""
    while process.poll() is None:
        resume(set(live("train")))
        select.select([], [], [], 0.1)
    return process.returncode


def test_ctrl_c_leaves_a_report_of_all_that_is_finished_and_loses_none_of_it(
    study: Path, in_training: Callable[..., "subprocess.Popen[str]"]
) -> None:
    (study / "ablations" / "mine.yaml").write_text(MINE)
    tables, page = RESULTS / "tables", RESULTS / "report" / "index.html"
    before, queries = page.read_text(), pd.read_parquet(tables / "queries.parquet")
    with Path("stderr").open("w") as stderr:
        process = in_training(NARROW, stderr)
        os.killpg(process.pid, signal.SIGINT)
        assert ended(process) != 0
    assert "writing the report of what is finished; press Ctrl-C to stop at once" in Path("stderr").read_text()
    runs = pd.read_parquet(tables / "runs.parquet")
    assert runs[runs["cell"] != "mine"]["status"].tolist() == ["finished"] * 4
    pd.testing.assert_frame_equal(pd.read_parquet(tables / "queries.parquet"), queries)
    assert ("mine" in page.read_text()) if "mine" in set(runs["cell"]) else (page.read_text() == before)
    done = snakemake("-n", config=NARROW)
    assert planned(done) == {"train": 2, "evaluate": 2, "aggregate": 1, "statistics": 1, "report": 1}
    assert "2 runs to train: market1501/mine seed 0, 1." in done.stderr


def test_a_call_that_misses_a_run_which_it_asked_for_ends_with_status_1(
    study: Path, in_training: Callable[..., "subprocess.Popen[str]"]
) -> None:
    (study / "ablations" / "mine.yaml").write_text(MINE)
    scores = RESULTS / "market1501" / "p1" / "seed0" / "metrics.json"
    config = [*GROWN, "seeds=1"]
    with Path("stderr").open("w") as stderr:
        process = in_training(config, stderr)
        scores.write_text("{")
        assert ended(process) == 1
    said = Path("stderr").read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("reidablate: not in the tables: ")]
    assert line.startswith("reidablate: not in the tables: market1501/p1/seed0 (")
    assert "metrics.json cannot be read as a JSON file" in line
    assert "Error in rule" not in said
    runs = pd.read_parquet(RESULTS / "tables" / "runs.parquet")
    missing = runs[runs["status"] != "finished"]
    assert list(zip(missing["cell"], missing["seed"], missing["status"], strict=True)) == [("p1", 0, "missing")]
    assert len(runs) == 5
    assert planned(snakemake("-n", config=config)) == {"evaluate": 1, "aggregate": 1, "statistics": 1, "report": 1}


def test_a_job_that_was_killed_is_named_and_stops_no_other(
    study: Path, in_training: Callable[..., "subprocess.Popen[str]"]
) -> None:
    shutil.rmtree(RESULTS / "market1501" / "p1")
    with Path("stderr").open("w") as stderr:
        process = in_training(BASE, stderr)
        os.kill(stopped()[0], signal.SIGKILL)
        assert ended(process) == 1
    lines = [
        line for line in Path("stderr").read_text().splitlines() if "ended without an error message (killed?)" in line
    ]
    assert [line.startswith("FAILED market1501/p1/seed") for line in lines] == [True, False]  # at once, and at the end
    assert all("results/tiny/logs/train/market1501/p1/seed" in line for line in lines)
    runs = pd.read_parquet(RESULTS / "tables" / "runs.parquet")
    assert sorted(runs["status"]) == ["finished", "finished", "finished", "missing"]


def test_four_devices_on_eight_cores_are_all_busy_each_with_a_training_of_its_own(
    fresh: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the preset gives a training four threads, of which only two trainings would fit."""
    preset = fresh / "tiny.yaml"
    preset.write_text(preset.read_text().replace("threads: 1", "threads: 4"))
    (fresh / "bin").mkdir()
    smi = fresh / "bin" / "nvidia-smi"
    gpus = (f"echo 'GPU {number}: none (UUID: GPU-{letter})'\n" for number, letter in enumerate("abcd"))
    smi.write_text("#!/bin/sh\n" + "".join(gpus))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fresh / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("TMPDIR", str(fresh))
    monkeypatch.setenv("WATCH_STOP", "train")
    process = start_snakemake("--cores", "8", gpu=4, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(process, lambda: len(stopped()) == 4)  # all hold what they have leased
    assert ended(process) == 0
    leased = {
        str(path.parent.resolve()): read_json(path)["gpus"]
        for path in RESULTS.glob("market1501/*/seed*/provenance.json")
    }
    assert sorted({name for names in leased.values() for name in names}) == ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
    spans = {folder: entries[0] for folder, entries in writers(Path(os.environ["WATCH_LOG"]).read_text()).items()}
    together = [
        (one, two)
        for one, two in itertools.combinations(leased, 2)
        if spans[one][0] <= spans[two][1] and spans[two][0] <= spans[one][1]
    ]
    assert together
    assert all(leased[one] != leased[two] for one, two in together)
    same_as(finished)
