"""docs/methods.md names every option and value of the science, and only cells that exist."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from reidablate import config
from reidablate.cells import load_cells

ROOT = Path(__file__).parents[2]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
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


def test_the_cells_it_names_exist() -> None:
    cells = set(load_cells(ROOT / "ablations", []))
    named = set(re.findall(r"`((?:p1|p2|pos|naive|cls|rpe)_[a-z0-9_.*]*)`", METHODS))
    options = {"pos_source", "cls_term", "rpe_lr_factor", "cls_position"}
    assert len(named) > 15
    for name in named - options:
        pattern = re.compile(re.escape(name).replace(r"\*", ".+") + "$")
        assert any(pattern.match(cell) for cell in cells), name


def test_the_cells_as_run_are_in_the_table_beside_those_as_defined() -> None:
    rows = [line for line in METHODS.splitlines() if line.startswith("| ")]
    for name in (cell for cell in load_cells(ROOT / "ablations", []) if cell.endswith("_as_run")):
        assert any(f"`{name}`" in row and f"`{name.removesuffix('_as_run')}`" in row for row in rows), name
