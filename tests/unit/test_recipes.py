"""A recipe a seed: drawn from streams of the seed, the same in every cell, and what an interval over recipes says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from reidablate import recipes
from reidablate.config import RunConfig
from reidablate.distributions import draw
from reidablate.errors import UserError
from reidablate.planning import plan
from reidablate.rng import generator
from reidablate.stats.contrasts import contrast_table
from support import Settings, present

JITTER = {"train.lr_factor": "loguniform(0.7, 1.4)", "losses.triplet.margin": "uniform(0.1, 0.5)"}


@pytest.mark.parametrize(
    ("written", "low", "high", "middle"),
    [
        ("uniform(1, 3)", 1, 3, 2.0),
        ("loguniform(0.25, 4)", 0.25, 4, 1.0),
        ("loguniform(1e-4, 1e-2)", 1e-4, 1e-2, 1e-3),
        ("integer(2, 5)", 2, 5, 3.5),
        ("uniform(1.00001, 1.00009)", 1.00001, 1.00009, 1.00005),  # narrower than the digits
    ],
)
def test_draws_stay_within_and_have_the_median_of_their_distribution(
    written: str, low: float, high: float, middle: float
) -> None:
    rng = generator(0, "test")
    values = np.array([draw(written, rng) for _ in range(4000)])
    assert low <= values.min() <= values.max() <= high
    # The share below the median has a standard error of 0.008.
    assert np.mean(values < middle) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (f"integer(1, {10**400})", r"integer\(a, b\) with a below b"),
        ("uniform(-1e308, 1e308)", r"uniform\(a, b\) with a below b"),
        ("uniform(1, .inf)", r"uniform\(a, b\) with a below b"),
        ("integer(1, 2.5)", r"integer\(a, b\) with two whole numbers"),
        ("choice(null, 0.3)", r"choice\(a, b, \.\.\.\) of words or numbers"),
        ("choice(2026-13-45, 1)", r"choice\(a, b, \.\.\.\) of words or numbers"),
        ("choice(2026-01-01, 1)", r"choice\(a, b, \.\.\.\) of words or numbers"),
        ("uniform(1], [2)", r"uniform\(a, b\) with two numbers"),
    ],
)
def test_what_is_no_distribution_is_refused(written: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        draw(written, generator(0, "test"))


def test_a_seed_draws_the_same_whatever_else_is_drawn() -> None:
    one = recipes.recipe({"train.lr_factor": "loguniform(0.7, 1.4)"}, 3)
    assert recipes.recipe(JITTER, 3)["train.lr_factor"] == one["train.lr_factor"]
    assert len({recipes.recipe(JITTER, seed)["train.lr_factor"] for seed in range(20)}) == 20


def jittered(settings: Settings, jitter: dict[str, str], **change: Any) -> Any:
    path = Path("jittered.yaml")
    tiny = yaml.safe_load(Path("tiny.yaml").read_text())
    path.write_text(
        yaml.safe_dump({**tiny, "name": "jittered", "losses": {"triplet": {"margin": 0.3}}, "jitter": jitter})
    )
    return plan({**settings, "preset": str(path), "datasets": "market1501", "seeds": 3, **change})


def test_every_cell_computes_with_the_recipe_of_its_seed(settings: Settings) -> None:
    study = jittered(settings, {"train.lr_factor": "loguniform(0.7, 1.4)"}, cells="naive_triplet,p1")
    for cell in study.cells:
        config: RunConfig = cell.config
        drawn = [recipes.with_recipe(config, seed, where=cell.name) for seed in range(3)]
        expected = [recipes.recipe(JITTER, seed)["train.lr_factor"] for seed in range(3)]
        assert [one.train.lr_factor for one in drawn] == expected
        assert not any(one.jitter for one in drawn)
    assert any("A difference is the mean over recipes" in line for line in study.notices)


def test_without_jitter_a_configuration_is_what_it_was(settings: Settings) -> None:
    study = plan({**settings, "cells": "p1", "datasets": "market1501"})
    config = study.cells[0].config
    assert recipes.with_recipe(config, 0, where="p1") is config
    assert "jitter" not in config.dump()


@pytest.mark.parametrize(
    ("jitter", "cells", "sentence"),
    [
        ({"losses.triplet.margn": "uniform(0, 1)"}, "naive_triplet", "did you mean 'losses.triplet.margin'?"),
        ({"model.drop_path": "uniform(0, 0.2)"}, "naive_triplet", "no 'model.drop_path' in losses or train"),
        ({"losses.triplet.margin": "uniform(0.1, 0.5)"}, "p1", "p1 has no losses.triplet.margin"),
        ({"train.lr_factor": "uniform(0.5, 2)"}, "mine", "mine sets train.lr_factor itself (2.0 against 1.0)"),
        ({"train.lr_factor": "uniform(-1, 0)"}, "naive_triplet", "should be greater than 0"),
        ({"train.lr_factor": "normal(0, 1)"}, "naive_triplet", "a distribution such as loguniform"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings: Settings, jitter: dict[str, str], cells: str, sentence: str) -> None:
    Path("ablations/mine.yaml").write_text("name: mine\nextends: naive_triplet\ntrain: {lr_factor: 2}\n")
    with pytest.raises(UserError) as caught:
        jittered(settings, jitter, cells=cells)
    assert sentence in str(caught.value)
    assert "jitter" in str(caught.value)


CELLS: list[dict[str, Any]] = [
    {"name": "base", "group": "main", "references": [], "seed_offset": 0},
    {"name": "own", "group": "main", "references": ["base"], "seed_offset": 0},
]


def experiment(number: int, seeds: int, gain: Any, *, drawn: bool) -> dict[str, Any]:
    """The contrast of two cells whose true difference depends on the recipe, 1 unless it is drawn."""
    rng = generator(number, "experiment")
    found: dict[str, dict[str, float]] = {}
    rows = []
    pids = np.arange(100)
    for seed in range(seeds):
        x = draw("uniform(0, 2)", rng) if drawn else 1.0
        found[str(seed)] = {"train.lr_factor": x}
        shared = 0.5 + rng.normal(0, 0.05, len(pids))
        for cell, shift in (("base", 0.0), ("own", gain(x))):
            noise = rng.normal(0, 0.003) + rng.normal(0, 0.01, len(pids))
            rows.append(
                pd.DataFrame(
                    {
                        "dataset": "market1501",
                        "cell": cell,
                        "seed": seed,
                        "side": "before_neck",
                        "query": [f"{i}" for i in pids],
                        "pid": pids,
                        "camid": pids % 3,
                        "average_precision": shared + shift + noise,
                        "average_precision_trapezoid": shared,
                        "inverse_negative_penalty": shared,
                        "first_hit_rank": 1,
                        "num_positives": 3,
                    }
                )
            )
    queries = pd.concat(rows, ignore_index=True)
    runs = queries[["dataset", "cell", "seed"]].drop_duplicates().assign(status="finished")
    table = contrast_table(
        queries, runs, CELLS, deltas={}, headline_side="before_neck", recipes=found if drawn else None
    )
    (row,) = table[table["headline"] & (table["metric"] == "mAP")].to_dict("records")
    return {str(name): value for name, value in row.items()}


def here_alone(x: float) -> float:
    """A gain at the preset's recipe that averages to zero over uniform(0, 2)."""
    return float(0.02 * np.cos(np.pi * (x - 1)))


def everywhere(x: float) -> float:
    return 0.02


def improves(gain: Any, *, drawn: bool, experiments: int) -> float:
    words = [experiment(number, 5, gain, drawn=drawn)["verdict"] for number in range(experiments)]
    assert "worsens" not in words or drawn
    return float(np.mean([word == "improves" for word in words]))


def test_a_gain_at_one_recipe_is_found_there_and_not_over_recipes() -> None:
    assert improves(here_alone, drawn=False, experiments=20) == 1.0
    # Nominal is 2.5 %: of 120 studies, 10 or more with a chance below 0.1 %.
    assert improves(here_alone, drawn=True, experiments=120) < 10 / 120


def test_a_gain_at_every_recipe_is_found_either_way() -> None:
    assert improves(everywhere, drawn=False, experiments=20) == 1.0
    assert improves(everywhere, drawn=True, experiments=20) == 1.0


def test_the_note_shows_the_sign_in_each_recipe_and_the_gain_against_what_was_drawn() -> None:
    row = experiment(0, 5, here_alone, drawn=True)
    rng, gains = generator(0, "experiment"), {}
    assert row["prior_df"] == 0  # nothing is moderated
    listed = re.search(r"Points by train.lr_factor \((.*?)\)\.", row["note"])
    for part in present(listed).group(1).split(", "):
        value, points = part.split(": ")
        gains[float(value)] = float(points)
    assert draw("uniform(0, 2)", rng) in gains
    assert list(gains) == sorted(gains)
    above = sum(gain > 0 for gain in gains.values())
    assert f"Mean over 5 recipes, above zero in {above}." in row["note"]
    assert np.mean(list(gains.values())) == pytest.approx(100 * row["estimate"], abs=0.01)
