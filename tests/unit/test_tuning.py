"""Tuned cells: candidates never see the test set, the winner follows from their scores, and the budget is shown."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from reidablate.artifacts import read_json, read_npz, sha256_file
from reidablate.data.index import read_index
from reidablate.diagnosing import first_runs
from reidablate.diagnostics.cell import diagnose_cell
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.estimate import Estimate
from reidablate.freezing import describe, freeze, read_frozen
from reidablate.metrics.evaluate import evaluate_run
from reidablate.part_options import PartsConfig
from reidablate.planning import plan
from reidablate.report.collect import collect
from reidablate.report.render import make_environment, render_html
from reidablate.scope import write_scope
from reidablate.stats.pipeline import write_statistics
from reidablate.study import Run, Study, load_study
from reidablate.tables.aggregate import aggregate_study
from reidablate.tuning import Tried, entry_of, tried, winner, with_choices
from support import ROOT, SHIPPED, present

RATIOS = (0.25, 0.5, 0.75)
TUNED = f"""
name: tuned
title: Proposed 1, tuned
extends: p1
question: Which share of the patches?
tune: true
sweep: {{losses.weighted_triplet.ratio: {list(RATIOS)}}}
train: {{holdout: 0.25}}
"""
CANDIDATES = [f"tuned_ratio_{ratio}" for ratio in RATIOS]


def planned(results: Path, ablations: Path, **change: object) -> Study:
    settings = yaml.safe_load((ROOT / "workflow" / "config" / "default.yaml").read_text())
    places = {"results": str(results), "data_root": str(results), "ablations": str(ablations)}
    asked = {"preset": "tests/tiny.yaml", "datasets": "market1501", "cells": "tuned", "device": "cpu"}
    return plan({**settings, **places, **asked, **change})


@pytest.fixture(scope="module")
def folder(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with prepared `results` and the cells of a study that tunes one."""
    place = tmp_path_factory.mktemp("tuned")
    shutil.copytree(tiny_study.root, place / "results" / tiny_study.preset.name)
    (place / "ablations").mkdir()
    for name in ("naive_triplet", "p1"):
        assert name in SHIPPED
        shutil.copy(ROOT / "ablations" / f"{name}.yaml", place / "ablations")
    (place / "ablations" / "tuned.yaml").write_text(TUNED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield place


@pytest.fixture(scope="module")
def unchosen(folder: Path) -> Study:
    return planned(folder / "results", folder / "ablations")


def made(study: Study, cells: list[str]) -> None:
    for cell in cells:
        for seed in study.planned["market1501"][cell]:
            spec = train_spec(study, dataset="market1501", cell=cell, seed=seed)
            train_run(spec)
            evaluate_run(spec.out)


@pytest.fixture(scope="module")
def chosen(unchosen: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study with its candidates made while there is no test image: neither folder nor cache holds one."""
    data, away = unchosen.data_folder("market1501"), tmp_path_factory.mktemp("away")
    tests = [data / "images" / "query", data / "images" / "bounding_box_test"]
    tests += [data / "cache" / f"{split}.npy" for split in ("query", "gallery")]
    for path in tests:
        shutil.move(path, away / path.name)
    made(unchosen, CANDIDATES)
    study = with_choices(unchosen)
    assert study.cell("tuned").chosen
    for path in tests:
        shutil.move(away / path.name, path)
    return study


def test_the_plan_tries_every_candidate_on_held_out_identities_and_says_so(unchosen: Study) -> None:
    assert {cell.name for cell in unchosen.cells} == {"naive_triplet", "p1", "tuned", *CANDIDATES}
    tuned = unchosen.cell("tuned")
    assert tuned.candidates == CANDIDATES
    assert tuned.references == ["p1", "naive_triplet"]
    assert tuned.identity_on("market1501") == "not chosen yet"
    for name, ratio in zip(CANDIDATES, RATIOS, strict=True):
        cell = unchosen.cell(name)
        assert (cell.tunes, cell.references) == ("tuned", [])
        assert (cell.config.scored_on, cell.config.train.holdout) == ("holdout", 0.25)
        assert cell.config.losses.weighted_triplet.ratio == ratio  # type: ignore[union-attr]
    assert any("3 configurations x 2 seeds are scored on held-out" in line for line in unchosen.notices)
    assert len(unchosen.asked_runs) == 2 * 6
    assert {run.cell for run in unchosen.tested_runs} == {"naive_triplet", "p1", "tuned"}


def test_what_a_tuned_cell_takes_is_estimated_by_its_candidates(unchosen: Study) -> None:
    estimate = Estimate(unchosen)
    estimate.probe(lambda done, total: None)
    assert {job.run.cell for job in estimate.jobs} >= {"tuned", *CANDIDATES}
    assert all(estimate.seconds(job) for job in estimate.jobs)


def test_a_sample_is_tuned_like_a_sweep(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "ablations", tmp_path / "ablations")
    drawn = "name: drawn\nextends: p1\ntune: true\nsample: {train.lr_factor: loguniform(0.3, 3), n: 2}\n"
    (tmp_path / "ablations" / "drawn.yaml").write_text(drawn)
    study = planned(tmp_path / "results", tmp_path / "ablations", cells="drawn", weights="none")
    assert study.cell("drawn").candidates == ["drawn_1", "drawn_2"]
    assert study.cell("drawn").identity_on("market1501") == "not chosen yet"
    assert [study.cell(name).tunes for name in ("drawn_1", "drawn_2", "drawn")] == ["drawn", "drawn", ""]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([[0.5, 0.5], [0.25, 0.875], [0.5, 0.5]], "b"),
        ([[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]], "a"),  # the means are equal
        ([[0.5, 0.5], [0.875, None], [0.5, 0.625]], "c"),  # a seed of the best diverged
        ([[None], [None], [None]], None),
    ],
)
def test_the_winner_has_the_highest_mean_of_equal_ones_the_earlier(
    scores: list[list[float | None]], best: str | None
) -> None:
    candidates = [
        Tried(
            name,
            {seed: score for seed, score in enumerate(of) if score is not None},
            [seed for seed, score in enumerate(of) if score is None],
            [],
        )
        for name, of in zip("abc", scores, strict=True)
    ]
    assert winner(candidates) == best
    assert winner([*candidates, Tried("d", {0: 0.1}, [], [1])]) is None  # one is not scored yet


def test_without_a_test_image_every_candidate_is_scored_and_the_best_is_chosen(chosen: Study) -> None:
    frame = read_index(chosen.data_folder("market1501") / "index").frame
    test = set(frame.loc[frame["split"] != "train", "name"])
    means = {}
    for name in CANDIDATES:
        values = []
        for seed in (0, 1):
            folder = chosen.root / "market1501" / name / f"seed{seed}"
            features = read_npz(folder / "features.npz")
            seen = {str(image) for split in ("query", "gallery") for image in features[f"{split}_names"]}
            assert seen
            assert not seen & test
            queries = pd.read_parquet(folder / "queries.parquet")
            side = queries["side"] == "before_neck"
            values.append(queries.loc[side, "average_precision"].mean())
        means[name] = sum(values) / 2
    best = max(means, key=lambda name: means[name])
    found = chosen.cell("tuned").config_on("market1501")
    assert found.losses.weighted_triplet.ratio == chosen.cell(best).config.losses.weighted_triplet.ratio  # type: ignore[union-attr]
    assert (found.scored_on, found.train.holdout) == ("test", 0.0)
    assert [one.mean for one in tried(chosen, "market1501", "tuned")] == pytest.approx(list(means.values()))


def test_a_choice_is_in_no_plan_and_moves_no_hash_of_one(chosen: Study, unchosen: Study) -> None:
    assert chosen.hash == unchosen.hash
    assert load_study(unchosen.write()).cell("tuned") == chosen.cell("tuned")
    assert planned(chosen.settings.results, chosen.settings.ablations).cell("tuned") == chosen.cell("tuned")


def test_what_is_frozen_is_the_sweep_and_not_the_choice(chosen: Study, unchosen: Study, tmp_path: Path) -> None:
    settings = unchosen.settings.model_copy(update={"results": tmp_path})
    freeze(unchosen.model_copy(update={"settings": settings}))
    frozen = present(read_frozen(tmp_path / "tiny"))
    assert describe(frozen, chosen)["later"] == {}
    other = [cell.model_copy(update={"config": chosen.cell("p1").config}) for cell in chosen.cells if cell.tunes]
    cells = [*other, *(cell for cell in chosen.cells if not cell.tunes)]
    later = describe(frozen, chosen.model_copy(update={"cells": cells}))["later"]["market1501"]
    assert later["tuned"]["p1"] == "the configuration of tuned was changed later"


def test_more_seeds_open_the_choice_again(chosen: Study) -> None:
    more = planned(chosen.settings.results, chosen.settings.ablations, seeds=3)
    assert not more.cell("tuned").chosen
    with pytest.raises(UserError, match=r"tuned_ratio_0.25 seed 2, .* are not scored yet"):
        train_spec(more, dataset="market1501", cell="tuned", seed=0)


def test_a_call_for_fewer_seeds_still_chooses_by_all_of_them(chosen: Study) -> None:
    chosen.write()
    write_scope(chosen)
    fewer = planned(chosen.settings.results, chosen.settings.ablations, seeds=1)
    assert fewer.asked["market1501"]["tuned"] == [0]
    assert all(fewer.asked["market1501"][name] == [0, 1] for name in CANDIDATES)


def test_the_winner_is_trained_on_all_identities_and_alone_reaches_tables_and_report(chosen: Study) -> None:
    made(chosen, ["naive_triplet", "p1", "tuned"])
    ratio = chosen.cell("tuned").config_on("market1501").losses.weighted_triplet.ratio  # type: ignore[union-attr]
    if ratio == 0.5:  # that of p1
        same = [chosen.root / "market1501" / cell / "seed0" / "model.safetensors" for cell in ("p1", "tuned")]
        assert len({sha256_file(path) for path in same}) == 1
    assert read_json(chosen.root / "market1501" / "tuned" / "seed0" / "provenance.json")["num_classes"] == 8
    aggregate_study(chosen)
    write_statistics(chosen.root)
    tables = chosen.root / "tables"
    for name in ("runs", "metrics", "queries", "history"):
        assert set(pd.read_parquet(tables / f"{name}.parquet")["cell"]) == {"naive_triplet", "p1", "tuned"}, name
    entries = {entry["name"]: entry for entry in read_json(tables / "cells.json")}
    assert entries.keys() == {"naive_triplet", "p1", "tuned"}
    table = pd.read_parquet(tables / "tuning.parquet")
    assert table["candidate"].tolist() == CANDIDATES
    assert table["num_seeds"].tolist() == [2, 2, 2]
    (best,) = table.loc[table["chosen"], "candidate"]
    assert best == f"tuned_ratio_{ratio}"
    study = collect(tables)
    html = render_html(study, [], make_environment(ROOT / "report_templates"))
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert "3 in 6 runs" in words
    budgets = {cell.name: study.beside.budget("market1501", cell.name) for cell in study.cells}
    assert {name: budget and [number.value for number in budget] for name, budget in budgets.items()} == {
        "naive_triplet": None,
        "p1": None,
        "tuned": [3.0, 6.0],
    }
    for name in CANDIDATES:
        assert f'id="{name}' not in html


def test_no_page_shows_a_candidate_the_test_set(chosen: Study) -> None:
    assert {run.cell for run in first_runs(chosen)} == {"naive_triplet", "p1", "tuned"}
    with pytest.raises(UserError, match="chooses for tuned, and a page would show it the test set"):
        diagnose_cell(chosen, Run(dataset="market1501", cell=CANDIDATES[0], seed=0), detail="brief")


def test_what_differs_is_told_apart_by_data_set(chosen: Study) -> None:
    tuned = chosen.cell("tuned")
    here = tuned.chosen["market1501"]
    other = here.model_copy(update={"differences": {"p1": {"losses.weighted_triplet.ratio": [0.5, 0.9]}}})
    first = here.model_copy(update={"differences": {"p1": {"losses.weighted_triplet.ratio": [0.5, 0.1]}}})
    both = tuned.model_copy(update={"references": ["p1"], "chosen": {"market1501": first, "occluded_duke": other}})
    told = {"losses.weighted_triplet.ratio": [0.5, "0.1 on market1501, 0.9 on occluded_duke"]}
    assert entry_of(both)["differences"] == {"p1": told}
    assert entry_of(both)["by_dataset"]["occluded_duke"]["differences"] == other.differences
    model = here.config.model.model_copy(update={"parts": PartsConfig.model_validate({"camera_embedding": {}})})
    reads = here.model_copy(update={"config": here.config.model_copy(update={"model": model})})
    told_cameras = {"market1501": reads.model_copy(update={"differences": first.differences}), "occluded_duke": other}
    assert entry_of(both.model_copy(update={"chosen": told_cameras}))["reads_cameras"]
    assert not entry_of(both)["reads_cameras"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "child",
            "extends: tuned",
            r"'tuned' is tuned, so its options are not known before it is trained; extend 'p1'",
        ),
        (
            "other",
            f"extends: p1\nreference: [{CANDIDATES[0]}]",
            r"scored on held-out identities alone; compare with 'tuned'",
        ),
        (
            "uneven",
            "extends: p1\ntune: true\nsweep: {train.holdout: [0.2, 0.3]}",
            r"compared on the same held-out identities, so 'tune' cannot vary train\.holdout",
        ),
        (
            "partly",
            "extends: p1\ntune: true\nsweep: {train.lr_factor: [1, -2]}",
            r"candidate 'partly_lr_factor_-2' cannot be used, because .*'train\.lr_factor' is -2 but should be greater",
        ),
        (
            "first",
            "extends: p1\ntune: true\nsweep: {train.lr_factor: [-2, 1]}",
            r"'train\.lr_factor' is -2 but should be greater",
        ),
        ("lonely", "extends: p1\ntune: true", r"between the points of a sweep or sample; give it two or more"),
    ],
)
def test_what_cannot_be_built_on_a_tuned_cell_is_a_sentence(
    folder: Path, tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    shutil.copytree(folder / "ablations", tmp_path / "ablations")
    (tmp_path / "ablations" / f"{name}.yaml").write_text(f"name: {name}\n{text}\n")
    with pytest.raises(UserError, match=sentence):
        planned(tmp_path / "results", tmp_path / "ablations", cells=name, weights="none")
