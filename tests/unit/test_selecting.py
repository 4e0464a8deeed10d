"""What the user wrote: names that look like numbers, lists, patterns, and paths with any letter."""

from typing import Any

import pytest
from snakemake.cli import parse_config

from reidablate.call_lock import only_looks
from reidablate.errors import UserError
from reidablate.selecting import as_written, pick

CELLS = ["naive_triplet", "p1", "p1_rpe", "501", "2024_05", "1e5", "nan", "2024-05-01", "true"]
KNOWN = {name: [name] for name in CELLS} | {"sweep": ["sweep_a_1", "sweep_a_2"]}


def from_command_line(*arguments: str) -> dict[str, Any]:
    """The settings of a call, read by Snakemake's own parser and mended by us."""
    return as_written(parse_config(arguments), arguments)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_selected_by_its_name_whatever_snakemake_reads(name: str) -> None:
    assert pick("cells", from_command_line(f"cells={name}")["cells"], KNOWN) == [name]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("p1, naive_triplet,p1", ["p1", "naive_triplet"]),
        ("p1*", ["p1", "p1_rpe"]),
        ("p1?rpe,[n]aive*", ["p1_rpe", "naive_triplet"]),
        ("sweep", ["sweep_a_1", "sweep_a_2"]),
        ("[p1,p1_rpe]", ["p1", "p1_rpe"]),
        ('"501"', ["501"]),
        ("*5*,", ["501", "2024_05", "1e5", "2024-05-01"]),
    ],
)
def test_lists_patterns_and_sweeps_of_the_command_line(asked: str, names: list[str]) -> None:
    assert pick("cells", from_command_line(f"cells={asked}")["cells"], KNOWN) == names


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["p1", 501], ["p1", "501"]),
        (202405, ["2024_05"]),
        ([100000.0], ["1e5"]),
        ([True, "p1*"], ["true", "p1", "p1_rpe"]),
    ],
)
def test_values_of_a_configuration_file_select_the_name_that_yaml_reads_so(asked: Any, names: list[str]) -> None:
    assert pick("cells", as_written({"cells": asked}, [])["cells"], KNOWN) == names


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("p1_rep", "--config cells: there is no cell 'p1_rep'; did you mean 'p1_rpe'?"),
        ("z*", "--config cells: there is no cell 'z*'; known: 1e5, 2024-05-01, "),
        (",", "--config cells: ',' names none; write all, or names separated by commas."),
        ([], "--config cells: [] names none"),
        (7, '--config cells: 7 is not the name of a cell; put the name in quotes, as in cells: ["7"].'),
        ([None], "--config cells: None is not the name of a cell"),
    ],
)
def test_what_selects_nothing_is_one_sentence(asked: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        pick("cells", asked, KNOWN)
    assert str(caught.value).startswith(sentence)


def test_a_number_that_two_names_are_read_as_is_refused() -> None:
    with pytest.raises(UserError, match=r"501 could be 501 or 5_01; put the name in quotes, as in cells: \[\"501\"\]"):
        pick("cells", 501, {"501": ["501"], "5_01": ["5_01"]})


@pytest.mark.parametrize("asked", ["mine", "mi*", "mine_ratio_0.5"])
def test_a_broken_cell_stops_the_calls_that_select_it_and_no_other(asked: str) -> None:
    broken = {"mine": "mine.yaml is not valid YAML."}
    with pytest.raises(UserError, match="is not valid YAML"):
        pick("cells", asked, KNOWN, broken)
    assert pick("cells", "p1", KNOWN, broken) == ["p1"]


@pytest.mark.parametrize(
    "path",
    ["my results", "a #b", "a & b; c > d", "it's $HOME \"so\"", "[v1]", "(x)", "&x", "!tag y", "2024_05", "1e5",
     "Ergebnisse/größer", "結果", "a: b", "*x", "~", "null"],
)  # fmt: skip
def test_a_path_is_what_was_written(path: str) -> None:
    assert from_command_line(f"results={path}", "seeds=3") == {"results": path, "seeds": 3}


@pytest.mark.parametrize(
    ("call", "dry"),
    [
        ("-n", True),
        ("--cores all -np", True),
        ("--dry-run", True),
        ("--dryrun --config cells=p1", True),
        ("--cores all --config results=-n cells=n", False),
        ("--cores 2 -k", False),
        ("--name -j4", False),
    ],
)
def test_a_dry_run_is_known_by_its_flag(call: str, dry: bool) -> None:
    assert only_looks(call.split()) == dry


def test_quotes_of_its_own_around_a_path_are_not_part_of_it() -> None:
    assert from_command_line("results='my results'") == {"results": "my results"}


def test_null_in_a_configuration_file_means_not_given() -> None:
    assert as_written({"cells": None, "seeds": None, "datasets": ["market1501"]}, []) == {"datasets": ["market1501"]}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("a{b}", "results: 'a{b}' contains '{'"),
        ("a\nb", r"results: 'a\nb' contains '\n'"),
        ("a\udcffb", r"results: 'a\udcffb' contains '\udcff'"),
        (" ", "results is empty"),
        ("-x", "results: '-x' begins with '-'"),
        (202405, "results: 202405 is not text; in a configuration file, put it in quotes."),
        (["a"], "results: ['a'] is not text"),
    ],
)
def test_a_path_that_no_rule_can_name_is_one_sentence(value: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        as_written({"results": value}, [])
    assert str(caught.value).startswith(sentence)
