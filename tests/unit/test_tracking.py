"""Weights & Biases: off by default, offline without an account, and never the end of a training."""

import subprocess
import sys
from pathlib import Path

import pytest

from reidablate.engine.tracking import Mode, Tracker


def track(folder: Path, mode: Mode) -> None:
    tracker = Tracker(mode, folder=folder, run="market1501/p1/seed0", group="p1", config={"lr": 0.1})
    tracker.log({"total": 1.0}, step=0)
    tracker.finish()


def test_disabled_imports_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reidablate.engine.tracking import Tracker;"
        f"Tracker('disabled', folder=Path({str(tmp_path)!r}), run='r', group='g', config={{}}).finish();"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_offline_needs_no_account(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    track(tmp_path, "offline")
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb"))
    assert "is off for this run" not in capfd.readouterr().err


def test_online_without_a_key_is_one_line_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    track(tmp_path, "online")
    assert "Weights & Biases is off for this run" in capfd.readouterr().err
