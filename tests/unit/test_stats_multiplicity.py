"""Holm's adjustment against statsmodels, and the verdict words."""

from typing import Any

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from reidablate.rng import generator
from reidablate.stats.multiplicity import VERDICTS, holm, verdict


@pytest.mark.parametrize("size", [1, 2, 9])
def test_holm_equals_statsmodels(size: int) -> None:
    p_values = generator(0, "test", size).uniform(0, 0.2, size)
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_by_hand_with_ties_and_order() -> None:
    # Sorted .01 .02 .02 .9 times 4 3 2 1 is .04 .06 .04 .9; it may not fall, so .04 .06 .06 .9.
    assert holm(np.array([0.02, 0.9, 0.01, 0.02])) == pytest.approx([0.06, 0.9, 0.04, 0.06])


def test_an_untested_contrast_keeps_its_place_in_the_family() -> None:
    adjusted = holm(np.array([0.01, np.nan, 0.02]))
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.04])
    assert np.isnan(adjusted[1])
    assert holm(np.array([0.01, 0.02]), family_size=3) == pytest.approx([0.03, 0.04])


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"estimate": 0.01, "low": 0.005, "high": 0.015, "p_adjusted": 0.01}, ("improves", False)),
        ({"estimate": 0.001, "low": 0.0005, "high": 0.0015, "p_adjusted": 0.01}, ("improves", True)),
        ({"estimate": -0.01, "low": -0.015, "high": -0.005, "p_adjusted": 0.049}, ("worsens", False)),
        ({"estimate": 0.0005, "low": -0.001, "high": 0.0015, "p_adjusted": 0.3}, ("equivalent", False)),
        ({"estimate": 0.001, "low": 0.0005, "high": 0.0015, "p_adjusted": 0.2}, ("equivalent", False)),
        ({"estimate": 0.01, "low": 0.005, "high": 0.015, "p_adjusted": 0.05}, ("undecided", False)),
        ({"estimate": 0.0, "low": -0.002, "high": 0.001, "p_adjusted": 1.0}, ("undecided", False)),
        ({"estimate": 0.1, "low": np.nan, "high": np.nan, "p_adjusted": np.nan}, ("undecided", False)),
    ],
)
def test_verdict_words(case: dict[str, Any], expected: tuple[str, bool]) -> None:
    assert verdict(**case, delta=0.002) == expected
    assert expected[0] in VERDICTS


def test_without_a_delta_nothing_is_equivalent() -> None:
    assert verdict(estimate=0.0, low=0.0, high=0.0, p_adjusted=1.0, delta=None) == ("undecided", False)


def test_a_diverged_seed_withholds_the_words_that_favour_its_cell() -> None:
    better: dict[str, Any] = {"estimate": 0.01, "low": 0.005, "high": 0.015, "p_adjusted": 0.01, "delta": 0.002}
    worse: dict[str, Any] = {"estimate": -0.01, "low": -0.015, "high": -0.005, "p_adjusted": 0.01, "delta": 0.002}
    same: dict[str, Any] = {"estimate": 0.0, "low": -0.001, "high": 0.001, "p_adjusted": 1.0, "delta": 0.002}
    assert verdict(**better, cell_diverged=True)[0] == "undecided"
    assert verdict(**worse, cell_diverged=True)[0] == "worsens"
    assert verdict(**same, cell_diverged=True)[0] == "undecided"
    assert verdict(**better, reference_diverged=True)[0] == "improves"
    assert verdict(**worse, reference_diverged=True)[0] == "undecided"


def test_a_missing_run_withholds_every_word() -> None:
    for estimate, p_adjusted in ((0.01, 1e-6), (-0.01, 1e-6), (0.0, 1.0)):
        case: dict[str, Any] = {
            "estimate": estimate,
            "low": -0.001,
            "high": 0.001,
            "p_adjusted": p_adjusted,
            "delta": 0.002,
        }
        assert verdict(**case, missing=True) == ("provisional", False)
