"""The published gains and their verdicts."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reidablate.errors import UserError
from reidablate.stats.claims import CLAIM_VERDICTS, COLUMNS, Claim, claim_verdict, judge, load_claims
from reidablate.stats.contrasts import contrast_table

CLAIMS = Path(__file__).parents[2] / "workflow" / "config" / "claims.yaml"
CLAIM = Claim(
    name="c",
    title="t",
    dataset="market1501",
    cell="p1",
    reference="naive_triplet",
    metric="mAP",
    gain_points=0.39,
    source="s",
    contradictions=("One.", "Two."),
    presets=("paper",),
    weights=("*ics*lup*",),
)
MISSING: Any = pd.NA


def study(**dataset: Any) -> dict[str, Any]:
    entry = {"name": "market1501", "synthetic": False, "official_counts": True, "fingerprint": "f"} | dataset
    return {"preset": "paper", "datasets": [entry]}


def contrasts(verdict: str = "improves", low: float | None = 0.003, high: float | None = 0.005) -> pd.DataFrame:
    row = {"dataset": "market1501", "cell": "p1", "reference": "naive_triplet", "metric": "mAP", "num_seeds": 5}
    row |= {"estimate": 0.004, "low": low, "high": high, "verdict": verdict, "note": "", "headline": True}
    return pd.DataFrame([row, {**row, "headline": False, "verdict": "worsens", "estimate": -1.0}])


def runs(weights: str | None = "/w/vit_base_ICS_cfs_lup.pth", fingerprint: str = "f") -> pd.DataFrame:
    rows = [{"dataset": "market1501", "cell": cell, "status": "finished"} for cell in ("p1", "naive_triplet")]
    return pd.DataFrame(rows).assign(weights=weights, data_fingerprint=fingerprint)


def judged(found: pd.DataFrame | None = None, **other: Any) -> dict[str, Any]:
    table = judge(
        [CLAIM],
        contrasts() if found is None else found,
        other.get("study", study()),
        other.get("runs", runs()),
    )
    assert list(table.columns) == list(COLUMNS)
    row = dict(zip(table.columns, table.iloc[0], strict=True))
    assert row["verdict"] in CLAIM_VERDICTS
    return row


def test_a_table_of_contrasts_as_computed_is_understood() -> None:
    queries = pd.DataFrame(columns=["dataset", "cell", "seed", "side", "query", "pid", "camid"])
    cells = [{"name": "p1", "group": "main", "references": ["naive_triplet"]}]
    computed = contrast_table(queries, runs().assign(seed=0), cells, deltas={}, headline_side="before_neck")
    assert judged(computed)["verdict"] == "not tested (not run)"
    measured = computed.assign(estimate=0.004, low=0.003, high=0.005, verdict="improves")
    assert judged(measured)["verdict"] == "confirmed"


def test_every_gain_of_the_study_is_a_claim() -> None:
    found: dict[tuple[str, str, str], list[float]] = {(c.dataset, c.cell, c.metric): [] for c in load_claims(CLAIMS)}
    for claim in load_claims(CLAIMS):
        found[claim.dataset, claim.cell, claim.metric].append(claim.gain_points)
        assert claim.reference == "naive_triplet"
        assert claim.schedule
        assert claim.contradictions
    # 93.2/96.7 and 63.77/73.08 are the baselines.
    assert found == {
        ("market1501", "p1", "mAP"): [round(93.59 - 93.2, 2), round(93.51 - 93.2, 2)],
        ("market1501", "p1", "rank1"): [0.0, round(97.1 - 96.7, 2)],
        ("market1501", "p1_rpe", "mAP"): [round(93.67 - 93.2, 2)],
        ("market1501", "p1_rpe", "rank1"): [round(96.85 - 96.7, 2)],
        ("market1501", "p1_rpe_jsd", "mAP"): [round(93.73 - 93.2, 2)],
        ("market1501", "p1_rpe_jsd", "rank1"): [round(96.82 - 96.7, 2)],
        ("occluded_duke", "p1_rpe_jsd", "mAP"): [round(64.62 - 63.77, 2)],
        ("occluded_duke", "p1_rpe_jsd", "rank1"): [round(73.85 - 73.08, 2)],
    }


def test_the_released_weights_match_the_claims() -> None:
    released = runs("/data/vit_base_ics_cfs_lup.pth").assign(cell=["p1", "naive_triplet"])
    table = judge(load_claims(CLAIMS)[:1], contrasts(), study(), released)
    assert table["verdict"].tolist() == ["confirmed"]


def test_an_unknown_key_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS.read_text().replace("gain_points: 0.39", "gain_point: 0.39"))
    with pytest.raises(UserError, match="gain_point"):
        load_claims(path)


def test_a_repeated_claim_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS.read_text().replace("name: market_p1_rank1\n", "name: market_p1_map\n"))
    with pytest.raises(UserError, match="claim 'market_p1_map' stands twice"):
        load_claims(path)


@pytest.mark.parametrize(
    ("gain", "verdict", "low", "high", "expected"),
    [
        (0.0039, "improves", 0.003, 0.005, "confirmed"),
        (0.0039, "improves", 0.001, 0.003, "confirmed, other size"),
        (0.0039, "undecided", -0.001, 0.003, "refuted"),
        (0.0039, "worsens", -0.003, -0.001, "refuted"),
        (0.0039, "undecided", -0.001, 0.005, "undecided"),
        (0.0039, "undecided", None, None, "undecided"),
        (0.0, "equivalent", -0.001, 0.001, "confirmed"),
        (0.0, "improves", 0.001, 0.003, "refuted"),
        (0.0, "undecided", -0.001, 0.01, "undecided"),
    ],
)
def test_claim_verdicts(gain: float, verdict: str, low: float | None, high: float | None, expected: str) -> None:
    assert claim_verdict(gain, {"verdict": verdict, "low": low, "high": high}) == expected


def test_a_tested_claim_carries_its_interval_and_what_speaks_against_it() -> None:
    row = judged()
    assert row["verdict"] == "confirmed"
    assert row["width"] == pytest.approx(0.002)
    assert row["gain"] == pytest.approx(0.0039)
    assert row["contradictions"] == "One. Two."


@pytest.mark.parametrize(
    ("other", "expected", "sentence"),
    [
        ({"study": study(synthetic=True)}, "synthetic data", "procedural"),
        ({"study": study(official_counts=False)}, "other protocol", "official numbers"),
        ({"study": {**study(), "preset": "quickstart"}}, "other protocol", "Preset quickstart"),
        ({"study": {**study(), "datasets": []}}, "not run", "not part of this study"),
        ({"runs": runs("none")}, "other protocol", "Started from none"),
        ({"runs": runs(None)}, "other protocol", "Started from nothing"),
        ({"runs": runs(fingerprint="g")}, "other protocol", "other files"),
        ({"runs": runs().astype("string").assign(data_fingerprint=MISSING)}, "other protocol", "other files"),
        ({"found": contrasts().assign(estimate=MISSING)}, "not run", "no runs to compare"),
        ({"found": contrasts().iloc[:0]}, "not run", "no runs to compare"),
    ],
)
def test_a_claim_is_not_tested_by_something_else(other: dict[str, Any], expected: str, sentence: str) -> None:
    row = judged(**other)
    assert row["verdict"] == f"not tested ({expected})"
    assert sentence in row["note"]
    assert pd.isna(row["estimate"])
