"""What a whole study prints, and what another terminal sees of it."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from reidablate.artifacts import read_json
from reidablate.watch import Watch
from support import TERMINAL, run_cli

pytestmark = pytest.mark.slow

RESULTS = Path("results/tiny")
RUNS = [f"market1501/{cell}/seed{seed}" for cell in ("naive_triplet", "p1") for seed in (0, 1)]


def test_a_study_prints_two_lines_a_run_and_at_most_six_more(finished: Path) -> None:
    lines = (finished / TERMINAL).read_text().splitlines()
    assert len(lines) <= 2 * len(RUNS) + 6
    assert sorted(line for line in lines if line.startswith("started ")) == [f"started {run}" for run in RUNS]
    done = [line for line in lines if line.startswith("finished ")]
    assert len(done) == len(RUNS)
    for number, line in enumerate(done, start=1):
        run = line.split()[2].rstrip(":")
        metrics = read_json(finished / RESULTS / run / "metrics.json")
        scores = metrics[metrics["headline"]]
        words = f"mAP {100 * scores['mAP']:.1f}, Rank-1 {100 * scores['rank1']:.1f}, trained in "
        assert line.startswith(f"finished {number}/4 {run}: {words}")
    assert lines[-1].startswith(f"report: {RESULTS}/report/index.html. Market-1501 (synthetic): Not known: ")
    (log,) = (finished / ".snakemake" / "log").glob("*.log")
    assert log.read_text().count("rule train:") == len(RUNS)
    assert "4 of 4" not in "\n".join(lines)


def test_watch_tells_a_finished_study_from_one_at_work(study: Path) -> None:
    said = run_cli("watch", "--once").splitlines()
    assert said[0] == "tiny: train 4/4, 0 failed; no call is at work on it"
    assert said[-1] == "  report   results/tiny/report/index.html"
    failed, running, waiting, left = RUNS
    for run in (failed, running, waiting):
        shutil.rmtree(RESULTS / run)
    for run, words in ((failed, "reidablate: the disk is full.\n"), (running, f"{running}: epoch 1/2 loss 2.7\n")):
        (RESULTS / "logs" / "train" / f"{run}.log").write_text(words)
    with FileLock(RESULTS / ".lock"), FileLock(RESULTS / running / ".lock"):
        lines, at_work = Watch(RESULTS).lines()
    assert at_work
    assert lines[0].startswith(f"tiny: train 1/4, {running}, 1 failed, ")
    log = RESULTS / "logs" / "train" / f"{failed}.log"
    assert lines[1:3] == [
        f"  running  {running}: epoch 1/2 loss 2.7",
        f"  failed   {failed}: reidablate: the disk is full. [{log}]",
    ]
    assert [line.split(":")[0] for line in lines[3:]] == [f"  finished {left}"]
