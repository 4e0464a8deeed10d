"""What tests need besides fixtures."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from typer.testing import CliRunner

from reidablate.cli import app

ROOT = Path(__file__).parents[1]
T = TypeVar("T")
BASE = ["preset=tiny.yaml", "datasets=market1501", "cells=naive_triplet,p1"]


def present(value: T | None) -> T:
    """Returns a value that may not be None."""
    assert value is not None
    return value


def gradient(tensor: Tensor | None) -> Tensor:
    """Returns the gradient that a backward pass left."""
    return present(present(tensor).grad)


def run_cli(*arguments: str) -> str:
    """Runs `reidablate` in this process and returns what it printed."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def start_snakemake(*arguments: str, config: list[str] = BASE, gpu: int = 4, **options: Any) -> "subprocess.Popen[str]":
    """Starts the command of the README in the current folder; `options` are those of `Popen`."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--cores", "all", *arguments]
    command += ["--resources", f"gpu={gpu}", "--config", *config]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(command, text=True, **{"env": environment, **options})


def snakemake(*arguments: str, config: list[str] = BASE, gpu: int = 4) -> "subprocess.CompletedProcess[str]":
    """Runs the command of the README in the current folder."""
    process = start_snakemake(*arguments, config=config, gpu=gpu, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=600)
    assert "Traceback" not in stdout + stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def planned(done: "subprocess.CompletedProcess[str]") -> dict[str, int]:
    """Returns how many jobs of each rule a dry run lists."""
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule not in {"total", "all"}}


def nothing_to_do(done: "subprocess.CompletedProcess[str]") -> bool:
    return done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr
