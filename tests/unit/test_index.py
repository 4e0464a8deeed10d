import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reidablate.artifacts import write_record
from reidablate.data.formats import Listing, Record
from reidablate.data.index import _summary, build_index, check_pixels, read_index, write_index
from reidablate.data.table import layout_of
from reidablate.errors import UserError

MARKET, MANIFEST = layout_of("market1501"), layout_of("manifest")
IMAGES = {
    "bounding_box_train": ["0020_c1s1_000001_01.jpg", "0003_c2s1_000002_01.jpg", "0020_c2s1_000003_01.jpg"],
    "query": ["0001_c1s1_000004_01.jpg", "0005_c3s1_000005_01.jpg"],
    "bounding_box_test": [
        "0001_c2s1_000006_01.jpg",
        "0005_c3s1_000007_01.jpg",
        "0005_c4s1_000008_01.jpg",
        "0000_c1s1_000009_01.jpg",
        "-1_c1s1_000010_01.jpg",
    ],
}


def save(path: Path, number: int, **options: Any) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def market(tmp_path: Path) -> Path:
    paths = [f"{folder}/{name}" for folder, names in IMAGES.items() for name in names]
    for number, path in enumerate(paths):
        save(tmp_path / "market1501" / path, number)
    return tmp_path / "market1501"


def test_the_index_has_a_row_an_image(market: Path) -> None:
    frame = build_index(market, MARKET, workers=2).frame
    assert frame["split"].tolist() == ["train"] * 3 + ["query"] * 2 + ["gallery"] * 5
    assert frame["name"].tolist()[:3] == sorted(IMAGES["bounding_box_train"])
    assert frame["pid"].tolist() == [3, 20, 20, 1, 5, -1, 0, 1, 5, 5]
    assert frame["camid"].tolist() == [2, 1, 2, 1, 3, 1, 1, 2, 3, 4]
    assert frame["label"].tolist() == [0, 1, 1] + [-1] * 7
    assert (frame["width"] == 6).all()
    assert (frame["height"] == 12).all()
    assert [(market / path).stat().st_size for path in frame["path"]] == frame["size_bytes"].tolist()


def test_the_summary_counts_people_junk_and_distractors(market: Path) -> None:
    (market / "query" / "Thumbs.db").touch()
    (market / "query" / "notes.pdf").touch()
    summary = build_index(market, MARKET, workers=1).summary
    assert summary["counts"] == {
        "train": {"images": 3, "ids": 2},
        "query": {"images": 2, "ids": 2},
        "gallery": {"images": 5, "ids": 2},
        "junk": 1,
        "distractors": 1,
        "cameras": 4,
    }
    assert not summary["official_counts"]
    assert not summary["synthetic"]
    assert summary["queries_without_positive"] == 0
    assert summary["ignored"] == ["query/Thumbs.db", "query/notes.pdf"]
    counts, ignored = summary["warnings"]
    assert "train images 3 instead of 12936" in counts
    assert "junk 1 instead of 3819" in counts
    assert ignored == "1 file ignored, not named as images: query/notes.pdf"


def test_official_counts_are_recognised() -> None:
    # Market-1501 as published: 751 training people, 750 test people, 2,798 distractors, 3,819 junk images.
    pids = [1 + np.arange(12936) % 751, 752 + np.arange(3368) % 750, 752 + np.arange(13115) % 750]
    frame = pd.DataFrame({"pid": np.concatenate([*pids, np.full(2798, 0), np.full(3819, -1)])})
    frame["split"] = ["train"] * 12936 + ["query"] * 3368 + ["gallery"] * 19732
    frame["camid"] = 1 + np.arange(len(frame)) // 751 % 6
    frame["size_bytes"] = 1
    frame["path"] = frame["name"] = frame["content_hash"] = [str(row) for row in range(len(frame))]
    rows = frame[["split", "path", "name", "pid", "camid"]].itertuples(index=False, name=None)
    listing = Listing(Path(), tuple(Record(*row) for row in rows), ())
    summary = _summary(frame, listing, MARKET, synthetic=False)
    assert summary["official_counts"]
    assert summary["warnings"] == []
    fewer = Listing(Path(), listing.records[1:], ())
    assert not _summary(frame[1:], fewer, MARKET, synthetic=False)["official_counts"]


def test_a_generated_set_for_pre_training_has_an_index(market: Path) -> None:
    for folder in ("query", "bounding_box_test"):
        shutil.rmtree(market / folder)
    (market / "SYNTHETIC").touch()
    index = build_index(market, MARKET, workers=1)
    assert index.frame["label"].tolist() == [0, 1, 1]
    assert index.summary["counts"]["query"] == {"images": 0, "ids": 0}
    assert index.summary["warnings"] == []


def test_the_index_survives_its_files(market: Path, tmp_path: Path) -> None:
    index = build_index(market, MARKET, workers=2)
    write_index(index, tmp_path / "index")
    again = read_index(tmp_path / "index")
    pd.testing.assert_frame_equal(again.frame, index.frame)
    assert again.summary == index.summary
    index.frame.drop(columns="label").to_parquet(tmp_path / "index" / "index.parquet")
    with pytest.raises(UserError, match=r"index\.parquet is damaged"):
        read_index(tmp_path / "index")
    write_record(tmp_path / "index" / "index.json", index.summary, ["index.parquet"])
    with pytest.raises(UserError, match="lacks the column label"):
        read_index(tmp_path / "index")


def test_the_fingerprint_changes_with_bytes_and_names_only(market: Path) -> None:
    def fingerprint() -> str:
        return str(build_index(market, MARKET, workers=2).summary["fingerprint"])

    first = fingerprint()
    assert (
        fingerprint() == build_index(market.rename(market.with_name("x")), MARKET, workers=1).summary["fingerprint"]
        if not market.exists()
        else first
    )
    path = market / "query" / IMAGES["query"][0]
    kept = path.read_bytes()
    path.write_bytes(kept[:-3] + bytes([kept[-3] ^ 1]) + kept[-2:])
    assert fingerprint() != first
    path.write_bytes(kept)
    assert fingerprint() == first
    path.rename(path.with_name("0001_c1s1_000004_02.jpg"))
    assert fingerprint() != first


@pytest.mark.parametrize("mark", ["file", "comment"])
def test_either_mark_makes_a_set_synthetic(market: Path, mark: str) -> None:
    if mark == "file":
        (market / "SYNTHETIC").touch()
    else:
        save(market / "bounding_box_test" / IMAGES["bounding_box_test"][0], 5, comment="reidablate synthetic v1")
    assert build_index(market, MARKET, workers=1).summary["synthetic"]


def test_broken_images_are_named(market: Path) -> None:
    names = sorted(IMAGES["bounding_box_train"])
    folder = market / "bounding_box_train"
    whole = (folder / names[0]).read_bytes()
    (folder / names[0]).write_bytes(whole[:-40])
    (folder / names[1]).write_bytes(b"")
    Image.new("RGB", (4, 8)).save(folder / names[2], format="GIF")
    with pytest.raises(UserError) as caught:
        build_index(market, MARKET, workers=2)
    assert str(caught.value) == (
        f"3 images cannot be used: bounding_box_train/{names[0]} (truncated JPEG), bounding_box_train/{names[1]} "
        f"(not a JPEG, PNG or TIFF image), bounding_box_train/{names[2]} (not a JPEG, PNG or TIFF image); "
        "unpack the set again."
    )


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3, 50])
def test_a_jpeg_counts_as_truncated_exactly_when_pillow_cannot_decode_it(
    market: Path, cut: int, progressive: bool
) -> None:
    path = market / "query" / IMAGES["query"][0]
    save(path, 3, progressive=progressive)
    build_index(market, MARKET, workers=1)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(OSError, match="truncated"), Image.open(path) as image:
        image.load()
    with pytest.raises(UserError, match="truncated JPEG"):
        build_index(market, MARKET, workers=1)


def test_damage_inside_the_pixels_is_found_by_decoding(market: Path) -> None:
    index = build_index(market, MARKET, workers=1)
    check_pixels(index, market, workers=2)
    path = market / "query" / IMAGES["query"][0]
    whole = path.read_bytes()
    huffman = whole.index(b"\xff\xc4") + 5
    path.write_bytes(whole[:huffman] + bytes(16) + whole[huffman + 16 :])
    build_index(market, MARKET, workers=1)
    with pytest.raises(UserError, match=f"1 image cannot be used: query/{path.name} .broken data stream"):
        check_pixels(index, market, workers=2)


def test_an_identity_in_train_and_test_is_refused(market: Path) -> None:
    save(market / "bounding_box_test" / "0020_c1s1_000077_01.jpg", 77)
    with pytest.raises(UserError, match=r"1 identity .*pid 20: bounding_box_test/0020_c1s1_000077_01.jpg"):
        build_index(market, MARKET, workers=1)


def test_queries_without_a_positive_from_another_camera_are_counted(market: Path) -> None:
    (market / "bounding_box_test" / "0005_c4s1_000008_01.jpg").unlink()
    save(market / "query" / "0009_c1s1_000078_01.jpg", 78)
    summary = build_index(market, MARKET, workers=1).summary
    assert summary["queries_without_positive"] == 2
    assert "0005_c3s1_000005_01.jpg, 0009_c1s1_000078_01.jpg" in summary["warnings"][1]


def test_a_query_may_stand_in_the_gallery_and_other_repeats_are_reported(market: Path) -> None:
    query = market / "query" / IMAGES["query"][0]
    (market / "bounding_box_test" / query.name).write_bytes(query.read_bytes())
    summary = build_index(market, MARKET, workers=1).summary
    assert summary["shared_query_gallery"] == 1
    assert len(summary["warnings"]) == 1
    (market / "bounding_box_test" / "0005_c1s1_000080_01.jpg").write_bytes(query.read_bytes())
    repeats = build_index(market, MARKET, workers=1).summary["warnings"][1]
    assert repeats == (
        f"1 image with the bytes of another: bounding_box_test/0005_c1s1_000080_01.jpg = query/{query.name}"
    )


def test_a_shared_file_must_mean_the_same_in_query_and_gallery(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", number)
    manifest = tmp_path / "manifest.csv"
    rows = "path,pid,camid,split\n0.png,0,1,train\n1.png,2,1,query\n2.png,2,2,gallery\n1.png,2,{},gallery\n"
    manifest.write_text(rows.format(1))
    summary = build_index(manifest, MANIFEST, workers=1).summary
    assert summary["shared_query_gallery"] == 1
    assert summary["counts"]["train"]["ids"] == 1  # pid 0 is a person like any other here
    assert summary["warnings"] == []
    manifest.write_text(rows.format(3))
    with pytest.raises(UserError, match=r"1\.png stands in query and gallery with another pid or camera"):
        build_index(manifest, MANIFEST, workers=1)


def test_a_manifest_may_name_an_image_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "path,pid,camid,split\na.jpg,0,1,train\nb.jpg,2,1,query\nc.jpg,2,2,gallery\n"
    )
    with pytest.raises(UserError, match=r"3 images cannot be used: a.jpg .*No such file"):
        build_index(tmp_path, MANIFEST, workers=1)


@pytest.mark.parametrize(("format", "ending"), [("PNG", "png"), ("TIFF", "tif"), ("JPEG", "JPEG"), ("PNG", "jpg")])
def test_an_image_is_what_its_content_says(market: Path, format: str, ending: str) -> None:
    old = market / "query" / IMAGES["query"][0]
    new = old.with_suffix(f".{ending}")
    old.unlink()
    save(new, 3, format=format)
    index = build_index(market, MARKET, workers=1)
    check_pixels(index, market, workers=1)
    assert new.name in index.frame["name"].tolist()


def test_a_png_without_its_end_is_truncated(market: Path) -> None:
    path = (market / "query" / IMAGES["query"][0]).with_suffix(".png")
    save(path, 3)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="truncated PNG"):
        build_index(market, MARKET, workers=1)


def test_a_pipe_in_a_manifest_does_not_wait_for_ever(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"{number}.png", number)
    os.mkfifo(tmp_path / "pipe.png")
    rows = "path,pid,camid,split\n0.png,0,1,train\n1.png,2,1,query\npipe.png,2,2,gallery\n"
    (tmp_path / "manifest.csv").write_text(rows)
    with pytest.raises(UserError, match=r"pipe\.png \(is a pipe"):
        build_index(tmp_path, MANIFEST, workers=1)


def test_a_manifest_with_one_camera_cannot_be_scored(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", number)
    rows = "path,pid,camid,split\n0.png,0,1,train\n1.png,2,1,query\n2.png,2,1,gallery\n"
    (tmp_path / "manifest.csv").write_text(rows)
    with pytest.raises(UserError, match=r"none of the 1 queries .* \(all are of camera 1\), so nothing could"):
        build_index(tmp_path, MANIFEST, workers=1)


def test_pids_that_start_again_in_test_get_advice_that_follows_from_it(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", number)
    rows = "path,pid,camid,split\n0.png,0,1,train\n1.png,0,1,query\n2.png,0,2,gallery\n"
    (tmp_path / "manifest.csv").write_text(rows)
    with pytest.raises(UserError, match=r"numbered separately, each from 0; .* add a number such as 10 to every pid"):
        build_index(tmp_path, MANIFEST, workers=1)
