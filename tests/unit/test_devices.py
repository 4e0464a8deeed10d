"""Leases of GPUs: who gets which, who waits, and that the kernel frees what a dead process held."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from reidablate.engine import devices
from reidablate.errors import UserError
from support import present

HOLD = """
import sys
from reidablate.engine.devices import lease
with lease(int(sys.argv[1]), device="auto") as names:
    print(",".join(names), flush=True)
    sys.stdin.read()
"""

# When told to, runs jobs one after the other; each writes when it had which devices to a log that all jobs share.
JOBS = """
import os
import sys
import time
from reidablate.engine import devices
devices.POLL_S, devices.PATIENCE_S = 0.02, float(sys.argv[3])
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
pool = os.environ["CUDA_VISIBLE_DEVICES"]
print("ready", flush=True)
sys.stdin.read()
for count in map(int, sys.argv[2].split(",")):
    os.environ["CUDA_VISIBLE_DEVICES"] = pool
    with devices.lease(count, device="auto") as names:
        for word in ("start", "stop"):
            for name in names:
                os.write(log, f"{time.monotonic_ns()} {word} {os.getpid()} {count} {name}\\n".encode())
            end = time.monotonic() + 0.05
            while word == "start" and time.monotonic() < end:
                os.sched_yield()
"""
SMI = """
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa11c0de-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb22c0de-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-c1c1c0de-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  1: (UUID: MIG-c2c2c0de-0000-0000-0000-000000000000)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-dd33c0de-0000-0000-0000-000000000000)
"""


@pytest.fixture(autouse=True)
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that looks like it has three GPUs, has no nvidia-smi, and has its locks to itself."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in devices.SCHEDULERS:
        monkeypatch.delenv(name, raising=False)


def hold(count: int) -> "subprocess.Popen[str]":
    """Starts a process that holds `count` devices until its standard input closes."""
    command = [sys.executable, "-c", HOLD, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def held(process: "subprocess.Popen[str]") -> set[str]:
    assert process.stdout is not None
    return set(process.stdout.readline().strip().split(","))


def release(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=30)


def test_holders_never_share_a_device() -> None:
    two, one = hold(2), hold(1)
    assert held(two) | held(one) == {"0", "1", "2"}
    release(two)
    release(one)


def test_a_lease_sets_the_visible_devices() -> None:
    with devices.lease(2, device="auto") as names:
        assert names == ("0", "1")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_whoever_asks_for_several_waits_until_all_are_free() -> None:
    holder = hold(2)
    assert len(held(holder)) == 2
    got: list[tuple[str, ...]] = []

    def ask() -> None:
        with devices.lease(2, device="auto") as names:
            got.append(names)

    waiting = threading.Thread(target=ask)
    waiting.start()
    waiting.join(timeout=1.5)
    assert got == []
    other = hold(1)  # while one waits for two, a third still gets the one that is free
    assert held(other) == {"2"}
    release(holder)
    waiting.join(timeout=30)
    release(other)
    assert got == [("0", "1")]


def test_a_killed_holder_frees_its_devices() -> None:
    holder = hold(3)
    assert len(held(holder)) == 3
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    for stream in (holder.stdin, holder.stdout):
        assert stream is not None
        stream.close()
    with devices.lease(3, device="auto") as names:
        assert len(names) == 3


def test_a_pool_that_is_too_small_is_a_sentence() -> None:
    with pytest.raises(UserError, match="needs 4 GPUs but only 3 are visible"), devices.lease(4, device="auto"):
        pass


@pytest.mark.parametrize("value", ["", "-1"])
def test_without_a_gpu_the_lease_is_empty_unless_one_was_asked_for(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with devices.lease(1, device="auto") as names:
        assert names == ()
    with pytest.raises(UserError, match="no GPU is visible"), devices.lease(1, device="cuda"):
        pass


@pytest.mark.parametrize("scheduler", ["SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"])
def test_four_jobs_in_an_allocation_of_one_gpu_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    monkeypatch.setenv(scheduler, "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    fields = run_jobs(tmp_path / "log", ["1"] * 4, 60)
    assert overlaps((tmp_path / "log").read_text()) == []
    assert [name for *_, name in fields] == ["0"] * 8


def test_another_allocation_may_call_another_device_by_the_same_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    other = hold(1)
    assert held(other) == {"0"}
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with devices.lease(1, device="auto") as names:
        assert names == ("0",)
    release(other)


def test_without_nvidia_smi_pytorch_tells_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver is there; the interpreter that is asked is one that has two GPUs."""
    python, driver = tmp_path / "bin" / "python", tmp_path / "nvidiactl"
    python.write_text(
        "#!/bin/sh\n[ -z \"$CUDA_VISIBLE_DEVICES\" ] && printf 'GPU 0: (UUID: GPU-aa)\\nGPU 1: (UUID: GPU-bb)\\n'\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(devices, "DRIVER_FILES", (str(driver),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices.visible_gpus() == ["1"]
    driver.touch()
    assert devices.visible_gpus() == ["GPU-bb"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.visible_gpus() == ["GPU-aa", "GPU-bb"]


def test_under_a_scheduler_that_gave_more_than_one_run_needs_runs_do_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    other = hold(1)
    assert held(other) == {"0"}
    with devices.lease(1, device="auto") as names:
        assert names == ("1",)
    release(other)


@pytest.fixture
def smi(tmp_path: Path) -> None:
    """An nvidia-smi that lists three GPUs, the second one cut in two."""
    script = tmp_path / "bin" / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] && echo '{SMI.strip()}'\n")
    script.chmod(0o755)


def uuids(*starts: str) -> list[str]:
    return [f"{start}c0de-0000-0000-0000-000000000000" for start in starts]


@pytest.mark.usefixtures("smi")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, uuids("GPU-aa11", "MIG-c1c1", "MIG-c2c2", "GPU-dd33")),
        ("2,0", uuids("GPU-dd33", "GPU-aa11")),
        ("GPU-dd, 0", uuids("GPU-dd33", "GPU-aa11")),
        ("MIG-c2c2c0de-0000-0000-0000-000000000000,2", uuids("MIG-c2c2", "GPU-dd33")),
        ("MIG-GPU-aa11c0de-0000-0000-0000-000000000000/1/0", ["MIG-GPU-aa11c0de-0000-0000-0000-000000000000/1/0"]),
        ("0,GPU-aa11,0", uuids("GPU-aa11")),
        ("0,-1,2", uuids("GPU-aa11")),
        ("0,3,2", uuids("GPU-aa11")),
        ("NoDevFiles", []),
    ],
)
def test_every_way_to_name_a_device_comes_to_its_uuid(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES") if value is None else monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert devices.visible_gpus() == expected


@pytest.mark.usefixtures("smi")
def test_a_study_that_names_devices_and_one_that_does_not_never_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    other = hold(1)
    assert held(other) == set(uuids("GPU-aa11"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with devices.lease(1, device="auto") as names:
        assert names == tuple(uuids("MIG-c1c1"))
    release(other)


def test_a_gpu_that_pytorch_cannot_use_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-another-machine")
    assert devices.visible_gpus() == ["GPU-of-another-machine"]
    assert devices.usable_gpus() == 0


def overlaps(log: str) -> list[str]:
    """Returns the log's lines that give somebody a device which somebody else has at that time."""
    found, owner = [], dict[str, str]()
    for line in sorted(log.splitlines(), key=lambda line: int(line.split()[0])):
        _, word, pid, _, name = line.split()
        if word == "start" and name in owner:
            found.append(line)
        elif word == "start":
            owner[name] = pid
        elif owner.get(name) == pid:
            del owner[name]
    return found


def run_jobs(log: Path, plans: list[str], patience: float) -> list[list[str]]:
    """Runs a process for each plan (how many devices its jobs ask for, one job after the other); returns log fields.

    No job begins before every process is ready.
    """
    commands = [[sys.executable, "-c", JOBS, str(log), plan, str(patience)] for plan in plans]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes) for command in commands]
    for process in processes:
        assert present(process.stdout).readline() == "ready\n"
    for process in processes:
        present(process.stdin).close()
    for process in processes:
        with process:
            assert process.wait(timeout=120) == 0
    return sorted((line.split() for line in log.read_text().splitlines()), key=lambda fields: int(fields[0]))


def test_the_check_for_overlaps_finds_one() -> None:
    one = ["1 start 7 1 0", "3 stop 7 1 0"]
    assert overlaps("\n".join([*one, "4 start 8 1 0", "5 stop 8 1 0", "2 start 8 1 1"])) == []
    assert overlaps("\n".join([*one, "2 start 8 1 0", "5 stop 8 1 0"])) == ["2 start 8 1 0"]


def test_twenty_jobs_on_four_devices_never_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    fields = run_jobs(tmp_path / "log", ["1", "2", "1", "1", "1"] * 4, 60)
    assert overlaps((tmp_path / "log").read_text()) == []
    assert len(fields) == 2 * (16 + 4 * 2)
    assert {name for *_, name in fields} == {"0", "1", "2", "3"}
    running = list(itertools.accumulate(1 if word == "start" else -1 for _, word, *_ in fields))
    assert max(running) > 2  # they did run side by side


def test_who_needs_two_devices_is_not_starved_by_those_who_need_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    singles = ",".join(["1"] * 40)
    fields = run_jobs(tmp_path / "log", [singles, singles, singles, "2,2"], 0.1)
    assert overlaps((tmp_path / "log").read_text()) == []
    last_of_two = max(i for i, (_, _, _, count, _) in enumerate(fields) if count == "2")
    assert sum(count == "1" for _, _, _, count, _ in fields[last_of_two:]) > 60
