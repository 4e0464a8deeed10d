"""What must hold for any scores, any seeds and any test set."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from reidablate.stats.contrasts import contrast_table
from reidablate.stats.intervals import ANALYTIC, two_way
from reidablate.stats.multiplicity import VERDICTS, holm
from reidablate.stats.paired import (
    effective_identities,
    identity_sums,
    paired_components,
    probability_better,
    sign_flip_p,
    unpaired_components,
)

UNIT = st.floats(0, 1, width=32)
FEW = settings(max_examples=50, deadline=None)


@st.composite
def experiments(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns scores of a cell and its reference, (S, Q) each, and the identities of the queries, two or more."""
    seeds, queries = draw(st.integers(2, 5)), draw(st.integers(2, 12))
    cell, reference = (draw(npst.arrays(np.float64, (seeds, queries), elements=UNIT)) for _ in range(2))
    identities = draw(npst.arrays(np.int64, queries, elements=st.integers(0, 4)))
    identities[:2] = [0, 1]
    return cell, reference, identities


@FEW
@given(experiments())
def test_swapping_cell_and_reference_mirrors_everything(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    cell, reference, identities = case
    one = paired_components(*identity_sums(cell - reference, identities))
    two = paired_components(*identity_sums(reference - cell, identities))
    assert one.estimate == -two.estimate
    for name in ("seed", "identity", "interaction"):
        assert getattr(one, name) == getattr(two, name)
    assert probability_better(cell, reference) == pytest.approx(1 - probability_better(reference, cell))


@FEW
@given(experiments(), st.randoms(use_true_random=False))
def test_the_order_of_seeds_queries_and_names_of_identities_do_not_matter(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], random: Any
) -> None:
    cell, reference, identities = case
    seeds, queries = list(range(cell.shape[0])), list(range(cell.shape[1]))
    random.shuffle(seeds)
    random.shuffle(queries)
    found = cell - reference
    one = paired_components(*identity_sums(found, identities))
    two = paired_components(*identity_sums(found[seeds][:, queries], 7 - identities[queries]))
    for name in ("estimate", "seed", "identity", "interaction"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-9, abs=1e-15)


@FEW
@given(experiments())
def test_intervals_hold_the_estimate_and_agree_with_their_p_value(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    cell, reference, identities = case
    parts = paired_components(*identity_sums(cell - reference, identities))
    for interval in (make(parts) for make in ANALYTIC.values()):
        assert interval.low <= parts.estimate <= interval.high
        if interval.standard_error > 1e-9 and abs(interval.p_value - 0.05) > 1e-9:
            assert (interval.p_value < 0.05) == (interval.low > 0 or interval.high < 0)


@FEW
@given(experiments())
def test_the_default_degrees_of_freedom_lie_between_one_source_and_both(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    cell, reference, identities = case
    parts = paired_components(*identity_sums(cell - reference, identities))
    found = float(two_way(parts).df)
    assert (
        min(float(parts.seed_df), float(parts.identity_df)) - 1e-6 <= found <= parts.seed_df + parts.identity_df + 1e-6
    )


@FEW
@given(experiments())
def test_pairing_changes_neither_estimate_nor_identity_variance(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    cell, reference, identities = case
    cell_sums, counts = identity_sums(cell, identities)
    reference_sums, _ = identity_sums(reference, identities)
    paired = paired_components(cell_sums - reference_sums, counts)
    unpaired = unpaired_components(cell_sums, reference_sums, counts)
    assert unpaired.estimate == pytest.approx(float(paired.estimate), abs=1e-12)
    assert unpaired.identity == pytest.approx(float(paired.identity), abs=1e-12)


@FEW
@given(npst.arrays(np.float64, st.integers(1, 30), elements=st.floats(1, 50)))
def test_effective_identities_lie_between_one_and_their_number(counts: np.ndarray) -> None:
    assert 1 - 1e-9 <= effective_identities(counts) <= len(counts) + 1e-9


@FEW
@given(npst.arrays(np.float64, st.integers(1, 12), elements=UNIT))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values: np.ndarray) -> None:
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(1, len(p_values) * p_values) + 1e-15).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@FEW
@given(npst.arrays(np.float64, st.integers(1, 10), elements=st.floats(-1, 1, width=32)))
def test_sign_flip_p_is_a_multiple_of_its_resolution(means: np.ndarray) -> None:
    p_value = sign_flip_p(means)
    steps = p_value * 2 ** (len(means) - 1)
    assert 0 < p_value <= 1
    assert steps == pytest.approx(round(steps))
    assert sign_flip_p(-means) == p_value


@settings(max_examples=15, deadline=None)
@given(data=st.data(), queries=st.integers(1, 6), seeds=st.integers(1, 4))
def test_no_table_holds_nan_infinity_or_an_unknown_word(data: st.DataObject, queries: int, seeds: int) -> None:
    coarse = st.sampled_from([0.0, 0.5, 1.0])
    pids = np.array(data.draw(st.lists(st.integers(0, 2), min_size=queries, max_size=queries)))
    frames, runs = [], []
    for cell in ("a", "b"):
        for seed in range(seeds):
            status = data.draw(st.sampled_from(["finished", "finished", "finished", "diverged", "missing"]))
            runs.append({"dataset": "d", "cell": cell, "seed": seed, "status": status, "epoch": None})
            values = np.array(data.draw(st.lists(coarse, min_size=queries, max_size=queries)))
            frame = pd.DataFrame({"query": [f"{i}" for i in range(queries)], "pid": pids, "camid": 0})
            scores = {"average_precision": values, "average_precision_trapezoid": values}
            scores |= {"inverse_negative_penalty": values, "first_hit_rank": 1 + 3 * (values < 0.5)}
            frames.append(frame.assign(dataset="d", cell=cell, seed=seed, side="before_neck", **scores))
    cells = [{"name": "a", "references": []}, {"name": "b", "references": ["a", "gone"]}]
    table = contrast_table(
        pd.concat(frames), pd.DataFrame(runs), cells, deltas={"d": {"mAP": 0.1}}, headline_side="before_neck"
    )
    assert len(table) == 2 * 2 * 6
    for name in table.select_dtypes("Float64"):
        assert np.isfinite(table[name].dropna().to_numpy(float)).all(), name
    assert set(table["verdict"]) <= set(VERDICTS)
    assert (table["low"].isna() <= (table["note"] != "")).all()
    assert not table["note"].str.contains("nan").any()
