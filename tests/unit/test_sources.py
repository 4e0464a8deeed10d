"""Finding data sets and checking their names while planning: every layout in circulation, every wish that fails."""

import os
from pathlib import Path

import pytest

from reidablate.data.formats import SPLIT_FOLDERS
from reidablate.errors import UserError
from reidablate.planning import plan

Settings = dict[str, object]
MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["0001_c2s1_001076_01.jpg"],
}
DUKE = {
    "bounding_box_train": ["0002_c1_f0046182.jpg"],
    "query": ["0001_c1_f0046182.jpg"],
    "bounding_box_test": ["0001_c2_f0046182.jpg"],
}


def touch(root: Path, tree: dict[str, list[str]]) -> Path:
    for folder, names in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / folder / name).touch()
    return root


@pytest.fixture
def auto(settings: Settings) -> Settings:
    return {**settings, "preset": "auto"}


@pytest.mark.parametrize(
    "folder",
    [
        "market1501",
        "Market-1501",
        "Market1501",
        "MARKET_1501",
        "Market",
        "Market-1501-v15.09.15",
        "Market-1501-v15.09.15/Market-1501-v15.09.15",
        "market1501/Market-1501-v15.09.15",
        "market1501/some folder/Märkte",
    ],
)
def test_a_set_is_found_under_every_usual_name_and_nesting(auto: Settings, project: Path, folder: str) -> None:
    root = touch(project / "my daten ü" / folder, MARKET)
    touch(root, {"gt_bbox": ["0001_c1s1_001051_00.jpg.mat"], "../__MACOSX/query": ["._0001_c1s1_001051_00.jpg"]})
    study = plan({**auto, "data_root": "my daten ü"})
    assert [dataset.name for dataset in study.datasets] == ["market1501"]
    assert study.datasets[0].root.resolve() == root.resolve()
    assert study.preset.name == "paper"


@pytest.mark.parametrize(
    ("name", "folder", "tree"),
    [
        ("dukemtmc", "DukeMTMC-reID", DUKE),
        ("dukemtmc", "dukemtmc-reid/DukeMTMC-reID", DUKE),
        ("occluded_duke", "Occluded_Duke", DUKE),
        ("occluded_duke", "Occluded-DukeMTMC-Dataset/Occluded_Duke", DUKE),
        ("market1501", "Market/pytorch", {
            "train_all/0002": MARKET["bounding_box_train"], "query/0001": MARKET["query"],
            "gallery/0001": MARKET["bounding_box_test"], "val/0002": MARKET["bounding_box_train"],
        }),
        ("cuhk03_labeled", "CUHK03-NP/labeled", {
            "bounding_box_train": ["0002_c1_1.png"], "query": ["0001_c1_1.png"], "bounding_box_test": ["0001_c2_6.png"],
        }),
        ("msmt17_v1", "MSMT17", {
            "train/0000": ["0000_000_01_0303morning_0015_0.jpg", "0000_001_01_0303morning_0016_0.jpg"],
            "test/0000": ["0000_000_02_0303noon_0015_0.jpg", "0000_001_03_0303noon_0016_0_ex.jpg"],
        }),
        ("msmt17_v2", "msmt17/MSMT17_V2", {
            "mask_train_v2/0000": ["0000_000_01_0303morning_0015_0.jpg", "0000_001_01_0303morning_0016_0.jpg"],
            "mask_test_v2/0000": ["0000_000_02_0303noon_0015_0.jpg", "0000_001_03_0303noon_0016_0_ex.jpg"],
        }),
    ],
)  # fmt: skip
def test_the_sets_of_the_field_are_part_of_a_study_where_found(
    auto: Settings, project: Path, name: str, folder: str, tree: dict[str, list[str]]
) -> None:
    root = touch(project / "data" / folder, tree)
    if "msmt17" in name:
        train, test = ([f"0000/{image} 0\n" for image in images] for images in tree.values())
        files = zip(("list_train", "list_val", "list_query", "list_gallery"), [*train, *test], strict=True)
        for list_, text in files:
            (root / f"{list_}.txt").write_text(text)
    study = plan(auto)
    assert [(dataset.name, dataset.root) for dataset in study.datasets] == [(name, Path("data") / folder)]
    assert {entry.name for entry in study.missing_datasets} == {"market1501", "occluded_duke"} - {name}
    assert not any(line.startswith("MSMT17") for line in study.notices if "counts" not in line)


def test_an_empty_folder_hides_no_good_one_and_a_link_is_the_same_place(auto: Settings, project: Path) -> None:
    (project / "data" / "market1501").mkdir(parents=True)
    good = touch(project / "data" / "Market-1501-v15.09.15", MARKET)
    (project / "data" / "Market_1501").symlink_to(good)
    assert plan(auto).datasets[0].root.resolve() == good


def test_two_folders_of_one_set_must_be_told_apart(auto: Settings, project: Path) -> None:
    for name in ("market1501", "Market-1501-v15.09.15"):
        touch(project / "data" / name, MARKET)
    with pytest.raises(UserError, match=r"lies in data/market1501 and in data/Market-1501-v15\.09\.15; rename"):
        plan(auto)


def test_the_folder_of_the_set_itself_may_be_the_root(auto: Settings, project: Path) -> None:
    root = touch(project / "sets" / "Market-1501-v15.09.15", MARKET)
    assert plan({**auto, "data_root": str(root)}).datasets[0].root == root
    other = root.rename(project / "mine")
    with pytest.raises(UserError, match="mine is itself the folder of a data set: give the folder that holds it"):
        plan({**auto, "data_root": str(other)})


@pytest.mark.parametrize("place", ["nowhere", "empty", "other"])
@pytest.mark.parametrize(
    "wish", [{}, {"weights": "w.pth"}, {"seeds": 2}, {"datasets": "occluded_duke"}], ids=lambda wish: "+".join(wish)
)
def test_a_wish_that_finds_nothing_is_not_replaced(auto: Settings, project: Path, place: str, wish: Settings) -> None:
    touch(project, {"empty": [], "other/pictures": [], "other/music": []})
    holds = {"nowhere": "nothing, for it does not exist", "empty": "nothing", "other": "music, pictures"}[place]
    with pytest.raises(UserError) as caught:
        plan({**auto, "data_root": place, **wish})
    assert f"data_root={place}" in str(caught.value)
    assert f"{place} holds {holds}" in str(caught.value)
    assert "preset=smoke" in str(caught.value)
    assert "preset=quickstart" in str(caught.value)
    if wish:
        with pytest.raises(UserError, match=next(iter(wish))):
            plan({**auto, **wish})


def test_parts_of_a_synthetic_study_that_has_begun_need_no_preset(auto: Settings) -> None:
    plan({**auto, "preset": "quickstart"}).write()
    study = plan({**auto, "cells": "p1", "datasets": "market1501", "seeds": 1})
    assert study.preset.name == "quickstart"
    assert {run.dataset for run in study.asked_runs} == {"market1501"}
    with pytest.raises(UserError, match=r"although weights=w\.pth was given"):
        plan({**auto, "weights": "w.pth"})


@pytest.mark.parametrize("place", ["pedestrians", "reid/market1501"])
def test_a_set_in_an_unknown_place_is_listed(auto: Settings, project: Path, place: str) -> None:
    touch(project / "data" / place, MARKET)
    with pytest.raises(UserError, match=rf"data/{place} looks like a data set, rename or move it"):
        plan(auto)


@pytest.mark.parametrize("name", ["Market-1501-v15.09.15.zip", "market1501.tar.gz", "Occluded_Duke.ZIP"])
def test_an_archive_is_told_to_be_unpacked(auto: Settings, project: Path, name: str) -> None:
    touch(project, {"data": [name]})
    with pytest.raises(UserError, match=rf"data/{name} is a file; unpack it there"):
        plan(auto)
    (project / "data" / name).rename(project / "data" / "music.zip")
    assert plan(auto).preset.name == "quickstart"


@pytest.mark.parametrize("name", ["data", "data/market1501"])
def test_a_link_to_nothing_is_no_wish_for_the_synthetic_study(auto: Settings, project: Path, name: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{name} (is a link to nothing|holds nothing, for it is not a folder)"):
        plan(auto)


def test_a_tilde_is_the_home_also_where_the_shell_leaves_it(
    auto: Settings, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project / "home"))
    root = touch(project / "home" / "sets" / "market1501", MARKET)
    study = plan({**auto, "data_root": "~/sets", "weights": {"vit_base": "~/w.pth"}})
    assert study.datasets[0].root == root
    assert study.settings.weights == {"vit_base": str(project / "home" / "w.pth")}


def test_a_data_set_that_was_asked_for_must_be_there(auto: Settings, project: Path) -> None:
    touch(project / "data" / "market1501", MARKET)
    with pytest.raises(UserError, match=r"Occluded-Duke was not found \(looked in .*; data holds market1501\)"):
        plan({**auto, "datasets": "market1501,occluded_duke"})
    assert "data holds market1501" in plan(auto).notices[0]


@pytest.mark.parametrize(
    ("folder", "name", "said"),
    [
        ("query", "0001.jpg", "'0001.jpg' is not a Market-1501 name such as 0002_c1s1_000451_03.jpg"),
        ("query", "0001_c7s1_001051_00.jpg", "names camera 7, Market-1501 has 1 to 6"),
        ("bounding_box_train", "0000_c1s1_001051_00.jpg", "has pid 0 in the train split"),
        ("bounding_box_train", "0001_c1s1_001051_00.jpg", "1 identity of the training images also in query"),
    ],
)
def test_what_a_name_tells_stops_the_plan(auto: Settings, project: Path, folder: str, name: str, said: str) -> None:
    touch(project / "data" / "market1501", {**MARKET, "bounding_box_train": ["0002_c1s1_000451_03.jpg"] * 2})
    touch(project / "data" / "market1501", {folder: [name]})
    with pytest.raises(UserError, match=said):
        plan(auto)


def test_a_folder_that_lacks_a_part_stops_the_plan_and_an_optional_one_is_left_out(
    auto: Settings, project: Path
) -> None:
    touch(project / "data" / "market1501", MARKET)
    touch(project / "data" / "MSMT17_V1", {"train/0000": [], "test/0000": []})
    (notice,) = (line for line in plan(auto).notices if line.startswith("MSMT17"))
    assert "it lacks list_train.txt, list_val.txt, list_query.txt, list_gallery.txt and holds test, train" in notice
    with pytest.raises(UserError, match="MSMT17_V1 is not a complete MSMT17 V1 folder"):
        plan({**auto, "datasets": "market1501,msmt17_v1"})
    (project / "data" / "market1501" / "query").rename(project / "data" / "market1501" / "queries")
    with pytest.raises(UserError, match=r"it lacks query and holds bounding_box_test, bounding_box_train, queries"):
        plan(auto)


def test_counts_of_another_set_reach_the_terminal(auto: Settings, project: Path) -> None:
    table = auto["dataset_table"]
    assert isinstance(table, dict)
    table["dukemtmc"]["counts"] = {
        "train": {"images": 1, "ids": 1}, "query": {"images": 1, "ids": 1}, "gallery": {"images": 1, "ids": 1},
        "cameras": 2,
    }  # fmt: skip
    touch(project / "data" / "occluded_duke", DUKE)
    (notice,) = (line for line in plan(auto).notices if line.startswith("Occluded-Duke in"))
    assert "query images 1 instead of 2210" in notice
    assert notice.endswith("they are those of DukeMTMC-reID.")


def test_a_manifest_is_checked_while_planning(auto: Settings, project: Path) -> None:
    shipped = auto["dataset_table"]
    assert isinstance(shipped, dict)
    auto = {**auto, "dataset_table": {**shipped, "mine": {"title": "Mine", "format": "manifest", "folders": ["mine"]}}}
    rows = "path,pid,camid,split\na.png,0,1,train\nb.png,2,1,query\nc.png,2,{},gallery\n"
    table = touch(project / "data" / "mine", {".": ["a.png", "b.png"]}) / "manifest.csv"
    table.write_text(rows.format(1))
    with pytest.raises(UserError, match="all are of camera 1"):
        plan(auto)
    table.write_text(rows.format(2))
    with pytest.raises(UserError, match=r"1 image of the manifest in data/mine cannot be found: c\.png"):
        plan(auto)
    (table.parent / "c.png").touch()
    assert [dataset.name for dataset in plan(auto).datasets] == ["mine"]


def test_a_set_without_training_images_is_scored_on_where_a_cell_asks(auto: Settings, project: Path) -> None:
    touch(project / "data" / "market1501", MARKET)
    clone = "ICME2018_Occluded-Person-Reidentification_datasets"
    touch(project / "data" / clone / "P-DukeMTMC-reID", {"train/whole_body_images/0001": ["0001_c1_f1.jpg"]})
    touch(project / "data" / clone / "Occluded_REID", {f"{part}/001": ["001_01.tif"] for part in
                                               ("occluded_body_images", "whole_body_images")})  # fmt: skip
    assert plan(auto).test_only == []
    cell = project / "ablations" / "p1.yaml"
    cell.write_text(cell.read_text() + "evaluate: {also_on: [occluded_reid]}\n")
    study = plan({**auto, "seeds": 1})
    assert [dataset.name for dataset in study.datasets] == ["market1501"]
    assert [dataset.name for dataset in study.test_only] == ["occluded_reid"]
    assert "market1501/p1/seed0/on_occluded_reid" in [transfer.id for transfer in study.transfers]
    assert {transfer.on for transfer in study.transfers} == {"occluded_reid"}
    assert not any("Occluded-REID is no part" in line for line in study.notices)
    with pytest.raises(UserError, match="there are no training images of Occluded-REID"):
        plan({**auto, "datasets": "occluded_reid"})


def test_a_read_only_folder_is_only_read(auto: Settings, project: Path) -> None:
    root = touch(project / "data" / "market1501", MARKET)
    for folder in (*SPLIT_FOLDERS.values(), "."):
        (root / folder).chmod(0o555)
    try:
        before = sorted(os.listdir(root))
        plan(auto)
        assert sorted(os.listdir(root)) == before
    finally:
        for folder in (".", *SPLIT_FOLDERS.values()):
            (root / folder).chmod(0o755)
