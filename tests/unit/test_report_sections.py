"""Sections of a study's own: a template and a table, in the page and its contents."""

from pathlib import Path

import pytest

from reidablate.artifacts import read_json, write_json
from reidablate.report.collect import collect
from reidablate.report.render import make_environment, render_html
from report_fixture import write_results

SECTION = """{# section: Hard & bright; table: runs #}
{% from "_macros.html.j2" import num with context %}
{% for row in rows[:2] %}<p>{{ row.cell }}: {{ num(row.wall_s) }}</p>{% endfor %}
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results of a small study."""
    write_results(tmp_path, cells=2, seeds=2)
    return tmp_path


def page(results: Path, text: str) -> str:
    templates = results / "report_templates"
    templates.mkdir(exist_ok=True)
    (templates / "section_mine.html.j2").write_text(text)
    return render_html(collect(results / "tables"), [], make_environment(templates))


def test_a_section_is_in_the_contents_and_its_numbers_name_their_table(results: Path) -> None:
    html = page(results, SECTION)
    assert '<a href="#section-mine"><bdi>Hard &amp; bright</bdi></a>' in html
    assert '<h2 id="section-mine"><bdi>Hard &amp; bright</bdi>' in html
    body = html.split('aria-labelledby="section-mine"')[1].split("</section>")[0]
    assert body.count('data-table="runs"') == 2
    assert 'data-row="1" data-column="wall_s"' in body


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<p>hello</p>", "section_mine.html.j2 does not begin with {# section: TITLE; table: TABLE #}"),
        ("{# section: A; table: nowhere #}", "cannot be shown: "),
        ("{# section: A; table: runs #}\n{% for %}", "section_mine.html.j2, line 2 cannot be shown: "),
        ("{# section: A; table: runs #}\n{{ rows[0].nothing.at.all }}", "cannot be shown: "),
        ("{# section: A; table: runs #}\n{{ 1 / 0 }}", "cannot be shown: division by zero"),
    ],
)
def test_a_section_that_fails_says_so_and_leaves_the_page_alone(results: Path, text: str, problem: str) -> None:
    html = page(results, text)
    assert problem in html
    assert 'id="provenance"' in html


def test_one_that_shows_nothing_is_left_out(results: Path) -> None:
    assert "section-mine" not in page(results, "{# section: A; table: runs #}\n  ")


def test_a_metric_of_the_study_is_shown_with_what_it_was_compared_with(results: Path) -> None:
    about = read_json(results / "tables" / "study.json")
    own = {"name": "mINP", "title": "Worst hit", "higher_is_better": True, "column": "mINP", "use": "mine:worst"}
    write_json(results / "tables" / "study.json", {**about, "metrics": [own]})
    body = page(results, SECTION).split('aria-labelledby="section-own-metrics"')[1].split("</section>")[0]
    assert "Worst hit" in body
    assert "metric=mINP" in body
