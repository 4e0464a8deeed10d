"""A page of diagnostics of a real, tiny run: complete, self-contained, and of what stands."""

import re
from pathlib import Path

import numpy as np
import pytest

from reidablate.artifacts import read_json
from reidablate.config import ModelConfig, Preset
from reidablate.diagnosing import is_of, made_of, page_of, pages_to_make
from reidablate.diagnostics.cell import SECTIONS, diagnose_cell
from reidablate.diagnostics.faces import blur_face
from reidablate.diagnostics.look import Look
from reidablate.diagnostics.pictures import MOST_BYTES, small_jpeg
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
    assert html.count("<h2") == html.count('<p class="how">') == len(SECTIONS)
    assert all(sentence.rstrip().endswith(".") for sentence in re.findall(r'<p class="how">(.*?)</p>', html, re.DOTALL))
    assert 'class="banner" aria-label="Synthetic data"' in html
    assert html.count('class="chip synthetic"') == len(SECTIONS)
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


def test_a_blurred_head_is_a_few_flat_colours_and_the_rest_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 40, 3)).astype(np.uint8)
    found = blur_face(pixels)
    assert np.array_equal(found[20:], pixels[20:])
    head, before = found[:20].astype(float), pixels[:20].astype(float)
    assert np.abs(np.diff(head, axis=1)).mean() < 0.05 * np.abs(np.diff(before, axis=1)).mean()
    assert abs(np.corrcoef(head.ravel(), before.ravel())[0, 1]) < 0.3


def test_a_thumbnail_of_anything_is_small() -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3)).astype(np.uint8)
    assert len(small_jpeg(Image.fromarray(noise))) <= MOST_BYTES


@pytest.mark.parametrize("backbone", ["timm/resnet10t", "timm/deit_tiny_distilled_patch16_224"])
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
