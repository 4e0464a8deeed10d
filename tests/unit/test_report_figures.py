"""The figures: legible on both grounds, told apart without colour, the same every time."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from reidablate.errors import UserError
from reidablate.report import drawing
from reidablate.report.collect import collect
from reidablate.report.drawing import Plot, draw, formats
from reidablate.report.figures import COLOURS, STYLE, cmc, colour, marker, scores
from reidablate.report.study_tables import StudyTables
from report_fixture import write_results
from support import present

CSS = (Path(__file__).parents[2] / "report_templates" / "style.css.j2").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyTables:
    results = write_results(tmp_path_factory.mktemp("figures") / "quickstart", cells=3, queries=30, epochs=3)
    tables = results / "tables"
    text = (tables / "study.json").read_text(encoding="utf-8")
    (tables / "study.json").write_text(text.replace('"name": "occluded_duke"', '"name": "not_run"'), encoding="utf-8")
    return collect(tables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def plots(study: StudyTables, folder: Path) -> list[Plot]:
    return draw(study, folder, ("pdf", "png"))


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_stands_out_on_light_and_dark() -> None:
    blocks = [dict(re.findall(r"--(page|c\d):(#[0-9a-f]{6})", f"--page:{part}")) for part in CSS.split("--page:")[1:]]
    assert [blocks[0][f"c{i}"] for i in range(len(COLOURS))] == list(COLOURS)
    assert blocks[1] == blocks[2]
    for block in blocks:
        assert len(block) == 1 + len(COLOURS)
        assert min(contrast(value, block["page"]) for name, value in block.items() if name != "page") >= 3.0


@pytest.mark.parametrize("theme", range(3))
def test_text_reaches_the_contrast_of_wcag_aa(theme: int) -> None:
    block = [dict(re.findall(r"--([a-z-]+):(#[0-9a-f]{6})", part)) for part in CSS.split("--page:")[1:]][theme]
    page = re.findall(r"--page:(#[0-9a-f]{6})", CSS)[theme]
    for ground in (page, block["raised"]):
        for ink in ("ink", "muted", "link", "good", "bad", "even", "open"):
            assert contrast(block[ink], ground) >= 4.5, (ink, ground)
    for ink in ("good", "bad", "even", "open", "warn"):
        assert contrast(block[ink], block[f"{ink}-bg"]) >= 4.5, ink


def test_no_two_of_a_hundred_cells_share_colour_and_marker(study: StudyTables) -> None:
    cells = [type(study.cells[0])(i, f"c{i}", "", "", "", "", "", (), {}, 0) for i in range(100)]
    assert len({(colour(cell), marker(cell)) for cell in cells}) == 100


def test_each_kind_is_drawn_once_for_the_data_set_that_ran(plots: list[Plot]) -> None:
    assert sorted(plot.kind for plot in plots) == ["cmc", "cost", "forest", "learning", "power", "scores", "terms"]
    assert {plot.dataset for plot in plots if plot.kind != "power"} == {"market1501"}


def test_inlined_figures_follow_the_page_and_say_synthetic(plots: list[Plot]) -> None:
    ids: list[str] = []
    for plot in plots:
        root = ET.fromstring(plot.image)
        assert "var(--ink)" in plot.image
        assert not set(drawing.VARIABLES) & set(re.findall(r"#[0-9a-f]{6}", plot.image))
        assert re.search(r"var\(--c\d\)", plot.image)
        says = ("Simulated", "Simulated") if plot.kind == "power" else ("(synthetic)", "synthetic")
        assert says[0] in "".join(root.itertext())
        assert says[1] in root.attrib["aria-label"]
        assert "<style" not in plot.image
        own = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
        used = re.findall(r"(?:url\(|href=\")#([^\")]+)", plot.image)
        assert set(used) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_labels_keep_their_digits() -> None:
    with mpl.rc_context(STYLE):
        figure = Figure()
        figure.text(1 / 3, 0.5, "0.0051")
        svg = drawing.inline_svg(figure, "slug", "alternative")
    assert "0.0051" in "".join(ET.fromstring(svg).itertext())
    assert not re.search(r"\d\.\d{3,}", re.sub(r">[^<]*<", "><", svg))


def test_figures_are_the_same_every_time(
    study: StudyTables, plots: list[Plot], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_BY_GROUP", drawing._BY_GROUP[2:3])
    again = draw(study, tmp_path, ("pdf", "png"))
    assert [plot.kind for plot in again] == ["forest", "cost", "learning", "power"]
    assert set(again) <= set(plots)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    assert {path.suffix for path in folder.iterdir()} == {".pdf", ".png"}


def test_many_figures_are_drawn_in_several_processes_as_in_one(
    study: StudyTables, plots: list[Plot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "FIGURES_A_PROCESS", 1)
    monkeypatch.setattr(drawing, "usable_cores", lambda: 2)
    assert draw(study, tmp_path, ("pdf", "png")) == plots


@pytest.mark.parametrize(("text", "found"), [("", []), ("pdf", ["pdf"]), (" png, pdf ,", ["png", "pdf"])])
def test_formats_are_named_with_commas(text: str, found: list[str]) -> None:
    assert formats(text) == found


def test_another_format_is_refused() -> None:
    with pytest.raises(UserError, match="not as 'svg'"):
        formats("pdf,svg")


def test_a_large_figure_becomes_an_image(study: StudyTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_SVG_BYTES", 1)
    monkeypatch.setattr(drawing, "_BY_GROUP", ())
    images = [plot.image for plot in draw(study, tmp_path, ("pdf", "png"))]
    assert all(image.startswith("<img ") and "data:image/png;base64," in image for image in images)


def test_the_figures_of_a_group_compare_with_what_its_cells_start_from(study: StudyTables) -> None:
    baseline, first, second = study.cells
    moved = replace(second, references=(first.name, baseline.name))
    chained = replace(study, cells=(baseline, first, moved))
    (dataset, *_) = chained.datasets
    with mpl.rc_context(STYLE):
        figure = present(scores(chained, dataset, [moved], "title"))
        panels = present(cmc(chained, dataset, [moved], "title")).axes
    (mean,) = [np.ravel(line.get_xdata())[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert mean == chained.score(dataset["name"], first.name, "mAP").value
    assert [axes.get_title(loc="left") or axes.get_title() for axes in panels if axes.get_visible()] == ["p1", "p1_rpe"]
