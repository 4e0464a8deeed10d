"""Synthetic sets: exact counts, the real sets' grammar, their structure, and the same bits from the same seed."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from reidablate.config import Counts, Style
from reidablate.data.formats import SPLIT_FOLDERS, parse_name
from reidablate.data.index import build_index
from reidablate.data.stripes import standardise_by_camera, stripe_means
from reidablate.data.table import layout_of
from reidablate.errors import UserError
from reidablate.planning import load_preset
from reidablate.synthetic.identity import PATTERNS, sample_identity, sample_pose
from reidablate.synthetic.occluders import OCCLUDERS, occluder
from reidablate.synthetic.plan import Shot, official_counts, plan, spread
from reidablate.synthetic.scene import draw_person
from reidablate.synthetic.synthesize import synthesize

GRAMMAR = {
    "market1501": re.compile(r"(?P<pid>-1|\d{4})_c(?P<cam>[1-6])s\d_\d{6}_\d{2}(\.jpg){1,2}"),
    "occluded_duke": re.compile(r"(?P<pid>\d{4})_c(?P<cam>[1-8])_f\d{7}\.jpg"),
}
SMALL = {
    "market1501": Counts(24, 4, 9, 4, 40, 4, distractors=5, junk=3),
    "occluded_duke": Counts(24, 4, 10, 3, 30, 5, shared_queries=7),
}


def quickstart() -> dict[str, Counts]:
    preset = load_preset(Path(__file__).parents[2] / "workflow" / "config" / "presets" / "quickstart.yaml")
    assert preset.synthetic is not None
    return {name: recipe.counts for name, recipe in preset.synthetic.items()}


def parsed(style: str, shots: list[Shot]) -> list[tuple[int, int]]:
    found = [GRAMMAR[style].fullmatch(shot.name) for shot in shots]
    assert all(found)
    return [(int(m["pid"]), int(m["cam"])) for m in found if m]


def write(root: Path, style: str, *, seed: int = 3, workers: int = 1, counts: Counts | None = None) -> None:
    synthesize(
        root,
        style,  # type: ignore[arg-type]
        counts=counts or SMALL[style],
        seed=seed,
        image_size=(48, 24),
        occluded_share=0.5,
        workers=workers,
    )


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# Expected numbers: the official tables (identities, queries and gallery files of both sets).
@pytest.mark.parametrize(
    ("style", "train", "query", "gallery"),
    [
        ("market1501", (12_936, 751), (3_368, 750), (19_732, 750)),
        ("occluded_duke", (15_618, 702), (2_210, 519), (17_661, 1_110)),
    ],
)
def test_official_counts_are_met_exactly(
    style: Any, train: tuple[int, int], query: tuple[int, int], gallery: tuple[int, int]
) -> None:
    shots: Any = plan(style, official_counts(style), seed=0, occluded_share=1.0)
    people = {split: parsed(style, shots[split]) for split in SPLIT_FOLDERS}
    for split, (images, ids) in zip(SPLIT_FOLDERS, (train, query, gallery), strict=True):
        assert len({shot.name for shot in shots[split]}) == images
        assert len({pid for pid, _ in people[split] if pid > 0}) == ids
    if style == "market1501":
        labels = [pid for pid, _ in people["gallery"]]
        assert (labels.count(0), labels.count(-1)) == (2_798, 3_819)
        assert len(set(people["query"])) == 3_368  # one query a person and camera
        # The published archive: 24 names with a doubled ending, 6 in query, 18 in the gallery, 2 of these junk.
        double = {split: [shot.name for shot in shots[split] if shot.name.endswith(".jpg.jpg")] for split in shots}
        assert [len(double[split]) for split in ("train", "query", "gallery")] == [0, 6, 18]
        assert sum(name.startswith("-1_") for name in double["gallery"]) == 2
    else:
        shared = {shot.name for shot in shots["query"]} & {shot.name for shot in shots["gallery"]}
        assert len(shared) == 1_870
        assert all(shot.occluded for shot in shots["query"])


@pytest.mark.parametrize("style", ["market1501", "occluded_duke"])
@pytest.mark.parametrize("size", ["official", "quickstart", "small"])
def test_identities_are_disjoint_and_every_query_has_a_cross_camera_positive(style: Any, size: str) -> None:
    counts = official_counts(style) if size == "official" else {"quickstart": quickstart(), "small": SMALL}[size][style]
    shots: Any = plan(style, counts, seed=1, occluded_share=0.5)
    people = {split: parsed(style, shots[split]) for split in SPLIT_FOLDERS}
    assert not {pid for pid, _ in people["train"]} & {pid for pid, _ in people["gallery"]}
    cameras = defaultdict(set)
    for pid, camera in people["gallery"]:
        cameras[pid].add(camera)
    assert all(cameras[pid] - {camera} for pid, camera in people["query"])
    twins = {shot.name: shot for shot in shots["gallery"]}
    assert all(twins.get(shot.name, shot) == shot for shot in shots["query"])  # one file, whichever folder
    occluded = sum(shot.occluded for shot in shots["query"])
    assert occluded == (round(0.5 * counts.query_images) if style == "occluded_duke" else 0)


@pytest.mark.parametrize("style", ["market1501", "occluded_duke"])
def test_files_are_the_same_bits_for_any_number_of_workers(tmp_path: Path, style: str) -> None:
    write(tmp_path / "one", style)
    write(tmp_path / "two", style, workers=2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    counts = SMALL[style]
    gallery = counts.gallery_images + counts.distractors + counts.junk
    assert len(one) == counts.train_images + counts.query_images + gallery + 1
    write(tmp_path / "two", style, seed=4)  # replaces what an earlier call wrote
    assert not set(one.values()) & set(contents(tmp_path / "two").values())


def test_a_whole_set_is_left_alone_and_one_that_lacks_an_image_is_drawn_again(tmp_path: Path) -> None:
    write(tmp_path, "market1501")
    before = contents(tmp_path)
    folder = (tmp_path / "query").stat().st_ino
    write(tmp_path, "market1501")
    assert (tmp_path / "query").stat().st_ino == folder
    next((tmp_path / "query").iterdir()).unlink()
    write(tmp_path, "market1501")
    assert contents(tmp_path) == before


def test_images_are_marked_and_have_the_size_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "occluded_duke")
    areas = []
    for path in tmp_path.rglob("*.jpg"):
        with Image.open(path) as image:
            comment = image.info["comment"].decode()
            assert (image.mode, image.size) == ("RGB", (24, 48))
            assert np.asarray(image).std() > 5
        assert comment.startswith("reidablate synthetic")
        if path.parent.name == "query" and "occluded=" in comment:
            areas.append(float(comment.split("occluded=")[1]))
    assert len(areas) == 5
    assert all(0.17 < area < 0.43 for area in areas)
    facts = (tmp_path / "SYNTHETIC").read_text()
    assert "seed: 3" in facts
    assert "shared_queries: 7" in facts
    for path in (tmp_path / "query").iterdir():
        twin = tmp_path / "bounding_box_test" / path.name
        assert not twin.exists() or twin.read_bytes() == path.read_bytes()


def test_pre_training_set_is_of_other_people_in_front_of_other_cameras(tmp_path: Path) -> None:
    assert quickstart()["pretrain"].population != quickstart()["market1501"].population
    write(tmp_path / "pretrain", "market1501", counts=Counts(24, 4))
    write(tmp_path / "study", "market1501")
    assert [path.name for path in (tmp_path / "pretrain").iterdir() if path.is_dir()] == ["bounding_box_train"]
    pretrain, study = contents(tmp_path / "pretrain"), contents(tmp_path / "study")
    assert not set(pretrain.values()) & set(study.values())


@pytest.mark.parametrize("kind", sorted(set(OCCLUDERS)))
def test_an_occluder_hides_the_area_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reidablate.synthetic.occluders.OCCLUDERS", (kind,))
    for share in (0.2, 0.4, 0.6):
        drawing = occluder(np.random.default_rng(7), (64, 32), share, 0.5)
        assert drawing.shape == (64, 32, 4)
        assert drawing[..., 3].mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("pattern", sorted(set(PATTERNS)))
def test_a_person_can_be_drawn_anywhere(pattern: str) -> None:
    rng = np.random.default_rng(2)
    for foot in ((0.5, 0.97), (-2.0, 0.5), (3.0, 4.0), (0.5, -3.0), (0.4, 2.4)):
        person = replace(sample_identity(rng), pattern=pattern)
        pose = sample_pose(rng, rng.uniform(0, 6.28))
        drawing, shadow = draw_person(rng, person, pose, (48, 24), foot=foot, unit=0.95 if foot[1] < 1 else 2.7)
        assert drawing.shape == (48, 24, 4)
        assert shadow.shape == (48, 24)
        if foot == (0.5, 0.97):  # a whole person in the middle of the image covers a fair share of it
            assert 0.12 < drawing[..., 3].mean() < 0.6


def test_spread_keeps_total_and_bounds() -> None:
    low, high = np.array([2, 1, 3, 2]), np.array([4, 9, 3, 30])
    numbers = spread(np.random.default_rng(0), 25, low, high)
    assert numbers.sum() == 25
    assert (numbers >= low).all()
    assert (numbers <= high).all()
    with pytest.raises(UserError, match="cannot be shared out"):
        spread(np.random.default_rng(0), 7, low, high)


@pytest.mark.parametrize(
    ("style", "change", "sentence"),
    [
        ("market1501", {"train_images": 5}, "two images an identity"),
        ("market1501", {"shared_queries": 1}, "only occluded_duke has shared"),
        ("occluded_duke", {"junk": 1}, "only market1501 has distractors and junk"),
        ("occluded_duke", {"query_ids": 6}, "raise gallery_ids"),
        ("occluded_duke", {"shared_queries": 11}, "shared_queries cannot exceed"),
        ("market1501", {"query_images": 30}, "cannot be shared out"),
        ("cuhk03", {}, "style 'cuhk03' is unknown"),
    ],
)
def test_contradicting_counts_are_refused_and_nothing_is_written(
    tmp_path: Path, style: str, change: dict[str, Any], sentence: str
) -> None:
    counts = Counts(**{**vars(SMALL.get(style, SMALL["market1501"])), **change})
    with pytest.raises(UserError, match=sentence):
        write(tmp_path / "set", style, counts=counts)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("style", get_args(Style))
def test_every_layout_reads_back_with_its_counts(tmp_path: Path, style: Any) -> None:
    counts = Counts(28, 4, 8, 4, 40, 5)
    if style == "occluded_reid":
        counts = replace(counts, train_images=0, train_ids=0)
    write(tmp_path, style, counts=counts)
    index = build_index(tmp_path, layout_of(style), workers=1)
    found = index.summary["counts"]
    assert found["train"] == {"images": counts.train_images, "ids": counts.train_ids}
    assert found["query"] == {"images": 8, "ids": 4}
    assert found["gallery"] == {"images": 40, "ids": 5}
    grammar = layout_of(style).grammar
    assert grammar is not None
    assert found["cameras"] <= grammar.cameras
    assert index.summary["queries_without_positive"] == 0
    assert index.summary["synthetic"]
    (tmp_path / "SYNTHETIC").unlink()
    assert build_index(tmp_path, layout_of(style), workers=1).summary["synthetic"]  # by the mark in the images
    before = contents(tmp_path)
    write(tmp_path, style, counts=counts)
    assert contents(tmp_path).items() >= before.items()


@pytest.mark.parametrize("style", [style for style in get_args(Style) if style not in SMALL])
def test_official_counts_of_the_other_sets_are_met_by_name(style: Any) -> None:
    layout, counts = layout_of(style), official_counts(style)
    shots = plan(style, counts, seed=0, occluded_share=0.5)
    assert layout.grammar is not None
    for split in layout.grammar.splits:
        names = [shot.name for shot in shots[split]]
        published = getattr(layout.published, split)
        assert len(set(names)) == published.images
        assert len({parse_name(name, layout, split)[0] for name in names}) == published.ids


def test_foreign_images_are_never_replaced(tmp_path: Path) -> None:
    photograph = tmp_path / "query" / "0001_c1s1_000001_00.jpg"
    photograph.parent.mkdir()
    Image.new("RGB", (24, 48)).save(photograph)
    with pytest.raises(UserError, match="not written by this generator"):
        write(tmp_path, "market1501")
    assert [path.name for path in tmp_path.iterdir()] == ["query"]
    assert photograph.exists()


def test_stripes_match_a_slow_loop() -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (7, 11, 4, 3), dtype=np.uint8)
    camids = np.array([2, 2, 0, 0, 0, 2, 5])
    raw = np.zeros((7, 12))
    for n in range(7):
        for stripe, rows in enumerate([range(0, 2), range(2, 5), range(5, 8), range(8, 11)]):  # floor(11 s / 4)
            for colour in range(3):
                raw[n, 3 * stripe + colour] = np.mean([images[n, row, :, colour] for row in rows])
    expected = np.zeros_like(raw)
    for n in range(7):
        peers = [m for m in range(7) if camids[m] == camids[n]]
        for k in range(12):
            spread_k = np.std([raw[m, k] for m in peers])
            expected[n, k] = (raw[n, k] - np.mean([raw[m, k] for m in peers])) / spread_k if spread_k else 0.0
    found = standardise_by_camera(stripe_means(images, stripes=4), camids)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert not found[6].any()  # the only image of its camera
