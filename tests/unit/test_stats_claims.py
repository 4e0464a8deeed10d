"""The published gains and their verdicts."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reidablate.cells import load_cells
from reidablate.errors import UserError
from reidablate.planning import load_presets
from reidablate.published import Claim, Defined, Quoted, load_claims, with_asked
from reidablate.stats.claims import CLAIM_VERDICTS, COLUMNS, claim_verdict, judge, single_pair_chance
from reidablate.stats.contrasts import contrast_table

CONFIG = Path(__file__).parents[2] / "workflow" / "config"
CLAIMS = CONFIG / "claims.yaml"
SLIDES = CONFIG / "published" / "slides.csv"
CLAIM = Claim(
    name="c",
    title="t",
    dataset="market1501",
    cell="p1_as_run",
    reference="base_as_run",
    epochs=120,
    quoted=Quoted(cell="base", side="before_neck"),
    defined=Defined(cell="p1", reference="base"),
    metric="mAP",
    gain_points=0.39,
    source="s",
    contradictions=("One.", "Two."),
    presets=("paper",),
    weights=("*ics*lup*",),
)
MISSING: Any = pd.NA
SCORED = {"num_missing": 0, "num_diverged": 0, "num_diverged_reference": 0}


def study(**dataset: Any) -> dict[str, Any]:
    entry = {"name": "market1501", "synthetic": False, "official_counts": True, "fingerprint": "f"} | dataset
    return {"preset": "paper", "headline": "before_neck", "datasets": [entry]}


def contrasts(**changed: Any) -> pd.DataFrame:
    row: dict[str, Any] = {
        "dataset": "market1501",
        "cell": "p1_as_run",
        "reference": "base_as_run",
        "metric": "mAP",
        "num_seeds": 5,
    }
    row |= {"estimate": 0.004, "low": 0.003, "high": 0.005, "p_value": 1e-4, "verdict": "improves", "note": ""}
    row |= {**SCORED, "delta": 0.002, "side": "after_neck"} | changed
    as_defined: dict[str, Any] = {"cell": "p1", "reference": "base", "side": "before_neck", "verdict": "undecided"}
    as_defined |= {"estimate": 0.001, "low": -0.002, "high": 0.003}
    other_side = {"side": "before_neck", "verdict": "worsens", "estimate": -1.0}
    return pd.DataFrame([{**row, **other_side}, row, {**row, **as_defined}])


def runs(weights: str | None = "/w/vit_base_ICS_cfs_lup.pth", **changed: Any) -> pd.DataFrame:
    rows = [
        {"dataset": "market1501", "cell": cell, "seed": seed, "status": "finished"}
        for cell in ("p1_as_run", "base_as_run")
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows).assign(weights=weights, **{"data_fingerprint": "f", **changed})


def metrics() -> pd.DataFrame:
    scores = {
        ("p1_as_run", "after_neck"): (0.936, 0.940),
        ("base_as_run", "after_neck"): (0.933, 0.935),
        ("base", "before_neck"): (0.930, 0.931),
    }
    rows = [
        {"dataset": "market1501", "cell": cell, "seed": seed, "side": side, "metric": "mAP", "value": value}
        for (cell, side), values in scores.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def cells(epochs_factor: float = 1.0, by_dataset: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    config = {"train": {"epochs": 120, "epochs_factor": epochs_factor}}
    return [
        {"name": "p1_as_run", "config": config, "by_dataset": by_dataset or {}},
        {"name": "base_as_run", "config": {"train": {"epochs": 120, "epochs_factor": 1.0}}},
    ]


def judged(found: pd.DataFrame | None = None, *, claim: Claim = CLAIM, **other: Any) -> dict[str, Any]:
    table = judge(
        [claim],
        contrasts() if found is None else found,
        other.get("study", study()),
        other.get("runs", runs()),
        other.get("cells", cells()),
        other.get("metrics", metrics()),
    )
    assert list(table.columns) == list(COLUMNS)
    row = dict(zip(table.columns, table.iloc[0], strict=True))
    assert row["verdict"] in CLAIM_VERDICTS
    return row


def test_a_table_of_contrasts_as_computed_is_understood() -> None:
    queries = pd.DataFrame(columns=["dataset", "cell", "seed", "side", "query", "pid", "camid"])
    entries = [{"name": "p1_as_run", "group": "main", "references": ["base_as_run"]}]
    computed = contrast_table(queries, runs(), entries, deltas={}, headline_side="before_neck")
    assert judged(computed)["verdict"] == "not tested (not run)"
    measured = computed.assign(estimate=0.004, low=0.003, high=0.005, p_value=0.001, num_missing=0)
    assert judged(measured)["verdict"] == "confirmed"


def slides() -> list[dict[str, str]]:
    with SLIDES.open(newline="") as file:
        return list(csv.DictReader(file))


# Which cell stands for a row: the recorded state nearest to it, and the length of its training.
AS_RUN = {
    "Proposed 1": ("p1_as_run", "naive_triplet_as_run", 120),
    "Proposed 1 + RPE": ("p1_rpe_as_run", "naive_triplet_as_run", 120),
    "Proposed 1 + Proposed 2": ("p1_rpe_jsd_as_run", "naive_triplet_as_run_longer", 180),
}


def test_every_row_of_the_slides_is_a_claim_on_the_cell_side_and_schedule_that_it_was_made_with() -> None:
    rows, claims = slides(), load_claims(CLAIMS)
    presets = load_presets(CONFIG / "presets")
    shipped = load_cells(CONFIG.parents[1] / "ablations", presets.values())
    baselines = {(row["deck"], row["dataset"]): row for row in rows if row["role"] == "baseline"}
    gains = [row for row in rows if row["role"] == "method" and not row["outcome"]]
    wanted = set()
    for row in gains:
        baseline = baselines[row["deck"], row["dataset"]]
        cell, reference, epochs = AS_RUN[row["method"]]
        for metric, column in (("mAP", "mAP"), ("rank1", "rank1")):
            gain = round(float(row[column]) - float(baseline[column]), 2)
            key = (row["date"], row["dataset"], cell, reference, "after_neck", epochs, metric, gain)
            (claim,) = [c for c in claims if c.kind == "gain" and key[0] in c.source and claim_key(c) == key[1:]]
            assert f"{float(row[column]):g} against {float(baseline[column]):g}" in claim.source
            assert (claim.quoted is not None) == ("quoted" in baseline["remark"])
            for name in (cell, reference):
                assert shipped[name].resolve(presets["paper"], claim.dataset).train.num_epochs == epochs
            assert reference in shipped[cell].references
            assert claim.defined is not None
            assert claim.defined.reference in shipped[claim.defined.cell].references
            assert claim.schedule
            assert claim.contradictions
            wanted.add(claim.name)
    assert wanted == {claim.name for claim in claims if claim.kind == "gain"}
    assert len(gains) == 5
    (diverged,) = [row for row in rows if row["outcome"]]
    (about,) = [claim for claim in claims if claim.kind == "divergence"]
    assert (diverged["outcome"], about.cell) == ("diverged", "pos_triplet_as_run")
    assert [claim.kind for claim in claims].count("hypothesis") == 1


def claim_key(claim: Claim) -> tuple[Any, ...]:
    names = ("dataset", "cell", "reference", "side", "epochs", "metric", "gain_points")
    return tuple(getattr(claim, name) for name in names)


def test_the_rows_of_the_slides_are_the_printed_ones() -> None:
    found = [(r["dataset"], r["method"], r["mAP"], r["rank1"]) for r in slides() if r["deck"] == "0520"]
    assert found == [
        ("market1501", "Naive triplet", "93.2", "96.7"),
        ("market1501", "Proposed 1", "93.59", "96.7"),
        ("market1501", "Proposed 1 + RPE", "93.67", "96.85"),
        ("market1501", "Proposed 1 + Proposed 2", "93.73", "96.82"),
        ("occluded_duke", "Naive triplet", "63.77", "73.08"),
        ("occluded_duke", "Proposed 1 + Proposed 2", "64.62", "73.85"),
    ]


def test_the_paper_preset_runs_every_cell_that_a_claim_names_and_the_quickstart_none_of_them() -> None:
    presets = load_presets(CONFIG / "presets")
    shipped = load_cells(CONFIG.parents[1] / "ablations", presets.values())
    core = [cell for cell in shipped.values() if cell.tier == "core"]
    claims = load_claims(CLAIMS)
    names = {name: {c.name for c in with_asked(core, shipped, presets[name], claims)} for name in presets}
    claimed = {name for claim in claims for name in claim.cells}
    assert claimed <= set(shipped)
    assert claimed <= names["paper"]
    assert names["paper"] == claimed | {cell.name for cell in core}
    assert not any(name.endswith("_as_run") for name in names["quickstart"])
    assert set(presets["quickstart"].also_cells) <= set(shipped)


def test_a_folder_without_the_claimed_cells_is_left_as_it_is() -> None:
    presets = load_presets(CONFIG / "presets")
    shipped = load_cells(CONFIG.parents[1] / "ablations", [])
    base = shipped["naive_triplet"]
    for claims in (load_claims(CLAIMS), []):
        assert with_asked([base], {"naive_triplet": base}, presets["paper"], claims) == [base]


def test_the_released_weights_match_the_claims() -> None:
    claim = load_claims(CLAIMS)[0]
    named = {"p1_as_run": claim.cell, "base_as_run": claim.reference}
    released = runs("/data/vit_base_ics_cfs_lup.pth").replace({"cell": named})
    found = contrasts(cell=claim.cell, reference=claim.reference)
    assert judged(found, claim=claim, runs=released)["verdict"] == "confirmed"


def test_an_unknown_key_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS.read_text().replace("gain_points: 0.39", "gain_point: 0.39"))
    with pytest.raises(UserError, match="gain_point"):
        load_claims(path)


def test_a_gain_without_a_size_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS.read_text().replace("    gain_points: 0.39\n", ""))
    with pytest.raises(UserError, match="claim 'market_p1_map' is a gain without 'gain_points'"):
        load_claims(path)


def test_a_repeated_claim_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS.read_text().replace("name: market_p1_rank1\n", "name: market_p1_map\n"))
    with pytest.raises(UserError, match="claim 'market_p1_map' stands twice"):
        load_claims(path)


@pytest.mark.parametrize(
    ("gain", "low", "high", "p_adjusted", "expected"),
    [
        (0.0039, 0.003, 0.005, 0.01, "confirmed"),
        (0.0039, 0.001, 0.003, 0.01, "smaller than published"),
        (0.0039, 0.0045, 0.02, 0.01, "larger than published"),
        (0.0039, 0.0045, 0.02, 0.06, "undecided"),
        (0.0039, 0.001, 0.005, 0.06, "undecided"),
        (0.0039, -0.001, 0.003, 0.6, "refuted"),
        (0.0039, -0.003, -0.001, 0.01, "refuted"),
        (0.0039, -0.001, 0.005, 0.6, "undecided"),
        (0.0039, None, None, np.nan, "undecided"),
        (0.0, -0.001, 0.001, 1.0, "confirmed"),
        (0.0, 0.0005, 0.0015, 0.001, "confirmed"),
        (0.0, 0.001, 0.003, 0.01, "undecided"),
        (0.0, 0.0021, 0.004, 0.01, "refuted"),
        (0.0, -0.004, -0.0021, 0.01, "refuted"),
        (0.0, -0.001, 0.01, 0.6, "undecided"),
    ],
)
def test_claim_verdicts(gain: float, low: float | None, high: float | None, p_adjusted: float, expected: str) -> None:
    estimate = None if low is None or high is None else (low + high) / 2
    contrast = {"estimate": estimate, "low": low, "high": high, **SCORED}
    assert claim_verdict(gain, contrast, p_adjusted=p_adjusted, delta=0.002) == expected
    for unscored in SCORED:
        assert claim_verdict(gain, {**contrast, unscored: 1}, p_adjusted=p_adjusted, delta=0.002) == "undecided"


def test_a_provisional_contrast_leaves_its_claim_undecided() -> None:
    assert judged(contrasts(num_missing=1, verdict="provisional"))["verdict"] == "undecided"


def test_a_gain_of_zero_needs_a_delta() -> None:
    contrast = {"estimate": 0.0, "low": -0.001, "high": 0.001, **SCORED}
    assert claim_verdict(0.0, contrast, p_adjusted=1.0, delta=None) == "undecided"


def test_a_claim_of_no_gain_in_rank_1_can_be_confirmed_with_or_without_a_delta_of_its_own() -> None:
    claim = CLAIM.model_copy(update={"metric": "rank1", "gain_points": 0.0})
    for delta in (0.002, None):  # Market-1501 has 0.2 points for the mAP
        found = contrasts(metric="rank1", estimate=0.0, low=-0.0015, high=0.0015, p_value=1.0, delta=delta)
        assert judged(found.astype({"delta": "Float64"}), claim=claim)["verdict"] == "confirmed"


def test_a_tested_claim_carries_its_interval_and_what_speaks_against_it() -> None:
    row = judged()
    assert row["verdict"] == "confirmed"
    assert row["width"] == pytest.approx(0.002)
    assert row["gain"] == pytest.approx(0.0039)
    assert row["contradictions"] == "One. Two."


def test_beside_it_stand_the_published_comparison_and_the_method_as_defined() -> None:
    row = judged()
    # (93.6 + 94.0)/2 after the neck minus (93.0 + 93.1)/2 before it.
    assert row["uncontrolled"] == pytest.approx(0.938 - 0.9305)
    assert row["quoted"] == "base, before_neck"
    assert (row["defined_cell"], row["defined_verdict"]) == ("p1", "undecided")
    assert (row["defined_estimate"], row["defined_low"], row["defined_high"]) == (0.001, -0.002, 0.003)
    same_side = judged(claim=CLAIM.model_copy(update={"quoted": None, "defined": None}))
    assert pd.isna(same_side["uncontrolled"])
    assert pd.isna(same_side["defined_verdict"])


def test_the_claims_are_a_family_of_their_own_and_one_contrast_counts_once() -> None:
    claims = [CLAIM.model_copy(update={"name": name, "metric": metric}) for name, metric in
              (("a", "mAP"), ("b", "rank1"), ("c", "mINP"), ("again", "mAP"))]  # fmt: skip
    found = pd.concat([contrasts(p_value=p, metric=m) for m, p in (("mAP", 0.01), ("rank1", 0.03), ("mINP", 0.2))])
    table = judge(claims, found, study(), runs(), cells(), metrics())
    # Holm over three: 3 * 0.01, 2 * 0.03, 0.2.
    assert table["p_adjusted"].tolist() == pytest.approx([0.03, 0.06, 0.2, 0.03])
    assert table["verdict"].tolist() == ["confirmed", "undecided", "undecided", "confirmed"]


@pytest.mark.parametrize(
    ("other", "expected", "sentence"),
    [
        ({"study": study(synthetic=True)}, "synthetic data", "procedural"),
        ({"study": study(official_counts=False)}, "other protocol", "official numbers"),
        ({"study": {**study(), "preset": "quickstart"}}, "other protocol", "Preset quickstart"),
        ({"study": {**study(), "datasets": []}}, "not run", "not part of this study"),
        ({"runs": runs("none")}, "other protocol", "Started from none"),
        ({"runs": runs(None)}, "other protocol", "Started from nothing"),
        ({"runs": runs(data_fingerprint="g")}, "other protocol", "other files"),
        ({"runs": runs().astype("string").assign(data_fingerprint=MISSING)}, "other protocol", "other files"),
        ({"found": contrasts(estimate=pd.NA)}, "not run", "no runs to compare"),
        ({"found": contrasts().iloc[:0]}, "not run", "no runs to compare"),
        ({"runs": runs(status=["finished", "missing", "finished", "finished"])}, "runs missing", "1 planned"),
        ({"cells": cells(epochs_factor=1.5)}, "other schedule", "trains for 180 epochs"),
        (
            {"cells": cells(by_dataset={"market1501": cells(epochs_factor=0.5)[0]})},
            "other schedule",
            "trains for 60 epochs",
        ),
        ({"claim": CLAIM.model_copy(update={"kind": "divergence"})}, "no diagnostics", "no tables"),
    ],
)
def test_a_claim_is_not_tested_by_something_else(other: dict[str, Any], expected: str, sentence: str) -> None:
    row = judged(**other)
    assert row["verdict"] == f"not tested ({expected})"
    assert sentence in row["note"]
    assert pd.isna(row["estimate"])


def test_the_chance_of_a_single_pair_by_hand() -> None:
    # s^2 = 4 and 1 (points^2), S = 3: v = 5 * 4/3; the difference of the means is 1, the gain 2.
    cell, reference = np.array([10.0, 12.0, 14.0]), np.array([10.0, 11.0, 12.0])
    chance, if_equal = single_pair_chance(cell, reference, 2.0)
    df = (4 + 1) ** 2 / (4**2 / 2 + 1**2 / 2)
    draws = np.random.default_rng(0).standard_t(df, 1_000_000)
    assert chance == pytest.approx(np.mean(1 + np.sqrt(20 / 3) * draws >= 2), abs=2e-3)
    assert if_equal == pytest.approx(np.mean(np.sqrt(5) * draws >= 2), abs=2e-3)
    assert np.isnan(single_pair_chance(cell[:1], reference, 2.0)).all()
    assert single_pair_chance(np.full(3, 12.0), np.full(3, 11.0), 0.5) == (1.0, 0.0)


@pytest.mark.parametrize(("sd_cell", "sd_reference"), [(0.2, 0.2), (0.1, 0.4)])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_the_chance_of_a_single_pair_holds_in_simulation(sd_cell: float, sd_reference: float, num_seeds: int) -> None:
    """Asked for the difference of a new pair itself, the chance is uniform: 10 % are below 0.1, and so on."""
    rng, chances, equal = np.random.default_rng(1), [], []
    for _ in range(4000):
        cell, reference = rng.normal(0.5, sd_cell, num_seeds), rng.normal(0.1, sd_reference, num_seeds)
        new = rng.normal(0.5, sd_cell) - rng.normal(0.1, sd_reference)
        chances.append(single_pair_chance(cell, reference, new)[0])
        equal.append(single_pair_chance(cell, reference, new - 0.4)[1])
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):  # Welch's df are an approximation, worst at three unequal seeds
        assert np.mean(np.array(chances) < level) == pytest.approx(level, abs=0.025)
        assert np.mean(np.array(equal) < level) == pytest.approx(level, abs=0.025)


def simulated(truth: float, *, seeds: int, repetition: int, gain_points: float) -> str:
    """The word that a claim gets on tables drawn with a known true difference, by the study's own statistics."""
    rng = np.random.default_rng([repetition, seeds, round(abs(truth) * 1e5)])
    pids = np.repeat(np.arange(NUM_IDS), 2)
    common, own = rng.normal(0.7, 0.15, len(pids)), rng.normal(0, 0.02, NUM_IDS)
    frames = []
    for cell, shift in (("base_as_run", 0.0), ("p1_as_run", truth)):
        for seed in range(seeds):
            level = shift + rng.normal(0, 0.002)
            value = common + level + (own[pids] if cell == "p1_as_run" else 0) + rng.normal(0, 0.02, len(pids))
            frames.append(pd.DataFrame({"cell": cell, "seed": seed, "average_precision": value}).assign(
                query=[f"q{i:04d}" for i in range(len(pids))], pid=pids, camid=0))  # fmt: skip
    queries = pd.concat(frames).assign(
        dataset="market1501", side="after_neck", average_precision_trapezoid=0.5, inverse_negative_penalty=0.5,
        first_hit_rank=1,
    )  # fmt: skip
    planned = [(cell, seed) for cell in ("base_as_run", "p1_as_run") for seed in range(seeds)]
    table = pd.DataFrame(planned, columns=["cell", "seed"]).assign(
        dataset="market1501", status="finished", weights="ics_lup", data_fingerprint="f"
    )
    entries: list[dict[str, Any]] = [{"name": "base_as_run"}, {"name": "p1_as_run", "references": ["base_as_run"]}]
    deltas = {"market1501": {"mAP": 0.01}}  # no effect can be told to be within half of it with these errors
    found = contrast_table(queries, table, entries, deltas=deltas, headline_side="after_neck")
    claim = CLAIM.model_copy(update={"gain_points": gain_points})
    return str(judged(found, claim=claim, runs=table)["verdict"])


NUM_IDS = 400


@pytest.mark.parametrize(
    ("truth", "gain_points", "expected", "others"),
    [
        (0.02, 2.0, "confirmed", {"smaller than published", "larger than published"}),
        (0.02, 4.0, "smaller than published", set()),
        (0.02, 1.0, "larger than published", {"confirmed"}),
        (0.0, 2.0, "refuted", {"smaller than published"}),
        (-0.02, 1.0, "refuted", set()),
        (0.0, 0.0, "confirmed", {"undecided"}),
        (0.02, 0.0, "refuted", set()),
        (0.0025, 0.5, "undecided", {"refuted", "smaller than published", "confirmed", "larger than published"}),
    ],
)
def test_known_truths_get_their_word(truth: float, gain_points: float, expected: str, others: set[str]) -> None:
    """With a standard error of about 0.18 points the words come at the rates of a t interval.

    The word of a true gain that was published is `confirmed` at the rate at which the interval covers, 95 %. A false
    `improves` (`smaller than published` when nothing is there) has 2.5 %. What is many errors away is certain.
    """
    words = Counter(simulated(truth, seeds=5, repetition=r, gain_points=gain_points) for r in range(60))
    assert set(words) <= {expected, *others}
    assert words.most_common(1)[0][0] == expected
    if 0 < 100 * truth < gain_points:  # an interval above the published gain misses the truth too: at most 2.5 %
        assert words["larger than published"] <= 6  # more have a chance of 0.1 %
    if expected == "confirmed" and gain_points:
        assert words[expected] >= 50  # 95 % of 60 is 57; fewer than 50 has a chance of 0.1 %
