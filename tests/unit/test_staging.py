"""A data set is copied to a disk of the machine once, whole, and read from there."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reidablate.artifacts import sha256_file
from reidablate.data.cache import read_cache
from reidablate.data.staging import staged
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.integrity import broken_files
from reidablate.preset import Execution
from reidablate.sections import validate
from reidablate.study import Study

STAGE = """
import sys
from pathlib import Path
from reidablate.data.staging import staged
print(staged(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.fixture
def data(tiny_study: Study) -> Path:
    return tiny_study.data_folder("market1501")


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_file(p) for p in folder.rglob("[!.]*") if p.is_file()}


def test_jobs_of_one_machine_share_a_copy_that_is_the_data_set(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STAGE, str(data), str(tmp_path)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    (copy,) = {job.communicate()[0].strip() for job in jobs}
    assert Path(copy).parent == tmp_path / f"reidablate-{os.getuid()}"
    parts = {"index", "cache"}
    assert files(Path(copy)) == {name: sha for name, sha in files(data).items() if name.split("/")[0] in parts}
    assert not list(Path(copy).rglob(".tmp-*"))
    before = {path: path.stat().st_ino for path in Path(copy).rglob("*")}
    assert staged(data, str(tmp_path)) == Path(copy)
    assert {path: path.stat().st_ino for path in Path(copy).rglob("*")} == before


def test_a_copy_that_is_damaged_or_was_cut_short_is_made_again(data: Path, tmp_path: Path) -> None:
    copy = staged(data, str(tmp_path))
    (copy / "cache" / "query.npy").write_bytes(b"no images")
    (copy / "cache" / "cache.json").unlink()
    (copy / "index" / "index.json").write_text("{}")
    assert staged(data, str(tmp_path)) == copy
    assert not broken_files(copy / "cache") + broken_files(copy / "index")
    assert (read_cache(copy / "cache", "query") == read_cache(data / "cache", "query")).all()


def test_another_data_set_has_another_copy(data: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(data, changed)
    record = changed / "cache" / "cache.json"
    record.write_text(record.read_text() + "\n")
    assert staged(changed, str(tmp_path)) != staged(data, str(tmp_path))


def test_a_training_reads_the_copy_and_has_the_same_bits(data: Path, tiny_study: Study, tmp_path: Path) -> None:
    moved = tmp_path / "data"
    shutil.copytree(data, moved)
    spec = train_spec(tiny_study, dataset="market1501", cell="naive_triplet", seed=0)
    here = dataclasses.replace(spec, out=tmp_path / "here")
    near = dataclasses.replace(spec, data=moved, out=tmp_path / "near", stage_to=str(tmp_path))
    copy = staged(moved, str(tmp_path))
    for name in ("train", "query", "gallery"):
        (moved / "cache" / f"{name}.npy").unlink()  # nothing but the copy is left
    for each in (here, near):
        train_run(each)
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(here.out / name) == sha256_file(near.out / name)
    assert copy.is_dir()


def test_where_there_is_no_room_the_data_set_is_read_where_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert staged(data, str(tmp_path / "file")) == data
    assert "is read where it is and not from" in capsys.readouterr().err


def test_a_place_that_is_none_is_a_sentence(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'stage_to' is 'tmp' but should be an absolute path"):
        validate(Execution, {"stage_to": "tmp"}, where="a preset")
    monkeypatch.delenv("NODE_DISK", raising=False)
    with pytest.raises(UserError, match=r"stage_to is '\$NODE_DISK/x', on this machine '\$NODE_DISK/x', which is not"):
        staged(data, "$NODE_DISK/x")
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    assert staged(data, "$NODE_DISK/x").is_relative_to(tmp_path / "x")
    with pytest.raises(UserError, match=r"index.json is missing; run the stage"):
        staged(tmp_path, str(tmp_path))
