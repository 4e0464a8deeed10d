"""A page of diagnostics of a real, tiny run: complete, self-contained, and of what stands."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from reidablate.artifacts import read_json
from reidablate.config import ModelConfig, Preset
from reidablate.diagnosing import is_of, made_of, page_of, pages_to_make
from reidablate.diagnostics import show_attention
from reidablate.diagnostics.cell import SECTIONS, diagnose_cell
from reidablate.diagnostics.faces import blur_face
from reidablate.diagnostics.look import Look
from reidablate.diagnostics.pictures import MOST_BYTES, heat, overlay, signed_heat, small_jpeg, with_patches
from reidablate.diagnostics.ranklists import rank_list
from reidablate.diagnostics.representation import linear_cka
from reidablate.diagnostics.show_representation import map_of_moved, similarity, stages
from reidablate.diagnostics.show_retrieval import chosen_queries
from reidablate.diagnostics.subject import Amount, Subject
from reidablate.errors import UserError
from reidablate.keeping import is_kept
from reidablate.models.neck import ReidModel
from reidablate.report.pages import find_pages
from reidablate.standing import Standing
from reidablate.study import Run, Study

CELL = Run(dataset="market1501", cell="p1_rpe_jsd", seed=0)
REFERENCE = Run(dataset="market1501", cell="p1_rpe", seed=0)


def _asking(preset: Preset, diagnose: str) -> Preset:
    return preset.model_copy(update={"diagnose": diagnose})


@pytest.fixture
def study(explained: Study) -> Study:
    return explained


@pytest.fixture
def page(study: Study) -> Path:
    return page_of(study, CELL)


def test_a_page_is_self_contained_and_tells_how_to_read_each_figure(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert re.findall(r"(?:src|href)=\"(?!data:|#|\.\./\.\./index\.html)", html) == []
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert html.count("<h2") == html.count('<p class="how">') == len(SECTIONS) - 1  # no query was asked for
    assert all(sentence.rstrip().endswith(".") for sentence in re.findall(r'<p class="how">(.*?)</p>', html, re.DOTALL))
    assert 'class="banner" aria-label="Synthetic data"' in html
    assert html.count('class="chip synthetic"') == len(SECTIONS) - 1
    assert "<img" in html
    assert not re.search(r"<img(?![^>]*\balt=\")", html)
    assert "Most helped and most hurt against p1_rpe" in html
    for kind in ("right", "wrong", "junk", "query"):
        assert f'<figure class="tile {kind}">' in html
    assert "Faces are blurred" not in html  # nobody here is real


def test_a_page_knows_what_it_is_of_and_is_found_by_the_report(study: Study, page: Path) -> None:
    assert is_of(page, made_of(study, CELL, "full"))
    assert not is_of(page, made_of(study, CELL, "brief"))
    assert set(read_json(page.with_suffix(".json"))["made_of"]["runs"]) == {CELL.id, REFERENCE.id}
    (found,) = find_pages(study.root, study.root / "report")
    assert (found.dataset, found.cell, found.href) == (
        "market1501",
        "p1_rpe_jsd",
        "diagnostics/market1501/p1_rpe_jsd.html",
    )
    assert found.picture.startswith("data:image/jpeg;base64,")
    assert page.with_suffix(".jpg").stat().st_size <= MOST_BYTES
    page.with_suffix(".jpg").write_bytes(b"damaged")
    assert not is_of(page, made_of(study, CELL, "full"))
    assert find_pages(study.root, study.root / "report") == []
    diagnose_cell(study, CELL, detail="full")
    assert is_of(page, made_of(study, CELL, "full"))


def test_the_page_of_a_run_is_made_when_it_stands_and_is_not_of_it_yet(study: Study, page: Path) -> None:
    needs = Standing(study).needs
    wanted = pages_to_make(study, needs)
    assert CELL in wanted  # there is a page in full, and the preset says brief
    assert set(wanted) - {CELL, REFERENCE} == {run for run in wanted if run in needs.train}
    full = study.model_copy(update={"preset": _asking(study.preset, "full")})
    assert CELL not in pages_to_make(full, needs)
    none = study.model_copy(update={"preset": _asking(study.preset, "none")})
    assert pages_to_make(none, needs) == []
    removing = study.preset.model_copy(update={"keep": "none"})
    assert is_kept(study.model_copy(update={"preset": removing}), CELL)
    assert not is_kept(study.model_copy(update={"preset": removing}), CELL.model_copy(update={"seed": 1}))


def test_what_cannot_be_looked_into_is_said_in_a_sentence(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--detail is 'long' but should be brief or full"):
        diagnose_cell(study, CELL, detail="long")
    with pytest.raises(UserError, match=r"provenance\.json"):
        diagnose_cell(study, CELL.model_copy(update={"seed": 1}), detail="brief")


def test_the_rank_lists_of_chosen_queries_come_first_and_others_are_refused(study: Study) -> None:
    subject, reference = Subject.of(study, CELL), Subject.of(study, REFERENCE)
    amount = Amount(images=4, shown=2, queries=1, probed=0, moved=0, full=False)
    name, row = (subject.queries[column].iloc[2] for column in ("query", "row"))
    section = chosen_queries(Look(subject, reference, amount, blur=False, queries=[name]))
    assert section is not None
    assert SECTIONS[0] is chosen_queries
    assert [re.findall(r'label">([^<:]*)', part) for part in section.parts] == [
        [f"{name} by {r.cell}"] for r in (CELL, REFERENCE)
    ]
    kinds = re.findall(r"tile (right|wrong|junk)", section.parts[0])
    assert kinds == [shown.kind for shown in rank_list(subject.retrieval, int(row))]
    assert chosen_queries(Look(subject, None, amount, blur=False)) is None
    with pytest.raises(UserError, match=r"--query: market1501 scores no query 'nobody\.jpg'; its queries are "):
        diagnose_cell(study, CELL, detail="brief", queries=["nobody.jpg"])


def test_a_blurred_head_is_a_few_flat_colours_and_the_rest_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 40, 3)).astype(np.uint8)
    found = blur_face(pixels)
    assert np.array_equal(found[33:], pixels[33:])
    head, before = found[:33].astype(float), pixels[:33].astype(float)
    assert np.abs(np.diff(head, axis=1)).mean() < 0.05 * np.abs(np.diff(before, axis=1)).mean()
    assert abs(np.corrcoef(head.ravel(), before.ravel())[0, 1]) < 0.3


def test_a_thumbnail_of_anything_is_small() -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3)).astype(np.uint8)
    assert len(small_jpeg(Image.fromarray(noise))) <= MOST_BYTES


def test_chosen_patches_are_outlined_where_they_are_and_their_pairs_joined() -> None:
    grid, side = (8, 4), 16  # 128 x 64 pixels as shown
    drawn = np.asarray(with_patches(np.zeros((128, 64, 3), np.uint8), [1, 30, 12], grid)).astype(int)
    framed = {(y, x) for y in range(8) for x in range(4) if tuple(drawn[y * side, x * side + 2]) == (255, 90, 54)}
    assert framed == {(0, 1), (7, 2), (3, 0)}  # row by row
    centres = {patch: np.array([patch // 4 + 0.5, patch % 4 + 0.5]) * side for patch in (1, 30, 12)}
    for first, second in ((1, 30), (1, 12), (30, 12)):
        y, x = ((centres[first] + centres[second]) / 2).astype(int)
        assert (drawn[y - 1 : y + 2, x - 1 : x + 2] == (255, 210, 74)).all(2).any()


def test_maps_are_bright_where_values_are_large_and_white_at_zero() -> None:
    values = np.array([[-2.0, 0.0], [1.0, 0.5], [0.2, 2.0]])
    brightness = np.asarray(heat(values)).astype(int).sum(2)
    assert brightness.argmax() == values.argmax()
    assert brightness.argmin() == values.argmin()
    red, _, blue = np.moveaxis(np.asarray(signed_heat(values, 4.0)).astype(int), 2, 0)
    assert abs(red - blue)[0, 1] < 3
    assert ((red - blue)[values > 0] > 2).all()
    assert ((red - blue)[values < 0] < -2).all()
    assert np.asarray(signed_heat(values, 2.0)).astype(int)[2, 1].sum() < np.asarray(heat(values))[2, 1].sum()
    shown = overlay(np.full((128, 64, 3), 90, np.uint8), np.eye(8, 4)[:, ::-1])  # the top right corner, and down left
    assert np.asarray(shown).astype(int).sum(2)[4, 60] > np.asarray(shown).astype(int).sum(2)[4, 4] + 100


def test_triplets_are_the_hardest_of_their_batch(study: Study) -> None:
    subject = Subject.of(study, CELL)
    rows = subject.sample("train", 32, per_id=4)
    with torch.no_grad():
        feature = subject.model(subject.inputs("train", rows)).feature_before_neck.double().numpy()
    pids = subject.rows("train")["pid"].to_numpy()[rows]
    distances = np.sqrt(np.square(feature[:, None] - feature[None]).sum(2))
    same, others = pids[:, None] == pids, ~np.eye(len(rows), dtype=bool)
    gaps = np.where(same & others, distances, -np.inf).max(1) - np.where(same, np.inf, distances).min(1)
    largest = sorted({pid: gaps[pids == pid].max() for pid in pids}.values(), reverse=True)
    amount = Amount(images=4, shown=4, queries=1, probed=0, moved=0, full=False)
    found = show_attention.triplets(Look(subject, None, amount, blur=False)).parts
    told = [float(re.findall(r"negative: ([^<]*)<", part)[0].replace("\N{MINUS SIGN}", "-")) for part in found]
    assert told == pytest.approx(largest[:2], abs=0.006)


def test_the_blocks_of_a_network_are_themselves_and_its_reference_is_compared(study: Study) -> None:
    subject, reference = Subject.of(study, CELL), Subject.of(study, REFERENCE)
    amount = Amount(images=12, shown=2, queries=1, probed=0, moved=0, full=False)
    own, theirs = similarity(Look(subject, reference, amount, blur=False)).parts
    values = [np.array(re.findall(r">(\d\.\d\d)<", table), float).reshape(3, 3) for table in (own, theirs)]
    assert np.array_equal(np.diag(values[0]), np.ones(3))
    assert np.array_equal(values[0], values[0].T)
    assert "p1_rpe_jsd (rows) and p1_rpe (columns)" in theirs
    images = subject.inputs("query", subject.sample("query", 12))
    sides = [stages(one, images)["block 2"] for one in (subject, reference)]
    assert values[1][2, 2] == pytest.approx(linear_cka(*sides), abs=0.006)


def test_queries_that_are_not_moved_score_as_the_run_did(study: Study) -> None:
    subject = Subject.of(study, CELL)
    amount = Amount(images=4, shown=2, queries=1, probed=0, moved=1000, full=True)
    look = Look(subject, None, amount, blur=False)
    scored = read_json(subject.folder / "metrics.json")[subject.side]["mAP"]
    for kind, unmoved in (("shift", 0.0), ("scale", 1.0)):
        assert map_of_moved(look, subject, kind, unmoved) == pytest.approx(100 * scored, abs=0.01)
    assert map_of_moved(look, subject, "shift", 12.0) != pytest.approx(100 * scored, abs=0.01)


@pytest.mark.parametrize("backbone", ["timm/resnet10t", "timm/deit_tiny_distilled_patch16_224", "timm/test_vit2"])
def test_networks_of_timm_have_what_exists_in_them_and_say_what_does_not(study: Study, backbone: str) -> None:
    transformer = Subject.of(study, CELL)
    config = ModelConfig.model_validate({"backbone": backbone, "image_size": transformer.model.config.image_size})
    model = ReidModel(config.model_copy(update={"drop_path": 0.0}), num_classes=8).eval()
    made = transformer.made.model_copy(update={"config": {"losses": {}}})
    subject = Subject(CELL, "", made, model, transformer.data, transformer.folder)
    amount = Amount(images=4, shown=2, queries=1, probed=16, moved=0, full=True)
    look = Look(subject, None, amount, blur=True, others=[transformer])
    found = {section.anchor: section for make in SECTIONS if (section := make(look)) is not None}
    told = {anchor for anchor, section in found.items() if any('class="aside"' in part for part in section.parts)}
    assert all(section.parts for section in found.values())
    positions = {"ape", "rpe", "hypothesis"}
    assert told - {"attention"} == positions | ({"distance", "skips", "probes"} if "resnet" in backbone else set())
    if "resnet" in backbone:
        assert "layer4" in found["cka"].parts[0]
        assert f"{backbone} has no plain attention blocks" in found["attention"].parts[0]
    else:
        assert len(found["attention"].parts) >= 2
