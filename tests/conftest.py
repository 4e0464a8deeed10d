"""What several test modules share: a tiny study on disk, made once by the real stages."""

import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy of what a user's checkout holds besides the package, as the current folder."""
    for name in ("Snakefile", "workflow", "profiles", "ablations", "report_templates"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    shutil.copy(ROOT / "tests" / "tiny.yaml", tmp_path / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(project: Path) -> dict[str, object]:
    """The settings of default.yaml with the tiny preset, ready to be changed."""
    loaded = yaml.safe_load((project / "workflow" / "config" / "default.yaml").read_text())
    return {**loaded, "preset": "tiny.yaml"}
