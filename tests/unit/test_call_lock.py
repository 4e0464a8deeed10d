"""One call at a time on a study: who waits, who plans anew, and that a killed call is no obstacle."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reidablate.call_lock import started_in

Call = Callable[[], "subprocess.Popen[str]"]

CALL = """
import os, subprocess, sys
from pathlib import Path
from reidablate.call_lock import CallLock
lock = CallLock(Path(sys.argv[1]))
print("planned", flush=True)
os.read(0, 1)
lock.take()
none = subprocess.DEVNULL
pause = [sys.executable, "-c", "import signal; signal.pause()"]
job = subprocess.Popen(pause, close_fds=False, stdin=none, stdout=none, stderr=none)
print("runs", job.pid, flush=True)
os.read(0, 1)
job.kill()
"""


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Call]:
    """Starts a process that plans, runs when it is told, starts a job, and ends when told again."""
    calls = []

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", CALL, str(tmp_path / "results")]
        pipe = subprocess.PIPE
        calls.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=0))
        return calls[-1]

    yield start
    for process in calls:
        process.kill()
        process.communicate()


def read(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write(".")


def waits(process: "subprocess.Popen[str]") -> bool:
    assert process.stderr is not None
    return "another call is using" in process.stderr.readline()


def test_a_second_call_waits_for_the_first_and_plans_again(call: Call) -> None:
    first, second = call(), call()
    assert [read(first), read(second)] == ["planned", "planned"]
    tell(second)
    assert waits(second)  # for the one that still plans
    tell(first)
    assert read(first).startswith("runs")
    tell(first)
    assert read(second) == "planned"
    tell(second)
    assert read(second).startswith("runs")
    tell(second)
    assert [first.wait(timeout=30), second.wait(timeout=30)] == [0, 0]


def test_who_planned_while_another_ran_plans_again(call: Call) -> None:
    first = call()
    assert read(first) == "planned"
    tell(first)
    assert read(first).startswith("runs")
    second = call()
    assert read(second) == "planned"
    tell(first)
    assert first.wait(timeout=30) == 0  # its files came while the second planned
    tell(second)
    assert waits(second)
    assert read(second) == "planned"


def test_a_killed_call_is_no_obstacle_though_its_job_lives_on(call: Call) -> None:
    first = call()
    assert read(first) == "planned"
    tell(first)
    job = int(read(first).split()[1])
    first.kill()
    first.wait(timeout=30)
    second = call()
    assert read(second) == "planned"
    tell(second)
    assert read(second).startswith("runs")
    tell(second)
    assert second.wait(timeout=30) == 0
    os.kill(job, signal.SIGKILL)


@pytest.mark.parametrize("shell", [None, "/elsewhere"])
@pytest.mark.parametrize("arguments", [["-d", "my/study"], ["--directory=my/study"], ["--directory", "my/study"]])
def test_a_call_for_another_folder_starts_over_from_its_own(
    tmp_path: Path, arguments: list[str], shell: str | None
) -> None:
    study = tmp_path / "my" / "study"
    study.mkdir(parents=True)
    assert started_in(["snakemake", "--cores", "1", *arguments], study, shell) == tmp_path


def test_a_folder_behind_dots_is_found_by_that_of_the_shell(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "other").mkdir()
    here, shell = tmp_path / "study", tmp_path / "other"
    assert started_in(["snakemake", "-d", "../study"], here, str(shell)) == shell
    assert started_in(["snakemake", "-d", str(here)], here, str(shell)) == shell
    assert started_in(["snakemake", "--cores", "1"], here, str(shell)) == here
