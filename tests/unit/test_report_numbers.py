"""Every number on the page is looked up again in the tables, by a second reading that shares no code with the first."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reidablate.report.collect import collect
from reidablate.report.figures import holdout
from reidablate.report.relations import RelationLog
from reidablate.report.render import make_environment, render_html
from reidablate.runs import HOLDOUT
from report_fixture import write_results, write_shares
from support import present

TEMPLATES = Path(__file__).parents[2] / "report_templates"
UNITS = {
    "": 1.0, "points": 100.0, "percent": 100.0, "hours": 1 / 3600, "minutes": 1 / 60, "mebibytes": 2.0**-20,
    "thousands": 1e-3,
    "millions": 1e-6,
}  # fmt: skip
NAMES = re.compile(r"\s*(\d+|of|/|p\d\w*)\s*")  # of seeds and cells


class Page(HTMLParser):
    """Collects every `data` element with its text, and the text of every numeric cell outside of one."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[dict[str, str], str]] = []
        self.loose: list[str] = []
        self.tags: set[str] = set()
        self._open: dict[str, str] | None = None
        self._text = ""
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = {key: value or "" for key, value in attrs}
        if tag == "data":
            self._open, self._text = values, ""
        if tag in ("td", "th"):
            self._cell = tag == "td" and "n" in values.get("class", "").split()

    def handle_endtag(self, tag: str) -> None:
        if tag == "data" and self._open is not None:
            self.numbers.append((self._open, self._text))
            self._open = None
        if tag == "td":
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._text += data
        elif self._cell and re.search(r"\d", data):
            self.loose.append(data)


def html_of(results: Path) -> str:
    """Returns the page without its figures, which hold no `data` elements."""
    return render_html(collect(results / "tables"), [], make_environment(TEMPLATES))


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    return page


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("numbers") / "quickstart", cells=6, queries=45, epochs=3)


@pytest.fixture(scope="module")
def page(results: Path) -> Page:
    return read(html_of(results))


def chosen_rows(frame: pd.DataFrame, row: str) -> pd.DataFrame:
    if row == "none":
        return frame.iloc[:0]
    if re.fullmatch(r"\d+(,\d+)*", row):
        return frame.iloc[[int(part) for part in row.split(",")]]
    for pair in filter(None, row.split(";")):
        column, wanted = pair.split("=", 1)
        frame = frame[frame[column].astype(str) == wanted]
    return frame


def expected(results: Path, attributes: dict[str, str], cache: dict[str, pd.DataFrame]) -> float:
    table, row, column, how = (attributes[f"data-{key}"] for key in ("table", "row", "column", "how"))
    if table == "study":
        node = json.loads((results / "tables" / "study.json").read_text())
        for part in row.split("."):
            node = node[int(part)] if isinstance(node, list) else node[part]
        return float(node)
    if table not in cache:
        cache[table] = pd.read_parquet(results / "tables" / f"{table}.parquet")
    rows = chosen_rows(cache[table], row)
    if how == "count":
        return float(len(rows))
    if "data-reference" in attributes:
        cell = re.search(r"cell=([^;]+)", row)[1]  # type: ignore[index]
        other = chosen_rows(cache[table], row.replace(f"cell={cell}", f"cell={attributes['data-reference']}"))
        both = rows.dropna(subset=column).merge(other.dropna(subset=column), on="seed", suffixes=("", "_reference"))
        own, reference = (both[name].to_numpy(float) for name in (column, f"{column}_reference"))
        return {
            "paired mean": lambda: float((own - reference).mean()),
            "paired sd": lambda: float((own - reference).std(ddof=1)),
            "unpaired sd": lambda: float(np.sqrt(own.var(ddof=1) + reference.var(ddof=1))),
            "paired count": lambda: float(len(both)),
        }[how]()
    values = rows[column].dropna().astype(float)
    if how == "value":
        assert len(values) == 1, attributes
        return float(values.iloc[0])
    summaries: dict[str, Any] = {
        "mean": values.mean, "sd": values.std, "sum": values.sum, "min": values.min, "max": values.max
    }  # fmt: skip
    return float(summaries[how]())


def check(results: Path, page: Page) -> None:
    cache: dict[str, pd.DataFrame] = {}
    for attributes, text in page.numbers:
        value = expected(results, attributes, cache)
        assert float(attributes["value"]) == pytest.approx(value, rel=1e-12, abs=1e-15), attributes
        if text.startswith("< "):
            assert value < float(text[2:])
            continue
        shown = text.replace("\N{MINUS SIGN}", "-").replace(",", "")
        decimals = len(shown.partition(".")[2])
        assert abs(float(shown) - value * UNITS[attributes["data-unit"]]) <= 0.5000001 * 10.0**-decimals, attributes


def test_every_number_is_found_in_the_tables(results: Path, page: Page) -> None:
    assert len(page.numbers) > 500
    assert {a["data-table"] for a, _ in page.numbers} >= {
        "runs", "metrics", "contrasts", "slices", "floors", "study", "cross_domain", "camera_pairs", "imported",
    }  # fmt: skip
    check(results, page)


def test_the_counts_of_the_tiles_are_those_of_the_main_table(results: Path) -> None:
    html = html_of(results)
    table = html.split('<table class="sortable results">')[1].split("</table>")[0]
    contrasts = pd.read_parquet(results / "tables" / "contrasts.parquet")
    shown = dict(re.findall(r'data-word="(\w+)"[^>]*>.*?<data value="([\d.]+)"', html))
    assert {"improves", "worsens", "undecided"} <= shown.keys()
    for word, count in shown.items():
        assert table.count(f'class="verdict v-{word}"') == float(count), word
    tested = contrasts[
        contrasts["headline"] & (contrasts["metric"] == "mAP") & (contrasts["reference"] == "naive_triplet")
    ]
    sentence = html[html.index('class="tiles"') :]
    found = re.search(r">(\d+)</data> tested of <[^>]*>(\d+)</data> comparisons", sentence)
    assert found is not None
    assert [int(number) for number in found.groups()] == [tested["p_adjusted"].notna().sum(), len(tested)]


def test_the_interval_shown_excludes_zero_exactly_when_the_verdict_does(results: Path) -> None:
    study = collect(results / "tables")
    judged = [
        c for d in study.datasets for c in study.contrasts_of(d["name"], study.cells) if c.ends and not c.num_diverged
    ]
    assert len({c.word for c in judged}) >= 2
    for contrast in judged:
        assert contrast.interval is not None
        low, high = contrast.interval
        assert (low > 0 or high < 0) == (contrast.word in ("improves", "worsens")), contrast


def test_a_number_that_is_not_in_the_tables_is_noticed(results: Path, page: Page) -> None:
    attributes, text = next((a, t) for a, t in page.numbers if a["data-unit"] == "points")
    wrong = Page()
    wrong.numbers = [(attributes, text[:-1] + str((int(text[-1]) + 5) % 10))]
    with pytest.raises(AssertionError):
        check(results, wrong)


def test_no_numeric_cell_holds_an_untraced_number(page: Page) -> None:
    assert [text for text in page.loose if not NAMES.fullmatch(text)] == []


def test_without_the_contrasts_the_differences_come_from_the_metrics(tmp_path: Path) -> None:
    results = write_results(tmp_path / "quickstart", cells=5, queries=30, optional=False)
    html = html_of(results)
    page = read(html)
    assert {a["data-how"] for a, _ in page.numbers} >= {"paired mean", "paired sd", "unpaired sd"}
    assert "contrasts" not in {a["data-table"] for a, _ in page.numbers if a["data-how"] != "count"}
    for name in ("contrasts", "history", "queries", "claims", "floors", "calibration"):
        assert f"{name}.parquet is not there" in html
    check(results, page)


def test_variants_that_only_the_tables_tell_apart_are_not_informative_without_them(tmp_path: Path) -> None:
    results = write_shares(
        tmp_path, {"p1_rpe_jsd": 0.001, "jsd_layer": 0.0027, "jsd_permutations": 0.3, "cls_untie": 0.001}
    )
    study = collect(results / "tables")
    log = RelationLog(study.history)
    found = {(c.cell.name, c.reference.name): log.same_loss(c) for c in study.contrasts_of("market1501", study.cells)}
    same = {names: share for names, share in found.items() if share is not None}
    assert list(same) == [("jsd_layer", "p1_rpe_jsd")]  # permutations have large tables, untied CLS is another model
    assert same["jsd_layer", "p1_rpe_jsd"].value == pytest.approx(0.0054)  # the largest of any epoch
    assert [n.value for n in log.blocks("market1501", "jsd_layer")] == pytest.approx([0.00027, 0.00081])
    html = html_of(results)
    check(results, read(html))
    assert html.count("is <b>not informative</b>") == 2  # on both data sets
    beside = html[: html.index('<span class="chip" title="Both sides were the same loss')]
    assert beside.rindex("verdict v-") > beside.rindex("jsd_layer")


def test_large_tables_or_none_that_were_logged_mark_nothing(tmp_path: Path) -> None:
    results = write_shares(tmp_path, {"p1_rpe_jsd": 0.001, "jsd_layer": 0.02})
    assert "not informative" not in html_of(results)
    study = collect(results / "tables")
    layer = next(c for c in study.contrasts_of("market1501", study.cells) if c.cell.name == "jsd_layer")
    added = {"losses.position_relation": [None, {"grouping": "head"}]}  # a whole section, as the first reference has it
    cell = replace(layer.cell, differences={layer.reference.name: added})
    log = RelationLog(present(study.history).assign(value=0.001))
    assert log.same_loss(layer) is not None
    assert log.same_loss(replace(layer, cell=cell)) is None
    assert log.same_loss(replace(layer, cell=replace(layer.cell, special={layer.dataset: cell.differences}))) is None


def write_curves(folder: Path) -> Path:
    """Results where `p1` is ahead on held-out identities in epochs 1 and 2 and behind later; its seed 2 ends there."""
    results = write_results(folder / "quickstart", cells=4, queries=45, epochs=5)
    path = results / "tables" / "history.parquet"
    history = pd.read_parquet(path)
    keys = history[["dataset", "cell", "seed", "epoch"]].drop_duplicates()
    own = keys[keys["cell"].isin(["naive_triplet", "p1"]) & (keys["dataset"] == "market1501")].assign(name=HOLDOUT)
    shape = {"naive_triplet": [0.30, 0.40, 0.50, 0.55, 0.60], "p1": [0.42, 0.47, 0.45, 0.30, 0.20]}
    value = [shape[cell][epoch] + 0.01 * seed for cell, epoch, seed in own[["cell", "epoch", "seed"]].to_numpy()]
    ended = (own["cell"] == "p1") & (own["seed"] == 2) & (own["epoch"] > 1)
    frames = [history, own.assign(value=np.where(ended, np.nan, value))]
    pd.concat(frames, ignore_index=True).to_parquet(path)
    return results


def test_a_curve_that_is_ahead_early_and_behind_later_is_readable(tmp_path: Path) -> None:
    results = write_curves(tmp_path)
    html = html_of(results)
    page = read(html)
    check(results, page)
    assert [text for text in page.loose if not NAMES.fullmatch(text)] == []
    words = re.sub(r"<[^>]+>", "", html.replace("\n", " "))
    said = re.search(r"Proposed 1 is (ahead .*?) points at best", words)
    assert said is not None
    assert re.sub(r" +", " ", said[1]).startswith("ahead up to epoch 2, behind from epoch 3 on, +12")
    table = html[html.index('<thead><tr><th scope="col">After epoch') :].split("</table>")[0]
    rows = [re.findall(r">([+\N{MINUS SIGN}]?[\d.]+)</data>", row) for row in table.split("<tr")[2:]]
    assert rows == [
        ["31.0", "41.0", "51.0", "56.0", "61.0"],
        ["43.0", "48.0", "45.5", "30.5", "20.5"],
        ["+12.0", "+7.0", "\N{MINUS SIGN}5.0", "\N{MINUS SIGN}25.0", "\N{MINUS SIGN}40.0"],
    ]
    assert html.count("After epoch") == 1  # the other data set has no curves, and no other group


def test_the_figure_of_a_curve_has_a_line_for_each_seed(tmp_path: Path) -> None:
    study = collect(write_curves(tmp_path) / "tables")
    market, duke = study.datasets
    figure = holdout(study, market, study.groups["main"], "Market-1501")
    assert figure is not None
    drawn = {axes.get_title(): [line.get_xydata() for line in axes.lines] for axes in figure.axes if axes.lines}
    assert {name: len(lines) for name, lines in drawn.items()} == {"naive_triplet": 3, "p1": 6}
    ends = sorted(tuple(np.asarray(line)[-1].round(2).tolist()) for line in drawn["p1"])
    assert ends == [(2, 0.49), (5, 0.2), (5, 0.21), (5, 0.6), (5, 0.61), (5, 0.62)]
    assert holdout(study, duke, study.groups["main"], "Occluded-Duke") is None
