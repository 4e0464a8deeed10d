"""The guard: each kind of undeclared difference has its sentence, and what changes the question is refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from reidablate.rng import generator
from reidablate.runs import SIDES
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.guard import Findings, Guard

SEEDS = range(3)
CONFIG: dict[str, Any] = {
    "model": {"test_feature": "before_neck", "image_size": [32, 16]},
    "losses": {"triplet": {"margin": "soft"}},
    "train": {"epochs_factor": 1.0, "precision": "fp32"},
}
FACTS: dict[str, Any] = {
    "status": "finished",
    "config_hash": "same",
    "code": "c0de",
    "data_fingerprint": "f00d",
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "weights_sha256": "abc",
    "versions": "numpy 2.4.0, torch 2.6.0",
}


def cells(**changed: Any) -> list[dict[str, Any]]:
    """A baseline and a cell that declares what it changes."""
    base = {"name": "base", "group": "main", "references": [], "declared": {}, "differences": {}, "config": CONFIG}
    own = {**base, "name": "own", "references": ["base"], "differences": {"base": {}}, **changed}
    return [{**base, "config_hash": "same"}, {"config_hash": "same", **own}]


def runs(*, of: str = "own", seeds: Any = SEEDS, **changed: Any) -> pd.DataFrame:
    """The table of runs, with facts changed for some seeds of one cell."""
    rows = [
        {
            "dataset": "market1501",
            "cell": cell,
            "seed": seed,
            **FACTS,
            **(changed if cell == of and seed in seeds else {}),
        }
        for cell in ("base", "own")
        for seed in SEEDS
    ]
    return pd.DataFrame(rows)


def check(table: pd.DataFrame, entries: list[dict[str, Any]] | None = None) -> Findings:
    guard = Guard(table, cells() if entries is None else entries)
    return guard.check("market1501", "own", "base", [(seed, seed) for seed in SEEDS])


def test_runs_alike_are_compared_without_a_word() -> None:
    assert check(runs()) == Findings()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"code": "beef"}, "own and base were made by different source code (beef against c0de)."),
        ({"device": "NVIDIA H200"}, "own and base were trained on different devices (NVIDIA H200 against cpu)."),
        ({"threads": 4}, "own and base were trained with different numbers of threads (4 against 1)."),
        ({"precision": "bf16"}, "own and base were trained in different precisions (bf16 against fp32)."),
        ({"weights_sha256": "def"}, "own and base started from different weights (def against abc)."),
        (
            {"versions": "numpy 2.4.0, torch 2.7.0"},
            "own and base were made with different packages (torch 2.7.0 against torch 2.6.0).",
        ),
    ],
)
def test_what_no_cell_can_declare_is_a_warning(changed: dict[str, Any], sentence: str) -> None:
    assert check(runs(**changed)) == Findings(warnings=(sentence,))


def test_a_warning_about_weights_names_the_files() -> None:
    table = runs().assign(weights="/w/vit_base.pth")
    table.loc[table["cell"] == "own", ["weights", "weights_sha256"]] = ["/w/resnet50.pth", "def"]
    (sentence,) = check(table).warnings
    assert (
        sentence == "own and base started from different weights (resnet50.pth against vit_base.pth: def against abc)."
    )


@pytest.mark.parametrize("column", ["code", "device", "threads", "data_fingerprint", "versions", "config_hash"])
def test_what_is_not_known_is_not_held_against_a_run(column: str) -> None:
    absent: dict[str, Any] = {column: None}
    assert check(runs(**absent)) == Findings()
    assert check(runs().drop(columns=column)) == Findings()


def test_a_warning_names_the_seeds_it_is_about() -> None:
    (sentence,) = check(runs(seeds=[1], code="beef")).warnings
    assert sentence == "own and base were made by different source code (beef against c0de; seed 1 of 3)."


def test_seeds_are_held_against_their_own_pair() -> None:
    table = runs()
    table.loc[table["seed"] == 2, "code"] = "beef"  # both cells alike
    assert check(table) == Findings()
    unpaired = [(own, other) for own in SEEDS for other in SEEDS]
    (sentence,) = Guard(table, cells()).check("market1501", "own", "base", unpaired).warnings
    assert "different source code" in sentence


def test_other_files_are_refused() -> None:
    findings = check(runs(seeds=[0], data_fingerprint="cafe"))
    assert findings.warnings == ()
    assert findings.refusals == (
        "own and base saw different files of market1501 (cafe against f00d; seed 0 of 3), so they are not compared; "
        "train both on the same files.",
    )


def test_a_run_of_another_configuration_than_its_cell_is_refused() -> None:
    (sentence,) = check(runs(of="base", seeds=[0, 2], config_hash="old")).refusals
    assert sentence == "base: seeds 0 and 2 had another configuration than the cell has now; run the study again."


def test_options_that_differ_without_a_declaration_are_a_warning() -> None:
    config = {**CONFIG, "losses": {"triplet": {"margin": 0.3}}}
    assert check(runs(), cells(config=config)).warnings == (
        "own differs from base in losses.triplet.margin (0.3 against soft), which is not declared.",
    )
    declared = {"losses.triplet.margin": ["soft", 0.3]}
    assert check(runs(), cells(config=config, declared=declared, differences={"base": declared})) == Findings()


def test_another_feature_side_is_refused_unless_declared() -> None:
    config = {**CONFIG, "model": {**CONFIG["model"], "test_feature": "after_neck"}}
    findings = check(runs(), cells(config=config))
    assert findings.warnings == ()
    assert findings.refusals[0].startswith("own is tested on after_neck and base on before_neck, which is not declared")
    inherited = {"model.test_feature": ["before_neck", "after_neck"]}
    assert check(runs(), cells(config=config, differences={"base": inherited})).warnings == (
        "own is meant for after_neck and base for before_neck; both are compared on one side here.",
    )


def test_an_inherited_schedule_is_a_warning_and_an_own_one_is_not() -> None:
    config = {**CONFIG, "train": {"epochs_factor": 0.5, "precision": "fp32"}}
    schedule = {"train.epochs_factor": [1.0, 0.5]}
    inherited = cells(config=config, differences={"base": schedule})
    assert check(runs(), inherited).warnings == (
        "own also differs from base in what it inherits: train.epochs_factor (0.5 against 1.0).",
    )
    assert check(runs(), cells(config=config, declared=schedule, differences={"base": schedule})) == Findings()
    base, own = inherited
    assert check(runs(), [{**base, "declared": schedule}, own]) == Findings()  # the reference extends the cell


def test_a_declared_precision_is_no_warning() -> None:
    config = {**CONFIG, "train": {"epochs_factor": 1.0, "precision": "bf16"}}
    declared = {"train.precision": ["fp32", "bf16"]}
    entries = cells(config=config, declared=declared, differences={"base": declared})
    assert check(runs(precision="bf16"), entries) == Findings()


def queries() -> pd.DataFrame:
    pids = np.repeat(np.arange(30), 2)
    frames = []
    for cell, gain in (("base", 0.0), ("own", 0.1)):
        for seed in SEEDS:
            score = generator(0, "scores").uniform(0.3, 0.7, 60) + generator(seed, cell).normal(gain, 0.01, 60)
            for side in SIDES:
                frames.append(
                    pd.DataFrame(
                        {"dataset": "market1501", "cell": cell, "seed": seed, "side": side, "pid": pids, "camid": 0}
                        | {"query": [f"{i}.jpg" for i in range(60)], "average_precision": score}
                        | {"average_precision_trapezoid": score, "inverse_negative_penalty": score}
                        | {"first_hit_rank": 1, "num_positives": 3}
                    )
                )
    return pd.concat(frames, ignore_index=True)


def test_a_warning_stands_beside_the_number_and_a_refusal_in_its_place() -> None:
    def row(table: pd.DataFrame) -> dict[str, Any]:
        found = contrast_table(queries(), table, cells(), deltas={}, headline_side="before_neck")
        return dict(found[found["headline"] & (found["metric"] == "mAP")].iloc[0])

    warned = row(runs(threads=2))
    assert warned["verdict"] == "improves"
    assert warned["warnings"] == "own and base were trained with different numbers of threads (2 against 1)."
    refused = row(runs(data_fingerprint="cafe"))
    assert all(pd.isna(refused[name]) for name in ("estimate", "low", "high", "p_adjusted", "verdict"))
    assert "saw different files of market1501" in refused["note"]
    assert row(runs())["warnings"] == ""
