"""Weights & Biases: off by default, and never the end of a training. What it is sent: tests/workflow/test_wandb.py."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reidablate.engine.tracking import Card, LiveTracker, login_problem, study_id


def card(folder: Path) -> Card:
    return Card(
        results=folder / "results" / "tiny",
        dataset="market1501",
        cell="p1",
        seed=0,
        config={"train": {"lr": 0.1}},
        config_hash="0123456789abcdef",
        data="fedcba9876543210",
        weights="none",
        code=None,
    )


@pytest.fixture
def without_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def test_disabled_imports_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from reidablate.engine.tracking import LiveTracker;"
        "tracker = LiveTracker('disabled', None); tracker.history({'epoch': [0]}); tracker.finish();"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_key")
def test_online_without_a_key_is_one_line_and_no_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = LiveTracker("online", card(tmp_path))
    for steps in (1, 2):
        tracker.history({"epoch": [0] * steps, "total": [1.0] * steps})
    tracker.finish()
    assert capfd.readouterr().err.count("Weights & Biases is off for this training") == 1
    assert login_problem().startswith("Weights & Biases: there is no API key; give one with `wandb login`")


def test_a_run_keeps_its_id_and_an_edited_cell_and_another_study_have_others(tmp_path: Path) -> None:
    mine = card(tmp_path)
    assert mine.options["id"] == card(tmp_path).options["id"]
    assert mine.options["id"] == f"{study_id(mine.results)}-market1501-p1-seed0-0123456789abcdef-fedcba98"
    others = [
        replace(mine, config_hash="f" * 16),
        replace(mine, data="f" * 16),
        replace(mine, seed=1),
        replace(mine, results=tmp_path / "results" / "paper"),
        card(tmp_path / "colleague"),
    ]
    assert len({other.options["id"] for other in [mine, *others]}) == 6
    name = study_id(mine.results)
    assert study_id(mine.results.rename(tmp_path / "moved")) == name
