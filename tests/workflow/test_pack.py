"""A packed study convinces somebody else: it matches itself anywhere, and whatever is changed in it is named."""

import json
import random
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reidablate.archive.layout import CHECKSUMS, write_zip
from reidablate.archive.pack import pack_study
from reidablate.archive.verify import Finding, verify_study
from reidablate.artifacts import sha256_file
from reidablate.errors import UserError

TABLES = "results/tiny/tables"
RUN = "market1501/naive_triplet/seed0"


@pytest.fixture(scope="module")
def packed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "study.zip"
    pack_study(finished / "results" / "tiny", finished, out)
    return out


@pytest.fixture
def unpacked(packed: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    return folder


def sign(folder: Path, *names: str) -> None:
    """Gives edited files the checksums that they have now, as whoever edits them on purpose would."""
    lines = {line[66:]: line[:64] for line in (folder / CHECKSUMS).read_text().splitlines()}
    lines |= {name: sha256_file(folder / name) for name in names}
    (folder / CHECKSUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in lines.items()))


def first_wrong(path: Path) -> Finding | None:
    return next((finding for finding in verify_study(path) if finding.wrong), None)


def test_it_matches_on_a_machine_without_the_project(packed: Path, tmp_path: Path) -> None:
    shutil.copy(packed, tmp_path / "moved.zip")
    command = [sys.executable, "-m", "reidablate", "verify", "moved.zip"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"matches  {TABLES}/contrasts.parquet" in done.stdout
    assert "matches  results/tiny/report/index.html" in done.stdout
    assert "differs" not in done.stdout


def test_it_holds_no_image_and_no_weights(packed: Path, unpacked: Path) -> None:
    names = zipfile.ZipFile(packed).namelist()
    assert not [name for name in names if name.endswith((".jpg", ".png", ".npy", ".npz", ".safetensors"))]
    assert "data:image/jpeg" not in (unpacked / "results/tiny/report/index.html").read_text()


def test_weights_come_where_they_are_asked_for(finished: Path, tmp_path: Path) -> None:
    pack_study(finished / "results" / "tiny", finished, tmp_path / "whole.zip", weights=True)
    assert f"results/tiny/{RUN}/model.safetensors" in zipfile.ZipFile(tmp_path / "whole.zip").namelist()


def test_the_same_study_gives_the_same_bytes(packed: Path, finished: Path, tmp_path: Path) -> None:
    pack_study(finished / "results" / "tiny", finished, tmp_path / "again.zip")
    assert sha256_file(tmp_path / "again.zip") == sha256_file(packed)


def test_every_file_is_in_the_metadata_and_the_checksums(unpacked: Path) -> None:
    graph = json.loads((unpacked / "ro-crate-metadata.json").read_text())["@graph"]
    files = {entity["@id"]: entity for entity in graph if entity["@type"] == "File"}
    present = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert set(files) == present - {"ro-crate-metadata.json"}
    root = next(entity for entity in graph if entity["@id"] == "./")
    assert {part["@id"] for part in root["hasPart"]} == set(files)
    listed = {line[66:] for line in (unpacked / CHECKSUMS).read_text().splitlines()}
    assert listed == present - {CHECKSUMS}


def test_a_changed_byte_anywhere_is_found_and_its_file_is_named(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        spans = {
            info.filename: range(start, start + info.file_size)
            for info in archive.infolist()
            for start in [info.header_offset + 30 + len(info.filename)]
        }
    rng = random.Random(0)
    inside = [rng.choice(span) for span in rng.sample([span for span in spans.values() if span], 20)]
    for place in [*inside, *rng.sample(range(len(whole)), 10), *rng.sample(range(len(whole) - 2000, len(whole)), 10)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        (tmp_path / "changed.zip").write_bytes(changed)
        try:
            found = first_wrong(tmp_path / "changed.zip")
        except UserError:
            continue  # it is no zip any more, or names what no packed study holds
        assert found, place
        if hit := next((name for name, span in spans.items() if place in span), None):
            assert CHECKSUMS in (hit, found.name) or found.name == hit


def edit_table(name: str, column: str, change: Callable[[Any], Any]) -> Callable[[Path], list[str]]:
    def edit(folder: Path) -> list[str]:
        path = folder / TABLES / f"{name}.parquet"
        frame = pd.read_parquet(path)
        row = int(frame[column].notna().to_numpy().argmax())
        place = frame.columns.get_loc(column)
        frame.iloc[row, place] = change(frame.iloc[row, place])  # type: ignore[index]
        frame.to_parquet(path, index=False)
        return [f"{TABLES}/{name}.parquet"]

    return edit


def edit_text(name: str) -> Callable[[Path], list[str]]:
    def edit(folder: Path) -> list[str]:
        path = folder / name
        text = path.read_text()
        place = next(at for at, letter in enumerate(text) if at > len(text) // 2 and letter in "12345678")
        path.write_text(f"{text[:place]}{int(text[place]) + 1}{text[place + 1 :]}")
        return [name]

    return edit


@pytest.mark.parametrize(
    ("edit", "named", "words"),
    [
        (edit_table("metrics", "value", lambda value: 0.95), "metrics.parquet", "mAP is 0.95; 0."),
        (edit_table("queries", "average_precision", lambda value: value / 2), "metrics.parquet", "follows"),
        (edit_table("contrasts", "estimate", lambda value: value + 0.01), "contrasts.parquet", "estimate is"),
        (edit_table("contrasts", "note", lambda value: "It improves."), "contrasts.parquet", "note is It improves."),
        (edit_table("slices", "estimate", lambda value: value - 0.01), "slices.parquet", "estimate is"),
        (edit_table("runs", "num_parameters", lambda value: 7), "runs.parquet", f"{RUN}: num_parameters is 7"),
        (edit_text(f"{TABLES}/contrasts.csv"), "contrasts.csv", "line"),
        (edit_text("results/tiny/report/exports/main_table.csv"), "main_table.csv", "line"),
        (edit_text("results/tiny/report/index.html"), "index.html", "line"),
    ],
    ids=["metric", "query", "difference", "note", "slice", "run", "csv", "export", "page"],
)
def test_an_edited_number_is_named_though_its_checksum_fits(
    unpacked: Path, edit: Callable[[Path], list[str]], named: str, words: str
) -> None:
    sign(unpacked, *edit(unpacked))
    found = first_wrong(unpacked)
    assert found
    assert found.name.endswith(named)
    assert words in found.wrong


def test_files_that_come_and_go_are_named(unpacked: Path) -> None:
    (unpacked / "results/tiny/report/summary.md").unlink()
    (unpacked / "more.txt").write_text("more")
    wrong = {finding.name: finding.wrong for finding in verify_study(unpacked) if finding.wrong}
    assert "no line" in wrong["more.txt"]
    assert "missing" in wrong["results/tiny/report/summary.md"]


def test_templates_of_a_packed_study_are_not_run(unpacked: Path) -> None:
    own = unpacked / "report_templates" / "report.html.j2"
    own.parent.mkdir()
    own.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    findings = {finding.name for finding in verify_study(unpacked)}
    assert not any("report/index.html" in name for name in findings)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/outside.txt", "a\\..\\b.txt", "C:/outside.txt"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    write_zip([(name, tmp_path / "file")], tmp_path / "bad.zip")
    with pytest.raises(UserError, match="leaves its folder"):
        list(verify_study(tmp_path / "bad.zip"))


def test_links_and_other_files_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "text.zip").write_text("<html>")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    for name, words in {"link": "link", "text": "zip", "other": "reidablate pack"}.items():
        with pytest.raises(UserError, match=words):
            list(verify_study(tmp_path / f"{name}.zip"))


def test_a_file_that_is_there_is_not_replaced(packed: Path, finished: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        pack_study(finished / "results" / "tiny", finished, packed)
