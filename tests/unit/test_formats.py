import os
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reidablate.data.folder import listing_hash, read_folder
from reidablate.data.formats import image_key, parse_name
from reidablate.data.table import layout_of, shipped_table
from reidablate.errors import UserError, sentence
from support import present

MARKET_LAYOUT, MANIFEST_LAYOUT = layout_of("market1501"), layout_of("manifest")
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
        ("market1501", "1488_c1s6_023021_00.jpg.jpg", 1488, 1),
        ("market1501", "-1_c3s3_067544_05.jpg.jpg", -1, 3),
        ("market1501", "0002_c1s1_000451_03.JPG", 2, 1),
        ("market1501", "0002_c1s1_000451_03.jpeg", 2, 1),
        ("market1501", "0002_c1s1_000451_03.Png", 2, 1),
        ("dukemtmc", "0005_c2_f0046985.jpg", 5, 2),
        ("msmt17_v1", "0000_000_01_0303morning_0015_0.jpg", 0, 1),
        ("msmt17_v1", "0114_019_10_0303noon_0284_2_ex.jpg", 114, 10),
        ("msmt17_v2", "0256_000_13_0303afternoon_0956_1.jpg", 256, 13),
        ("msmt17_v2", "0083_1002_15_0114morning_1439_0.jpeg", 83, 15),
        ("cuhk03_detected", "0001_c1_1.png", 1, 1),
        ("cuhk03_labeled", "1467_c2_10.png", 1467, 2),
    ],
)
def test_a_name_states_person_and_camera(format: str, name: str, pid: int, camid: int) -> None:
    assert parse_name(name, layout_of(format)) == (pid, camid)


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("market1501", "0001_c2_f0046182.jpg"),
        ("market1501", "002_c1s1_000451_03.jpg"),
        ("market1501", "-2_c1s1_000451_03.jpg"),
        ("market1501", "٠٠٠٢_c1s1_000451_03.jpg"),
        ("market1501", "0002_c1s1_000451_03"),
        ("market1501", "0002_c1s1_000451_03.gif"),
        ("market1501", "x0002_c1s1_000451_03.jpg"),
        ("market1501", "0002_c1s1_000451_03.jpg\n"),
        ("market1501", "0002_c1s1_000451_03.jpg.bak"),
        ("msmt17_v1", "0000_c1_0015.jpg"),
        ("cuhk03_detected", "0001_c1s1_000451_03.png"),
        ("occluded_duke", "0002_c1s1_000451_03.jpg"),
        ("occluded_duke", "-1_c2_f0046182.jpg"),
        ("occluded_duke", "0001_c2_f046182.jpg"),
        ("occluded_duke", "0001_c12_f0046182.jpg"),
    ],
)
def test_a_name_outside_the_grammar_is_refused_with_the_pattern(format: str, name: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_name(name, layout_of(format))
    grammar = layout_of(format).grammar
    assert grammar is not None
    assert repr(name) in str(caught.value)
    assert f"such as {grammar.example}" in str(caught.value)


@pytest.mark.parametrize(
    ("format", "name", "cameras"),
    [
        ("market1501", "0002_c7s1_000451_03.jpg", "1 to 6"),
        ("market1501", "0002_c0s1_000451_03.jpg", "1 to 6"),
        ("occluded_duke", "0001_c9_f0046182.jpg", "1 to 8"),
        ("msmt17_v1", "0000_000_16_0303morning_0015_0.jpg", "1 to 15"),
        ("cuhk03_labeled", "0001_c3_1.png", "1 to 2"),
    ],
)
def test_a_camera_out_of_range_is_refused(format: str, name: str, cameras: str) -> None:
    with pytest.raises(UserError, match=cameras):
        parse_name(name, layout_of(format))


def test_a_folder_is_listed_by_split_and_name_and_a_parent_is_never_an_identity(tmp_path: Path) -> None:
    root = touch(tmp_path / "0009_c5s1" / "run-1_c3", MARKET)
    (root / "bounding_box_test" / "Thumbs.db").touch()
    (root / "query" / "._0001_c1s1_001051_00.jpg").touch()
    (root / "readme.txt").touch()
    listing = read_folder(root, MARKET_LAYOUT)
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
        ({"query": []}, "query split .* holds no image; check that the set was unpacked whole"),
        ({"query": ["0001_c1s1_001051_00.webp"]}, r"holds no image \(query/0001_c1s1_001051_00.webp in place of"),
        ({"query": [], "query/0001": ["0001_c1s1_001051_00.jpg"]}, r"holds no image \(query/0001 in place of"),
        ({"query": ["0001.jpg"]}, r"query: '0001.jpg' is not a Market-1501 name"),
        ({"query": ["0000_c1s1_000151_01.jpg"]}, "query/0000_c1s1_000151_01.jpg has pid 0 in the query split"),
        ({"bounding_box_train": ["-1_c1s1_000151_01.jpg"]}, "pid -1 in the train split"),
    ],
)
def test_a_broken_folder_is_refused(tmp_path: Path, change: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_folder(touch(tmp_path, MARKET | change), MARKET_LAYOUT)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    touch(tmp_path, {"query": MARKET["query"]})
    with pytest.raises(UserError, match="no folder bounding_box_train, bounding_box_test"):
        read_folder(tmp_path, MARKET_LAYOUT)
    with pytest.raises(UserError, match="does not exist"):
        read_folder(tmp_path / "nowhere", MARKET_LAYOUT)
    with pytest.raises(UserError, match=r"no data set 'msmt17' in dataset_table; did you mean 'msmt17_v[12]'"):
        layout_of("msmt17")


def test_only_a_generated_set_may_hold_training_images_alone(tmp_path: Path) -> None:
    touch(tmp_path, {"bounding_box_train": MARKET["bounding_box_train"]})
    with pytest.raises(UserError, match="no folder query, bounding_box_test"):
        read_folder(tmp_path, MARKET_LAYOUT)
    (tmp_path / "SYNTHETIC").touch()
    assert [record.split for record in read_folder(tmp_path, MARKET_LAYOUT).records] == ["train", "train"]
    (tmp_path / "query").mkdir()
    with pytest.raises(UserError, match="no folder bounding_box_test"):
        read_folder(tmp_path, MARKET_LAYOUT)


def test_the_listing_hash_follows_the_names_of_images(tmp_path: Path) -> None:
    assert listing_hash(tmp_path / "nowhere", MARKET_LAYOUT) == listing_hash(tmp_path, MARKET_LAYOUT)
    first = listing_hash(touch(tmp_path, MARKET), MARKET_LAYOUT)
    (tmp_path / "query" / "Thumbs.db").touch()
    assert listing_hash(tmp_path, MARKET_LAYOUT) == first
    (tmp_path / "query" / MARKET["query"][0]).rename(tmp_path / "bounding_box_test" / MARKET["query"][0])
    assert listing_hash(tmp_path, MARKET_LAYOUT) != first
    table = write_manifest(tmp_path / "query", ROWS)
    second = listing_hash(table, MANIFEST_LAYOUT)
    assert second == listing_hash(tmp_path / "query", MANIFEST_LAYOUT)
    table.write_text(table.read_text().replace("7,2", "8,2"))
    assert listing_hash(table, MANIFEST_LAYOUT) != second


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
    read_as = MARKET_LAYOUT if layout == "folders" else MANIFEST_LAYOUT
    first = listing_hash(tmp_path, read_as)
    image.write_bytes(b"abcd" if change == "size" else b"xyz")
    later = state.st_mtime_ns + (change == "time")
    os.utime(image, ns=(state.st_atime_ns, later))
    assert listing_hash(tmp_path, read_as) != first


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_lists_any_set(tmp_path: Path, suffix: str) -> None:
    frame = pd.read_csv(write_manifest(tmp_path, ROWS))
    if suffix == ".parquet":
        (tmp_path / "manifest.csv").unlink()
        frame.to_parquet(tmp_path / "manifest.parquet")
    listing = read_folder(tmp_path, MANIFEST_LAYOUT)
    assert listing == read_folder(tmp_path / f"manifest{suffix}", MANIFEST_LAYOUT)
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
        read_folder(write_manifest(tmp_path, [*ROWS, row]), MANIFEST_LAYOUT)


def test_a_manifest_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("0 of manifest.csv and manifest.parquet")):
        read_folder(tmp_path, MANIFEST_LAYOUT)
    (tmp_path / "manifest.csv").write_text("path,pid\na.jpg,1\n")
    with pytest.raises(UserError, match="lacks the column camid, split"):
        read_folder(tmp_path, MANIFEST_LAYOUT)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet cannot be read"):
        read_folder(tmp_path / "broken.parquet", MANIFEST_LAYOUT)


def test_published_counts_are_those_of_the_papers() -> None:
    published = {name: entry.counts.model_dump() for name, entry in shipped_table().items() if entry.counts}
    assert set(published) == set(shipped_table())
    market, duke = published["market1501"], published["occluded_duke"]
    # Zheng et al. 2015: 32,668 boxes in all splits of 1,501 people; 13,115 gallery boxes of the 750 test people.
    assert market["train"]["images"] + market["gallery"]["images"] == 32668
    assert market["train"]["ids"] + market["query"]["ids"] == 1501
    assert market["gallery"]["images"] - market["junk"] - market["distractors"] == 13115
    # Miao et al. 2019: 15,618 + 17,661 + 2,210 images.
    assert sum(duke[split]["images"] for split in ("train", "query", "gallery")) == 35489
    # Zheng et al. 2017: 36,411 images of 1,812 people, 408 of them in the gallery alone.
    assert sum(published["dukemtmc"][split]["images"] for split in ("train", "query", "gallery")) == 36411
    assert published["dukemtmc"]["gallery"]["ids"] - published["dukemtmc"]["query"]["ids"] == 408
    for name in ("msmt17_v1", "msmt17_v2"):  # Wei et al. 2018: 126,441 boxes of 4,101 people
        assert sum(published[name][split]["images"] for split in ("train", "query", "gallery")) == 126441
        assert published[name]["train"]["ids"] + published[name]["gallery"]["ids"] == 4101
    for name in ("cuhk03_detected", "cuhk03_labeled"):  # Zhong et al. 2017: 1,467 people, two queries of each
        assert published[name]["train"]["ids"] + published[name]["query"]["ids"] == 1467
        assert published[name]["query"]["images"] == 2 * published[name]["query"]["ids"]
    assert published["occluded_reid"]["query"] == {"images": 1000, "ids": 200}  # Zhuo et al. 2018


def test_names_are_matched_without_folders_and_endings() -> None:
    same = ("1488_c1s6_023021_00.jpg.jpg", "query/1488_c1s6_023021_00.JPG", "a\\1488_c1s6_023021_00.png")
    assert {image_key(name) for name in same} == {"1488_c1s6_023021_00"}
    assert image_key("v1.5_x.jpg") == "v1.5_x"


LISTS = {
    "list_train.txt": "0000/0000_000_01_0303morning_0015_0.jpg 0\n",
    "list_val.txt": "0001/0001_000_14_0114noon_0284_2_ex.jpg 1\n",
    "list_query.txt": "0000/0000_000_03_0303noon_0015_0.jpg 0\n",
    "list_gallery.txt": "0000/0000_001_04_0303noon_0016_0.jpg 0\n",
}


def msmt17(root: Path, train: str, test: str) -> Path:
    for name, text in LISTS.items():
        relative = text.split()[0]
        image = root / (train if name in ("list_train.txt", "list_val.txt") else test) / relative
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("version", "train", "test"), [("msmt17_v1", "train", "test"), ("msmt17_v2", "mask_train_v2", "mask_test_v2")]
)
def test_lists_tell_split_and_person_and_train_people_get_pids_of_their_own(
    tmp_path: Path, version: str, train: str, test: str
) -> None:
    listing = read_folder(msmt17(tmp_path, train, test), layout_of(version))
    assert [(record.split, record.path, record.pid, record.camid) for record in listing.records] == [
        ("train", f"{train}/0000/0000_000_01_0303morning_0015_0.jpg", 10000, 1),
        ("train", f"{train}/0001/0001_000_14_0114noon_0284_2_ex.jpg", 10001, 14),
        ("query", f"{test}/0000/0000_000_03_0303noon_0015_0.jpg", 0, 3),
        ("gallery", f"{test}/0000/0000_001_04_0303noon_0016_0.jpg", 0, 4),
    ]
    first = listing_hash(tmp_path, layout_of(version))
    (tmp_path / "list_val.txt").write_text(LISTS["list_val.txt"].replace(" 1", " 2"))
    assert listing_hash(tmp_path, layout_of(version)) == first  # names, sizes and times are the same
    (tmp_path / "list_val.txt").unlink()
    with pytest.raises(UserError, match=r"has no list list_val\.txt"):
        read_folder(tmp_path, layout_of(version))


def test_lists_that_an_editor_of_windows_saved_are_the_same(tmp_path: Path) -> None:
    before = read_folder(msmt17(tmp_path, "train", "test"), layout_of("msmt17_v1")).records
    for name, text in LISTS.items():
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_folder(tmp_path, layout_of("msmt17_v1")).records == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0009/0009_000_01_0303noon_0001_0.jpg 9", "lacks 1 of the 1 images .*0009_000_01"),
        ("0000_000_01_0303morning_0015_0.jpg", "line 1 of .*list_query.txt is"),
        ("../0000_000_01_0303morning_0015_0.jpg 0", "line 1 of .*list_query.txt is"),
        ("0000/0000_c1_1.jpg 0", "list_query.txt: '0000_c1_1.jpg' is not a MSMT17 V1 name"),
    ],
)
def test_a_wrong_line_of_a_list_is_refused(tmp_path: Path, line: str, said: str) -> None:
    msmt17(tmp_path, "train", "test")
    (tmp_path / "list_query.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=said):
        read_folder(tmp_path, layout_of("msmt17_v1"))


def test_occluded_reid_has_a_camera_for_each_split_and_the_same_names_in_both(tmp_path: Path) -> None:
    touch(tmp_path, {"occluded_body_images/001": ["001_01.tif"], "whole_body_images/001": ["001_01.tif"]})
    assert [tuple(record) for record in read_folder(tmp_path, layout_of("occluded_reid")).records] == [
        ("query", "occluded_body_images/001/001_01.tif", "occluded_body_images/001/001_01.tif", 1, 1),
        ("gallery", "whole_body_images/001/001_01.tif", "whole_body_images/001/001_01.tif", 1, 2),
    ]


def test_images_sorted_into_folders_of_people_are_the_same_images(tmp_path: Path) -> None:
    flat = read_folder(touch(tmp_path / "flat", MARKET), MARKET_LAYOUT)
    sorted_ = {"bounding_box_train": "train_all", "query": "query", "bounding_box_test": "gallery"}
    for folder, names in MARKET.items():
        for name in names:
            touch(tmp_path / "pytorch", {f"{sorted_[folder]}/{name.partition('_')[0]}/{name}": []})
            (tmp_path / "pytorch" / sorted_[folder] / name.partition("_")[0] / name).rmdir()
            (tmp_path / "pytorch" / sorted_[folder] / name.partition("_")[0] / name).touch()
    found = read_folder(tmp_path / "pytorch", MARKET_LAYOUT)
    assert [(r.split, r.name, r.pid, r.camid) for r in found.records] == [
        (r.split, r.name, r.pid, r.camid) for r in flat.records
    ]


def test_what_archives_and_systems_leave_behind_is_not_unexpected(tmp_path: Path) -> None:
    root = touch(tmp_path, MARKET)
    for name in ("Thumbs.db", ".DS_Store", "._0001_c1s1_001051_00.jpg", "readme.txt", "desktop.ini"):
        (root / "query" / name).touch()
    (root / "query" / "__MACOSX").mkdir()
    (root / "gt_bbox").mkdir()
    assert read_folder(root, MARKET_LAYOUT).unexpected == ()
    (root / "query" / "0001_c1s1_001051_00.mat").touch()
    assert read_folder(root, MARKET_LAYOUT).unexpected == ("query/0001_c1s1_001051_00.mat",)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing"])
def test_only_regular_files_are_images(tmp_path: Path, kind: str) -> None:
    path = touch(tmp_path, MARKET) / "query" / "0001_c1s1_001051_01.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"0001_c1s1_001051_01\.jpg is not a regular file"):
        read_folder(tmp_path, MARKET_LAYOUT)


def test_links_to_images_and_to_folders_are_followed(tmp_path: Path) -> None:
    kept = touch(tmp_path / "kept", MARKET)
    root = tmp_path / "linked"
    root.mkdir()
    for folder in ("bounding_box_train", "bounding_box_test"):
        (root / folder).symlink_to(kept / folder)
    (root / "query").mkdir()
    (root / "query" / MARKET["query"][0]).symlink_to(kept / "query" / MARKET["query"][0])
    assert read_folder(root, MARKET_LAYOUT).records == read_folder(kept, MARKET_LAYOUT).records


@pytest.mark.parametrize("name", [b"0001_c1_\xff.jpg", b"0001_c1_a\tb.jpg", b"0001_c1_a\nb.jpg"])
def test_a_name_that_no_table_can_hold_is_refused_where_names_are_read(tmp_path: Path, name: bytes) -> None:
    """A grammar of one's own may admit it."""
    grammar = present(MARKET_LAYOUT.grammar).model_copy(
        update={"names": re.compile(r"(?P<pid>-?\d+)_c(?P<camid>\d).*", re.DOTALL)}
    )
    root = touch(tmp_path, MARKET)
    (root / "query" / os.fsdecode(name)).touch()
    with pytest.raises(UserError, match="has a control code or is not UTF-8; rename the file") as caught:
        read_folder(root, replace(MARKET_LAYOUT, grammar=grammar))
    sentence(caught.value).encode()
