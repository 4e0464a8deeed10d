"""A study in a folder of its own, run by the installed wheel without the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from support import ROOT

pytestmark = pytest.mark.slow
CONFIG = ["preset=tiny", "datasets=market1501", "cells=naive_triplet", "seeds=1"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the built wheel and, besides, what this one has installed."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build: list[str | Path] = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run([*pip, *build], check=True)
    venv.create(folder / "venv", symlinks=True)
    (wheel,) = folder.glob("*.whl")
    install: list[str | Path] = ["--python", folder / "venv", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *install], check=True)
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not followed
    return folder / "venv" / "bin" / "python"


def run(*command: str | Path, python: Path, cwd: Path) -> str:
    """Runs a command of the environment, which knows nothing of this checkout, and returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_runs_a_new_study_from_another_folder_also_when_it_moved(python: Path, tmp_path: Path) -> None:
    program = run(python, "-c", "import reidablate; print(reidablate.__file__)", python=python, cwd=tmp_path)
    assert Path(program).is_relative_to(python.parents[1])
    assert Path(program).with_name("py.typed").is_file()
    study = tmp_path / "my study"
    run("reidablate", "init", study, python=python, cwd=tmp_path)
    (study / "workflow" / "config" / "presets").mkdir()
    shutil.copy(ROOT / "tests" / "tiny.yaml", study / "workflow" / "config" / "presets")
    snakemake: list[str | Path] = [python, "-m", "snakemake", "--cores", "all", "--resources", "gpu=4"]
    there: list[str | Path] = ["-s", study / "Snakefile", "-d", study, "--config", *CONFIG]
    run(*snakemake, *there, python=python, cwd=tmp_path)
    page = (study / "results" / "tiny" / "report" / "index.html").read_text(encoding="utf-8")
    assert "naive_triplet" in page
    assert "synthetic" in page.lower()
    moved = study.rename(tmp_path / "moved")
    assert "Nothing to be done" in run(*snakemake, "-n", "--config", *CONFIG, python=python, cwd=moved)


def test_a_module_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        f"module study:\n    snakefile: {str(ROOT / 'workflow' / 'Snakefile')!r}\n    config: config\n\n"
        "use rule * from study\n"
    )
    command = [sys.executable, "-m", "snakemake", "-n", "--config", *CONFIG]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("reidablate: this workflow is not made to be a module; include it")
    assert {path.name for path in tmp_path.iterdir()} <= {"Snakefile", ".snakemake"}
