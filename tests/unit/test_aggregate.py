"""From run folders to tables: what enters, what does not, and why."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reidablate.artifacts import read_json, read_npz, read_table, write_json, write_npz, write_record, write_table
from reidablate.config import Sample
from reidablate.diagnostics.floors import diagnose_dataset, sample_sheet
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.engine.transfer import transfer_run
from reidablate.errors import UserError
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planned import PlannedCell
from reidablate.runs import Provenance
from reidablate.stats.pipeline import CALIBRATION, write_statistics
from reidablate.study import Study
from reidablate.tables.aggregate import RUN_COLUMNS, aggregate_study, headline_side
from reidablate.trees import merge


@pytest.fixture(scope="module")
def two_runs(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of two cells with one seed on one data set, both runs made."""
    root = tmp_path_factory.mktemp("aggregate")
    shutil.copytree(tiny_study.root, root / "tiny", ignore=shutil.ignore_patterns("images"))
    cells = [cell for cell in tiny_study.cells if cell.name in {"naive_triplet", "p1"}]
    planned = {"market1501": {cell.name: [0] for cell in cells}}
    study = tiny_study.model_copy(
        update={
            "planned": planned,
            "asked": planned,
            "settings": tiny_study.settings.model_copy(update={"results": root}),
            "cells": cells,
            "datasets": tiny_study.datasets[:1],
            "seeds": 1,
        }
    )
    for cell in cells:
        train_run(train_spec(study, dataset="market1501", cell=cell.name, seed=0))
        evaluate_run(study.root / "market1501" / cell.name / "seed0")
    return study


@pytest.fixture
def study(two_runs: Study, tmp_path: Path) -> Study:
    shutil.copytree(two_runs.root, tmp_path / "tiny")
    settings = two_runs.settings.model_copy(update={"results": tmp_path})
    return two_runs.model_copy(update={"settings": settings})


def tables(study: Study) -> dict[str, pd.DataFrame]:
    return {
        name: read_table(study.root / "tables" / f"{name}.parquet")
        for name in ("runs", "metrics", "queries", "history")
    }


def seal(folder: Path) -> None:
    """Has the records of a run name its files as they are now, as if another version had written them."""
    for record in (folder / "provenance.json", folder / "metrics.json"):
        write_record(record, read_json(record), [name for name in read_json(record)["sha256"] if name != record.name])


def test_every_table_holds_exactly_the_planned_runs(study: Study) -> None:
    assert aggregate_study(study) == "aggregate: 2 finished, 0 diverged, 0 missing"
    for frame in tables(study).values():
        assert set(frame["cell"]) == {"naive_triplet", "p1"}
    runs = tables(study)["runs"]
    assert runs["synthetic"].all()
    assert (runs["device"] == "cpu").all()
    about = read_json(study.root / "tables" / "study.json")
    assert about["synthetic"] is True
    assert about["datasets"][0]["counts"]["query"] == {"images": 12, "ids": 6}
    assert about["headline"] == "before_neck"
    cells = read_json(study.root / "tables" / "cells.json")
    assert cells[1]["declared"].keys() == {"losses.triplet", "losses.weighted_triplet"}


def test_every_row_of_every_table_of_a_smoke_test_is_marked(study: Study) -> None:
    """On the second data set a smoke test leaves references out: that is no run that is still to come."""
    smoke = study.model_copy(update={"preset": study.preset.model_copy(update={"sample": Sample()})})
    cells = [smoke.cell("naive_triplet"), smoke.cell("p1").model_copy(update={"references": ["naive_triplet", "p2"]})]
    aggregate_study(smoke.model_copy(update={"cells": cells}))
    write_statistics(smoke.root)
    written = smoke.root / "tables"
    frames = {path.name: pd.read_parquet(path) for path in written.glob("*.parquet") if path.name != CALIBRATION}
    frames |= {path.name: pd.read_csv(path) for path in written.glob("*.csv") if path.stat().st_size > 2}
    assert {"runs.csv", "contrasts.csv", "slices.parquet", "floors.parquet", "history.parquet"} <= frames.keys()
    for name, frame in frames.items():
        assert frame["mark"].eq("smoke test, the numbers mean nothing").all(), name
        assert frame.columns[-1] == "mark", name
    contrasts = frames["contrasts.parquet"]
    assert contrasts["reference"].eq("p2").any()
    assert not contrasts["verdict"].eq("provisional").any()


def test_history_holds_epoch_means(study: Study) -> None:
    aggregate_study(study)
    steps = pd.read_parquet(study.root / "market1501" / "p1" / "seed0" / "history.parquet")
    history = tables(study)["history"]
    row = history[(history["cell"] == "p1") & (history["epoch"] == 1) & (history["name"] == "identity")]
    assert row["value"].iloc[0] == pytest.approx(steps.loc[steps["epoch"] == 1, "identity"].mean())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_curve_of_a_diverged_run_ends_where_a_step_is_not_finite(study: Study, bad: float) -> None:
    path = study.root / "market1501" / "p1" / "seed0" / "history.parquet"
    steps = read_table(path)
    last = steps.index[steps["epoch"] == 1]
    assert len(last) > 1
    steps.loc[last[0], "identity"] = bad
    write_table(steps, path)
    seal(path.parent)
    aggregate_study(study)
    history = tables(study)["history"].query("cell == 'p1'").set_index(["name", "epoch"])["value"]
    assert history["identity", 0] == pytest.approx(steps.loc[steps["epoch"] == 0, "identity"].mean())
    assert pd.isna(history["identity", 1])
    assert pd.notna(history["weighted_triplet", 1])


def with_side(cell: PlannedCell, side: str) -> PlannedCell:
    model = cell.config.model.model_copy(update={"test_feature": side})
    return cell.model_copy(update={"config": cell.config.model_copy(update={"model": model})})


def test_the_headline_is_the_presets_side_or_else_the_baselines_whatever_most_cells_say(tiny_study: Study) -> None:
    baseline, *others = tiny_study.cells
    assert baseline.extends is None
    cells = [*(with_side(cell, "after_neck") for cell in others), baseline]
    study = tiny_study.model_copy(update={"cells": cells})
    assert headline_side(study) == "before_neck"
    assert headline_side(study.model_copy(update={"cells": cells[:-1]})) == "after_neck"
    declared = {**study.preset.model, "test_feature": "after_neck"}
    preset = study.preset.model_copy(update={"model": declared})
    assert headline_side(study.model_copy(update={"preset": preset})) == "after_neck"


def test_a_cell_outside_the_plan_leaves_no_row(study: Study) -> None:
    aggregate_study(study.model_copy(update={"cells": study.cells[:1]}))
    for frame in tables(study).values():
        assert set(frame["cell"]) == {"naive_triplet"}


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("provenance.json", {"config": {"train": {"lr": 9.0}}}, "trained with another configuration"),
        ("provenance.json", {"data_fingerprint": "0"}, "trained with another data"),
        ("provenance.json", {"weights_sha256": "0"}, "trained with another initial weights"),
        ("provenance.json", {"seed": 7}, "trained with another seed"),
        ("provenance.json", {"science_version": 2}, "trained with another version of the code"),
        ("metrics.json", {"features_sha256": "0"}, "scored with another features.npz"),
        ("metrics.json", {"scores_version": 0}, "scored by another version of the protocol"),
        ("metrics.json", None, "metrics.json missing"),
        ("queries.parquet", None, "queries.parquet missing"),
    ],
)
def test_a_run_that_is_not_whole_or_not_this_one_is_missing_and_says_why(
    study: Study, file: str, change: dict[str, Any] | None, reason: str
) -> None:
    path = study.root / "market1501" / "p1" / "seed0" / file
    if change is None:
        path.unlink()
    else:
        write_json(path, merge(read_json(path), change))
    assert aggregate_study(study) == "aggregate: 1 finished, 0 diverged, 1 missing"
    found = tables(study)
    row = found["runs"].set_index("cell").loc["p1"]
    assert row["status"] == "missing"
    assert reason in row["reason"]
    pairs = read_table(study.root / "tables" / "camera_pairs.parquet")
    for frame in (found["queries"], pairs):
        assert set(frame["cell"]) == {"naive_triplet"}


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("provenance.json", lambda _: {}, "'dataset': Field required"),
        ("provenance.json", lambda made: made | {"threads": "many"}, "'threads'"),
        ("metrics.json", lambda _: [1], "has an unexpected structure"),
        ("metrics.json", lambda _: {}, "'status': Field required"),
        ("metrics.json", lambda made: {"status": "finished", "headline": made["headline"]}, "scores of both sides"),
        ("metrics.json", lambda made: made | {"before_neck": {"mAP": "high"}}, "'before_neck.mAP'"),
        ("queries.parquet", lambda frame: frame.drop(columns="inverse_negative_penalty"), "inverse_negative_penalty"),
        ("history.parquet", lambda frame: frame.drop(columns="epoch"), "lacks the column epoch"),
    ],
)
def test_a_file_of_another_form_makes_its_run_missing_by_name(
    study: Study, file: str, change: Callable[[Any], Any], problem: str
) -> None:
    log = study.root / "logs" / "train" / "market1501" / "p1" / "seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("2 epochs in 1 s\n")
    path = study.root / "market1501" / "p1" / "seed0" / file
    made = change(read_table(path) if path.suffix == ".parquet" else read_json(path))
    write_table(made, path) if isinstance(made, pd.DataFrame) else write_json(path, made)
    if path.suffix == ".parquet":
        seal(path.parent)
    assert aggregate_study(study) == "aggregate: 1 finished, 0 diverged, 1 missing"
    found = tables(study)
    reason: Any = found["runs"].set_index("cell").loc["p1", "reason"]
    assert f"seed0/{file} " in reason
    assert problem in reason
    for name in ("metrics", "queries", "history"):
        assert set(found[name]["cell"]) == {"naive_triplet"}


def test_the_reader_of_a_provenance_checks_every_fact_of_the_table_of_runs() -> None:
    assert set(RUN_COLUMNS) - {"code"} <= set(Provenance.model_fields)


def test_an_index_of_another_form_leaves_no_run_that_could_be_checked_against_it(study: Study) -> None:
    write_json(study.data_folder("market1501") / "index" / "index.json", [])
    assert aggregate_study(study) == "aggregate: 0 finished, 0 diverged, 2 missing"


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("provenance.json", r"provenance\.json has an unexpected structure \('dataset': Field required\)"),
        ("features.npz", r"features\.npz lacks the array query_after_neck"),
    ],
)
def test_a_run_of_another_form_is_not_scored(study: Study, file: str, sentence: str) -> None:
    run = study.root / "market1501" / "p1" / "seed0"
    if file == "features.npz":
        arrays = read_npz(run / file)
        write_npz(run / file, {name: array for name, array in arrays.items() if name != "query_after_neck"})
        write_record(run / "provenance.json", read_json(run / "provenance.json"), [file])
    else:
        write_json(run / file, {})
    with pytest.raises(UserError, match=sentence):
        evaluate_run(run)


def test_a_missing_run_shows_the_last_words_of_its_log(study: Study) -> None:
    shutil.rmtree(study.root / "market1501" / "p1")
    log = study.root / "logs" / "train" / "market1501" / "p1" / "seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\nreidablate: the disk is full; free it.\nepoch 2\n")
    aggregate_study(study)
    runs = tables(study)["runs"].set_index("cell")
    assert runs.loc["p1", "reason"] == "reidablate: the disk is full; free it."


def test_a_run_that_fails_after_an_edit_shows_why_and_not_that_it_is_another_one(study: Study) -> None:
    path = study.root / "market1501" / "p1" / "seed0" / "provenance.json"
    made = read_json(path)
    made["config"]["train"]["lr"] = 0.5
    write_json(path, made)
    log = study.root / "logs" / "train" / "market1501" / "p1" / "seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("reidablate: methods/mine.py, line 3: losses.mine failed: KeyError: 'x'.\n")
    aggregate_study(study)
    runs = tables(study)["runs"].set_index("cell")
    assert runs.loc["p1", "reason"] == "reidablate: methods/mine.py, line 3: losses.mine failed: KeyError: 'x'."


@pytest.mark.parametrize("stage", ["evaluate/market1501/p1/seed0", "index/market1501", "cache/pretrain", "pretrain"])
def test_a_run_that_never_failed_itself_shows_what_failed_around_it(study: Study, stage: str) -> None:
    shutil.rmtree(study.root / "market1501" / "p1")
    for name, words in {"train/market1501/p1/seed0": "epoch 2", stage: "reidablate: it is broken; mend it."}.items():
        log = study.root / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{words}\n")
    aggregate_study(study)
    runs = tables(study)["runs"].set_index("cell")
    assert runs.loc["p1", "reason"] == "reidablate: it is broken; mend it."


def test_an_edited_run_that_fails_shows_why_and_not_that_it_was_edited(study: Study) -> None:
    path = study.root / "market1501" / "p1" / "seed0" / "provenance.json"
    write_json(path, merge(read_json(path), {"config": {"train": {"lr": 9.0}}}))
    aggregate_study(study)
    assert "trained with another configuration" in str(tables(study)["runs"].set_index("cell").loc["p1", "reason"])
    log = study.root / "logs" / "train" / "market1501" / "p1" / "seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("reidablate: methods/mine.py, line 3: division by zero; correct it.\n")
    aggregate_study(study)
    reason = tables(study)["runs"].set_index("cell").loc["p1", "reason"]
    assert reason == "reidablate: methods/mine.py, line 3: division by zero; correct it."


def test_a_progress_line_is_no_reason(study: Study) -> None:
    shutil.rmtree(study.root / "market1501" / "p1")
    log = study.root / "logs" / "train" / "market1501" / "p1" / "seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\n")
    aggregate_study(study)
    runs = tables(study)["runs"].set_index("cell")
    assert "not trained yet" in str(runs.loc["p1", "reason"])


def test_no_run_at_all_still_gives_tables(study: Study) -> None:
    shutil.rmtree(study.root / "market1501")
    assert aggregate_study(study) == "aggregate: 0 finished, 0 diverged, 2 missing"
    assert tables(study)["queries"].empty


def test_floors_are_measured_and_gathered(study: Study) -> None:
    assert "colour stripes" in diagnose_dataset(study, "market1501")
    (study.root / "tables").mkdir()
    left = study.root / "tables" / "samples_msmt17.jpg"
    left.touch()  # of a data set that has left the plan
    aggregate_study(study)
    assert not left.exists()
    floors = read_table(study.root / "tables" / "floors.parquet")
    assert list(floors["method"]) == ["colour stripes", "untrained network", "pre-trained network"]
    assert floors["mAP"].between(0, 1).all()
    sheet = (study.root / "tables" / "samples_market1501.jpg").read_bytes()
    assert sheet.startswith(b"\xff\xd8")


def test_a_sample_sheet_shows_rows_of_identities() -> None:
    import io

    import numpy as np
    from PIL import Image

    images = np.zeros((6, 8, 4, 3), np.uint8)
    images[3:] = 255
    sheet = np.asarray(Image.open(io.BytesIO(sample_sheet(images, np.array([1, 1, 1, 2, 2, 2])))).convert("L"))
    assert sheet.shape == (2 * 12, 10 * 8)
    assert sheet[4, 4] < 60
    assert sheet[12 + 4, 4] > 200


def test_scores_by_pair_of_cameras_are_gathered_on_the_declared_side(study: Study) -> None:
    aggregate_study(study)
    table = read_table(study.root / "tables" / "camera_pairs.parquet")
    assert set(table["cell"]) == {"naive_triplet", "p1"}
    assert set(table["side"]) == {"before_neck"}
    assert (table["query_camid"] != table["gallery_camid"]).all()
    queries = read_table(study.root / "market1501" / "p1" / "seed0" / "queries.parquet")
    cameras = queries.loc[queries["side"] == "before_neck", "camid"].value_counts()
    own = table[table["cell"] == "p1"]
    assert ((own["num_queries"] + own["num_invalid"]) >= own["query_camid"].map(cameras)).all()


@pytest.fixture
def elsewhere(two_runs: Study, tiny_study: Study, tmp_path: Path) -> Study:
    """The two runs, of which p1 is also scored on the other data set."""
    shutil.copytree(two_runs.root, tmp_path / "tiny")
    settings = two_runs.settings.model_copy(update={"results": tmp_path})
    cells = [cell.model_copy(update={"also_on": "all"}) if cell.name == "p1" else cell for cell in two_runs.cells]
    study = two_runs.model_copy(update={"settings": settings, "cells": cells, "datasets": tiny_study.datasets})
    spec = train_spec(study, dataset="market1501", cell="p1", seed=0)
    transfer_run(spec, on="occluded_duke", data=study.data_folder("occluded_duke"))
    evaluate_run(spec.out / "on_occluded_duke")
    return study


def test_scores_on_another_data_set_have_a_table_of_their_own(elsewhere: Study) -> None:
    aggregate_study(elsewhere)
    table = read_table(elsewhere.root / "tables" / "cross_domain.parquet")
    assert set(zip(table["dataset"], table["on"], table["cell"], strict=True)) == {
        ("market1501", "occluded_duke", "p1")
    }
    metrics = read_json(elsewhere.root / "market1501" / "p1" / "seed0" / "on_occluded_duke" / "metrics.json")
    for side in ("before_neck", "after_neck"):
        found = table[table["side"] == side].set_index("metric")["value"]
        assert found.to_dict() == pytest.approx(metrics[side])
    assert set(tables(elsewhere)["metrics"]["dataset"]) == {"market1501"}


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("provenance.json", {"config": {"train": {"lr": 9.0}}}, "made with another configuration."),
        ("provenance.json", {"transfer": {"data_fingerprint": "0"}}, "made with another data."),
        ("provenance.json", {"transfer": {"weights_sha256": "0"}}, "made with another weights."),
        ("provenance.json", {"sha256": {"features.npz": "0"}}, "features.npz damaged."),
        ("provenance.json", {"transfer": None}, "made with another weights and data."),
        ("metrics.json", {"features_sha256": "0"}, "scored with another features.npz."),
        ("metrics.json", {"headline": "beside_neck"}, "metrics.json has an unexpected structure"),
    ],
)
def test_scores_elsewhere_that_are_not_of_this_run_and_data_set_have_no_row_and_are_named(
    elsewhere: Study, file: str, change: dict[str, Any], reason: str
) -> None:
    folder = elsewhere.root / "market1501" / "p1" / "seed0" / "on_occluded_duke"
    made = read_json(folder / file)
    write_json(folder / file, merge(made, change))
    aggregate_study(elsewhere)
    assert read_table(elsewhere.root / "tables" / "cross_domain.parquet").empty
    (line,) = read_json(elsewhere.root / "tables" / "study.json")["notices"][len(elsewhere.notices) :]
    assert line.startswith(f"{folder} is left out: ")
    assert reason in line


def test_a_run_that_is_not_finished_has_no_scores_elsewhere_and_its_own_row_says_why(elsewhere: Study) -> None:
    run = elsewhere.root / "market1501" / "p1" / "seed0" / "provenance.json"
    write_json(run, {**read_json(run), "status": "diverged"})
    aggregate_study(elsewhere)
    assert read_table(elsewhere.root / "tables" / "cross_domain.parquet").empty
    assert read_json(elsewhere.root / "tables" / "study.json")["notices"] == elsewhere.notices


def test_broken_scores_by_pair_of_cameras_are_left_out_and_named(study: Study) -> None:
    path = study.root / "market1501" / "p1" / "seed0" / "camera_pairs.parquet"
    write_table(read_table(path).drop(columns="side"), path)
    seal(path.parent)
    aggregate_study(study)
    assert set(read_table(study.root / "tables" / "camera_pairs.parquet")["cell"]) == {"naive_triplet"}
    (line,) = read_json(study.root / "tables" / "study.json")["notices"][len(study.notices) :]
    assert line.startswith(f"{path} is left out: ")
    assert "lacks the column side" in line
