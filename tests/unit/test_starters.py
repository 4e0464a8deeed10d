"""`reidablate methods new`: what it writes works, and its test passes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reidablate.errors import UserError
from reidablate.starters import STARTERS, write_starter
from support import run_cli


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty study as the working directory."""
    (tmp_path / "ablations").mkdir()
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_starter_passes_its_own_test(study: Path) -> None:
    for kind in STARTERS:
        assert f"methods/my_{kind}.py and methods/test_my_{kind}.py written" in run_cli(
            "methods", "new", kind, f"my_{kind}"
        )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "methods"]
    done = subprocess.run(command, cwd=study, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("los", "mine", "there is nothing to start a 'los' with; did you mean 'loss'?"),
        ("loss", "my-loss", "'my-loss' is no name of a file and a function"),
        ("loss", "taken", "taken.py exists already; choose another name or edit it."),
    ],
)
def test_nothing_is_written_over_and_a_name_must_be_one(study: Path, kind: str, name: str, sentence: str) -> None:
    (study / "methods").mkdir()
    (study / "methods" / "taken.py").write_text("kept")
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        write_starter(study, kind, name)
    assert (study / "methods" / "taken.py").read_text() == "kept"
    assert len(list((study / "methods").iterdir())) == 1
