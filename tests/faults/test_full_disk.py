"""Whichever stage the disk is too full for: it says so, and the same command ends with the tables of before."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).with_name("full_disk.py")


def test_a_finished_study_survives_a_full_disk_in_every_stage(finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(DRIVER), "--finished", str(finished), "--folder", str(tmp_path)]
    path = os.pathsep.join([str(DRIVER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(re.findall("reidablate: cannot write .*; free the disk", done.stderr)) > 30
