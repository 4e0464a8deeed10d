"""Stages that the host forks: the same bits, exit statuses, words and signals as of processes of their own."""

import dataclasses
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reidablate import warm
from reidablate.artifacts import sha256_file
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.planning import plan
from reidablate.study import Study
from support import ROOT, present

RUN = Path("market1501", "p1", "seed0")
COMMAND = [sys.executable, "-m", "reidablate"]


@dataclass
class Host:
    """A host, and the environment of its commands."""

    process: "subprocess.Popen[bytes]"
    environment: dict[str, str]

    def forks(self) -> list[int]:
        """Returns the living jobs."""
        pid = self.process.pid
        return [job for job in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) if lives(job)]

    def close(self) -> int:
        """Ends the standard input of the host, as the end of Snakemake does, and returns its exit status."""
        present(self.process.stdin).close()
        return self.process.wait(timeout=60)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object]) -> None:
    """Returns as soon as the condition holds; fails after two minutes."""
    last = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < last
        select.select([], [], [], 0.02)


def start() -> Host:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(warm.VARIABLE, "")  # so that the end of the block takes away what is set in it
        patch.delenv(warm.VARIABLE)
        warm.start_host()
        return Host(warm._HOSTS.pop(), {**os.environ})


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    started = start()
    yield started
    assert started.close() == 0


@pytest.fixture
def study(tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of the tiny study, in which nothing is trained but its backbone."""
    monkeypatch.chdir(ROOT)
    copied = plan(
        {**tiny_study.settings.model_dump(), "preset": "tests/tiny.yaml", "results": str(tmp_path / "results")}
    )
    for name in ("data", "pretrain"):
        shutil.copytree(tiny_study.root / name, copied.root / name)
    copied.write()
    return copied


@pytest.fixture(scope="module")
def alone(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the run's files are when it is trained in this process."""
    out = tmp_path_factory.mktemp("alone")
    train_run(dataclasses.replace(train_spec(tiny_study, dataset="market1501", cell="p1", seed=0), out=out))
    return made(out)


def made(run: Path) -> list[str]:
    return [sha256_file(run / name) for name in ("model.safetensors", "features.npz")]


def train(study: Study, environment: dict[str, str]) -> "subprocess.Popen[str]":
    words = ["train", "--plan", str(study.path), "--dataset", "market1501", "--cell", "p1", "--seed", "0"]
    return subprocess.Popen(
        [*COMMAND, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def repeated(study: Study, environment: dict[str, str]) -> list[str]:
    """Returns what the run's files are after the same command once more."""
    process = train(study, environment)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 0, stderr
    return made(study.root / RUN)


def test_a_run_of_the_host_has_the_bits_and_words_of_one_by_itself(host: Host, study: Study, alone: list[str]) -> None:
    process = train(study, host.environment)
    until(host.forks)
    until(lambda: [Path(f"/proc/{pid}/comm").read_text() for pid in host.forks()] == ["train\n"])
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.startswith(f"{RUN}: 2 epochs")
    assert "epoch" in stderr
    assert made(study.root / RUN) == alone


def test_a_refusal_of_the_host_is_that_of_a_process(host: Host, tmp_path: Path) -> None:
    command = [*COMMAND, "evaluate", "none"]
    ways = [host.environment, {**host.environment, warm.VARIABLE: "off"}]
    done = [subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False) for env in ways]
    assert done[0].returncode == done[1].returncode == 2
    assert done[0].stderr == done[1].stderr != ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_sent_on(host: Host, study: Study, alone: list[str], number: signal.Signals) -> None:
    process = train(study, host.environment)
    until((study.root / RUN / "state").is_dir)
    process.send_signal(number)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 128 + number
    assert f"was stopped by {number.name}" in stderr
    assert repeated(study, host.environment) == alone


@pytest.mark.parametrize("who", ["command", "fork", "host"])
def test_a_kill_leaves_nothing_behind(host: Host, study: Study, alone: list[str], who: str) -> None:
    """A fork dies with its command and with its host, a command with its fork; without a host it goes on by itself."""
    used = start() if who == "host" else host
    process = train(study, used.environment)
    until((study.root / RUN / "state").is_dir)
    (fork,) = used.forks()
    os.kill({"command": process.pid, "fork": fork, "host": used.process.pid}[who], signal.SIGKILL)
    until(lambda: not lives(fork))
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == (0 if who == "host" else -signal.SIGKILL), stderr
    assert repeated(study, used.environment) == alone
    if who == "host":
        assert used.close() == -signal.SIGKILL


def test_a_host_outlives_its_snakemake_by_its_jobs_alone(study: Study) -> None:
    host = start()
    process = train(study, host.environment)
    until(host.forks)
    assert host.close() == 0  # after the last job
    assert process.communicate(timeout=300)[0].startswith(f"{RUN}: 2 epochs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(warm.VARIABLE, host.environment[warm.VARIABLE])
        assert warm.run_by_host(["evaluate", "none"]) is None


def test_changed_sources_and_other_installations_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "copy" / "reidablate"
    shutil.copytree(ROOT / "src" / "reidablate", package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import os, sys\nfrom reidablate import warm\nwarm.start_host()\n"
        "for line in sys.stdin:\n    print(warm.run_by_host(['evaluate', 'none']), flush=True)\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def ask() -> str:
        present(caller.stdin).write("\n")
        present(caller.stdin).flush()
        return present(caller.stdout).readline()

    assert ask() == "2\n"
    (package / "rng.py").write_text((package / "rng.py").read_text() + "\n")
    assert ask() == "None\n"
    caller.communicate(timeout=60)
