"""Checking data set folders from the command line, with the published counts and without."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from reidablate.cli import app
from reidablate.data.check import check_folder
from reidablate.data.table import layout_of
from reidablate.errors import UserError


def jpeg(colour: tuple[int, int, int] = (90, 60, 30), size: tuple[int, int] = (4, 8)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


def write(root: Path, names: dict[str, list[str]]) -> None:
    """Writes {folder: names} with a JPEG each, no two with the same bytes."""
    data = jpeg()
    for folder, files in names.items():
        (root / folder).mkdir(parents=True)
        for name in files:
            # Bytes behind the end of an image are no part of it.
            (root / folder / name).write_bytes(data + name.encode())


def small(root: Path) -> Path:
    write(
        root,
        {
            "bounding_box_train": ["0002_c1s1_000001_00.jpg", "0007_c2s1_000001_00.jpg"],
            "query": ["0001_c1s1_000001_00.jpg"],
            "bounding_box_test": [
                "-1_c1s1_000001_00.jpg",
                "0000_c1s1_000001_00.jpg",
                "0001_c2s1_000001_00.jpg",
                "0001_c1s1_000002_00.jpg",
            ],
        },
    )
    return root


def check(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)], catch_exceptions=False)


def test_counts_of_a_small_folder(tmp_path: Path) -> None:
    found = json.loads(check(small(tmp_path), "--format", "market1501", "--json").stdout)
    assert found["counts"] == {
        "train": {"images": 2, "ids": 2},
        "query": {"images": 1, "ids": 1},
        "gallery": {"images": 4, "ids": 1},
        "junk": 1,
        "distractors": 1,
        "cameras": 2,
    }
    assert (found["gallery_without_junk"], found["gallery_of_ids"]) == (3, 2)
    assert not found["official_counts"]
    assert not found["decoded"]
    assert "train images 2 instead of 12936" in found["warnings"][0]


def test_table_shows_found_and_published(tmp_path: Path) -> None:
    done = check(small(tmp_path), "--format", "market1501")
    row = next(line for line in done.stdout.splitlines() if "train images" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["train images", "2", "12,936"]
    assert "warning: the counts are not those of Market-1501" in done.stdout


@pytest.mark.parametrize("deeper", ["", "Market-1501-v15.09.15", "one folder/Märkt"])
def test_the_layout_is_found_out_and_an_archive_in_itself_is_entered(tmp_path: Path, deeper: str) -> None:
    small(tmp_path / deeper)
    assert json.loads(check(tmp_path, "--json").stdout)["format"] == "market1501"


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="looks like none of market1501, occluded_duke"):
        check(tmp_path)
    (small(tmp_path) / "query" / "0001.jpg").touch()
    with pytest.raises(UserError, match=r"'0001.jpg' is not a Market-1501 name"):
        check(tmp_path)


def test_strict_refuses_other_counts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it holds train images 2, .* the published set train images 12936"):
        check(small(tmp_path), "--format", "market1501", "--strict")


def test_strict_refuses_a_query_that_nobody_can_answer(tmp_path: Path) -> None:
    rows = ["a.jpg,1,1,train", "b.jpg,2,1,query", "c.jpg,2,1,gallery", "d.jpg,3,2,gallery", "e.jpg,3,1,query"]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,pid,camid,split", *rows]) + "\n")
    for name in "abcde":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg() + name.encode())
    found = check_folder(tmp_path, layout_of("manifest"), strict=False, decode=True, workers=1)
    assert found["queries_without_positive"] == 1
    assert found["decoded"]
    with pytest.raises(UserError, match="1 queries have no positive from another camera"):
        check_folder(tmp_path, layout_of("manifest"), strict=True, decode=False, workers=1)


def test_only_decoding_finds_damage_inside_an_image(tmp_path: Path) -> None:
    root = small(tmp_path)
    data = bytearray(jpeg(size=(64, 128)))
    start = data.index(b"\xff\xda")
    del data[start + 12 : -2]  # the coded data; header and end mark stay
    (root / "query" / "0001_c1s1_000001_00.jpg").write_bytes(data)
    assert check(root, "--format", "market1501").exit_code == 0
    with pytest.raises(UserError, match=r"query/0001_c1s1_000001_00\.jpg"):
        check(root, "--format", "market1501", "--decode")


def test_a_truncated_image_is_named_without_decoding(tmp_path: Path) -> None:
    root = small(tmp_path)
    (root / "query" / "0001_c1s1_000001_00.jpg").write_bytes(jpeg()[:-2])
    with pytest.raises(UserError, match=r"query/0001_c1s1_000001_00\.jpg \(truncated"):
        check(root, "--format", "market1501")


def spread(number: int, pids: list[int]) -> list[int]:
    """Returns how often each pid gets an image, as evenly as can be."""
    return [number // len(pids) + (i < number % len(pids)) for i in range(len(pids))]


def market() -> dict[str, list[str]]:
    """Names with the counts of Market-1501: train 751, test 750 identities, six cameras."""
    train, test = [1 + 2 * i for i in range(751)], [2 + 2 * i for i in range(750)]
    splits = {"bounding_box_train": (12936, train), "query": (3368, test), "bounding_box_test": (13115, test)}
    names = {
        folder: [
            f"{pid:04}_c{1 + k % 6}s1_{k:06}_{'query' in folder:02}.jpg"
            for pid, own in zip(pids, spread(number, pids), strict=True)
            for k in range(own)
        ]
        for folder, (number, pids) in splits.items()
    }
    names["bounding_box_test"] += [f"0000_c1s1_{k:06}_00.jpg" for k in range(2798)]
    names["bounding_box_test"] += [f"-1_c1s1_{k:06}_00.jpg" for k in range(3819)]
    return names


def occluded_duke() -> dict[str, list[str]]:
    """Names with the counts of Occluded-Duke; 1,870 queries stand in the gallery too."""
    train, test = [1 + 4 * i for i in range(702)], [2 + 4 * i for i in range(1110)]
    query = [(pid, k) for pid, own in zip(test[:519], spread(2210, test[:519]), strict=True) for k in range(own)]
    shared = [f"{pid:04}_c{1 + k % 8}_f{k:07}.jpg" for pid, k in query]
    others = spread(17661 - 1870, test)
    gallery = [f"{p:04}_c{1 + k % 8}_f{100 + k:07}.jpg" for p, n in zip(test, others, strict=True) for k in range(n)]
    trained = [f"{p:04}_c1_f{k:07}.jpg" for p, n in zip(train, spread(15618, train), strict=True) for k in range(n)]
    return {"bounding_box_train": trained, "query": shared, "bounding_box_test": gallery + shared[:1870]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "names", "numbers"),
    [
        ("market1501", market, [12936, 751, 3368, 750, 19732, 750, 3819, 2798, 6, 15913, 13115, 0]),
        ("occluded_duke", occluded_duke, [15618, 702, 2210, 519, 17661, 1110, 0, 0, 8, 17661, 17661, 1870]),
    ],
)
def test_published_counts_pass_strictly_and_within_ten_seconds(
    tmp_path: Path, format: str, names: Callable[[], dict[str, list[str]]], numbers: list[int]
) -> None:
    write(tmp_path, names())
    started = time.process_time()
    found = check_folder(tmp_path, layout_of(format), strict=True, decode=False, workers=2)
    assert time.process_time() - started < 10
    counts = found["counts"]
    split = [counts[part][key] for part in ("train", "query", "gallery") for key in ("images", "ids")]
    more = [found[key] for key in ("gallery_without_junk", "gallery_of_ids", "shared_query_gallery")]
    assert [*split, *(counts[key] for key in ("junk", "distractors", "cameras")), *more] == numbers
    assert found["official_counts"]
    assert found["warnings"] == []
