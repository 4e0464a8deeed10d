"""The page as a whole: what it says of synthetic data, of what is missing, and what hostile text can do to it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reidablate.errors import UserError
from reidablate.report import drawing
from reidablate.report.collect import collect
from reidablate.report.exports import text_summary, write_exports
from reidablate.report.records import fixed
from reidablate.report.render import make_environment, render_html, render_report
from report_fixture import write_results

TEMPLATES = Path(__file__).parents[2] / "report_templates"


def page_of(results: Path) -> str:
    return render_html(collect(results / "tables"), [], make_environment(TEMPLATES))


def edit_json(path: Path, change: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("small") / "quickstart", cells=3, queries=30, epochs=2)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "quickstart", cells=3, queries=30, epochs=2)


class Outline(HTMLParser):
    """Collects ids, local links, elements that could run something, and the text of headings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.active: list[str] = []
        self.headings: list[str] = []
        self.void: list[str] = []
        self._heading = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if tag == "a" else []
        if tag in ("script", "iframe", "object", "link", "base") or any(name.startswith("on") for name in values):
            self.active.append(tag)
        if tag in ("h1", "h2", "h3"):
            self._heading = True
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h1", "h2", "h3"):
            self._heading = False

    def handle_data(self, data: str) -> None:
        if self._heading:
            self.headings[-1] += data


def test_synthetic_is_said_in_title_banner_and_every_section(small: Path) -> None:
    html = page_of(small)
    assert re.search(r"<title>Synthetic data", html)
    assert 'class="banner"' in html
    for section in re.findall(r"(?s)<section.*?</section>", html):
        assert section.count('class="chip synthetic"') == 1, section[:80]


def test_a_smoke_test_says_on_everything_it_writes_that_its_numbers_mean_nothing(tmp_path: Path) -> None:
    mark = "smoke test, the numbers mean nothing"
    results = write_results(tmp_path / "smoke", cells=2, queries=30, epochs=2, synthetic=False, smoke=True)
    report = results / "report"
    render_report(results, TEMPLATES, report / "index.html", files=["png"])
    html = (report / "index.html").read_text(encoding="utf-8")
    assert re.search(rf"(?i)<title>{mark}", html)
    for section in re.findall(r"(?s)<section.*?</section>", html):
        assert section.count(f'class="chip synthetic">{mark}<') == 1, section[:80]
    drawings = re.findall(r"(?s)<svg role=.*?</svg>", html)
    assert len(drawings) == len(list((report / "figures").glob("*.png"))) > 10
    for drawn in drawings:
        assert f'aria-label="{mark.capitalize()}. ' in drawn
        assert mark.capitalize() in re.sub("<[^>]+>", "", drawn)
    for name in ("summary.md", "exports/main_table.md", "exports/main_table.tex"):
        assert mark.capitalize() in (report / name).read_text(), name
    sheets = re.findall(r"<figcaption>(.*?)Samples of", html)
    assert set(sheets) == {f"{mark.capitalize()}. "}
    assert set(pd.read_csv(report / "exports" / "main_table.csv")["mark"]) == {mark}


def test_a_cell_that_reads_camera_labels_is_marked_in_every_table_with_a_foot_note(results: Path) -> None:
    environment = make_environment(TEMPLATES)
    plain = render_html(collect(results / "tables"), [], environment)
    assert "camera label" not in plain

    def told(cells: Any) -> None:
        cells[1]["reads_cameras"] = True

    edit_json(results / "tables" / "cells.json", told)
    study = collect(results / "tables")
    marked, title = study.cells[1].name, study.cells[1].title
    note = "\N{DAGGER} reads the camera label of every query and gallery image at test time"
    html = render_html(study, [], environment)
    tables = re.findall(r"(?s)<table.*?</table>", html)
    seen = 0
    for table in tables:
        names = ["".join(found) for found in re.findall(r"(?s)</svg>(.*?)</span>(<sup>.*?</sup>)?", table)]
        for name in names:
            is_it = f"<code>{marked}</code>" in name or name.split("<sup>")[0].endswith(f">{title}")
            assert ("\N{DAGGER}" in name) == is_it, name
            seen += is_it
        if "<caption>" in table and any("\N{DAGGER}" in name for name in names):
            assert "\N{DAGGER} reads" in table.split("</caption>")[0]
    assert seen > 5
    assert f'<p id="camera-note" class="notes">{note}' in html
    write_exports(study, environment, results / "report")
    md = (results / "report" / "exports" / "main_table.md").read_text()
    tex = (results / "report" / "exports" / "main_table.tex").read_text()
    assert (md.count(f"{title}\N{DAGGER} |"), md.count(note)) == (1, 1)
    assert (tex.count(rf"{title}$^\dagger$ &"), tex.count("reads the camera label of every")) == (1, 1)
    text = text_summary(results / "tables")
    assert text.count(f"{marked}\N{DAGGER} ") == text.count("reads the camera label of every") == len(study.datasets)


def test_one_seed_is_named_as_the_reason_why_nothing_is_known(tmp_path: Path) -> None:
    results = write_results(tmp_path / "one", cells=3, queries=30, epochs=2, seeds=1, failures=False)
    heads = re.findall(r'(?s)<p class="head a-open">(.*?)</p>', page_of(results))
    for head in heads:
        words = " ".join(re.sub("<[^>]+>", "", head).split())
        assert re.fullmatch(
            "Not known: no comparison with .* has an interval, which takes 3 seeds of each cell.", words
        )
    assert len(heads) == 2


def test_no_claim_is_judged_on_synthetic_data(small: Path) -> None:
    html = page_of(small)
    section = html[html.index('aria-labelledby="claims"') : html.index('aria-labelledby="group-1"')]
    assert section.count("not tested (synthetic data)") == 3
    assert "confirmed" not in section
    assert "refuted" not in section


def test_claims_are_judged_on_real_data(tmp_path: Path) -> None:
    results = write_results(tmp_path / "paper", cells=3, queries=30, synthetic=False)
    html = page_of(results)
    assert "synthetic" not in re.sub(r'(?s)<style>.*?</style>|<dl class="glossary">.*?</dl>|title="[^"]*"', "", html)
    assert "not tested (synthetic data)" not in html
    assert re.search(r'v-improves">confirmed<', html)
    section = html[html.index('aria-labelledby="claims"') : html.index('aria-labelledby="group-1"')]
    words = " ".join(re.sub("<[^>]*>", "", section).split())
    assert "with a chance of 23.7 % after what was found, and of 0.4 % if both are equally good." in words
    assert "As published, against naive_triplet, before_neck: +0.52, not controlled." in words
    assert "As defined, p1_rpe: +0.21 [\N{MINUS SIGN}0.04, +0.46] (undecided)." in words
    assert 'claim">not tested (no diagnostics)<' in section


def test_families_and_joint_conclusions_stand_on_the_page(tmp_path: Path) -> None:
    results = write_results(tmp_path / "quickstart", cells=10, queries=45, epochs=2)
    tables = results / "tables"
    contrasts = pd.read_parquet(tables / "contrasts.parquet")
    late = contrasts["cell"].eq("jsd_layer").astype("boolean")
    contrasts.assign(exploratory=late).to_parquet(tables / "contrasts.parquet", index=False)
    html = page_of(results)
    section = html[html.index('aria-labelledby="joint"') :].split("</section>")[0]
    words = " ".join(re.sub("<[^>]*>", " ", section).split())
    assert "position 8 of 10 pos_triplet over p1_rpe, pos_triplet over naive_triplet" in words
    joint = pd.read_parquet(tables / "joint.parquet").query("headline and metric == 'mAP'")
    assert section.count('data-table="joint"') >= 2 * len(joint)
    for column in ("low_adjusted", "high_adjusted", "detectable_low", "detectable_high", "within_delta", "above_delta"):
        assert f'data-column="{column}"' in section
    shown = contrasts[contrasts["headline"] & contrasts["metric"].eq("mAP")]
    assert section.count('<span class="chip">exploratory') == (shown["cell"] == "jsd_layer").sum()
    assert section.count('<span class="side">borrowed') == shown["delta"].notna().sum()


def test_a_warning_stands_beside_its_number_and_a_refusal_in_its_place(results: Path) -> None:
    path = results / "tables" / "contrasts.parquet"
    table = pd.read_parquet(path).assign(warnings="")
    row = (table["cell"] == "p1") & (table["dataset"] == "market1501")
    table.loc[row, "warnings"] = "p1 and naive_triplet were trained on different devices <b>(cpu against gpu)</b>."
    table.loc[row, ["estimate", "low", "high", "p_value", "p_adjusted", "verdict"]] = None
    table.loc[row, "note"] = "Other files, so they are not compared."
    table.to_parquet(path, index=False)
    html = page_of(results)
    section = html[html.index('aria-labelledby="group-1"') : html.index('aria-labelledby="slices"')]
    assert section.count("different devices &lt;b&gt;(cpu against gpu)&lt;/b&gt;.") == 1
    assert section.count("Other files, so they are not compared.") == 1
    lines = re.findall(r'(?s)<tr data-dataset="market1501" data-cell="p1 [^>]*>.*?</tr>', section)
    (line,) = (line for line in lines if "Other files" in line)
    assert "v-none" in line
    assert not any(f"v-{word}" in line for word in ("improves", "worsens", "equivalent", "undecided"))


def test_every_link_leads_somewhere_and_ids_are_unique(small: Path) -> None:
    outline = Outline(page_of(small))
    files = {link for link in outline.links if not link.startswith("#")}
    assert files == {f"exports/main_table.{suffix}" for suffix in ("tex", "md", "csv", "parquet")}
    assert {link[1:] for link in set(outline.links) - files} <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))


def test_the_policy_allows_the_own_script_and_nothing_else(small: Path) -> None:
    html = page_of(small)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    script = re.search(r"(?s)<script>(.*?)</script>", html)
    assert policy is not None
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    allowed = policy[1].replace("&#39;", "'").replace("&#43;", "+")
    assert f"script-src 'sha256-{digest}'" in allowed
    assert "default-src 'none'" in allowed


HOSTILE = (
    "</td></details><script>alert(1)</script> \"' onload=x {{ 7*7 }} $x_1$ "
    "\N{RIGHT-TO-LEFT OVERRIDE}\u05e9\u05dc\u05d5\u05dd "
)


def test_hostile_text_renders_inert(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_BY_GROUP", drawing._BY_GROUP[:1])  # one kind of figure is enough
    text = HOSTILE + "W" * 10_000
    tables = results / "tables"
    keys = ("title", "group", "question", "notes", "unread")
    edit_json(tables / "cells.json", lambda cells: [cell.update(dict.fromkeys(keys, text)) for cell in cells])

    def poison(study: dict[str, Any]) -> None:
        study["notices"] = [text]
        study["machine"] = {text: text}
        del study["datasets"][1]
        study["datasets"][0]["title"] = text
        study["datasets"][0]["warnings"] = [text]
        study["missing_datasets"] = [{"name": text, "looked_in": [text]}]

    edit_json(tables / "study.json", poison)
    runs = pd.read_parquet(tables / "runs.parquet")
    runs.loc[0, ["status", "reason"]] = ["diverged", text]
    runs.to_parquet(tables / "runs.parquet", index=False)
    out = results / "report" / "index.html"
    render_report(results, TEMPLATES, out, files=["pdf"])
    html = out.read_text(encoding="utf-8")
    assert Outline(html).active == ["script"]
    assert "Shown as last planned, because its file cannot be used. " in html
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html
    assert "{{ 7*7 }}" in html
    assert "\u05e9\u05dc\u05d5\u05dd" in html
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in html
    assert max(len(path.name) for path in (results / "report" / "figures").iterdir()) < 120


def test_half_a_study_still_renders_and_says_what_is_missing(results: Path) -> None:
    tables = results / "tables"
    (tables / "history.parquet").write_bytes(b"PAR1 half")
    (tables / "claims.parquet").unlink()
    runs = pd.read_parquet(tables / "runs.parquet").assign(status="missing", reason="never started")
    runs.loc[:, "config_hash":] = None
    runs.to_parquet(tables / "runs.parquet", index=False)
    metrics = pd.read_parquet(tables / "metrics.parquet")
    metrics.iloc[:0].to_parquet(tables / "metrics.parquet", index=False)
    pd.read_parquet(tables / "contrasts.parquet").iloc[:0].to_parquet(tables / "contrasts.parquet", index=False)
    edit_json(tables / "study.json", lambda study: study["datasets"][0].update(counts=None, fingerprint=None))
    html = page_of(results)
    assert "history.parquet cannot be read" in html
    assert "claims.parquet is not there" in html
    assert "contrasts.parquet is empty" in html
    assert html.count("never started") == len(runs)


def test_a_missing_required_table_is_a_sentence(results: Path) -> None:
    (results / "tables" / "metrics.parquet").unlink()
    with pytest.raises(UserError, match=r"metrics\.parquet is missing"):
        page_of(results)


def test_a_folder_of_templates_replaces_the_packages_one_by_one(results: Path, tmp_path: Path) -> None:
    render_report(results, tmp_path / "none", tmp_path / "theirs.html")
    render_report(results, TEMPLATES, tmp_path / "ours.html")
    assert (tmp_path / "theirs.html").read_bytes() == (tmp_path / "ours.html").read_bytes()
    (tmp_path / "cost.html.j2").write_text("<p>What it cost is nobody's business.</p>")
    render_report(results, tmp_path, tmp_path / "mine.html")
    mine = (tmp_path / "mine.html").read_text(encoding="utf-8")
    assert "nobody's business" in mine
    assert "Provenance</bdi>" in mine


def test_a_broken_template_is_a_sentence(results: Path, tmp_path: Path) -> None:
    broken = tmp_path / "templates"
    broken.mkdir()
    for path in TEMPLATES.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "cost.html.j2").write_text("{% for %}")
    edit_json(results / "tables" / "study.json", lambda study: study.update(datasets=[]))
    with pytest.raises(UserError, match=r"cost\.html\.j2, line 1"):
        render_report(results, broken, tmp_path / "index.html")


def test_runs_of_other_code_are_marked(results: Path) -> None:
    runs = pd.read_parquet(results / "tables" / "runs.parquet")
    runs.loc[2, "code"] = "0ld"
    runs.to_parquet(results / "tables" / "runs.parquet", index=False)
    html = page_of(results)
    assert html.count("other code</span>") == 1
    assert "2 versions of the code" in html


def test_every_run_has_the_command_that_repeats_it(small: Path) -> None:
    html = page_of(small)
    for dataset in ("market1501", "occluded_duke"):
        for seed in range(3):
            assert f"reidablate reproduce results/quickstart/{dataset}/p1_rpe/seed{seed}<" in html


@pytest.mark.parametrize(
    ("value", "digits", "sign", "shown"),
    [
        (-0.004, 2, True, "0.00"),
        (-0.006, 2, True, "\N{MINUS SIGN}0.01"),
        (0.5, 2, True, "+0.50"),
        (12936.0, 0, False, "12,936"),
    ],
)
def test_fixed_decimals_keep_the_sign_and_lose_the_zero(value: float, digits: int, sign: bool, shown: str) -> None:
    assert fixed(value, digits, sign) == shown
