"""The table of contrasts: hand arithmetic, pairing, families, and everything that can be missing."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from reidablate.errors import UserError
from reidablate.rng import generator
from reidablate.runs import SIDES
from reidablate.stats.behrens_fisher import half_width, tail
from reidablate.stats.contrast_columns import COLUMNS
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.scores import METRICS, numbers
from reidablate.stats.slices import SLICE_COLUMNS, slice_table, slices

DELTAS = {"market1501": {"mAP": 0.002}}
CELLS: list[dict[str, Any]] = [
    {"name": "base", "group": "main", "references": [], "seed_offset": 0},
    {"name": "own", "group": "main", "references": ["base"], "seed_offset": 0},
]
PIDS = np.repeat(np.arange(40), 3)


def run(cell: str, seed: int, precision: np.ndarray, *, pids: np.ndarray = PIDS, **columns: Any) -> pd.DataFrame:
    """Per-query rows of one run on both sides, in an order of its own."""
    count = len(precision)
    frame = pd.DataFrame(
        {
            "dataset": "market1501",
            "cell": cell,
            "seed": seed,
            "query": [f"{i:04d}.jpg" for i in range(count)],
            "pid": pids,
            "camid": np.arange(count) % 3,
            "average_precision": precision,
            "average_precision_trapezoid": precision / 2,
            "inverse_negative_penalty": precision / 4,
            "first_hit_rank": np.where(precision > 0.5, 1, 7),
            "num_positives": 1 + np.arange(count) % 12,
            **columns,
        }
    )
    both = pd.concat([frame.assign(side=side) for side in SIDES])
    return both.iloc[generator(seed, f"order/{cell}").permutation(len(both))]


def planned(seeds: dict[str, int] | None = None, **status: str) -> pd.DataFrame:
    """The table of runs: `status` overrides the runs named cell_seed, for example own_1="diverged"."""
    rows = [
        {
            "dataset": "market1501",
            "cell": cell,
            "seed": seed,
            "status": status.get(f"{cell}_{seed}", "finished"),
            "epoch": 3 if status.get(f"{cell}_{seed}") == "diverged" else None,
        }
        for cell, count in (seeds or {"base": 4, "own": 4}).items()
        for seed in range(count)
    ]
    return pd.DataFrame(rows).astype({"epoch": "Int64"})


def scores(cell: str, seed: int, *, gain: float = 0.0, count: int = len(PIDS)) -> np.ndarray:
    noise = generator(seed, f"noise/{cell}").normal(0, 0.02, count)
    shared = generator(0, "scores").uniform(0.3, 0.7, count)
    values: np.ndarray = np.clip(shared + gain + noise + 0.01 * np.sin(seed), 0, 1)
    return values


def everyone(*, gain: float = 0.0, seeds: int = 4) -> pd.DataFrame:
    frames = [run("base", seed, scores("base", seed)) for seed in range(seeds)]
    frames += [run("own", seed, scores("own", seed, gain=gain)) for seed in range(seeds)]
    return pd.concat(frames, ignore_index=True)


def table(queries: pd.DataFrame, runs: pd.DataFrame, cells: list[dict[str, Any]] = CELLS, **more: Any) -> pd.DataFrame:
    found = contrast_table(queries, runs, cells, deltas=DELTAS, headline_side="before_neck", **more)
    assert list(found.columns) == list(COLUMNS)
    for name in found.select_dtypes("Float64"):
        values = found[name].dropna().to_numpy(float)
        assert np.isfinite(values).all(), name
    return found


def headline(found: pd.DataFrame, metric: str = "mAP") -> dict[str, Any]:
    rows = found[found["headline"] & (found["metric"] == metric)]
    assert len(rows) == 1
    return dict(zip(rows.columns, rows.iloc[0], strict=True))


def test_every_metric_on_both_sides_pairs_queries_by_name() -> None:
    found = table(everyone(gain=0.05), planned())
    assert len(found) == len(METRICS) * len(SIDES)
    row = headline(found)
    both = [np.stack([scores(c, s, gain=g) for s in range(4)]) for c, g in (("own", 0.05), ("base", 0.0))]
    assert row["estimate"] == pytest.approx((both[0] - both[1]).mean())
    assert row["seed_sd"] == pytest.approx((both[0] - both[1]).mean(axis=1).std(ddof=1))
    assert row["p_better"] == pytest.approx(np.mean(both[0] > both[1]))
    assert row["cell_mean"] - row["reference_mean"] == pytest.approx(row["estimate"])
    assert row["verdict"] == "improves"
    assert headline(found, "mAP_trapezoid")["estimate"] == pytest.approx(row["estimate"] / 2)
    assert headline(found, "rank1")["cell_mean"] == pytest.approx(np.mean(both[0] > 0.5))
    assert headline(found, "rank10")["estimate"] == 0


def test_interval_and_p_value_agree_and_the_interval_holds_the_estimate() -> None:
    row = headline(table(everyone(gain=0.004), planned()))
    assert row["p_value"] < 0.05
    assert row["low"] > 0
    half = half_width(0.05, row["seed_error"] ** 2, row["seed_df"], row["sampling_error"] ** 2, row["identity_df"])
    half = max(half, stats.t.ppf(0.975, row["identity_df"]) * row["identity_error"])
    assert [row["low"], row["high"]] == pytest.approx([row["estimate"] - half, row["estimate"] + half])
    assert (row["low_adjusted"], row["high_adjusted"]) == pytest.approx((row["low"], row["high"]))  # a family of one
    assert row["p_better_low"] < row["p_better"] < row["p_better_high"]
    assert row["detectable_low"] <= row["detectable"] < row["detectable_high"]
    assert 0 < row["seed_share"] < 1 + 1e-9


def test_the_share_of_the_seeds_stays_a_share_where_few_identities_give_the_interval() -> None:
    # All queries weigh like 2.7 identities, so t has 1.7 degrees of freedom and the identities' interval is the wider
    # one although its variance is smaller than that of the seeds.
    pids = np.append(np.repeat([0, 1, 2], [100, 30, 30]), np.arange(3, 23))
    frames = []
    for seed in range(4):
        moves = generator(seed, "moves", 10).normal(0, 0.05, 23)[pids]
        frames += [run("base", seed, np.full(len(pids), 0.5), pids=pids), run("own", seed, 0.5 + moves, pids=pids)]
    row = headline(table(pd.concat(frames, ignore_index=True), planned()))
    assert row["identity_df"] < 2
    assert row["seed_sd"] ** 2 / 4 > row["sampling_error"] ** 2
    assert 0 < row["seed_share"] <= 1


def test_pairing_over_seeds_narrows_when_the_seeds_share_their_noise() -> None:
    queries = everyone()
    shift = queries["seed"].map({0: 0.05, 1: -0.04, 2: 0.02, 3: -0.06})
    queries["average_precision"] += shift  # both cells move alike
    row = headline(table(queries, planned()))
    assert row["standard_error"] < 0.3 * row["standard_error_unpaired"]


def test_cells_with_seeds_of_their_own_are_compared_unpaired() -> None:
    queries = everyone(gain=0.05)
    queries.loc[queries["cell"] == "own", "seed"] += 100
    runs = planned()
    runs.loc[runs["cell"] == "own", "seed"] += 100
    row = headline(table(queries, runs, [CELLS[0], {**CELLS[1], "seed_offset": 100}]))
    assert not row["paired"]
    assert row["num_seeds"] == 4
    assert pd.isna(row["standard_error_unpaired"])
    assert pd.isna(row["sign_flip_p"])
    paired = headline(table(everyone(gain=0.05), planned()))
    assert row["estimate"] == pytest.approx(paired["estimate"])
    assert row["standard_error"] == pytest.approx(paired["standard_error_unpaired"])


def test_the_family_is_every_contrast_of_a_group_with_a_planned_run() -> None:
    cells = [*CELLS, {"name": "more", "group": "main", "references": ["own", "base"]}]
    cells += [{"name": "else", "group": "other", "references": ["base"]}]
    cells += [{"name": "unplanned", "group": "main", "references": ["base"]}]
    everything = {"base": 4, "own": 4, "more": 4, "else": 4}
    runs = planned(everything, **{f"{cell}_{k}": "missing" for cell in ("more", "else") for k in range(4)})
    found = table(everyone(gain=0.004), runs, cells)
    main = headline(found[found["cell"] == "own"])
    assert (main["family_size"], main["family_tested"]) == (3, 1)
    assert main["p_adjusted"] == pytest.approx(min(1, 3 * main["p_value"]))
    assert headline(found[found["cell"] == "else"])["family_size"] == 1
    missing = headline(found[(found["cell"] == "more") & (found["reference"] == "base")])
    assert missing["verdict"] == "provisional"
    assert missing["num_missing"] == 4
    assert "4 planned runs are missing, so there is no verdict yet." in missing["note"]
    never = headline(found[found["cell"] == "unplanned"])
    assert pd.isna(never["family_size"])
    assert never["note"].startswith("unplanned has no runs on this data set.")


def test_fewer_seeds_than_the_preset_has_are_provisional_once_there_is_a_run() -> None:
    scored = everyone(gain=0.004)
    arguments: dict[str, Any] = {"deltas": {}, "headline_side": "before_neck"}
    found = contrast_table(scored, planned({"base": 5, "own": 4}), CELLS, **arguments, least_seeds=5)
    row = headline(found[found["cell"] == "own"])
    assert (row["verdict"], row["num_missing"]) == ("provisional", 2)  # the reference has not run its fifth
    assert "1 of the preset's 5 seeds of own are not planned." in row["note"]
    enough = headline(contrast_table(scored, planned({"base": 4, "own": 4}), CELLS, **arguments, least_seeds=4))
    assert enough["num_missing"] == 0
    unseen = planned({"base": 1, "own": 1}, base_0="missing", own_0="missing")
    nothing = headline(contrast_table(scored, unseen, CELLS, **arguments, least_seeds=5))
    assert nothing["num_missing"] == 2


def test_primary_contrasts_have_a_family_of_their_own_over_all_groups() -> None:
    names = [("one", "main", True), ("two", "else", True), ("late", "main", True), ("rest", "main", False)]
    cells = [CELLS[0]]
    for name, group, primary in names:
        cell = {"name": name, "group": group, "references": ["base"], "primary": primary}
        cells.append({**cell, "exploratory": ["base"] * (name == "late")})
    frames = [run("base", seed, scores("base", seed)) for seed in range(4)]
    frames += [run(name, seed, scores(name, seed, gain=0.003)) for name, _, _ in names for seed in range(4)]
    runs = planned({"base": 4} | {name: 4 for name, _, _ in names})
    found = {name: headline(part) for name, part in table(pd.concat(frames), runs, cells).groupby("cell")}
    assert {name: (row["family"], row["family_size"]) for name, row in found.items()} == {
        "one": ("primary", 2),
        "two": ("primary", 2),
        "late": ("main", 2),
        "rest": ("main", 2),
    }
    assert found["late"]["exploratory"]
    assert "it is exploratory" in found["late"]["note"]
    p_values = [found[name]["p_value"] for name in ("one", "two")]
    assert min(found[name]["p_adjusted"] for name in ("one", "two")) == pytest.approx(min(1, 2 * min(p_values)))


def test_what_came_after_a_study_was_frozen_is_a_family_of_its_own() -> None:
    names = ["one", "two", "late"]
    cells = [CELLS[0]]
    cells += [{"name": name, "group": "main", "references": ["base"], "primary": True} for name in names]
    frames = [run("base", seed, scores("base", seed)) for seed in range(4)]
    frames += [run(name, seed, scores(name, seed, gain=0.003)) for name in names for seed in range(4)]
    later = {"market1501": {"late": {"base": "it was declared later"}}}
    found = table(pd.concat(frames), planned(dict.fromkeys(["base", *names], 4)), cells, later=later)
    rows = {name: headline(part) for name, part in found.groupby("cell")}
    assert {name: (row["family"], row["family_size"], row["exploratory"]) for name, row in rows.items()} == {
        "one": ("primary", 2, False),
        "two": ("primary", 2, False),
        "late": ("added later", 1, True),
    }
    assert "it was declared later, so it is exploratory" in rows["late"]["note"]


def sisters(*, gain: float = 0.004, count: int = 6, seeds: int = 3) -> tuple[pd.DataFrame, pd.DataFrame, list[Any]]:
    """Queries, runs and cells of some cells that share a baseline."""
    names = [f"cell{k}" for k in range(count)]
    frames = [run("base", seed, scores("base", seed)) for seed in range(seeds)]
    frames += [run(name, seed, scores(name, seed, gain=gain)) for name in names for seed in range(seeds)]
    cells = [CELLS[0], *({"name": name, "group": "main", "references": ["base"]} for name in names)]
    return pd.concat(frames, ignore_index=True), planned(dict.fromkeys(["base", *names], seeds)), cells


def test_sister_contrasts_share_what_they_know_of_the_seed_variance() -> None:
    found = table(*sisters())
    rows = found[found["headline"] & (found["metric"] == "mAP")]
    variance = rows["seed_sd"].to_numpy(float) ** 2
    # Excess spread of the log variances, 2 degrees of freedom each, a quarter of it lost to the shared baseline.
    logs = np.log(variance) - special.psi(1) + np.log(1)
    excess = logs.var(ddof=1) - 0.75 * special.polygamma(1, 1)
    assert excess > 0
    (prior_df,) = set(rows["prior_df"])
    assert special.polygamma(1, prior_df / 2) == pytest.approx(excess)
    prior = np.exp(logs.mean() + special.psi(prior_df / 2) - np.log(prior_df / 2))
    expected = (prior_df * prior + 2 * variance) / (prior_df + 2)
    assert 3 * rows["seed_error"].to_numpy(float) ** 2 == pytest.approx(expected)
    assert rows["seed_df"].to_numpy(float) == pytest.approx(np.full(6, min(prior_df + 2, 4 * 6 * 2 / 9)))


def test_the_columns_of_a_row_belong_together() -> None:
    found = table(*sisters(seeds=4))
    rows = found[found["p_value"].notna() & (found["seed_df"].notna())]
    assert len(rows) > 40
    for row in rows.to_dict("records"):
        size = abs(row["estimate"])
        both = tail(size, row["seed_error"] ** 2, row["seed_df"], row["sampling_error"] ** 2, row["identity_df"])
        if row["p_from"] == "both":
            assert row["p_value"] == pytest.approx(float(both))
            assert row["standard_error"] == pytest.approx(np.hypot(row["seed_error"], row["sampling_error"]))
        else:
            assert row["p_value"] == pytest.approx(2 * stats.t.sf(size / row["standard_error"], row["df"]))
            assert row["p_value"] >= both
        assert (row["low_adjusted"] > 0 or row["high_adjusted"] < 0) == (row["p_adjusted"] < 0.05)
        assert row["low_adjusted"] <= row["low"] + 1e-9
        assert row["high"] <= row["high_adjusted"] + 1e-9


@pytest.mark.parametrize("dropped", ["cell0_1", "base_2"])
def test_dropping_a_run_never_makes_a_verdict(dropped: str) -> None:
    queries, runs, cells = sisters(gain=0.05, count=3, seeds=4)
    runs = runs.assign(
        status=["missing" if f"{c}_{s}" == dropped else "finished" for c, s in runs[["cell", "seed"]].values]
    )
    found = table(queries, runs, cells)
    rows = found[found["headline"] & (found["metric"] == "mAP")].set_index("cell")
    touched = ["cell0"] if dropped == "cell0_1" else ["cell0", "cell1", "cell2"]
    assert (rows.loc[touched, "verdict"] == "provisional").all()
    assert rows.loc[touched, "p_adjusted"].isna().all()
    assert (rows["family_size"] == 3).all()
    assert (rows["family_tested"] == 3 - len(touched)).all()
    for name in rows.index.difference(touched):
        least = rows.loc[rows.index.difference(touched), "p_value"].min()
        assert rows.loc[name, "p_adjusted"] >= min(1, 3 * least) - 1e-12  # the place of the missing one is kept


def test_delta_on_procedural_images_is_borrowed_and_out_of_reach_is_said() -> None:
    queries, runs, cells = everyone(gain=0.002, seeds=3), planned({"base": 3, "own": 3}), CELLS
    moves = generator(0, "moves").normal(0, 0.05, 40)[queries["pid"]]
    queries["average_precision"] += np.where(queries["cell"] == "own", moves, 0)
    found = contrast_table(queries, runs, cells, deltas=DELTAS, headline_side="before_neck", borrowed={"market1501"})
    row = headline(found)
    assert row["delta_borrowed"]
    assert not row["equivalence_reachable"]
    assert stats.t.ppf(0.975, row["identity_df"]) * row["sampling_error"] > 0.002
    assert "Equivalence within 0.2 points is out of reach on this test set" in row["note"]
    assert 0 < row["within_delta"] < 1
    assert not headline(table(queries, runs))["delta_borrowed"]


def test_confidence_in_delta_is_that_of_the_t_distribution_where_only_identities_vary() -> None:
    moves = generator(0, "moves").normal(0.001, 0.01, 40)[PIDS]
    frames = [run(c, s, 0.5 + moves * (c == "own")) for c in ("base", "own") for s in range(4)]
    row = headline(table(pd.concat(frames, ignore_index=True), planned()))
    error, df = row["standard_error"], row["df"]
    assert df == pytest.approx(39)
    above = stats.t.sf((0.002 - row["estimate"]) / error, df)
    assert row["above_delta"] == pytest.approx(above, abs=1e-6)
    below = stats.t.cdf((-0.002 - row["estimate"]) / error, df)
    assert row["within_delta"] == pytest.approx(1 - above - below, abs=1e-6)


def test_cameras_that_differ_widen_their_sensitivity_line_only() -> None:
    shift = np.array([0.02, -0.015, 0.012])[np.arange(len(PIDS)) % 3]
    frames = [run("base", s, scores("base", s)) for s in range(4)]
    frames += [run("own", s, scores("own", s, gain=0.01) + shift) for s in range(4)]
    row = headline(table(pd.concat(frames, ignore_index=True), planned()))
    assert row["p_value"] < 0.01
    assert row["p_cameras"] > 0.1
    assert row["low_cameras"] < 0 < row["low"]


def test_an_undecided_contrast_says_what_would_decide_it() -> None:
    row = headline(table(everyone(gain=0.002, seeds=3), planned({"base": 3, "own": 3})))
    assert row["verdict"] == "undecided"
    assert row["detectable"] > abs(row["estimate"])
    assert row["seeds_needed"] > 3
    assert row["note"] == f"About {row['seeds_needed']} seeds would decide it if the estimate is right."


@pytest.mark.parametrize(("seeds", "sentence"), [(1, "1 seed compared"), (2, "2 seeds compared")])
def test_fewer_than_three_seeds_have_an_estimate_but_no_interval(seeds: int, sentence: str) -> None:
    row = headline(table(everyone(seeds=seeds), planned({"base": seeds, "own": seeds})))
    assert not pd.isna(row["estimate"])
    assert pd.isna(row["low"])
    assert pd.isna(row["p_adjusted"])
    assert row["verdict"] == "undecided"
    assert f"{sentence}: an interval needs at least 3." in row["note"]


def test_a_diverged_seed_is_counted_named_and_forbids_improves() -> None:
    queries = everyone(gain=0.05)
    queries = queries[(queries["cell"] != "own") | (queries["seed"] != 1)]
    row = headline(table(queries, planned(own_1="diverged")))
    assert (row["num_seeds"], row["num_planned"], row["num_diverged"]) == (3, 4, 1)
    assert row["low"] > 0
    assert row["verdict"] == "undecided"
    assert "1 of 4 seeds of own diverged (seed 1 diverged at epoch 3)." in row["note"]


def test_a_missing_run_is_named_and_the_rest_compared() -> None:
    row = headline(table(everyone(gain=0.05), planned(base_2="missing")))
    assert row["num_seeds"] == 3
    assert row["low"] > 0
    assert row["verdict"] == "provisional"
    assert "base: seed 2 has not been run." in row["note"]
    assert "1 planned run is missing, so there is no verdict yet." in row["note"]


def test_rows_without_a_planned_run_never_enter() -> None:
    row = headline(table(everyone(seeds=6), planned()))
    assert row["num_seeds"] == 4
    assert row["estimate"] == pytest.approx(headline(table(everyone(), planned()))["estimate"])


def test_a_finished_run_without_scores_is_a_sentence() -> None:
    queries = everyone()
    row = headline(table(queries[queries["cell"] == "base"], planned()))
    assert pd.isna(row["estimate"])
    assert "own: seeds 0, 1, 2 and 3 left no per-query scores on this feature side." in row["note"]
    assert "nothing to compare" in row["note"]


def test_scores_that_are_not_finite_are_a_sentence() -> None:
    queries = everyone()
    queries.loc[(queries["cell"] == "own") & (queries["seed"] == 0), "average_precision"] = np.nan
    row = headline(table(queries, planned()))
    assert row["num_seeds"] == 3
    assert "own: seed 0 has per-query scores that are not finite." in row["note"]


def test_runs_scored_on_other_queries_are_not_compared() -> None:
    queries = everyone()
    dropped = (queries["cell"] == "own") & (queries["seed"] == 0) & (queries["query"] == "0007.jpg")
    row = headline(table(queries[~dropped], planned()))
    assert pd.isna(row["estimate"])
    assert "not scored on the same queries" in row["note"]


def test_empty_tables_give_an_empty_table() -> None:
    nothing = everyone().iloc[:0]
    assert len(table(nothing, planned().iloc[:0])) == 0
    assert len(table(nothing, planned(), [])) == 0
    assert table(nothing, planned())["estimate"].isna().all()


def queries_of(pids: np.ndarray, *, gain: float = 0.05) -> pd.DataFrame:
    frames = []
    for seed in range(4):
        for cell, plus in (("base", 0.0), ("own", gain)):
            frames.append(run(cell, seed, scores(cell, seed, gain=plus, count=len(pids)), pids=pids))
    return pd.concat(frames, ignore_index=True)


def test_a_single_identity_has_no_interval() -> None:
    row = headline(table(queries_of(np.zeros(20, dtype=int)), planned()))
    assert pd.isna(row["low"])
    assert "one identity" in row["note"]


def test_one_query_has_no_interval() -> None:
    row = headline(table(queries_of(np.zeros(1, dtype=int)), planned()))
    assert row["num_queries"] == 1
    assert not pd.isna(row["estimate"])
    assert "one identity" in row["note"]


def test_an_identity_with_nearly_all_queries_has_no_interval() -> None:
    row = headline(table(queries_of(np.array([0] * 300 + list(range(1, 11)))), planned()))
    assert row["num_identities"] == 11
    assert pd.isna(row["low"])
    assert "One identity holds 300 of 310 queries" in row["note"]


def test_an_identity_with_many_queries_lowers_the_degrees_of_freedom() -> None:
    row = headline(table(queries_of(np.array([0] * 300 + list(range(1, 701)))), planned()))
    assert not pd.isna(row["low"])
    assert "weigh like 11.0 identities; the interval is approximate" in row["note"]


def test_equal_scores_are_equivalent_and_say_so() -> None:
    queries = everyone()
    queries["average_precision"] = 0.5
    row = headline(table(queries, planned()))
    assert (row["estimate"], row["low"], row["high"], row["p_value"]) == (0, 0, 0, 1)
    assert row["verdict"] == "equivalent"
    assert "Every query scores the same in both cells." in row["note"]


def test_a_difference_that_never_varies_has_no_interval() -> None:
    queries = everyone()
    queries["average_precision"] = np.where(queries["cell"] == "own", 0.75, 0.5)
    row = headline(table(queries, planned()))
    assert row["estimate"] == 0.25
    assert pd.isna(row["p_value"])
    assert row["verdict"] == "undecided"
    assert "does not vary" in row["note"]


def test_a_wrong_headline_side_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no feature side; use one of before_neck, after_neck"):
        contrast_table(everyone(), planned(), CELLS, deltas={}, headline_side="neck")


def test_numbers_reads_as_words() -> None:
    assert [numbers([3]), numbers([0, 2]), numbers([0, 1, 2])] == ["seed 3", "seeds 0 and 2", "seeds 0, 1 and 2"]


def test_slices_partition_the_queries_and_use_the_same_machinery() -> None:
    queries = everyone(gain=0.05)
    queries["occluded_share"] = queries["pid"] % 4 * 0.2
    found = slice_table(queries, planned(), CELLS, deltas=DELTAS, headline_side="before_neck")
    assert list(found.columns) == list(SLICE_COLUMNS)
    assert set(found["slice_by"]) == {"camera", "num_positives", "occluded_share"}
    assert (found.groupby("slice_by")["num_queries"].sum() == len(PIDS)).all()
    camera = found[found["slice"] == "camera 1"].iloc[0]
    keep = np.arange(len(PIDS)) % 3 == 1
    seeds = [scores("own", s, gain=0.05)[keep].mean() - scores("base", s)[keep].mean() for s in range(4)]
    assert camera["estimate"] == pytest.approx(np.mean(seeds))
    assert camera["family_size"] == 3
    with pytest.raises(UserError, match="metric 'map' is unknown"):
        slice_table(queries, planned(), CELLS, deltas={}, headline_side="before_neck", metrics=("map",))


def test_slices_have_plain_labels() -> None:
    found = slices(pd.DataFrame({"num_positives": [1, 1, 1, 2, 5, 6, 9, 9, 9], "occluded_share": [0, 0.1, 1] * 3}))
    assert {label: int(keep.sum()) for label, keep in found["num_positives"].items()} == {
        "1 positive": 3,
        "2 to 6 positives": 3,
        "7 to 9 positives": 3,
    }
    assert list(found["occluded_share"]) == ["not occluded", "0 to 20 % occluded", "40 to 100 % occluded"]
    same = slices(pd.DataFrame({"num_positives": [4, 4, 4]}))
    assert list(same["num_positives"]) == ["4 positives"]


def test_camera_pairs_are_slices_where_the_table_has_them() -> None:
    found = slices(pd.DataFrame({"camera_pair": ["1-2", "1-3", "1-2"]}))
    assert {label: keep.tolist() for label, keep in found["camera_pair"].items()} == {
        "cameras 1-2": [True, False, True],
        "cameras 1-3": [False, True, False],
    }
