"""Looks: levels against an integral of many dimensions, families under looking, and which comparison goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from reidablate.rng import generator
from reidablate.seeds import CAP, check_seeds, look_seeds
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.family_looks import LooksSetting, calibrate_looks, looks_settings, walk, whole_settings
from reidablate.stats.looked import LOOK_COLUMNS, Looked
from reidablate.stats.looking import go_through, next_seeds
from reidablate.stats.looks import Looks
from reidablate.stats.paired import Components

COMMITTED = Path(__file__).parents[2] / "results" / "reference" / "looks.parquet"
TEN = Looks.up_to(10)


@pytest.mark.parametrize(
    ("cap", "expected"), [(4, (3, 4)), (7, (3, 5, 7)), (10, (3, 5, 7, 10)), (12, (3, 5, 7, 10, 12))]
)
def test_the_looks_are_the_declared_ones_below_the_cap_and_the_cap(cap: int, expected: tuple[int, ...]) -> None:
    assert look_seeds(cap) == expected


@pytest.mark.parametrize(("seeds", "message"), [("auto:3", "from 4 to 1000"), ("auto:", "auto:N"), ("often", "preset")])
def test_other_words_are_refused(seeds: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_seeds(seeds)


@pytest.mark.parametrize("cap", [7, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 28])
def test_all_looks_together_spend_alpha_as_declared(cap: int, alpha: float) -> None:
    looks = Looks.up_to(cap)
    levels = [float(looks.level(look, np.array(alpha))) for look in range(len(looks.seeds))]
    bounds = -special.ndtri(np.array(levels) / 2)
    times = np.array(looks.seeds) / cap
    for last in range(1, len(times) + 1):
        correlation = np.sqrt(
            np.minimum.outer(times[:last], times[:last]) / np.maximum.outer(times[:last], times[:last])
        )
        inside = stats.multivariate_normal.cdf(
            bounds[:last], cov=correlation, abseps=1e-7, releps=1e-7, maxpts=2_000_000, lower_limit=-bounds[:last]
        )
        spent = 2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(times[last - 1]))
        assert 1 - inside == pytest.approx(spent, abs=2e-6)


def test_a_repeated_p_value_is_the_alpha_at_which_its_level_is_met() -> None:
    alphas = np.array([1e-9, 1e-4, 0.01, 0.05, 0.2])
    for look in range(4):
        levels = TEN.level(look, alphas)
        assert TEN.repeated(look, levels) == pytest.approx(alphas, rel=1e-4)
        assert (np.diff(levels) > 0).all()
        assert (TEN.repeated(look, levels) >= levels).all()
    assert np.isnan(TEN.repeated(1, np.array([np.nan]))).all()
    assert TEN.repeated(2, np.array([1.0])) == pytest.approx(1.0)


def parts(estimates: list[list[float]]) -> dict[int, Components]:
    """One family at each look, of a standard error of 1 that is known well."""
    return {
        seeds: Components(
            estimate=np.array([row]),
            seed=np.full((1, len(row)), 0.5),
            seed_df=np.full((1, len(row)), 1e4),
            identity=np.full((1, len(row)), 0.5),
            identity_df=1e4,
            interaction=np.zeros((1, len(row))),
        )
        for seeds, row in zip(TEN.seeds, estimates, strict=True)
    }


def test_a_contrast_stops_where_it_is_decided_and_keeps_its_word() -> None:
    # At .05 / 2 over all looks, five seeds are to show 2.24 / sqrt(5 / 10) = 3.17 standard errors, or hardly less.
    decided, seeds = walk(parts([[0, 0], [3.3, 0], [0, 2.0], [0, 2.2]]), 0.05)
    assert decided.tolist() == [[True, True]]  # Holm leaves .05 to the second, which then needs 2.03
    assert seeds.tolist() == [[5, 10]]
    decided, seeds = walk(parts([[0, 0], [3.0, 0], [0, 2.0], [0, 2.2]]), 0.05)
    assert decided.tolist() == [[False, False]]
    assert seeds.tolist() == [[10, 10]]


def test_the_committed_looks_are_within_their_bounds() -> None:
    table = pd.read_parquet(COMMITTED)
    rows = table[table["interval"] == "looks"]
    grid = rows[rows["test_set"] == "families"]
    assert len(grid) == len(looks_settings())
    assert len(rows) - len(grid) == len(whole_settings())
    assert {1, 6, 32, 48} == set(grid["num_contrasts"])
    assert (grid["experiments"] >= 10_000).all()
    assert (rows["rejection"] <= 0.065).all()
    assert rows["within_bounds"].all()
    naive = table[table["interval"] == "looks_naive"]
    assert naive["rejection"].max() > 0.1  # what looking without a price costs


def test_the_committed_looks_are_what_the_code_makes() -> None:
    made = calibrate_looks(experiments=10_000, whole_experiments=1, chosen=[LooksSetting(6, 0.5, 0.3, 0.0)], whole=())
    names = ["interval", "num_contrasts", "effects", "sampling_ratio"]
    committed = pd.read_parquet(COMMITTED).set_index(names)["rejection"].to_dict()
    for row in made.to_dict("records"):
        assert committed[tuple(row[name] for name in names)] == pytest.approx(row["rejection"], abs=3e-4)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_the_whole_grid_under_looking_holds_its_bounds() -> None:
    table = calibrate_looks(experiments=10_000, whole_experiments=1_000)
    rows = table[table["interval"] == "looks"]
    assert rows["within_bounds"].all(), rows[~rows["within_bounds"].astype(bool)].to_string()


CELLS: list[dict[str, Any]] = [
    {"name": name, "group": "main", "references": references, "seed_offset": 0}
    for name, references in (("base", []), ("clear", ["base"]), ("open", ["base"]), ("child", ["clear"]))
]
GAINS = {"base": 0.0, "clear": 0.2, "open": 0.0, "child": 0.2}
PIDS = np.repeat(np.arange(60), 2)


def study(seeds: dict[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `queries` and `runs` of cells with these numbers of seeds; `clear` is much better than `base`."""
    frames, runs = [], []
    people = generator(0, "people").uniform(0.2, 0.6, len(PIDS))
    for cell, count in seeds.items():
        for seed in range(count):
            rng = generator(seed, f"noise/{cell}")
            precision = np.clip(people + GAINS[cell] + rng.normal(0, 0.005) + rng.normal(0, 0.02, len(PIDS)), 0, 1)
            runs.append({"dataset": "market1501", "cell": cell, "seed": seed, "status": "finished"})
            frames.append(
                pd.DataFrame(
                    {
                        "dataset": "market1501",
                        "cell": cell,
                        "seed": seed,
                        "side": "before_neck",
                        "query": [f"{i:04d}.jpg" for i in range(len(PIDS))],
                        "pid": PIDS,
                        "camid": np.arange(len(PIDS)) % 3,
                        "average_precision": precision,
                        "average_precision_trapezoid": precision,
                        "inverse_negative_penalty": precision,
                        "first_hit_rank": np.where(precision > 0.5, 1, 7),
                        "num_positives": 3,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True), pd.DataFrame(runs)


ARGUMENTS: dict[str, Any] = {"deltas": {}, "headline_side": "before_neck"}


def judged(seeds: dict[str, int]) -> tuple[Looked, pd.DataFrame]:
    """Where each comparison of these cells stands, and its row in mAP by cell."""
    queries, runs = study(seeds)
    cells = [cell for cell in CELLS if cell["name"] in seeds]
    looked = go_through(TEN, queries, runs, cells, ARGUMENTS)
    table = contrast_table(queries, runs, cells, **ARGUMENTS, looked=looked)
    assert list(table.columns)[-len(LOOK_COLUMNS) :] == list(LOOK_COLUMNS)
    return looked, by_cell(table)


def by_cell(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["headline"] & (table["metric"] == "mAP")].set_index("cell", drop=False)


def test_open_comparisons_take_more_seeds_with_their_references_and_decided_ones_none() -> None:
    _, first = judged(dict.fromkeys(GAINS, 3))
    assert first["look"].tolist() == [1, 1, 1]
    assert first["verdict"].tolist() == ["improves", "undecided", "undecided"]
    # `clear` is needed as the reference of `child`, so every cell goes on.
    assert next_seeds(first, TEN) == {"market1501": dict.fromkeys(("base", "open", "clear", "child"), 5)}
    alone = first[first["cell"] != "child"]
    assert next_seeds(alone, TEN) == {"market1501": {"base": 5, "open": 5}}


def test_a_decided_comparison_shows_the_numbers_of_its_look() -> None:
    _, first = judged(dict.fromkeys(GAINS, 3))
    looked, table = judged(dict.fromkeys(GAINS, 7))
    later = table.to_dict("index")
    assert looked.seeds["market1501", "clear", "base"] == 3
    assert later["clear"]["num_seeds"] == 3
    assert later["clear"]["estimate"] == first.to_dict("index")["clear"]["estimate"]
    assert [later["open"][name] for name in ("look", "num_looks", "look_seeds", "num_seeds")] == [3, 4, 7, 7]
    assert "Judged after look 1 of 4, at 3 seeds" in later["clear"]["note"]


def test_the_interval_and_the_p_value_are_those_of_all_looks() -> None:
    seeds = {"base": 5, "open": 5}
    fixed = by_cell(contrast_table(*study(seeds), [CELLS[0], CELLS[2]], **ARGUMENTS)).to_dict("index")["open"]
    row = judged(seeds)[1].to_dict("index")["open"]
    assert row["p_value"] == pytest.approx(float(TEN.repeated(1, np.array(fixed["p_value"]))))
    assert row["high"] - row["low"] > fixed["high"] - fixed["low"]
    assert row["high_adjusted"] == pytest.approx(row["high"])  # a family of one
    assert (row["low"] + row["high"]) / 2 == pytest.approx(row["estimate"])


def test_a_missing_run_holds_the_next_look_back() -> None:
    queries, runs = study(dict.fromkeys(GAINS, 5))
    runs.loc[(runs["cell"] == "open") & (runs["seed"] == 4), "status"] = "missing"
    queries = queries[(queries["cell"] != "open") | (queries["seed"] < 4)]
    looked = go_through(TEN, queries, runs, CELLS, ARGUMENTS)
    table = contrast_table(queries, runs, CELLS, **ARGUMENTS, looked=looked)
    assert next_seeds(table, TEN) == {}


def test_nothing_is_asked_beyond_the_cap() -> None:
    _, rows = judged(dict.fromkeys(GAINS, CAP))
    assert rows.to_dict("index")["open"]["verdict"] == "undecided"
    assert next_seeds(rows, TEN) == {}
