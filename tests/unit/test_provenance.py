"""Which edits of the sources change the name of the code, and what is kept of them."""

import os
import zipfile
from pathlib import Path

import pytest

from reidablate import provenance
from reidablate.provenance import PACKAGE, code_hash, code_name, keep_sources, syntax

SOURCE = '''
"""A module."""

import math


def area(radius: float) -> float:
    """Returns an area."""
    return math.pi * radius**2  # exact
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Another sentence."),
        ('    """Returns an area."""\n', ""),
        ("  # exact", "  # to the bit"),
        ("math.pi * radius**2", "(\n        math.pi * (radius ** 2)\n    )"),
    ],
)
def test_words_and_layout_are_no_code(old: str, new: str) -> None:
    assert old in SOURCE
    assert syntax(SOURCE.replace(old, new)) == syntax(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("**2", "**3"), ("math.pi", "math.tau"), (" * ", " + "), ("def area", "def size")]
)
def test_an_expression_or_a_name_is_code(old: str, new: str) -> None:
    assert old in SOURCE
    assert syntax(SOURCE.replace(old, new, 1)) != syntax(SOURCE)


def test_a_string_that_is_no_docstring_is_code() -> None:
    assert syntax("x = 'a'") != syntax("x = 'b'")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's sources, copied to where a test may edit them, as those that are hashed."""
    for source in PACKAGE.rglob("*.py"):
        target = tmp_path / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    return tmp_path


def test_the_hash_moves_with_a_loss_and_not_with_its_comments_or_with_the_report(copied: Path) -> None:
    hashed = code_hash.__wrapped__
    before = hashed()
    assert before == code_hash()
    loss = next(path for path in sorted((copied / "losses").glob("*.py")) if path.read_text().strip())
    loss.write_text(loss.read_text() + "# a comment\n")
    (copied / "disk.py").write_text("moved = True\n")
    assert hashed() == before
    loss.write_text(loss.read_text() + "_EXTRA = 1\n")
    assert hashed() != before


def test_the_hash_stays_when_a_module_only_moves(copied: Path) -> None:
    hashed = code_hash.__wrapped__
    before = hashed()
    (copied / "losses" / "triplet.py").rename(copied / "losses" / "a_hinge.py")
    moved = 0
    for path in copied.rglob("*.py"):
        text = path.read_text()
        moved += "from reidablate.losses.triplet import" in text
        path.write_text(text.replace("from reidablate.losses.triplet import", "from reidablate.losses.a_hinge import"))
    assert moved
    assert hashed() == before
    importing = next(path for path in (copied / "losses").glob("*.py") if "losses.a_hinge import" in path.read_text())
    importing.write_text(importing.read_text().replace("losses.a_hinge import ", "losses.a_hinge import other as "))
    assert hashed() != before


def test_kept_sources_are_the_files_behind_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keep_sources(tmp_path / "plans")
    assert path is not None
    assert path.name == f"sources-{code_hash()}.zip"
    written = path.stat().st_mtime_ns
    assert keep_sources(tmp_path / "plans") == path
    assert path.stat().st_mtime_ns == written
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "restored")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "restored" / PACKAGE.name)
    assert code_hash.__wrapped__() == code_hash()


def test_released_versions_need_no_copy_and_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.RELEASED["0819df6720ca98cb"] == "0.1.0"
    assert code_name("0819df6720ca98cb", 1) == "science 1"
    assert code_name("0819df6720ca98cb+0819df6720ca98cb", 1) == "science 1"
    assert code_name("0819df6720ca98cb+5eed", 1) == "0819df6720ca98cb+5eed"
    assert code_name(None, 1) is None
    monkeypatch.setitem(provenance.RELEASED, code_hash(), "next")
    assert keep_sources(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("6400000 100000", None), ("", None)],
)
def test_a_container_with_a_quota_has_no_more_cores_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int | None
) -> None:
    monkeypatch.setattr(provenance, "CPU_QUOTA", tmp_path / "cpu.max")
    everything = provenance.usable_cores()
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert provenance.usable_cores() == (cores or everything)


def test_a_command_gives_blas_the_usable_cores_unless_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")  # so that it is put back in the end
    monkeypatch.delenv("MKL_NUM_THREADS")
    provenance.limit_blas()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"
    assert os.environ["MKL_NUM_THREADS"] == str(provenance.usable_cores())
