"""The report in a real browser: quiet, complete, narrow and wide, light and dark, with and without JavaScript."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

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


def visible_cells(page: Page, table: str = ".main") -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        f"{table} tbody tr:not([hidden]) th code", "nodes => nodes.map(node => node.textContent)"
    )
    return found


def test_links_and_images_resolve(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        dead = page.evaluate("""() => [...document.querySelectorAll("a[href]")]
            .map(a => a.getAttribute("href"))
            .filter(href => !href.startsWith("#") || !document.getElementById(href.slice(1)))""")
        assert dead == []
        images = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
        assert len(images) == 2
        assert all(images)
        assert page.locator(".plot svg").count() == page.locator(".plot").count() > 10


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_the_page_does_not_scroll_sideways(browser: Browser, report: Path, width: int) -> None:
    with opened(browser, report, width) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.evaluate("window.scrollTo(500, 0)")
        assert page.evaluate("window.scrollX") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_legible(browser: Browser, report: Path, scheme: Any) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert page.evaluate(CONTRASTS) == []
        red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
        assert (red < 40) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing_serious(browser: Browser, report: Path, width: int, scheme: Any) -> None:
    with opened(browser, report, width, color_scheme=scheme, bypass_csp=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        found = Axe().run(page).response
        assert len(found["passes"]) > 20
        assert {
            f"{rule['id']}: {node['html'][:120]}"
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        } == set()


def test_sorting_orders_rows_by_value_and_back(browser: Browser, report: Path) -> None:
    values = """nodes => nodes.map(node => Number(node.value))"""
    with opened(browser, report) as page:
        header = page.locator(".main .heads th").nth(1)
        header.locator("button.sort").click()
        assert header.get_attribute("aria-sort") == "descending"
        scores = page.eval_on_selector_all(".main tbody tr td:nth-child(2) > data", values)
        assert len(scores) == 10
        assert scores == sorted(scores, reverse=True)
        header.locator("button.sort").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert page.eval_on_selector_all(".main tbody tr td:nth-child(2) > data", values) == scores[::-1]


def test_missing_values_stay_last_in_both_directions(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        button = page.locator(".main .heads th").nth(2).locator("button.sort")
        for _ in range(2):
            button.click()
            assert visible_cells(page)[-1] == "naive_triplet"


def test_filtering_by_cell_data_set_and_verdict(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.fill("#filter", "jsd_")
        assert visible_cells(page) == ["jsd_layer", "jsd_permutations"]
        assert "table rows shown" in (page.text_content("#shown") or "")
        page.fill("#filter", "")
        assert len(visible_cells(page)) == 10
        page.select_option("#dataset", "market1501")
        assert page.locator("figure[data-dataset=occluded_duke]:visible").count() == 0
        assert page.locator("figure[data-dataset=market1501]:visible").count() > 5
        page.select_option("#dataset", "")
        page.select_option("#verdict", "worsens")
        assert "pos_triplet" in visible_cells(page)
        assert "naive_triplet" not in visible_cells(page)


def test_everything_works_from_the_keyboard(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        header = page.locator(".main .heads th").nth(1)
        header.locator("button.sort").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, [role=region]")]
            .filter(node => !node.labels?.length && !node.getAttribute("aria-label") && !node.textContent.trim())
            .map(node => node.outerHTML.slice(0, 80))""")
        assert unnamed == []


def test_a_header_leads_to_its_definition(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        link = page.locator(".main a.term").first
        assert len(link.get_attribute("title") or "") > 20
        link.click()
        assert page.evaluate("document.querySelector(':target').id") == "def-map"
        assert page.locator("#def-map").is_visible()


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
        assert page.locator(".main tbody tr:visible").count() == 10
        assert page.locator(".tools:visible").count() == 0
        assert page.locator("details.more").first.locator("summary").is_visible()


def test_paper_shows_what_is_folded_and_hides_the_tools(browser: Browser, report: Path, tmp_path: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".tools:visible, .contents:visible").count() == 0
        assert page.locator("details:not([open])").count() == 0
        page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
