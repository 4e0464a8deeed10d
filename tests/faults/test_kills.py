"""Whatever is killed, and whenever: the same command ends with the tables of an undisturbed study, bit by bit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kills.py")


def killed(folder: Path, *options: str) -> int:
    """Returns how many kills a study survived. They are dealt by a process that has computed nothing yet."""
    command = [sys.executable, str(DRIVER), "--folder", str(folder), *options]
    path = os.pathsep.join([str(DRIVER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^(\d+) kills in \d+ chains, 0 with other tables", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[1])


@pytest.mark.slow
def test_a_finished_study_survives_kills_in_every_stage(finished: Path, tmp_path: Path) -> None:
    options = ["--finished", str(finished), "--scenarios", "rebuilt", "--times", "2", "--number", "1"]
    assert killed(tmp_path, *options) >= 15


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
def test_a_finished_study_survives_two_hundred_kills(tmp_path: Path) -> None:
    assert killed(tmp_path, "--number", "200") >= 200
