"""The report in a real browser: quiet, complete, narrow and wide, light and dark, with and without JavaScript."""

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from reidablate.artifacts import read_json
from reidablate.diagnosing import page_of
from reidablate.study import Run, Study

pytestmark = pytest.mark.slow

CONTRASTS = """() => {
  const parse = (text) => { const m = text.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const layers = [];
    for (let node = element; node; node = node.parentElement) {
      layers.push(parse(getComputedStyle(node).backgroundColor));
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const under = ground(element);
    const ink = over(parse(element instanceof SVGElement ? style.fill : style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(element.tagName + " " + element.textContent.trim().slice(0, 30));
  }
  return [...new Set(low)];
}"""


SIDEWAYS = """() => {
  document.querySelectorAll("details").forEach(part => { part.open = true; });
  window.scrollTo(500, 0);
  return [document.documentElement.scrollWidth, window.scrollX];
}"""
OUTSIDE = """() => [...document.querySelectorAll("#summary .results tbody :is(.verdict, .interval, .needs)")]
  .map(node => node.getBoundingClientRect())
  .filter(box => box.width === 0 || box.left < 0 || box.right > innerWidth).length"""
EMPTY = """() => [...document.querySelectorAll("table")]
  .filter(table => table.checkVisibility() && table.querySelector("tr[data-cell]"))
  .filter(table => ![...table.querySelectorAll("tr[data-cell]")].some(row => !row.hidden))
  .map(table => table.closest(".scroll").previousElementSibling)
  .filter(sentence => !sentence.checkVisibility() || !sentence.textContent.startsWith("No row"))
  .length"""
WORDS = ("improves", "worsens", "equivalent", "undecided", "provisional", "none")


@contextmanager
def opened(browser: Browser, report: Path, width: int = 1440, **options: Any) -> Iterator[Page]:
    """Yields the open report; leaving it fails if anything was logged, thrown or requested."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    noise: list[str] = []
    page.on("console", lambda message: noise.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: noise.append(f"error: {error}"))
    page.on("request", lambda request: noise.append(f"request: {request.url[:80]}") if _outside(request.url) else None)
    page.goto(report.as_uri())
    yield page
    context.close()
    assert noise == []


def _outside(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


def visible_cells(page: Page, table: str = ".results") -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        f"#summary {table} tbody tr:not([hidden]) th code", "nodes => nodes.map(node => node.textContent)"
    )
    return found


def test_links_and_images_resolve(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        links = page.eval_on_selector_all("a[href]", "nodes => nodes.map(node => node.getAttribute('href'))")
        anchors = page.eval_on_selector_all("[id]", "nodes => nodes.map(node => '#' + node.id)")
        dead = [link for link in links if link not in anchors and not (report.parent / link).is_file()]
        assert dead == []
        images = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
        assert len(images) == 2
        assert all(images)
        assert page.locator(".plot svg").count() == page.locator(".plot").count() > 10


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_the_page_does_not_scroll_sideways(browser: Browser, report: Path, width: int) -> None:
    with opened(browser, report, width) as page:
        assert page.evaluate(SIDEWAYS) == [width, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_legible(browser: Browser, report: Path, scheme: Any) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert page.evaluate(CONTRASTS) == []
        red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
        assert (red < 40) == (scheme == "dark")


def serious(page: Page) -> set[str]:
    """Returns what axe-core finds serious, with everything unfolded."""
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    found = Axe().run(page).response
    assert len(found["passes"]) > 20
    return {
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing_serious(browser: Browser, report: Path, width: int, scheme: Any) -> None:
    with opened(browser, report, width, color_scheme=scheme, bypass_csp=True) as page:
        assert serious(page) == set()


@pytest.mark.parametrize("of", ["example", "made"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_the_report_of_a_real_study_passes_too(
    browser: Browser, request: pytest.FixtureRequest, of: str, width: int, scheme: Any
) -> None:
    report: Path = request.getfixturevalue(of)
    num_sets = len(read_json(report.parents[1] / "tables" / "study.json")["datasets"])
    with opened(browser, report, width, color_scheme=scheme, bypass_csp=True) as page:
        assert page.locator("#summary .answer .head").count() == num_sets
        assert page.evaluate(SIDEWAYS) == [width, 0]
        assert page.evaluate(CONTRASTS) == []
        assert serious(page) == set()
        if width == 390:
            assert page.evaluate(OUTSIDE) == 0
        for word in WORDS:
            page.select_option("#verdict", word)
            assert page.evaluate(EMPTY) == 0, word


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_a_page_of_diagnostics_passes_too(browser: Browser, explained: Study, width: int, scheme: Any) -> None:
    made = page_of(explained, Run(dataset="market1501", cell="p1_rpe_jsd", seed=0))
    with opened(browser, made, width, color_scheme=scheme) as page:
        assert page.evaluate(SIDEWAYS) == [width, 0]
        assert page.evaluate(CONTRASTS) == []
        sizes = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
        assert len(sizes) > 100
        assert all(sizes)
        assert page.locator("main section > svg").count() >= 8
        anchors = page.eval_on_selector_all(".contents a", "nodes => nodes.map(node => node.getAttribute('href'))")
        assert anchors == page.eval_on_selector_all("main h2", "nodes => nodes.map(node => '#' + node.id)")
    with opened(browser, made, width, color_scheme=scheme, bypass_csp=True) as page:
        assert serious(page) == set()


def test_sorting_orders_rows_by_value_and_back(browser: Browser, report: Path) -> None:
    values = """nodes => nodes.map(node => Number(node.value))"""
    scores = "#summary .results tbody tr td:nth-child(2) > data"
    with opened(browser, report) as page:
        header = page.locator("#summary .results .heads th").nth(1)
        header.locator("button.sort").click()
        assert header.get_attribute("aria-sort") == "descending"
        found = page.eval_on_selector_all(scores, values)
        assert len(found) == 10
        assert found == sorted(found, reverse=True)
        header.locator("button.sort").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert page.eval_on_selector_all(scores, values) == found[::-1]


def test_missing_values_stay_last_in_both_directions(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        press = page.locator("#summary .results button.sort", has_text="Difference").first
        for _ in range(2):
            press.click()
            assert visible_cells(page)[-1] == "naive_triplet"


def test_filtering_by_cell_data_set_and_verdict(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.fill("#filter", "jsd_")
        assert visible_cells(page) == ["jsd_layer", "jsd_permutations"]
        assert page.text_content("#shown") == "2 of 10 cells shown"
        page.fill("#filter", "")
        assert len(visible_cells(page)) == 10
        page.select_option("#dataset", "market1501")
        assert page.locator("figure[data-dataset=occluded_duke]:visible").count() == 0
        assert page.locator("figure[data-dataset=market1501]:visible").count() >= 3
        page.select_option("#dataset", "")
        page.select_option("#verdict", "worsens")
        assert "pos_triplet" in visible_cells(page)
        assert "naive_triplet" not in visible_cells(page)


def test_a_tile_counts_the_verdicts_of_the_table_and_shows_them_when_pressed(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        for tile in page.locator(".tile").all():
            word, count = tile.get_attribute("data-word"), int(tile.locator("data").inner_text())
            shown = page.locator(f"#summary .results .v-{word}").count()
            tile.click()
            assert tile.get_attribute("aria-pressed") == "true"
            assert page.locator(f"#summary .results .v-{word}:visible").count() == shown == count
            tile.click()
            assert len(visible_cells(page)) == 10


def test_no_filter_leaves_an_empty_table_without_a_sentence(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        for word in WORDS:
            page.select_option("#verdict", word)
            for text in ("", "jsd", "no such cell"):
                page.fill("#filter", text)
                assert page.evaluate(EMPTY) == 0, (word, text)
        assert page.locator("#summary .empty").is_visible()
        page.locator("#summary .empty button").click()
        assert len(visible_cells(page)) == 10


def test_the_address_keeps_filters_and_columns(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.fill("#filter", "jsd")
        page.select_option("#verdict", "improves")
        page.locator(".columns summary").click()
        page.locator("[data-show=minp]").check()
        shown = visible_cells(page)
        assert 0 < len(shown) < 10
        page.goto(page.url)
        assert visible_cells(page) == shown
        assert page.locator("#summary th[data-col=minp]:visible").count() == 2
        assert page.locator("#summary th[data-col=rank5]:visible").count() == 0


def test_verdict_and_interval_are_in_view_on_a_phone(browser: Browser, report: Path) -> None:
    with opened(browser, report, 390) as page:
        assert page.locator("#summary .results .verdict").count() == 18
        assert page.locator("#summary .results .interval").count() >= 16
        assert page.evaluate(OUTSIDE) == 0


def copied(page: Page, label: str, place: int) -> str:
    """Presses a copy button and returns what it copies."""
    page.evaluate(
        """() => { document.execCommand = () => { window.copied = document.activeElement.value; return true; }; }"""
    )
    page.locator(f".copies button:text-is('{label}')").nth(place).evaluate("button => button.click()")
    text: str = page.evaluate("window.copied")
    return text


def test_copied_csv_has_the_values_of_the_table(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        table = pd.read_csv(io.StringIO(copied(page, "CSV", 0)))
        values = page.eval_on_selector_all(
            "#summary .results tbody td.map > data[data-how=mean]", "nodes => nodes.map(node => 100 * node.value)"
        )
    assert len(table) == 10
    columns = [name for name in table.columns if name.endswith(" mAP")]
    assert table[columns].to_numpy().ravel().tolist() == pytest.approx(values)
    assert {"Market-1501 (synthetic) Difference low", "Occluded-Duke (synthetic) Verdict"} <= set(table.columns)


def test_copied_markdown_has_a_row_for_each_row(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        lines = copied(page, "Markdown", 0).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 10
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_every_copied_latex_table_compiles(browser: Browser, report: Path, tmp_path: Path) -> None:
    latex = shutil.which("pdflatex")
    if latex is None:
        pytest.skip("pdflatex is not installed")
    with opened(browser, report) as page:
        number = page.locator(".copies button:text-is('LaTeX')").count()
        tables = [copied(page, "LaTeX", place) for place in range(number)]
    assert number > 10
    assert r"\textbf{" in tables[0]
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + "\\clearpage\n".join(tables) + "\\end{document}\n", encoding="utf-8")
    command = [latex, "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_everything_works_from_the_keyboard(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        header = page.locator("#summary .results .heads th").nth(1)
        header.locator("button.sort").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, [role=region]")]
            .filter(node => !node.labels?.length && !node.getAttribute("aria-label") && !node.textContent.trim())
            .map(node => node.outerHTML.slice(0, 80))""")
        assert unnamed == []


def test_a_touch_opens_the_definition_and_escape_closes_it(browser: Browser, report: Path) -> None:
    with opened(browser, report, has_touch=True) as page:
        page.locator("#summary .results .define").first.tap()
        assert page.locator("#tip").inner_text().startswith("mAP Mean over valid queries")
        page.locator("#tip a").tap()
        assert page.evaluate("document.querySelector(':target').id") == "def-map"
        page.locator("a.term:visible").last.focus()
        page.keyboard.press("Enter")
        assert page.locator("#tip").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#tip").is_visible()


def test_the_colours_can_be_chosen(browser: Browser, report: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, report, color_scheme="light") as page:
        light = page.evaluate(ground)
        page.select_option("#theme", "dark")
        dark = page.evaluate(ground)
        assert dark != light
        page.reload()
        assert page.evaluate(ground) == dark


def test_without_javascript_everything_is_there(browser: Browser, report: Path) -> None:
    with opened(browser, report, java_script_enabled=False) as page:
        assert page.locator("#summary .results tbody tr:visible").count() == 10
        assert page.locator(".tools:visible").count() == 0
        assert page.locator("details.more").first.locator("summary").is_visible()


def test_paper_shows_what_is_folded_and_hides_the_tools(browser: Browser, report: Path, tmp_path: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".tools:visible, .contents:visible").count() == 0
        assert page.locator("details:not([open], .columns)").count() == 0
        page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_copy_buttons_stand_below_their_table_and_no_claim_is_cut(browser: Browser, example: Path) -> None:
    with opened(browser, example) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        offsets = page.eval_on_selector_all(
            ".copies",
            """bars => bars.map(bar => [bar, bar.previousElementSibling].map(node => node.getBoundingClientRect()))
              .map(([own, table]) => [own.left - table.left, own.top - table.bottom])""",
        )
        assert len(offsets) > 10
        assert [place for place in offsets if place[0] != 0 or not 0 <= place[1] < 20] == []
        claims = page.locator("[aria-label='Published claims']")
        assert claims.evaluate("table => table.scrollWidth - table.clientWidth") == 0
