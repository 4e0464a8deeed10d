"""From p-values and intervals to words: Holm's adjustment, equivalence, and the verdicts."""

from typing import Literal

import numpy as np

from reidablate.stats.paired import Array

Verdict = Literal["improves", "worsens", "equivalent", "undecided", "provisional"]

VERDICTS: dict[str, str] = {
    "improves": "Better than the reference: the Holm-adjusted p-value is below 0.05 and the difference is positive.",
    "worsens": "Worse than the reference: the Holm-adjusted p-value is below 0.05 and the difference is negative.",
    "equivalent": "The 95 % interval lies inside plus or minus delta (two one-sided tests at 2.5 % each).",
    "provisional": "Planned runs of the cell or its reference are still missing, so there is no verdict yet.",
    "undecided": "Everything else. The smallest difference this design detects with 80 % power stands beside it.",
}


def holm(p_values: Array, *, family_size: int | None = None) -> Array:
    """Returns Holm's adjusted p-values, in the order given (Holm 1979).

    Args:
        p_values: p-values, (K,). NaN stays NaN: a declared contrast without a test.
        family_size: Number of declared contrasts, at least K (the default). A contrast that could not be tested
            keeps its place in the family.
    """
    size = len(p_values) if family_size is None else family_size
    assert size >= len(p_values), f"a family of {size} cannot hold {len(p_values)} contrasts"
    order = np.argsort(p_values, kind="stable")  # NaN last
    scaled = p_values[order] * (size - np.arange(len(p_values)))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def verdict(
    *,
    estimate: float,
    low: float,
    high: float,
    p_adjusted: float,
    delta: float | None,
    cell_diverged: bool = False,
    reference_diverged: bool = False,
    missing: bool = False,
) -> tuple[Verdict, bool]:
    """Returns the verdict word, and whether a real difference is "below delta": its whole interval inside +-delta.

    A contrast of which a planned run is missing is provisional. A cell with a diverged seed never improves and is never
    equivalent, since only its good seeds were scored. In the same way a cell never worsens against a reference with a
    diverged seed.

    Args:
        estimate: Mean difference.
        low: Lower end of the unadjusted 95 % interval, NaN when there is none.
        high: Its upper end.
        p_adjusted: Holm-adjusted p-value, NaN when there is none.
        delta: Largest difference that does not matter, None when none is declared.
        cell_diverged: Whether a seed of the cell diverged.
        reference_diverged: Whether a seed of the reference diverged.
        missing: Whether a planned run of either cell is missing.
    """
    if missing:
        return "provisional", False
    inside = delta is not None and low > -delta and high < delta
    if p_adjusted < 0.05 and estimate > 0 and not cell_diverged:
        return "improves", inside
    if p_adjusted < 0.05 and estimate < 0 and not reference_diverged:
        return "worsens", inside
    if inside and not cell_diverged and not reference_diverged:
        return "equivalent", False
    return "undecided", False
