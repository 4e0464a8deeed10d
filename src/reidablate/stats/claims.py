"""Published gains and what the experiments here say of them.

A gain is judged where it was made: the cell as run against the baseline as run, on one feature side and one length of
training. The claims are a family of their own: Holm's adjustment runs over the different contrasts that they name.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from reidablate.published import Claim
from reidablate.stats.contrasts import DEFAULT_DELTA_POINTS
from reidablate.stats.multiplicity import holm
from reidablate.stats.paired import satterthwaite_df

CLAIM_VERDICTS: dict[str, str] = {
    "confirmed": "Improves, and the interval holds the published gain. A gain of 0: the interval lies inside delta.",
    "smaller than published": "Improves, and the whole interval lies below the published gain.",
    "larger than published": "Improves, and the whole interval lies above the published gain.",
    "refuted": "Does not improve, and the interval lies below the published gain. A gain of 0: it lies outside delta.",
    "undecided": "Everything else that was tested, and whatever has a diverged seed.",
    "not tested (synthetic data)": "The images are procedural.",
    "not tested (other protocol)": "Data, preset or weights are not those of the published figure.",
    "not tested (other schedule)": "Cell or reference trained for another number of epochs than the published figure.",
    "not tested (not run)": "The contrast has no runs here.",
    "not tested (runs missing)": "Some planned runs are not there yet, so the sample may have been chosen.",
    "not tested (no diagnostics)": "It is about more than a score, and the tables that would show it do not exist.",
}
"""The verdict words of a claim, each of which excludes the others."""

COLUMNS: dict[str, tuple[str, str]] = {
    "claim": ("string", "Name of the claim."),
    "title": ("string", "The claim as a sentence."),
    "kind": ("string", "gain, divergence or hypothesis; only a gain is judged."),
    "dataset": ("string", "Data set."),
    "cell": ("string", "Cell that the claim is about, as it ran."),
    "reference": ("string", "Baseline of the same schedule, as it ran."),
    "side": ("string", "Feature side that was tested."),
    "metric": ("string", "Metric."),
    "gain": ("Float64", "Published gain, a fraction."),
    "num_seeds": ("Int64", "Seeds that entered the contrast."),
    "estimate": ("Float64", "Gain found here; null when the claim was not tested."),
    "low": ("Float64", "Lower end of its 95 % interval."),
    "high": ("Float64", "Upper end."),
    "width": ("Float64", "high - low."),
    "p_adjusted": ("Float64", "p-value of no difference after Holm over the contrasts of all tested claims."),
    "chance": (
        "Float64",
        "Chance that one unpaired pair of runs shows the published gain or more, after what was found.",
    ),
    "chance_if_equal": ("Float64", "The same chance if cell and reference were equally good."),
    "uncontrolled": ("Float64", "Cell minus the row that was quoted, each on its own side; not controlled."),
    "quoted": (
        "string",
        "Cell and side that stand for the quoted row; null where that is the reference.",
    ),
    "defined_cell": ("string", "Cell of the method as the slides define it."),
    "defined_estimate": ("Float64", "Its gain over its own reference, on the declared side."),
    "defined_low": ("Float64", "Lower end of the 95 % interval of that."),
    "defined_high": ("Float64", "Upper end."),
    "defined_verdict": ("string", "Verdict of that contrast, in its own family."),
    "verdict": ("string", "A word of `CLAIM_VERDICTS`."),
    "note": ("string", "Why it was not tested, or what qualifies the contrast."),
    "source": ("string", "Where the gain was published."),
    "schedule": ("string", "What is known of the training schedule behind it."),
    "contradictions": ("string", "What the sources say against it, sentences joined by spaces."),
}
"""Type and meaning of every column of the table `claims`."""

_TEXTS = {"title", "kind", "dataset", "cell", "reference", "side", "source", "schedule"}
_UNSCORED = ("num_missing", "num_diverged", "num_diverged_reference")
_KEY = ("dataset", "cell", "reference", "side", "metric")


def judge(
    claims: Sequence[Claim],
    contrasts: pd.DataFrame,
    study: Mapping[str, Any],
    runs: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    metrics: pd.DataFrame,
) -> pd.DataFrame:
    """Returns a row a claim with its verdict, columns of `COLUMNS`.

    A claim is tested only on real images whose counts are the official ones, with the preset and the weights of the
    published figure, for as many epochs as behind it, and when no planned run is missing.

    Args:
        claims: Published gains.
        contrasts: The table `contrasts`.
        study: The contents of `study.json`; `preset`, `headline` and, of each data set, `name`, `synthetic`,
            `official_counts` (whether its counts are the official ones) and `fingerprint` are read.
        runs: The table `runs`; `status`, `weights` and `data_fingerprint` are read.
        cells: Entries of `cells.json`; `config` is read.
        metrics: The table `metrics`, a row a run, side and metric.
    """
    found = {claim.name: _contrast(claim, contrasts) for claim in claims}
    obstacles = {claim.name: _obstacle(claim, found[claim.name], study, runs, cells) for claim in claims}
    tested = {_key(claim): found[claim.name] for claim in claims if obstacles[claim.name] is None}
    adjusted = _adjust(tested)
    rows = []
    for claim in claims:
        row, contrast, obstacle = _described(claim), found[claim.name], obstacles[claim.name]
        if obstacle is not None:
            row["verdict"], row["note"] = obstacle
        else:
            assert contrast is not None
            row |= _measured(claim, contrast, adjusted[_key(claim)], metrics)
            row |= _as_defined(claim, contrasts, str(study["headline"]))
        rows.append(row)
    return pd.DataFrame(
        {
            name: pd.array([row.get(name) for row in rows], dtype=kind)  # type: ignore[call-overload]
            for name, (kind, _) in COLUMNS.items()
        }
    )


def claim_verdict(gain: float, contrast: Mapping[str, Any], *, p_adjusted: float, delta: float | None) -> str:
    """Returns the verdict word for a published gain.

    Args:
        gain: Published gain, a fraction, at least 0.
        contrast: `estimate`, `low`, `high`, `num_missing`, `num_diverged` and `num_diverged_reference` of the contrast
            that tests it; null ends leave it undecided, and so does a missing or a diverged seed, since then only some
            seeds, perhaps the good ones, were scored.
        p_adjusted: p-value of no difference, adjusted in the family of the claims; NaN when there is none.
        delta: Largest difference that does not matter; without one, a gain of 0 is never confirmed.
    """
    low, high = contrast["low"], contrast["high"]
    if pd.isna(low) or pd.isna(high) or any(contrast[name] for name in _UNSCORED):
        return "undecided"
    if gain == 0:
        if delta is None:
            return "undecided"
        outside = low > delta or high < -delta
        return "confirmed" if low > -delta and high < delta else "refuted" if outside else "undecided"
    if contrast["estimate"] > 0 and p_adjusted < 0.05:
        return "smaller than published" if high < gain else "larger than published" if low > gain else "confirmed"
    return "refuted" if high < gain else "undecided"


def single_pair_chance(cell: NDArray[np.float64], reference: NDArray[np.float64], gain: float) -> tuple[float, float]:
    """Returns the chance that one new run of each cell, unpaired, differs by at least `gain`.

    With S runs of each cell, means m and standard deviations s, a new difference D has (D - (m_c - m_r)) / sqrt(v)
    ~ t(df), v = s_c^2 (1 + 1/S_c) + s_r^2 (1 + 1/S_r): its own noise and that of the means (the prediction interval of
    a normal mean), with Welch's df. The seeds of both cells count as independent; pairing would make the means' part
    smaller. The second number is the chance were both cells equally good: D / sqrt(s_c^2 + s_r^2) ~ t(df). The test
    images are the same throughout, so they add nothing.

    Args:
        cell: One score a run, (S,); fewer than two give NaN.
        reference: The same of the reference, (S',).
        gain: The published gain, in the units of the scores.
    """
    sizes = np.array([len(cell), len(reference)], dtype=np.float64)
    if sizes.min() < 2:
        return np.nan, np.nan
    variances = np.array([cell.var(ddof=1), reference.var(ddof=1)])
    if not variances.any():
        return float(cell.mean() - reference.mean() >= gain), float(gain <= 0)
    chances = []
    for parts, centre in ((variances * (1 + 1 / sizes), cell.mean() - reference.mean()), (variances, 0.0)):
        df = satterthwaite_df((parts[0], sizes[0] - 1), (parts[1], sizes[1] - 1))
        chances.append(float(special.stdtr(df, (centre - gain) / np.sqrt(parts.sum()))))
    return chances[0], chances[1]


def _described(claim: Claim) -> dict[str, Any]:
    """Returns what a claim says of itself."""
    gain = claim.kind == "gain" and claim.gain_points is not None
    return {
        "claim": claim.name,
        **claim.model_dump(include=_TEXTS),
        "metric": claim.metric if gain else None,
        "gain": claim.gain_points / 100 if gain and claim.gain_points is not None else None,
        "contradictions": " ".join(claim.contradictions),
        "quoted": f"{claim.quoted.cell}, {claim.quoted.side}" if claim.quoted else None,
        "defined_cell": claim.defined.cell if claim.defined else None,
    }


def _key(claim: Claim) -> tuple[str, ...]:
    return tuple(str(getattr(claim, name)) for name in _KEY)


def _row(contrasts: pd.DataFrame, wanted: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the row of a contrast, None when there is none."""
    if not len(contrasts):
        return None
    chosen = np.ones(len(contrasts), dtype=bool)
    for key, value in wanted.items():
        chosen &= (contrasts[key] == value).fillna(False).to_numpy(bool)
    rows = contrasts[chosen].to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else None


def _contrast(claim: Claim, contrasts: pd.DataFrame) -> dict[str, Any] | None:
    """Returns the row of the contrast that tests a claim, None when there is none."""
    return _row(contrasts, dict(zip(_KEY, _key(claim), strict=True)))


def _adjust(tested: Mapping[tuple[str, ...], Mapping[str, Any] | None]) -> dict[tuple[str, ...], float]:
    """Returns the p-value of each tested contrast after Holm over all of them; one without a test keeps its place."""
    raw = [np.nan if row is None or pd.isna(row["p_value"]) else float(row["p_value"]) for row in tested.values()]
    return dict(zip(tested, holm(np.array(raw, dtype=np.float64)).tolist(), strict=True)) if tested else {}


def _measured(claim: Claim, contrast: Mapping[str, Any], p_adjusted: float, metrics: pd.DataFrame) -> dict[str, Any]:
    """Returns what was found on a tested claim."""
    assert claim.gain_points is not None
    gain = claim.gain_points / 100
    scores = {name: _scores(metrics, claim, name, claim.side) for name in (claim.cell, claim.reference)}
    chance, if_equal = single_pair_chance(scores[claim.cell], scores[claim.reference], gain)
    row = {name: contrast[name] for name in ("num_seeds", "estimate", "low", "high", "note")}
    row |= {
        "width": contrast["high"] - contrast["low"],
        "p_adjusted": _plain(p_adjusted),
        "chance": _plain(chance),
        "chance_if_equal": _plain(if_equal),
        "verdict": claim_verdict(gain, contrast, p_adjusted=p_adjusted, delta=_delta(claim, contrast)),
    }
    if claim.quoted is not None:
        quoted = _scores(metrics, claim, claim.quoted.cell, claim.quoted.side)
        if len(quoted) and len(scores[claim.cell]):
            row["uncontrolled"] = scores[claim.cell].mean() - quoted.mean()
    return row


def _as_defined(claim: Claim, contrasts: pd.DataFrame, headline: str) -> dict[str, Any]:
    """Returns what was found on the method as the slides define it."""
    if claim.defined is None:
        return {}
    wanted = {**claim.defined.model_dump(), "dataset": claim.dataset, "side": headline, "metric": claim.metric}
    row = _row(contrasts, wanted)
    if row is None:
        return {}
    return {f"defined_{name}": row[name] for name in ("estimate", "low", "high", "verdict")}


def _delta(claim: Claim, contrast: Mapping[str, Any]) -> float | None:
    """Returns the largest difference that does not matter; where the metric has none, that of the mAP."""
    if not pd.isna(contrast["delta"]):
        return float(contrast["delta"])
    points = DEFAULT_DELTA_POINTS.get(claim.dataset, {})
    found = points.get(claim.metric, points.get("mAP"))
    return None if found is None else found / 100


def _scores(metrics: pd.DataFrame, claim: Claim, cell: str, side: str) -> NDArray[np.float64]:
    """Returns the score of each finished run of a cell, in the claim's metric on the claim's data set."""
    wanted = {"dataset": claim.dataset, "cell": cell, "side": side, "metric": claim.metric}
    chosen = np.ones(len(metrics), dtype=bool)
    for key, value in wanted.items():
        chosen &= (metrics[key] == value).fillna(False).to_numpy(bool)
    values = metrics.loc[chosen, "value"].to_numpy(np.float64, na_value=np.nan)
    return np.asarray(values[np.isfinite(values)])


def _obstacle(
    claim: Claim,
    contrast: Mapping[str, Any] | None,
    study: Mapping[str, Any],
    runs: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
) -> tuple[str, str] | None:
    """Returns why a claim is not tested, as (verdict, sentence), None when it is."""
    dataset = next((entry for entry in study["datasets"] if entry["name"] == claim.dataset), None)
    if dataset is None:
        return "not tested (not run)", f"{claim.dataset} is not part of this study."
    if dataset["synthetic"]:
        return "not tested (synthetic data)", f"{claim.dataset} is procedural here."
    if claim.kind != "gain":
        return "not tested (no diagnostics)", "There are no tables of it; pages of diagnostics look at single runs."
    if contrast is None or pd.isna(contrast["estimate"]):
        return "not tested (not run)", f"{claim.cell} and {claim.reference} have no runs to compare here."
    other = "not tested (other protocol)"
    if not dataset["official_counts"]:
        return other, f"{claim.dataset} does not have the official numbers of images and identities."
    if study["preset"] not in claim.presets:
        return other, f"Preset {study['preset']}; the claim is about {' or '.join(claim.presets)}."
    pair = runs[(runs["dataset"] == claim.dataset) & runs["cell"].isin([claim.cell, claim.reference])]
    mine = pair[pair["status"] == "finished"]
    for weights in mine["weights"]:
        name = "nothing" if pd.isna(weights) else Path(str(weights)).name
        if not any(fnmatch(name.lower(), pattern.lower()) for pattern in claim.weights):
            return other, f"Started from {name}; the claim is about weights named {' or '.join(claim.weights)}."
    if any(pd.isna(seen) or seen != dataset["fingerprint"] for seen in mine["data_fingerprint"]):
        return other, f"Some runs were made on other files of {claim.dataset} than those present."
    if (pair["status"] == "missing").any():
        return "not tested (runs missing)", f"{(pair['status'] == 'missing').sum()} planned runs are missing."
    return _other_schedule(claim, cells)


def _other_schedule(claim: Claim, cells: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Returns why the schedule of a cell is not the published one, None when it is or nothing is known of it."""
    for entry in cells:
        if claim.epochs is None or entry["name"] not in {claim.cell, claim.reference}:
            continue
        entry = {**entry, **(entry.get("by_dataset") or {}).get(claim.dataset, {})}
        train = entry["config"]["train"]
        epochs = round(train["epochs"] * train["epochs_factor"])
        if epochs != claim.epochs:
            return (
                "not tested (other schedule)",
                f"{entry['name']} trains for {epochs} epochs; the published figure comes from {claim.epochs}.",
            )
    return None


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
