"""Exports: what a paper, a pull request and a terminal get."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from reidablate.artifacts import read_json, write_json
from reidablate.cli import app
from reidablate.report.collect import collect
from reidablate.report.exports import main_table, md, tex, text_summary, write_exports
from reidablate.report.render import make_environment
from reidablate.report.study_tables import StudyTables
from report_fixture import write_results, write_shares

TEMPLATES = Path(__file__).parents[2] / "report_templates"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("exports") / "quickstart", queries=60, epochs=2)


@pytest.fixture(scope="module")
def study(results: Path) -> StudyTables:
    return collect(results / "tables")


@pytest.fixture(scope="module")
def folder(study: StudyTables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_exports(study, make_environment(TEMPLATES), folder)
    return folder


def test_the_csv_holds_fractions_that_equal_the_metrics(folder: Path, results: Path) -> None:
    table = pd.read_csv(folder / "exports" / "main_table.csv")
    metrics = pd.read_parquet(results / "tables" / "metrics.parquet")
    chosen = metrics[(metrics["side"] == "before_neck") & (metrics["metric"] == "mAP")]
    means = chosen.groupby(["dataset", "cell"])["value"].mean()
    assert len(table) == 20
    row: Any
    for row in table.itertuples():
        assert row.mAP_mean == pytest.approx(means[row.dataset, row.cell], rel=1e-12)


def test_latex_names_the_best_only_where_the_verdict_allows(folder: Path, study: StudyTables) -> None:
    text = (folder / "exports" / "main_table.tex").read_text()
    lines = [line for line in text.splitlines() if line.endswith(r"\\")][2:]
    assert len(lines) == len(study.cells)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {8}
    assert text.count(r"\midrule") == len(study.groups)
    table = main_table(study)
    for place, dataset in enumerate(("market1501", "occluded_duke")):
        scores = [line.split(" & ")[1 + 4 * place] for line in lines]
        ranked = table[table["dataset"] == dataset].sort_values("mAP_mean", ascending=False)
        for mark, mean, verdict in zip(
            (r"\textbf{", r"\underline{"), ranked["mAP_mean"], ranked["verdict"], strict=False
        ):
            marked = [f"{100 * mean:.2f}" in score for score in scores if mark in score]
            assert marked == ([True] if verdict == "improves" else [])
    assert r"\textbf{" in text
    assert r"\underline{" in text


def test_markdown_rows_have_the_columns_of_the_header(folder: Path, study: StudyTables) -> None:
    lines = [line for line in (folder / "exports" / "main_table.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(study.cells)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {10}


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_tables_for_papers_carry_the_protocol_and_the_number_of_seeds(folder: Path, suffix: str) -> None:
    text = (folder / "exports" / f"main_table.{suffix}").read_text()
    assert "Synthetic data. Points, mean" in text
    assert "over 3 seeds. Single query, features before neck, cosine distance" in text


def test_the_summary_says_synthetic_and_counts_runs(folder: Path) -> None:
    text = (folder / "summary.md").read_text()
    assert "synthetic data" in text.splitlines()[0]
    assert "58 finished, 1 diverged, 1 missing" in text


def test_the_terminal_gets_every_cell_in_points(results: Path, study: StudyTables) -> None:
    text = text_summary(results / "tables")
    assert "SYNTHETIC" in text
    for cell in study.cells:
        for dataset in ("market1501", "occluded_duke"):
            value = study.score(dataset, cell.name, "mAP").value
            assert value is not None
            assert re.search(rf"(?m)^{cell.name} .*{100 * value:.2f}", text), cell.name
    assert "\x1b" not in text


def test_the_command_prints_the_summary_and_renders_nothing(results: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(results), "--text"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout == text_summary(results / "tables")
    assert not (results / "report").exists()


def test_hostile_text_stays_text() -> None:
    assert tex(r"\input{x} 50% a_b & ~^#$") == (
        r"\textbackslash{}input\{x\} 50\% a\_b \& \textasciitilde{}\textasciicircum{}\#\$"
    )
    assert tex("\u05e9\x00\u00fc") == "\u05e9\u00fc"
    assert md("a|b\n<script> `x` [l](u)") == r"a\|b &lt;script> \`x\` \[l\](u)"


def test_a_verdict_on_one_loss_twice_is_marked_wherever_it_stands(tmp_path: Path) -> None:
    results = write_shares(tmp_path, {"p1_rpe_jsd": 0.001, "jsd_layer": 0.0027})
    cells = read_json(results / "tables" / "cells.json")
    next(cell for cell in cells if cell["name"] == "jsd_layer")["references"] = ["p1_rpe_jsd"]  # its baseline, too
    write_json(results / "tables" / "cells.json", cells)
    study = collect(results / "tables")
    write_exports(study, make_environment(TEMPLATES), tmp_path)
    table = pd.read_csv(tmp_path / "exports" / "main_table.csv")
    assert set(table.loc[~table["informative"], "cell"]) == {"jsd_layer"}
    title = study.by_name["jsd_layer"].title
    for name in ("exports/main_table.md", "exports/main_table.tex", "summary.md"):
        (line,) = [line for line in (tmp_path / name).read_text().splitlines() if "not informative" in line]
        assert title in line.replace("\\", "")
        assert line.count(", not informative") == len(study.datasets)
    told = [line.split()[0] for line in text_summary(results / "tables").splitlines() if " *" in f" {line}"]
    assert told == ["jsd_layer", "*"] * len(study.datasets)


@pytest.mark.slow
def test_the_latex_table_compiles(folder: Path, tmp_path: Path) -> None:
    latex = shutil.which("pdflatex")
    if latex is None:
        pytest.skip("pdflatex is not installed")
    table = (folder / "exports" / "main_table.tex").read_text()
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{table}\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(document)
    command = [latex, "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_a_difference_to_another_baseline_than_most_cells_have_names_it(tmp_path: Path) -> None:
    tables = TEMPLATES.parent / "docs" / "example" / "tables"
    study = collect(tables)
    write_exports(study, make_environment(TEMPLATES), tmp_path)
    title = study.by_name["longer_demo"].title
    for name in ("exports/main_table.md", "summary.md", "exports/main_table.tex"):
        lines = (tmp_path / name).read_text().splitlines()
        (line,) = [line for line in lines if r" over shorter\_demo" in line]
        assert line.removeprefix("| ").startswith(title)
        assert line.count("over shorter") == len(study.datasets)
    told = [line for line in text_summary(tables).splitlines() if "] over " in line]
    assert [line.split()[0] for line in told] == ["longer_demo"] * len(study.datasets)
    assert all("over shorter_demo" in line for line in told)
