"""What users read against the code: options and cells in docs/methods.md, columns and keys in results/README.md."""

import doctest
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

import reidablate
from reidablate import config, plugins
from reidablate.artifacts import read_json, read_table
from reidablate.cells import load_cells
from reidablate.freezing import freeze
from reidablate.metrics import ranking
from reidablate.planning import load_presets
from reidablate.published import recorded_table
from reidablate.report.collect import collect
from reidablate.report.digest import LEFT_OUT
from reidablate.report.exports import main_table
from reidablate.runs import QUERY_COLUMNS
from reidablate.sections import meanings
from reidablate.settings import Settings
from reidablate.stats import claims, contrast_columns, joint
from reidablate.stats.pipeline import CALIBRATION, write_statistics
from reidablate.stats.slices import SLICE_COLUMNS
from reidablate.study import Study
from reidablate.tables.aggregate import RUN_COLUMNS, aggregate_study
from support import shipped_cells

ROOT = Path(__file__).parents[2]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
EXPLAINED = (
    config.RpeConfig,
    config.WeightedTripletConfig,
    config.PositionRelationConfig,
    config.PositionTripletConfig,
)
# `margin` is explained with the naive triplet, `kind` only with its section in front.
ELSEWHERE = {"margin", "kind"}


def literals(annotation: Any) -> set[str]:
    """The strings that an annotation admits, at any depth."""
    if isinstance(annotation, str):
        return {annotation}
    return set().union(*(literals(part) for part in get_args(annotation))) if get_args(annotation) else set()


@pytest.mark.parametrize("section", EXPLAINED)
def test_every_option_and_value_is_explained(section: type[BaseModel]) -> None:
    quoted = " ".join(re.findall(r"`([^`]+)`", METHODS))
    words = set(re.findall(r"\w+", quoted))
    for name, field in section.model_fields.items():
        assert name in words or name in ELSEWHERE, name
        assert literals(field.annotation) <= words | {"soft"}, name


def test_every_value_of_the_model_options_is_explained() -> None:
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", METHODS))))
    for name in ("stem", "ape", "cls_position", "pool", "test_feature"):
        field = config.ModelConfig.model_fields[name]
        assert {name, *literals(field.annotation)} <= words, name


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", SETTINGS, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(Settings.model_fields)
    shipped = yaml.safe_load((ROOT / "workflow" / "config" / "default.yaml").read_text(encoding="utf-8"))
    for name, default, words in rows:
        assert words == meanings(Settings)[name]
        if name != "dataset_table":
            assert yaml.safe_load(default.strip("`")) == shipped.get(name, Settings.model_fields[name].default), name


def test_the_snakemake_workflow_catalog_finds_what_it_looks_for() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert usage["report"] is True  # `snakemake --report` is tested in tests/workflow
    assert {"desc", "flags"} == usage["mandatory-flags"].keys()
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert sorted(path.suffix for path in (ROOT / "workflow" / "rules").iterdir())[0] == ".smk"


def test_what_the_digest_leaves_out_is_in_the_table_of_it() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*) \|$", OPERATIONS, re.MULTILINE)
    assert {name: tuple(re.findall("`([^`]+)`", columns)) for name, columns in rows} == LEFT_OUT


def test_every_loss_and_every_score_has_an_executed_example() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [target.split(":")[0] for target in plugins.SHIPPED["losses"].values()]
    for name in (*modules, "reidablate.losses.divergence", "reidablate.metrics.rerank", "reidablate.metrics.protocol"):
        assert any(test.examples for test in finder.find(importlib.import_module(name))), name
    scores = (ranking.average_precision, ranking.average_precision_trapezoid, ranking.inverse_negative_penalty)
    for function in (*scores, ranking.first_hit, ranking.cmc):
        assert all(test.examples for test in finder.find(function)), function


def test_the_cells_it_names_exist() -> None:
    cells = set(shipped_cells([]))
    named = set(re.findall(r"`((?:p1|p2|pos|naive|cls|rpe)_[a-z0-9_.*]*)`", METHODS))
    options = {"pos_source", "cls_term", "rpe_lr_factor", "cls_position"}
    assert len(named) > 15
    for name in named - options:
        pattern = re.compile(re.escape(name).replace(r"\*", ".+") + "$")
        assert any(pattern.match(cell) for cell in cells), name


def test_the_cells_as_run_are_in_the_table_beside_those_as_defined() -> None:
    rows = [line for line in METHODS.splitlines() if line.startswith("| ")]
    for name in (cell for cell in shipped_cells([]) if cell.endswith("_as_run")):
        assert any(f"`{name}`" in row and f"`{name.removesuffix('_as_run')}`" in row for row in rows), name


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert project["version"] == reidablate.__version__ == citation["version"] == newest[1]


def documented(start: str, table: int = 0) -> dict[str, str]:
    """Returns {column or key: meaning} of a table of results/README.md, the first or a later one behind a line."""
    tables = re.split(r"\n\|(?:---\|)+\n", RESULTS[RESULTS.index(f"\n{start}") :])
    rows = [row.strip("| ").split(" | ") for row in tables[1 + table].split("\n\n")[0].splitlines()]
    return {name: meaning for names, meaning in rows for name in re.findall(r"`([^`]+)`", names) or [names]}


@pytest.mark.parametrize(
    ("start", "columns"),
    [
        ("### `contrasts`", contrast_columns.COLUMNS),
        ("`slices` has", {name: text for name, text in SLICE_COLUMNS.items() if name not in contrast_columns.COLUMNS}),
        ("### `joint`", joint.COLUMNS),
        ("### `claims`", claims.COLUMNS),
    ],
)
def test_every_column_of_the_statistics_is_explained_in_the_words_of_the_code(
    start: str, columns: dict[str, tuple[str, str]]
) -> None:
    expected = {name: meaning for name, (_, meaning) in columns.items()}
    found = documented(start)
    if columns is claims.COLUMNS:  # its code names a constant there
        assert found.pop("verdict") == "One of the words below."
        del expected["verdict"]
    assert found == expected


def test_every_verdict_of_a_claim_is_explained() -> None:
    assert documented("### `claims`", table=1) == claims.CLAIM_VERDICTS


def test_every_other_column_and_key_is_explained(tiny_study: Study, tmp_path: Path) -> None:
    study = tiny_study.model_copy(
        update={"settings": tiny_study.settings.model_copy(update={"results": tmp_path}), "cells": tiny_study.cells[:1]}
    )
    freeze(study)
    aggregate_study(study)
    write_statistics(study.root, ROOT)
    tables = study.root / "tables"
    (cell,) = read_json(tables / "cells.json")
    for start, names in {
        "### `runs`": ["dataset", "cell", "seed", *RUN_COLUMNS],
        "### `queries`": QUERY_COLUMNS,
        "### `study.json`": read_json(tables / "study.json"),
        "### `cells.json`": cell,
        "### `main_table`": main_table(collect(tables)).columns,
        "### `calibration`": read_table(tables / CALIBRATION).columns,
    }.items():
        assert set(documented(start)) == set(names), start


def test_the_table_of_recorded_configurations_is_up_to_date() -> None:
    presets = load_presets(ROOT / "workflow" / "config" / "presets")
    cells = load_cells(ROOT / "ablations", [])
    lines = recorded_table(cells, presets["paper"])
    assert "\n".join(lines) in METHODS, "paste the output of `reidablate cells recorded`"
    compared = {line.split("`")[1] for line in lines[2:]}
    assert {name for name in cells if name.endswith(("_as_run", "_as_run_0513"))} - compared == {"naive_triplet_as_run"}
