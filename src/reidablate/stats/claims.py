"""Published gains and what the experiments here say of them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from reidablate.config import Section, validate
from reidablate.errors import UserError
from reidablate.trees import load_yaml

CLAIM_VERDICTS: dict[str, str] = {
    "confirmed": "The contrast improves and its interval holds the published gain.",
    "confirmed, other size": "The contrast improves, but its interval excludes the published gain.",
    "refuted": "The interval excludes the published gain and the contrast does not improve.",
    "undecided": "Everything else that was tested; the width of the interval says how much was seen.",
    "not tested (synthetic data)": "The images are procedural.",
    "not tested (other protocol)": "Data, preset or weights are not those of the published figure.",
    "not tested (not run)": "The contrast has no runs here.",
}
"""The verdict words of a claim. A published gain of zero is confirmed by `equivalent` and refuted by any difference."""

COLUMNS: dict[str, tuple[str, str]] = {
    "claim": ("string", "Name of the claim."),
    "title": ("string", "The claim as a sentence."),
    "dataset": ("string", "Data set."),
    "cell": ("string", "Cell that the claim is about."),
    "reference": ("string", "Cell it is said to beat."),
    "metric": ("string", "Metric."),
    "gain": ("Float64", "Published gain, a fraction."),
    "num_seeds": ("Int64", "Seeds that entered the contrast."),
    "estimate": ("Float64", "Gain found here; null when the claim was not tested."),
    "low": ("Float64", "Lower end of its 95 % interval."),
    "high": ("Float64", "Upper end."),
    "width": ("Float64", "high - low."),
    "verdict": ("string", "A word of `CLAIM_VERDICTS`."),
    "note": ("string", "Why it was not tested, or what qualifies the contrast."),
    "source": ("string", "Where the gain was published."),
    "schedule": ("string", "What is known of the training schedule behind it."),
    "contradictions": ("string", "What the sources say against it, sentences joined by spaces."),
}
"""Type and meaning of every column of the table `claims`."""


class Claim(Section):
    """One published gain."""

    name: str
    title: str
    dataset: str
    cell: str
    reference: str
    metric: Literal["mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10"]
    gain_points: Annotated[float, Field(ge=-100, le=100)]
    source: str
    schedule: str = ""
    contradictions: tuple[str, ...] = ()
    presets: tuple[str, ...]
    weights: tuple[str, ...]


class ClaimFile(Section):
    """A file of claims."""

    claims: tuple[Claim, ...]


def load_claims(path: Path) -> list[Claim]:
    """Returns the claims of a YAML file.

    Raises:
        UserError: The file is missing or malformed, has an unknown key, or names a claim twice.
    """
    claims = list(validate(ClaimFile, load_yaml(path), where=str(path)).claims)
    names = [claim.name for claim in claims]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: claim '{twice[0]}' stands twice; give each claim its own name.")
    return claims


def judge(
    claims: Sequence[Claim], contrasts: pd.DataFrame, study: Mapping[str, Any], runs: pd.DataFrame
) -> pd.DataFrame:
    """Returns a row a claim with its verdict, columns of `COLUMNS`.

    A claim is tested only on real images whose counts are the official ones, with the preset and the weights of the
    published figure. The contrast is the one on the headline feature side.

    Args:
        claims: Published gains.
        contrasts: The table `contrasts`.
        study: The contents of `study.json`; `preset` and, of each data set, `name`, `synthetic`, `official_counts`
            (whether its counts are the official ones) and `fingerprint` are read.
        runs: The table `runs`; `weights` and `data_fingerprint` are read.
    """
    rows = []
    for claim in claims:
        row: dict[str, Any] = {
            "claim": claim.name,
            **claim.model_dump(include={"title", "dataset", "cell", "reference", "metric", "source", "schedule"}),
            "gain": claim.gain_points / 100,
            "contradictions": " ".join(claim.contradictions),
        }
        contrast = _contrast(claim, contrasts)
        obstacle = _obstacle(claim, contrast, study, runs)
        if obstacle is not None:
            row["verdict"], row["note"] = obstacle
        else:
            assert contrast is not None
            row |= {name: contrast[name] for name in ("num_seeds", "estimate", "low", "high", "note")}
            row["width"] = contrast["high"] - contrast["low"]
            row["verdict"] = claim_verdict(claim.gain_points / 100, contrast)
        rows.append(row)
    return pd.DataFrame(
        {
            name: pd.array([row.get(name) for row in rows], dtype=kind)  # type: ignore[call-overload]
            for name, (kind, _) in COLUMNS.items()
        }
    )


def claim_verdict(gain: float, contrast: Mapping[str, Any]) -> str:
    """Returns the verdict word for a published gain.

    Args:
        gain: Published gain, a fraction.
        contrast: `low`, `high` and `verdict` of the contrast that tests it; null ends leave it undecided.
    """
    if pd.isna(contrast["low"]) or pd.isna(contrast["high"]):
        return "undecided"
    holds = bool(contrast["low"] <= gain <= contrast["high"])
    if gain == 0:
        if contrast["verdict"] == "equivalent":
            return "confirmed"
        return "undecided" if holds else "refuted"
    if contrast["verdict"] == "improves":
        return "confirmed" if holds else "confirmed, other size"
    return "undecided" if holds else "refuted"


def _contrast(claim: Claim, contrasts: pd.DataFrame) -> dict[str, Any] | None:
    """Returns the headline row of the contrast that tests a claim, None when there is none."""
    if not len(contrasts):
        return None
    chosen = contrasts["headline"].fillna(False).astype(bool)
    for key in ("dataset", "cell", "reference", "metric"):
        chosen &= (contrasts[key] == getattr(claim, key)).fillna(False).astype(bool)
    rows = contrasts[chosen].to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else None


def _obstacle(
    claim: Claim, contrast: Mapping[str, Any] | None, study: Mapping[str, Any], runs: pd.DataFrame
) -> tuple[str, str] | None:
    """Returns why a claim is not tested, as (verdict, sentence), None when it is."""
    dataset = next((entry for entry in study["datasets"] if entry["name"] == claim.dataset), None)
    if dataset is None:
        return "not tested (not run)", f"{claim.dataset} is not part of this study."
    if dataset["synthetic"]:
        return "not tested (synthetic data)", f"{claim.dataset} is procedural here."
    if contrast is None or pd.isna(contrast["estimate"]):
        return "not tested (not run)", f"{claim.cell} and {claim.reference} have no runs to compare here."
    other = "not tested (other protocol)"
    if not dataset["official_counts"]:
        return other, f"{claim.dataset} does not have the official numbers of images and identities."
    if study["preset"] not in claim.presets:
        return other, f"Preset {study['preset']}; the claim is about {' or '.join(claim.presets)}."
    mine = runs[(runs["dataset"] == claim.dataset) & (runs["status"] == "finished")]
    mine = mine[mine["cell"].isin([claim.cell, claim.reference])]
    for weights in mine["weights"]:
        name = "nothing" if pd.isna(weights) else Path(str(weights)).name
        if not any(fnmatch(name.lower(), pattern.lower()) for pattern in claim.weights):
            return other, f"Started from {name}; the claim is about weights named {' or '.join(claim.weights)}."
    if any(pd.isna(seen) or seen != dataset["fingerprint"] for seen in mine["data_fingerprint"]):
        return other, f"Some runs were made on other files of {claim.dataset} than those present."
    return None
