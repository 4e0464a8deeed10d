"""What the report looks up, against slow loops and small tables written out by hand."""

import math
from pathlib import Path
from typing import cast

import pandas as pd
import pytest

from reidablate.report.collect import cmc_curves, collect
from reidablate.report.records import Change, changes
from reidablate.report.study_tables import StudyTables
from report_fixture import write_results


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyTables:
    results = write_results(tmp_path_factory.mktemp("collect") / "quickstart", queries=30, epochs=2)
    return collect(results / "tables")


def test_cmc_is_the_share_of_first_hits_within_each_rank() -> None:
    ranks = [1, 1, 3, 25]
    queries = pd.DataFrame({"dataset": "d", "cell": "c", "seed": 0, "first_hit_rank": ranks})
    curve = cmc_curves(queries, max_rank=4)
    assert curve["rank"].tolist() == [1, 2, 3, 4]
    assert curve["value"].tolist() == [sum(r <= k for r in ranks) / 4 for k in (1, 2, 3, 4)]


def test_cmc_at_the_tabulated_ranks_equals_the_metrics(study: StudyTables) -> None:
    assert study.cmc is not None
    for rank in (1, 5, 10, 20):
        at = study.cmc[study.cmc["rank"] == rank].set_index(["dataset", "cell", "seed"])["value"]
        for key, value in at.items():
            dataset, cell, seed = cast("tuple[str, str, int]", key)
            assert study.seed_score(dataset, cell, f"rank{rank}", seed).value == pytest.approx(value)


def test_a_section_that_appears_is_one_line() -> None:
    found = changes(
        {
            "losses.triplet.weight": [1.0, None],
            "losses.triplet.margin": ["soft", None],
            "losses.jsd.patches": [None, 5],
            "model.rpe.kind": ["none", "full"],
        }
    )
    assert found == [
        Change("losses.triplet", "removed", None, None),
        Change("losses.jsd", "added", None, None, (("patches", 5),)),
        Change("model.rpe.kind", "changed", "none", "full"),
    ]


def test_a_section_given_as_one_mapping_is_the_same_line() -> None:
    found = changes({"losses.triplet": [{"weight": 1.0}, None], "losses.jsd": [None, {"patches": 5}], "a.b": [1, None]})
    assert found == [
        Change("losses.triplet", "removed", None, None),
        Change("losses.jsd", "added", None, None, (("patches", 5),)),
        Change("a.b", "changed", 1, None),
    ]


def test_the_mean_is_over_finished_seeds_only(study: StudyTables) -> None:
    assert study.num_runs("finished", "market1501", "pos_triplet").value == 2
    assert study.num_runs("", "market1501", "pos_triplet").value == 3
    scores = study.seed_scores("market1501", "pos_triplet", "before_neck", "mAP")
    assert sorted(scores) == [0, 2]
    assert study.score("market1501", "pos_triplet", "mAP").value == pytest.approx((scores[0] + scores[2]) / 2)
    spread = math.dist((scores[0],), (scores[2],)) / math.sqrt(2)
    assert study.score("market1501", "pos_triplet", "mAP", "sd").value == pytest.approx(spread)


def test_the_baseline_is_the_root_of_the_chain(study: StudyTables) -> None:
    assert study.by_name["naive_triplet"].baseline is None
    assert {cell.baseline for cell in study.cells} == {None, "naive_triplet"}
    assert set(study.to_baseline("market1501")) == {cell.name for cell in study.cells} - {"naive_triplet"}


def test_failures_are_listed_with_their_reasons(study: StudyTables) -> None:
    failed = {(run["dataset"], run["cell"], run["seed"]): run["status"] for run in study.failures()}
    assert failed == {("market1501", "pos_triplet", 1): "diverged", ("occluded_duke", "cls_untie", 2): "missing"}


def test_cells_with_other_seeds_have_no_paired_spread(tmp_path: Path) -> None:
    results = write_results(tmp_path / "quickstart", cells=2, queries=30, optional=False)
    path = results / "tables" / "cells.json"
    path.write_text(path.read_text().replace('"seed_offset": 0', '"seed_offset": 100', 1))
    study = collect(results / "tables")
    contrast = study.to_baseline("market1501")["p1"]
    assert contrast.estimate.value is not None
    assert contrast.paired_sd.value is None
    assert contrast.word == ""
