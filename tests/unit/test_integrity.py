"""Checksums that records keep are read."""

import json
import os
from pathlib import Path

import pytest

from reidablate.artifacts import read_json, write_json, write_record
from reidablate.errors import UserError
from reidablate.integrity import Digests, broken_files, sha256_cached, verify

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello", by sha256sum


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "queries.parquet").write_text("hello")
    write_record(tmp_path / "metrics.json", {"mAP": 0.5}, ["queries.parquet"])
    return tmp_path


def test_a_record_names_its_files_and_itself(run: Path) -> None:
    assert read_json(run / "metrics.json")["sha256"]["queries.parquet"] == HELLO
    assert broken_files(run) == []


def test_an_edited_number_is_not_believed(run: Path) -> None:
    text = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text(text.replace("0.5", "0.95"))
    with pytest.raises(UserError, match=r"metrics\.json is not what was written"):
        read_json(run / "metrics.json")
    assert broken_files(run) == ["metrics.json"]


def test_a_truncated_and_a_changed_file_are_found_and_a_missing_one_is_not_broken(run: Path) -> None:
    for content in ("hell", "hellO"):
        (run / "queries.parquet").write_text(content)
        assert broken_files(run) == ["queries.parquet"]
    (run / "queries.parquet").unlink()
    assert broken_files(run) == []


def test_records_without_checksums_are_as_good_as_before(tmp_path: Path) -> None:
    (tmp_path / "queries.parquet").write_text("hello")
    (tmp_path / "metrics.json").write_text(json.dumps({"mAP": 0.5}))
    assert broken_files(tmp_path) == []
    assert verify(tmp_path / "queries.parquet", None)


def test_a_checksum_is_computed_again_when_a_file_changes_even_if_its_time_is_put_back(tmp_path: Path) -> None:
    path, memory = tmp_path / "a", tmp_path / "memory.json"
    path.write_text("hello")
    before = path.stat()
    digests = Digests(memory)
    assert sha256_cached(path, digests) == HELLO
    digests.save()
    assert Digests(memory).of(path) == HELLO
    path.write_text("hellO")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Digests(memory).of(path) != HELLO
    assert not verify(path, HELLO)


def test_a_broken_memory_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    for content in ("{", "[1]", '{"x": 1}'):
        (tmp_path / "memory.json").write_text(content)
        assert Digests(tmp_path / "memory.json").of(tmp_path / "a") == HELLO


def test_names_that_are_not_unicode_are_spelled_out(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ignored": [os.fsdecode(b"a\xff.txt")]})
    assert read_json(tmp_path / "a.json") == {"ignored": ["a\\udcff.txt"]}
