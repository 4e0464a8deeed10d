"""Files between the stages: whole or not there, and readable without running code."""

import hashlib
import json
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reidablate.artifacts import (
    atomic_path,
    canonical_json,
    content_hash,
    read_json,
    read_npz,
    read_table,
    sha256_file,
    write_json,
    write_npz,
    write_table,
)
from reidablate.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_written_files_have_ordinary_rights(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "file" / "a.json", 1)


def test_a_full_disk_is_a_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")

    def fill() -> None:
        with atomic_path(Path("/tmp") / "never") as _, open("/dev/full", "w") as full:
            full.write("x")
            full.flush()

    with pytest.raises(UserError, match="No space left on device; free the disk"):
        fill()
    assert not Path("/tmp/never").exists()


@pytest.mark.parametrize(("room", "error"), [(4096, UserError), (2**30, RuntimeError)])
def test_a_full_disk_is_a_sentence_also_where_a_library_has_words_of_its_own(
    tmp_path: Path, room: int, error: type[Exception]
) -> None:
    words = "File too large; free the disk" if error is UserError else "unexpected pos"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(error, match=words), atomic_path(tmp_path / "a.pt"):
            raise RuntimeError("unexpected pos 64 vs 0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_canonical_json_ignores_order() -> None:
    assert canonical_json({"b": [1, 2], "a": "ä"}) == '{"a":"ä","b":[1,2]}'
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": [1, 2]}) != content_hash({"a": [2, 1]})


def test_nan_never_enters_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_broken_json_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a JSON file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="is missing; run the stage"):
        read_json(tmp_path / "b.json")


def test_tables_and_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    write_table(frame, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), frame)
    write_table(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,x\n2,\n"
    write_npz(tmp_path / "x.npz", {"a": np.arange(3.0), "names": np.array(["p", "q"])})
    back = read_npz(tmp_path / "x.npz")
    assert back["a"].tolist() == [0, 1, 2]
    assert back["names"].tolist() == ["p", "q"]


def test_truncated_and_pickled_files_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"a": np.arange(1000)})
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"as an \.npz of plain arrays"):
        read_npz(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", a=np.array([{"evil": 1}], dtype=object))
    with pytest.raises(UserError, match=r"as an \.npz of plain arrays"):
        read_npz(tmp_path / "y.npz")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "t.parquet")


def test_file_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert json.loads(canonical_json("x")) == "x"
