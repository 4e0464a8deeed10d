"""Leases of GPUs: who gets which, who waits, and that the kernel frees what a dead process held."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reidablate.engine import devices
from reidablate.errors import UserError

HOLD = """
import sys
from reidablate.engine.devices import lease
with lease(int(sys.argv[1]), device="auto") as names:
    print(",".join(names), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that looks like it has three GPUs and has its locks to itself."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(devices.tempfile, "tempdir", None)
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


def test_under_a_scheduler_we_stand_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with devices.lease(1, device="auto") as first, devices.lease(1, device="auto") as second:
        assert first == second == ("5",)
