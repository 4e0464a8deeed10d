"""What stands beside a study's scores: shown where there is some, marked, and kept out of every comparison."""

import math
from pathlib import Path

import pandas as pd
import pytest

from reidablate.report.collect import collect
from reidablate.report.exports import main_table, text_summary
from reidablate.report.other_tables import OtherTables
from reidablate.report.render import make_environment, render_html
from report_fixture import write_results

TEMPLATES = Path(__file__).parents[2] / "report_templates"
TABLES = ("cross_domain", "camera_pairs", "imported")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "quickstart", cells=3, queries=30, epochs=2)


def page(results: Path) -> str:
    return render_html(collect(results / "tables"), [], make_environment(TEMPLATES))


def section(html: str, anchor: str) -> str:
    return html.split(f'<section aria-labelledby="{anchor}">')[1].split("</section>")[0]


def test_an_imported_run_is_marked_wherever_it_stands(results: Path) -> None:
    html = page(results)
    group, own = section(html, "group-1"), section(html, "imported")
    row = next(part for part in group.split("<tr") if "<code>transreid</code>" in part)
    assert "one run, not trained here; no interval" in row
    assert 'data-table="imported"' in row
    assert "side=before_neck" in row
    assert "side=after_neck" not in group.split('class="imported"')[1].split("</tbody>")[0]
    assert own.count("<code>transreid</code>") == 2
    assert own.count("<code>their_distances</code>") == 1
    assert "elsewhere/transreid.npz" in own
    assert 'data-dataset="occluded_duke" data-cell="transreid' not in html


def test_imports_and_other_data_sets_enter_no_comparison_and_no_export(results: Path) -> None:
    study = collect(results / "tables")
    assert "transreid" not in main_table(study).to_csv() + text_summary(results / "tables")
    html = page(results)
    for table in html.split('<table class="sortable differences">')[1:]:
        assert 'data-table="imported"' not in table.split("</table>")[0]
    word = 'data-table="cross_domain"'
    assert section(html, "cross-domain").count(word) == html.count(word) > 0


def test_cross_domain_scores_name_both_data_sets(results: Path) -> None:
    shown = section(page(results), "cross-domain")
    assert "Trained on Market-1501, scored on Occluded-Duke" in shown
    assert "Trained on Occluded-Duke, scored on Market-1501" in shown
    assert shown.count("<code>p1</code>") == 2
    assert "p1_rpe" not in shown
    table = pd.read_parquet(results / "tables" / "cross_domain.parquet")
    rows = table[(table["dataset"] == "market1501") & (table["cell"] == "p1") & (table["side"] == "before_neck")]
    values = rows.loc[rows["metric"] == "mAP", "value"]
    assert f"{100 * values.mean():.2f}</data>" in shown
    assert f"{100 * values.std():.2f}</data>" in shown


@pytest.mark.parametrize("empty", [True, False])
def test_a_study_without_them_has_no_section_and_no_complaint(results: Path, empty: bool) -> None:
    for name in TABLES:
        path = results / "tables" / f"{name}.parquet"
        if empty:
            pd.read_parquet(path).iloc[:0].to_parquet(path)
        else:
            path.unlink()
    html = page(results)
    for anchor in ("cross-domain", "cameras", "imported"):
        assert f'aria-labelledby="{anchor}"' not in html
        assert f'href="#{anchor}"' not in html
    assert not set(TABLES) & collect(results / "tables").absent.keys()


def test_a_broken_table_is_named(results: Path) -> None:
    (results / "tables" / "imported.parquet").write_bytes(b"no table")
    assert "Imported runs: imported.parquet cannot be read" in page(results)


def test_colours_run_from_the_worst_pair_of_cameras_to_the_best() -> None:
    scores = {(1, 2): [0.2, 0.4], (2, 1): [0.5, 0.7], (1, 3): [0.9, 0.9], (2, 3): [math.nan, math.nan]}
    rows = [
        {"dataset": "d", "cell": "c", "query_camid": q, "gallery_camid": g, "num_queries": 5, "mAP": value}
        for (q, g), values in scores.items()
        for value in values
    ]
    others = OtherTables("before_neck", camera_pairs=pd.DataFrame(rows))
    assert others.cameras("d", "c") == ([1, 2], [1, 2, 3])
    assert others.heat("d", "c") == pytest.approx({(1, 2): 0, (2, 1): 0.5, (1, 3): 1})
    assert others.pair("d", "c", 2, 3).value is None
