import os
import re
from pathlib import Path

import pandas as pd
import pytest

from reidablate.data.formats import GRAMMARS, OFFICIAL_COUNTS, listing_hash, locate, parse_name, read_folder
from reidablate.errors import UserError

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c3s2_000500_01.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["0001_c2s1_001076_01.jpg", "0000_c1s1_000151_01.jpg", "-1_c1s1_000401_03.jpg"],
}


def touch(root: Path, tree: dict[str, list[str]]) -> Path:
    for folder, names in tree.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).touch()
    return root


def write_manifest(folder: Path, rows: list[tuple[object, ...]]) -> Path:
    path = folder / "manifest.csv"
    pd.DataFrame(rows, columns=["path", "pid", "camid", "split"], dtype=object).to_csv(path, index=False)
    return path


ROWS: list[tuple[object, ...]] = [("b/1.jpg", 7, 2, "gallery"), ("a/1.jpg", 7, 1, "query"), ("a/2.jpg", 3, 1, "train")]


@pytest.mark.parametrize(
    ("format", "name", "pid", "camid"),
    [
        ("market1501", "0002_c1s1_000451_03.jpg", 2, 1),
        ("market1501", "1501_c6s4_001877_00.jpg", 1501, 6),
        ("market1501", "0000_c1s1_000151_01.jpg", 0, 1),
        ("market1501", "-1_c5s2_000401_03.jpg", -1, 5),
        ("occluded_duke", "0001_c2_f0046182.jpg", 1, 2),
        ("occluded_duke", "7140_c8_f0097415.jpg", 7140, 8),
    ],
)
def test_a_name_states_person_and_camera(format: str, name: str, pid: int, camid: int) -> None:
    assert parse_name(name, GRAMMARS[format]) == (pid, camid)


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("market1501", "0001_c2_f0046182.jpg"),
        ("market1501", "002_c1s1_000451_03.jpg"),
        ("market1501", "-2_c1s1_000451_03.jpg"),
        ("market1501", "٠٠٠٢_c1s1_000451_03.jpg"),
        ("market1501", "0002_c1s1_000451_03.jpg.jpg"),
        ("market1501", "x0002_c1s1_000451_03.jpg"),
        ("market1501", "0002_c1s1_000451_03.jpg\n"),
        ("market1501", "0002_c1s1_000451_03.JPG"),
        ("occluded_duke", "0002_c1s1_000451_03.jpg"),
        ("occluded_duke", "-1_c2_f0046182.jpg"),
        ("occluded_duke", "0001_c2_f046182.jpg"),
        ("occluded_duke", "0001_c12_f0046182.jpg"),
    ],
)
def test_a_name_outside_the_grammar_is_refused_with_the_pattern(format: str, name: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_name(name, GRAMMARS[format])
    assert repr(name) in str(caught.value)
    assert GRAMMARS[format].shown in str(caught.value)


@pytest.mark.parametrize(
    ("format", "name", "cameras"),
    [
        ("market1501", "0002_c7s1_000451_03.jpg", "1 to 6"),
        ("market1501", "0002_c0s1_000451_03.jpg", "1 to 6"),
        ("occluded_duke", "0001_c9_f0046182.jpg", "1 to 8"),
    ],
)
def test_a_camera_out_of_range_is_refused(format: str, name: str, cameras: str) -> None:
    with pytest.raises(UserError, match=cameras):
        parse_name(name, GRAMMARS[format])


def test_a_folder_is_listed_by_split_and_name_and_a_parent_is_never_an_identity(tmp_path: Path) -> None:
    root = touch(tmp_path / "0009_c5s1" / "run-1_c3", MARKET)
    (root / "bounding_box_test" / "Thumbs.db").touch()
    (root / "query" / "._0001_c1s1_001051_00.jpg").touch()
    (root / "readme.txt").touch()
    listing = read_folder(root, "market1501")
    assert listing.records == (
        ("train", "bounding_box_train/0002_c1s1_000451_03.jpg", "0002_c1s1_000451_03.jpg", 2, 1),
        ("train", "bounding_box_train/0002_c3s2_000500_01.jpg", "0002_c3s2_000500_01.jpg", 2, 3),
        ("query", "query/0001_c1s1_001051_00.jpg", "0001_c1s1_001051_00.jpg", 1, 1),
        ("gallery", "bounding_box_test/-1_c1s1_000401_03.jpg", "-1_c1s1_000401_03.jpg", -1, 1),
        ("gallery", "bounding_box_test/0000_c1s1_000151_01.jpg", "0000_c1s1_000151_01.jpg", 0, 1),
        ("gallery", "bounding_box_test/0001_c2s1_001076_01.jpg", "0001_c2s1_001076_01.jpg", 1, 2),
    )
    assert listing.ignored == ("query/._0001_c1s1_001051_00.jpg", "bounding_box_test/Thumbs.db")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query": []}, "query split .* holds no image"),
        ({"query": ["0001.jpg"]}, r"query: '0001.jpg' is no Market-1501 name"),
        ({"query": ["0000_c1s1_000151_01.jpg"]}, "query/0000_c1s1_000151_01.jpg has pid 0 in the query split"),
        ({"bounding_box_train": ["-1_c1s1_000151_01.jpg"]}, "pid -1 in the train split"),
    ],
)
def test_a_broken_folder_is_refused(tmp_path: Path, change: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_folder(touch(tmp_path, MARKET | change), "market1501")


def test_missing_folders_are_named(tmp_path: Path) -> None:
    touch(tmp_path, {"query": MARKET["query"]})
    with pytest.raises(UserError, match="no folder bounding_box_train, bounding_box_test"):
        read_folder(tmp_path, "market1501")
    with pytest.raises(UserError, match="does not exist"):
        read_folder(tmp_path / "nowhere", "market1501")
    with pytest.raises(UserError, match="market1501, occluded_duke, manifest"):
        read_folder(tmp_path, "msmt17")


def test_only_a_generated_set_may_hold_training_images_alone(tmp_path: Path) -> None:
    touch(tmp_path, {"bounding_box_train": MARKET["bounding_box_train"]})
    with pytest.raises(UserError, match="no folder query, bounding_box_test"):
        read_folder(tmp_path, "market1501")
    (tmp_path / "SYNTHETIC").touch()
    assert [record.split for record in read_folder(tmp_path, "market1501").records] == ["train", "train"]
    (tmp_path / "query").mkdir()
    with pytest.raises(UserError, match="no folder bounding_box_test"):
        read_folder(tmp_path, "market1501")


def test_the_listing_hash_follows_the_names_of_images(tmp_path: Path) -> None:
    assert listing_hash(tmp_path / "nowhere") == listing_hash(tmp_path)
    first = listing_hash(touch(tmp_path, MARKET))
    (tmp_path / "query" / "Thumbs.db").touch()
    assert listing_hash(tmp_path) == first
    (tmp_path / "query" / MARKET["query"][0]).rename(tmp_path / "bounding_box_test" / MARKET["query"][0])
    assert listing_hash(tmp_path) != first
    table = write_manifest(tmp_path / "query", ROWS)
    second = listing_hash(table)
    assert second == listing_hash(tmp_path / "query")
    table.write_text(table.read_text().replace("7,2", "8,2"))
    assert listing_hash(table) != second


@pytest.mark.parametrize("change", ["size", "time"])
@pytest.mark.parametrize("layout", ["folders", "manifest"])
def test_the_listing_hash_follows_an_image_replaced_under_its_own_name(
    tmp_path: Path, layout: str, change: str
) -> None:
    if layout == "folders":
        image = touch(tmp_path, MARKET) / "query" / MARKET["query"][0]
    else:
        write_manifest(tmp_path, ROWS)
        image = tmp_path / "a" / "2.jpg"
        image.parent.mkdir()
    image.write_bytes(b"abc")
    state = image.stat()
    first = listing_hash(tmp_path)
    image.write_bytes(b"abcd" if change == "size" else b"xyz")
    later = state.st_mtime_ns + (change == "time")
    os.utime(image, ns=(state.st_atime_ns, later))
    assert listing_hash(tmp_path) != first


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_lists_any_set(tmp_path: Path, suffix: str) -> None:
    frame = pd.read_csv(write_manifest(tmp_path, ROWS))
    if suffix == ".parquet":
        (tmp_path / "manifest.csv").unlink()
        frame.to_parquet(tmp_path / "manifest.parquet")
    listing = read_folder(tmp_path, "manifest")
    assert listing == read_folder(tmp_path / f"manifest{suffix}", "manifest")
    assert listing.root == tmp_path
    assert listing.records == (
        ("train", "a/2.jpg", "a/2.jpg", 3, 1),
        ("query", "a/1.jpg", "a/1.jpg", 7, 1),
        ("gallery", "b/1.jpg", "b/1.jpg", 7, 2),
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("c.jpg", 3, 1, "test"), "row 4 .* has split 'test'"),
        (("c.jpg", "3.5", 1, "train"), "row 4 .* has pid '3.5'"),
        (("c.jpg", None, 1, "train"), "row 4 .* has pid ''"),
        (("c.jpg", -2, 1, "gallery"), "pid '-2'; write a whole number from -1 up"),
        (("c.jpg", 3, -1, "train"), "camid '-1'; write a whole number from 0 up"),
        (("c.jpg", -1, 1, "train"), "c.jpg has pid -1 in the train split"),
        (("/c.jpg", 3, 1, "train"), "row 4 .* path '/c.jpg'; write paths relative"),
        (("a/1.jpg", 7, 1, "query"), "a/1.jpg stands twice in the query split"),
    ],
)
def test_a_wrong_row_of_a_manifest_is_refused(tmp_path: Path, row: tuple[object, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_folder(write_manifest(tmp_path, [*ROWS, row]), "manifest")


def test_a_manifest_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("0 of manifest.csv and manifest.parquet")):
        read_folder(tmp_path, "manifest")
    (tmp_path / "manifest.csv").write_text("path,pid\na.jpg,1\n")
    with pytest.raises(UserError, match="lacks the column camid, split"):
        read_folder(tmp_path, "manifest")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet cannot be read"):
        read_folder(tmp_path / "broken.parquet", "manifest")


def test_a_set_is_found_under_the_first_of_its_names(tmp_path: Path) -> None:
    names = ["market1501", "Market-1501-v15.09.15"]
    assert locate(tmp_path, names) is None
    (tmp_path / names[0]).touch()
    (tmp_path / names[1]).mkdir()
    assert locate(tmp_path, names) == tmp_path / names[1]


def test_official_counts_are_the_published_ones() -> None:
    market, duke = OFFICIAL_COUNTS["market1501"], OFFICIAL_COUNTS["occluded_duke"]
    # Zheng et al. 2015: 32,668 boxes in all splits of 1,501 people; 13,115 gallery boxes of the 750 test people.
    assert market["train"]["images"] + market["gallery"]["images"] == 32668
    assert market["train"]["ids"] + market["query"]["ids"] == 1501
    assert market["gallery"]["images"] - market["junk"] - market["distractors"] == 13115
    # Miao et al. 2019: 15,618 + 17,661 + 2,210 images.
    assert sum(duke[split]["images"] for split in ("train", "query", "gallery")) == 35489
