"""How many seeds a difference takes, against experiments simulated with that many and with fewer."""

from pathlib import Path

import numpy as np
import pytest

from reidablate.errors import UserError
from reidablate.stats.design import prior_designs, prior_lines, seeds_for, study_lines
from reidablate.stats.intervals import two_way
from reidablate.stats.paired import paired_components
from reidablate.stats.simulation import Setting, simulate
from report_fixture import write_results

EXPERIMENTS = 1500  # a standard error of 1.0 points on 80 %


def power(dataset: str, kind: str, seeds: int, points: float) -> float:
    drawn = simulate(Setting(dataset, "normal", kind, seeds), points, EXPERIMENTS, rng=np.random.default_rng(seeds))
    return float(np.concatenate([two_way(paired_components(*one)).p_value < 0.05 for one in drawn]).mean())


@pytest.mark.parametrize(
    ("dataset", "kind", "points"),
    [("market1501", "none", 0.3), ("market1501", "typical", 0.4), ("occluded_duke", "none", 0.6)],
)
def test_the_planned_seeds_have_the_power_and_fewer_do_not(dataset: str, kind: str, points: float) -> None:
    (seeds,) = seeds_for(prior_designs(dataset, kind, 1), points).astype(int)
    assert power(dataset, kind, seeds, points) > 0.8 - 0.035
    assert power(dataset, kind, seeds - 1, points) < 0.8 + 0.035


@pytest.mark.parametrize("kind", ["none", "typical"])
def test_the_published_variances_are_those_of_simulated_experiments(kind: str) -> None:
    expected = prior_designs("occluded_duke", kind, 1).components
    setting = Setting("occluded_duke", "normal", kind, 5)
    parts = [paired_components(*drawn) for drawn in simulate(setting, 0.0, 1000, rng=np.random.default_rng(0))]
    for name, tolerance in {"seed": 0.08, "identity": 0.02, "interaction": 0.02}.items():
        found = np.concatenate([getattr(one, name) for one in parts]).mean()
        assert found == pytest.approx(float(getattr(expected, name)[0]), rel=tolerance)


def test_a_test_set_that_is_too_small_is_the_limit() -> None:
    assert np.isinf(seeds_for(prior_designs("occluded_duke", "typical", 1), 0.3)).all()
    lines = list(prior_lines(0.3, 1))
    assert len(lines) == 4
    assert sum("no number of seeds is enough" in line for line in lines) == 1


def test_more_comparisons_take_more_seeds() -> None:
    counts = [int(seeds_for(prior_designs("market1501", "none", number), 0.3)[0]) for number in (1, 6, 28)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_a_study_gives_a_line_and_its_cost_for_each_data_set(tmp_path: Path) -> None:
    results = write_results(tmp_path / "quickstart", cells=3, queries=60, epochs=2)
    lines = list(study_lines(results, 2.0))
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == ["market1501", "occluded_duke"]
    assert any("hours in all on cpu" in line for line in lines)


def test_a_study_without_intervals_says_what_to_do(tmp_path: Path) -> None:
    results = write_results(tmp_path / "quickstart", cells=3, seeds=2, queries=30, epochs=2, failures=False)
    with pytest.raises(UserError, match="three seeds"):
        list(study_lines(results, 1.0))
