"""What the terminal says of a call: Snakemake's records in, lines out."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from reidablate.outcome import duration, left_in_words, time_left
from reidablate.planning import plan
from reidablate.terminal import Terminal
from snakemake_logger_plugin_reidablate import LogHandler

ROOT = Path(__file__).parents[2]
RUN, OTHER = "market1501/p1/seed0", "market1501/p1/seed1"


def record(message: str, event: LogEvent | None = None, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": level, "event": event, **extra})


def starts(job: int, rule: str, **wildcards: str) -> logging.LogRecord:
    log = [f"results/tiny/logs/{rule}/{next(iter(wildcards.values()), rule)}.log"]
    fields: dict[str, Any] = {"jobid": job, "rule_name": rule, "wildcards": wildcards, "log": log}
    return record("Rule", LogEvent.JOB_INFO, **fields)


def said(capsys: pytest.CaptureFixture[str], records: list[logging.LogRecord], **settings: Any) -> list[str]:
    handler = LogHandler(OutputSettings(**settings), None)
    for one in records:
        handler.emit(one)
    handler.close()
    captured = capsys.readouterr()
    assert (captured.err if settings.get("stdout") else captured.out) == ""
    return (captured.out + captured.err).splitlines()


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    """Those of a call with a run that fails and a run without readable scores, and what Snakemake says besides."""
    monkeypatch.chdir(tmp_path)
    log = Path("results/tiny/logs/train") / f"{OTHER}.log"
    log.parent.mkdir(parents=True)
    log.write_text("reidablate: weights.pth is missing; correct the path.\n")
    return [
        record("Building DAG of jobs..."),
        record("Job stats:\ntrain 2", LogEvent.RUN_INFO, stats={"train": 2, "evaluate": 2, "cache": 1, "total": 5}),
        record("Select jobs to execute..."),
        record("Execute 1 jobs...", LogEvent.JOB_STARTED),
        starts(0, "cache", dataset="market1501"),
        record("reidablate cache", LogEvent.SHELLCMD, shellcmd="reidablate cache"),
        record("Finished", LogEvent.JOB_FINISHED, job_id=0),
        starts(1, "train", run=RUN),
        starts(2, "train", run=OTHER),
        record("Finished", LogEvent.JOB_FINISHED, job_id=1),
        record("Error in rule train", LogEvent.JOB_ERROR, logging.ERROR, jobid=2, log=[str(log)]),
        record("RuleException:\nCalledProcessError in file x", LogEvent.ERROR, logging.ERROR),
        starts(3, "evaluate", scored=RUN),
        record("Finished", LogEvent.JOB_FINISHED, job_id=3),
        record("1 of 2 steps", LogEvent.PROGRESS),
        record("the disk is slow", level=logging.WARNING),
        record("something that no version of Snakemake says yet"),
        record("WorkflowError:\nAt least one job did not complete successfully.", LogEvent.ERROR, logging.ERROR),
    ]


def test_trainings_failures_warnings_and_what_is_not_known_are_printed(
    capsys: pytest.CaptureFixture[str], records: list[logging.LogRecord]
) -> None:
    assert said(capsys, records) == [
        "2 runs to train, 1 job that prepares data sets and weights; Snakemake's own log is in .snakemake/log",
        f"started {RUN}",
        f"started {OTHER}",
        f"FAILED {OTHER}: reidablate: weights.pth is missing; correct the path. [results/tiny/logs/train/{OTHER}.log]",
        f"finished 1/2 {RUN}: scored",
        "the disk is slow",
        "something that no version of Snakemake says yet",
    ]


def test_of_jobs_that_a_cluster_ran_as_one_the_one_under_way_is_named_and_the_clusters_log(
    capsys: pytest.CaptureFixture[str], records: list[logging.LogRecord]
) -> None:
    logs = {2: f"results/tiny/logs/train/{OTHER}.log", 3: f"results/tiny/logs/evaluate/{OTHER}.log"}
    info = [{"jobid": job, "log": [log]} for job, log in logs.items()]
    where = {"job_error_info": info, "aux_logs": [".snakemake/slurm_logs/%j.log"], "external_jobid": "17"}
    group = record("Error in group run", LogEvent.GROUP_ERROR, logging.ERROR, groupid="run", **where)
    members = [
        record("Error in rule", LogEvent.JOB_ERROR, logging.ERROR, jobid=job, log=[log]) for job, log in logs.items()
    ]
    begun = [starts(2, "train", run=OTHER), starts(3, "evaluate", scored=OTHER)]
    failed = f"FAILED {OTHER}: reidablate: weights.pth is missing; correct the path. [{logs[2]}]"
    cluster = "the cluster's own log of it: .snakemake/slurm_logs/17.log"
    assert said(capsys, [*begun, group, *members]) == [f"started {OTHER}", failed, cluster]
    Path(logs[2]).unlink()  # it never began
    unknown = f"FAILED {OTHER}: ended without an error message (killed?) [{logs[2]}]"
    assert said(capsys, [*begun, group, *members]) == [f"started {OTHER}", unknown, cluster]


def test_a_job_that_is_started_again_has_not_failed() -> None:
    terminal, log = Terminal(), [f"results/none/logs/train/{RUN}.log"]
    terminal.plan({"train": 1, "evaluate": 1})
    for _ in range(2):
        terminal.start(1, "train", {"run": RUN}, log)
        terminal.fail(1, log)
        assert terminal.status() == "train 0/1, tables and report, 1 failed"
    terminal.start(1, "train", {"run": RUN}, log)
    assert terminal.status() == f"train 0/1, {RUN}, 0 failed"


def test_settings_of_snakemake_are_heeded(capsys: pytest.CaptureFixture[str], records: list[logging.LogRecord]) -> None:
    from snakemake.settings.enums import Quietness

    failed = [line for line in said(capsys, records) if line.startswith("FAILED") or "slow" in line]
    assert said(capsys, records, quiet={Quietness.ALL}) == failed
    assert said(capsys, records, quiet={Quietness.PROGRESS})[:-1] == failed
    assert "reidablate cache" in said(capsys, records, printshellcmds=True)
    assert said(capsys, records, dryrun=True, stdout=True)[:3] == ["Job stats:", "train 2", "the disk is slow"]
    assert "Building DAG of jobs..." in said(capsys, records, verbose=True)


def test_the_status_counts_names_and_estimates() -> None:
    now = [100.0]
    terminal = Terminal(clock=lambda: now[0])
    terminal.plan({"train": 6, "evaluate": 6, "index": 1})
    terminal.start(0, "index", {"dataset": "market1501"}, ["results/none/logs/index/market1501.log"])
    assert terminal.status() == "train 0/6, indexing market1501, 0 failed"
    terminal.finish(0)
    for seed in (0, 1):
        log = [f"results/none/logs/train/market1501/p1/seed{seed}.log"]
        terminal.start(1 + seed, "train", {"run": f"market1501/p1/seed{seed}"}, log)
    assert terminal.status() == "train 0/6, market1501/p1/seed1 and 1 more, 0 failed"  # nothing tells the pace yet
    now[0] += 100
    terminal.finish(1)
    terminal.start(3, "evaluate", {"scored": RUN}, [f"results/none/logs/evaluate/{RUN}.log"])
    terminal.finish(3)
    now[0] += 50
    # One run and half of another in 150 s: half a run and four more take 450 s.
    assert terminal.status() == "train 1/6, market1501/p1/seed1, 0 failed, about 8 min left"
    terminal.fail(2, [])
    assert terminal.status() == "train 1/6, tables and report, 1 failed, about 10 min left"


def test_the_time_left_follows_the_pace_of_this_call_and_before_it_that_of_earlier_ones() -> None:
    assert time_left(elapsed_s=60, done=3, running=0, waiting=6, earlier_s=1000) == 120
    assert time_left(elapsed_s=5, done=0, running=2, waiting=7, earlier_s=10) == 40
    assert time_left(elapsed_s=5, done=0, running=2, waiting=7, earlier_s=None) is None
    assert [duration(seconds) for seconds in (4.06, 41.2, 240, 9000, 200000)] == [
        "4.1 s", "41 s", "4 min", "2.5 h", "2.3 days"
    ]  # fmt: skip
    assert [left_in_words(seconds) for seconds in (None, 20, 100)] == [
        "", ", less than a minute left", ", about 2 min left"
    ]  # fmt: skip


def test_two_lines_a_run_and_six_more_are_at_most_150_for_the_quickstart(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "workflow" / "config" / "default.yaml").read_text(encoding="utf-8"))
    places = {"results": str(tmp_path), "data_root": str(tmp_path), "preset": "quickstart"}
    assert 2 * len(plan({**settings, **places}).asked_runs) + 6 <= 150
