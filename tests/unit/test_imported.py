"""Runs of other code bases in the tables of a study: what is taken, what is refused, and what becomes of it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat
from typer.testing import CliRunner

from reidablate.artifacts import read_json, read_table, sha256_file, write_json, write_npz, write_record, write_table
from reidablate.cli import app
from reidablate.data.index import read_index
from reidablate.engine.trial import try_weights
from reidablate.errors import UserError
from reidablate.importing import Origin, import_runs
from reidablate.metrics import score, score_distances
from reidablate.metrics.evaluate import evaluate_run
from reidablate.metrics.files import Options, score_file
from reidablate.metrics.registry import own_metric
from reidablate.provenance import SCIENCE_VERSION
from reidablate.report.render import render_report
from reidablate.runs import SIDES, Provenance
from reidablate.standing import Standing
from reidablate.stats.pipeline import write_statistics
from reidablate.study import Study, find_results, latest_study
from reidablate.tables.aggregate import aggregate_study
from reidablate.tables.imported import find_imports, imported_table
from support import ROOT, run_cli


@pytest.fixture
def study(tiny_study: Study, tmp_path: Path) -> Study:
    """The tiny study's data and plan without a single run."""
    results = tmp_path / "results"
    shutil.copytree(tiny_study.root, results / "tiny", ignore=shutil.ignore_patterns("images", "plans"))
    settings = tiny_study.settings.model_copy(update={"results": results})
    study = tiny_study.model_copy(update={"settings": settings})
    study.write()
    return study


def features(study: Study, *, dataset: str = "market1501", width: int = 5, names: bool = True) -> dict[str, Any]:
    """What another code base has to show: random features of the very images of the index."""
    rng = np.random.default_rng(0)
    frame = read_index(study.data_folder(dataset) / "index").frame
    found: dict[str, Any] = {}
    for split in ("query", "gallery"):
        rows = frame[frame["split"] == split]
        found[f"{split}_features"] = rng.standard_normal((len(rows), width)).astype(np.float32)
        found |= {f"{split}_{ids}s": rows[ids].to_numpy(np.int64) for ids in ("pid", "camid")}
        if names:
            found[f"{split}_names"] = rows["name"].to_numpy(str)
    return found


def import_run(name: str, *paths: Path, **options: Any) -> str:
    return import_runs(name, [Origin(path, path) for path in paths], **options)


def scored(given: dict[str, Any]) -> dict[str, float]:
    return score(**{key: value for key, value in given.items() if "names" not in key}).summary()


def saved(folder: Path, given: dict[str, Any]) -> Path:
    np.savez(folder / "theirs.npz", **given)
    return folder / "theirs.npz"


def taken(given: dict[str, Any], split: str, rows: Any) -> dict[str, Any]:
    return {key: value[rows] if key.startswith(split) else value for key, value in given.items()}


def test_an_import_scores_as_score_does_and_says_where_it_comes_from(study: Study, tmp_path: Path) -> None:
    given = features(study)
    path = saved(tmp_path, given)
    said = run_cli("import", "theirs", str(path), "--dataset", "market1501", "--results", str(study.root))
    wanted = scored(given)
    assert f"theirs on market1501: mAP {100 * wanted['mAP']:.2f}, Rank-1 {100 * wanted['rank1']:.2f}" in said
    folder = study.root / "imported" / "market1501" / "theirs"
    assert {entry.name for entry in folder.iterdir()} == {"metrics.json", "provenance.json", "queries.parquet"}
    assert read_json(folder / "metrics.json") == {"features": wanted}
    queries = read_table(folder / "queries.parquet")
    assert queries["query"].tolist() == given["query_names"].tolist()
    assert queries["average_precision"].mean() == pytest.approx(wanted["mAP"])
    made = read_json(folder / "provenance.json")
    assert (made["source"], made["source_sha256"], made["camid_shift"]) == (str(path), sha256_file(path), 0)
    assert made["protocol"]["junk"] == "left out"


def test_it_becomes_rows_of_its_own_table_until_its_folder_is_deleted(study: Study, tmp_path: Path) -> None:
    given = features(study)
    sides = {key.replace("features", "after_neck"): -value for key, value in given.items() if "features" in key}
    both = {key.replace("features", "before_neck"): value for key, value in given.items()} | sides
    import_run("theirs", saved(tmp_path, both), dataset="market1501", results=study.root)
    aggregate_study(study)
    table = read_table(study.root / "tables" / "imported.parquet")
    assert set(zip(table["dataset"], table["name"], strict=True)) == {("market1501", "theirs")}
    values = table.set_index(["side", "metric"])["value"]
    for side in ("before_neck", "after_neck"):
        assert values[side]["mAP"] == scored(given)["mAP"]
    assert "theirs" not in set(read_table(study.root / "tables" / "metrics.parquet")["cell"])
    assert pd.read_csv(study.root / "tables" / "imported.csv")["sha256"].nunique() == 1
    shutil.rmtree(study.root / "imported" / "market1501" / "theirs")
    aggregate_study(study)
    assert read_table(study.root / "tables" / "imported.parquet").empty


def test_order_junk_cameras_from_zero_and_folders_in_names_are_their_affair(study: Study, tmp_path: Path) -> None:
    given = features(study)
    wanted = scored(given)
    kept = np.flatnonzero(given["gallery_pids"] != -1)
    assert 0 < len(kept) < len(given["gallery_pids"])
    given = taken(taken(given, "gallery", np.random.default_rng(1).permutation(kept)), "query", slice(None, None, -1))
    given["query_names"] = np.char.add("query/", given["query_names"])
    given["gallery_names"] = np.char.add(given["gallery_names"], ".jpg")  # as 24 names of Market-1501 end
    for split in ("query", "gallery"):
        given[f"{split}_camids"] = given[f"{split}_camids"] - 1
    import_run("theirs", saved(tmp_path, given), dataset="market1501", results=study.root)
    folder = study.root / "imported" / "market1501" / "theirs"
    assert read_json(folder / "provenance.json")["camid_shift"] == 1
    found = read_json(folder / "metrics.json")["features"]
    assert {key: found[key] for key in ("mAP", "rank1", "mINP")} == pytest.approx(
        {key: wanted[key] for key in ("mAP", "rank1", "mINP")}, abs=1e-12
    )


def test_distances_do_as_well(study: Study, tmp_path: Path) -> None:
    given = features(study, names=False)
    labels = {key: value for key, value in given.items() if not key.endswith("features")}
    labels["distances"] = np.random.default_rng(0).random((12, len(given["gallery_pids"])))
    import_run("theirs", saved(tmp_path, labels), dataset="market1501", results=study.root)
    made = read_json(study.root / "imported" / "market1501" / "theirs" / "metrics.json")
    assert made["distances"]["mAP"] == score_distances(**labels).summary()["mAP"]


def _other_pid(given: dict[str, Any]) -> dict[str, Any]:
    return given | {"query_pids": np.where(np.arange(12) == 3, 999, given["query_pids"])}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_other_pid, r"1 of market1501 are not in the file, such as pid \d+ of .*1 are not in market1501, .* pid 999"),
        (lambda given: taken(given, "gallery", slice(10, None)), "other gallery images .* are not in the file"),
        (lambda given: given | {"query_names": given["query_names"][::-1]}, "other query images"),
        (lambda given: given | {"query_names": np.arange(12).astype(str)}, "leave names out that are no file names"),
        (lambda given: given | {"gallery_names": given["gallery_names"][1:]}, r"gallery_names .* \(37,\), not \(38,\)"),
        (lambda given: taken(given, "gallery", np.r_[0:10, 9:30]), "are not in market1501, such as"),
        (lambda given: {key: value for key, value in given.items() if key != "query_pids"}, "should hold query_pids"),
    ],
)  # fmt: skip
def test_other_images_than_those_of_the_data_set_are_refused(
    study: Study, tmp_path: Path, change: Any, sentence: str
) -> None:
    path = saved(tmp_path, change(features(study)))
    with pytest.raises(UserError, match=sentence):
        import_run("theirs", path, dataset="market1501", results=study.root)
    assert not (study.root / "imported").exists()


@pytest.mark.parametrize(
    ("name", "dataset", "sentence"),
    [
        ("p1", "market1501", "'p1' is a cell of the study"),
        ("../up", "market1501", "not a safe folder name"),
        (".hidden", "market1501", "not a safe folder name"),
        ("theirs", "msmt17", "the plan has no data set 'msmt17'"),
    ],
)
def test_names_that_do_not_fit_the_study_are_refused(
    study: Study, tmp_path: Path, name: str, dataset: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        import_run(name, saved(tmp_path, features(study)), dataset=dataset, results=study.root)


def test_a_second_import_of_a_name_replaces_the_first_and_a_failing_one_leaves_it(study: Study, tmp_path: Path) -> None:
    given = features(study)
    folder = study.root / "imported" / "market1501"
    import_run("theirs", saved(tmp_path, given), dataset="market1501", results=study.root)
    first = sha256_file(folder / "theirs" / "metrics.json")
    with pytest.raises(UserError):
        import_run("theirs", saved(tmp_path, _other_pid(given)), dataset="market1501", results=study.root)
    assert sha256_file(folder / "theirs" / "metrics.json") == first
    given["query_features"] = given["query_features"][::-1].copy()
    import_run("theirs", saved(tmp_path, given), dataset="market1501", results=study.root)
    assert read_json(folder / "theirs" / "metrics.json") == {"features": scored(given)}
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == ["theirs"]


def test_what_an_import_killed_while_it_replaced_another_had_set_aside_comes_back(study: Study, tmp_path: Path) -> None:
    path, folder = saved(tmp_path, features(study)), study.root / "imported" / "market1501"
    import_run("theirs", path, dataset="market1501", results=study.root)
    first = sha256_file(folder / "theirs" / "provenance.json")
    (folder / "theirs").rename(folder / ".theirs.old")
    (folder / ".theirs.new").touch()  # a file where a folder should be: the next import fails
    with pytest.raises(UserError, match="cannot write"):
        import_run("theirs", path, dataset="market1501", results=study.root)
    assert sha256_file(folder / "theirs" / "provenance.json") == first


def test_what_no_longer_fits_is_left_out_and_said(study: Study, tmp_path: Path) -> None:
    for name in ("changed", "whole", "broken", "alien"):
        import_run(name, saved(tmp_path, features(study)), dataset="market1501", results=study.root)
    folder = study.root / "imported" / "market1501"
    made = read_json(folder / "changed" / "provenance.json")
    write_json(folder / "changed" / "provenance.json", {**made, "data_fingerprint": "0"})
    (folder / "broken" / "metrics.json").unlink()
    write_json(folder / "alien" / "provenance.json", [made])
    shutil.copytree(folder / "whole", folder / "p2")
    fingerprint = made["data_fingerprint"]
    found, lines = find_imports(study, {"market1501": fingerprint})
    table = imported_table(found)
    assert set(table["name"]) == {"whole"}
    assert [line.split(" is left out: ")[0].rsplit("/", 1)[1] for line in lines] == ["alien", "broken", "changed", "p2"]
    assert "have changed" in lines[2]
    assert "is a cell of the study" in lines[3]
    aggregate_study(study)
    assert read_json(study.root / "tables" / "study.json")["notices"][-4:] == lines


def test_the_study_is_found_where_there_is_one(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_results() == Path("results/tiny")
    assert latest_study(study.root).hash == study.hash
    (tmp_path / "results" / "paper" / "plans").mkdir(parents=True)
    with pytest.raises(UserError, match=r"several studies \(results/paper, results/tiny\)"):
        find_results()
    with pytest.raises(UserError, match="holds no plan"):
        latest_study(tmp_path / "results" / "paper")
    with pytest.raises(UserError, match="there is no study"):
        find_results(tmp_path / "elsewhere")


def test_the_plan_behind_the_tables_counts_not_the_newest(study: Study) -> None:
    aggregate_study(study)
    fewer = study.model_copy(update={"cells": study.cells[:1]})
    fewer.write()
    assert latest_study(study.root).hash == study.hash


def test_a_refusal_at_the_command_line_is_one_sentence(study: Study, tmp_path: Path) -> None:
    arguments = ["import", "p1", str(saved(tmp_path, features(study))), "--dataset", "market1501"]
    done = CliRunner().invoke(app, [*arguments, "--results", str(study.root)])
    assert isinstance(done.exception, UserError)


def test_a_matlab_file_of_the_field_is_imported(study: Study, tmp_path: Path) -> None:
    given, spelling = features(study, names=False), {"features": "f", "pids": "label", "camids": "cam"}
    theirs = {f"{side}_{spelling[what]}": v for (side, what), v in ((name.split("_"), v) for name, v in given.items())}
    savemat(tmp_path / "theirs.mat", {name: v if v.ndim == 2 else v.astype(float) for name, v in theirs.items()})
    import_run("theirs", tmp_path / "theirs.mat", dataset="market1501", results=study.root)
    made = read_json(study.root / "imported" / "market1501" / "theirs" / "metrics.json")
    assert made["features"] == scored(given)


def several(study: Study, folder: Path, number: int, **changes: Any) -> list[Path]:
    """Files of another code base with one feature each, in an order and with cameras of its own."""
    paths = []
    for seed in range(number):
        given = features(study) | changes
        order = np.random.default_rng(seed).permutation(len(given["query_pids"]))
        given = taken(given, "query", order)
        rng = np.random.default_rng(seed)
        given["query_features"] = given["query_features"] + 0.3 * rng.standard_normal(given["query_features"].shape)
        for split in ("query", "gallery"):
            given[f"{split}_camids"] = given[f"{split}_camids"] - 1
        np.savez(folder / f"seed{seed}.npz", **given)
        paths.append(folder / f"seed{seed}.npz")
    return paths


def _finished(study: Study, cell: str) -> Study:
    """Returns the study with three runs of a cell whose features are random ones, which takes no training."""
    runs = {"market1501": {cell: [0, 1, 2]}}
    study = study.model_copy(update={"planned": runs, "asked": runs})
    study.write()
    rng = np.random.default_rng(7)
    for seed in range(3):
        given = features(study)
        out = study.root / "market1501" / cell / f"seed{seed}"
        noise = {key: value + 0.3 * rng.standard_normal(value.shape) for key, value in given.items() if "feat" in key}
        sides = {key.replace("features", side): value for key, value in noise.items() for side in SIDES}
        rest = {key: value for key, value in given.items() if "feat" not in key}
        write_npz(out / "features.npz", {**rest, **sides})
        (out / "model.safetensors").touch()
        write_table(pd.DataFrame({"epoch": [0]}), out / "history.parquet")
        planned = study.cell(cell)
        weights = Standing(study).weights(planned.config)
        index = read_index(study.data_folder("market1501") / "index")
        null = dict.fromkeys(Provenance.model_fields)
        made = {
            "dataset": "market1501", "cell": cell, "seed": seed, "status": "finished", "config": planned.config.dump(),
            "config_hash": planned.config_hash, "data_fingerprint": index.summary["fingerprint"], "versions": {},
            "science_version": SCIENCE_VERSION, "weights_sha256": weights, "sha256": {},
        }  # fmt: skip
        write_record(out / "provenance.json", {**null, **made}, ["features.npz", "history.parquet"])
        evaluate_run(out, study.metrics)
    return study


def test_three_files_get_an_interval_and_a_verdict(study: Study, tmp_path: Path) -> None:
    study = _finished(study, "naive_triplet")
    aggregate_study(study)
    paths = several(study, tmp_path, 3)
    arguments = ["import", "theirs", *map(str, paths), "--dataset", "market1501", "--results", str(study.root)]
    assert "theirs on market1501 (means of 3): mAP" in (said := run_cli(*arguments))
    assert said.endswith("judged against naive_triplet\n")
    aggregate_study(study)
    write_statistics(study.root)
    tables = study.root / "tables"
    assert read_table(tables / "imported.parquet").empty
    queries = read_table(tables / "queries.parquet")
    of_runs = [rows for _, rows in queries.groupby(["cell", "seed", "side"])]
    layouts = {tuple(sorted(zip(rows["query"], rows["pid"], rows["camid"], strict=True))) for rows in of_runs}
    assert (len(of_runs), len(layouts)) == (12, 1)  # their queries are found again, in whatever order they stand
    metrics = read_table(tables / "metrics.parquet").set_index(["cell", "seed", "side", "metric"])["value"]
    for seed, path in enumerate(paths):
        wanted = scored({key: value for key, value in np.load(path).items()})
        for side in SIDES:
            assert metrics["theirs", seed, side, "mAP"] == pytest.approx(wanted["mAP"], abs=1e-12)
    contrasts = read_table(tables / "contrasts.parquet").query("headline and metric == 'mAP' and cell == 'theirs'")
    found = contrasts.set_index("dataset").loc["market1501"].to_dict()
    assert (found["group"], found["reference"], found["paired"]) == ("other code bases", "naive_triplet", False)
    assert found["cell_mean"] == pytest.approx(np.mean([metrics["theirs", s, "before_neck", "mAP"] for s in range(3)]))
    assert found["low"] < found["estimate"] < found["high"]
    assert found["verdict"] in {"improves", "worsens", "equivalent", "undecided", "provisional"}
    assert found["warnings"] == ""
    render_report(study.root, ROOT / "report_templates", study.root / "report" / "index.html")
    assert "another code base, imported" in (study.root / "report" / "index.html").read_text()
    shutil.rmtree(study.root / "imported" / "market1501" / "theirs")
    aggregate_study(study)
    assert "theirs" not in {cell["name"] for cell in read_json(tables / "cells.json")}


OWN = """
from reidablate.metrics import metric


@metric(title="Early", delta=0.5)
def early(ranks):
    return 1.0 / ranks[0]
"""


def test_metrics_of_the_study_are_in_imports_until_they_change(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "own.py").write_text(OWN)
    study = _finished(study.model_copy(update={"metrics": [own_metric("own:early")]}), "naive_triplet")
    import_run("old", *several(study, tmp_path, 3), dataset="market1501", results=study.root)
    import_run("one", tmp_path / "seed0.npz", dataset="market1501", results=study.root)
    tables = study.root / "tables"

    def contrast() -> pd.DataFrame:
        aggregate_study(study)
        write_statistics(study.root)
        return read_table(tables / "contrasts.parquet").query("headline and metric == 'early' and cell == 'old'")

    (judged,) = contrast().to_dict("records")
    queries = read_table(tables / "queries.parquet").query("side == 'before_neck' and cell == 'old'")
    assert judged["cell_mean"] == pytest.approx((1 / queries["first_hit_rank"]).mean())
    assert judged["low"] < judged["estimate"] < judged["high"]
    assert "early" in set(read_table(tables / "imported.parquet")["metric"])

    (tmp_path / "methods" / "own.py").write_text(OWN.replace("1.0 /", "2.0 /"))
    study = study.model_copy(update={"metrics": [own_metric("own:early")]})
    for seed in range(3):
        evaluate_run(study.root / "market1501" / "naive_triplet" / f"seed{seed}", study.metrics)
    (waiting,) = contrast().to_dict("records")
    assert (waiting["cell_mean"], waiting["num_missing"]) == (None, 3)
    assert "early" not in set(read_table(tables / "imported.parquet")["metric"])
    notices = read_json(tables / "study.json")["notices"]
    assert sum("has no value of early as it is now; import it again." in line for line in notices) == 2


def test_two_files_stay_reference_rows(study: Study, tmp_path: Path) -> None:
    import_run("theirs", *several(study, tmp_path, 2), dataset="market1501", results=study.root)
    aggregate_study(study)
    table = read_table(study.root / "tables" / "imported.parquet")
    assert set(table["name"]) == {"theirs_0", "theirs_1"}
    assert table.groupby(["name", "side", "metric"]).size().eq(1).all()


def test_features_are_compared_as_they_are_when_asked(study: Study, tmp_path: Path) -> None:
    given = features(study)
    given["gallery_features"] = given["gallery_features"] * np.arange(1, len(given["gallery_features"]) + 1)[:, None]
    path = saved(tmp_path, given)
    run_cli(
        "import", "theirs", str(path), "--distance", "euclidean", "--dataset", "market1501",
        "--results", str(study.root),
    )  # fmt: skip
    folder = study.root / "imported" / "market1501" / "theirs"
    arrays = {key: value for key, value in given.items() if "names" not in key}
    assert read_json(folder / "metrics.json")["features"] == score(**arrays, distance="euclidean").summary()
    assert read_json(folder / "provenance.json")["protocol"]["distance"] == "Euclidean on features as they are"


def test_several_files_that_cannot_be_judged_are_refused(study: Study, tmp_path: Path) -> None:
    paths = several(study, tmp_path, 3)
    place = {"dataset": "market1501", "results": study.root}
    with pytest.raises(UserError, match=r"seed0\.npz and .*seed0\.npz are the same file"):
        import_run("theirs", paths[0], paths[0], paths[1], **place)
    with pytest.raises(UserError, match="no cell 'nobody'"):
        import_run("theirs", *paths, reference="nobody", **place)
    with pytest.raises(UserError, match="--reference p1 is for 3 or more files"):
        import_run("theirs", *paths[:2], reference="p1", **place)
    given = {key: value for key, value in np.load(paths[2]).items() if "names" not in key}
    with pytest.raises(UserError, match="has no query_names and its query images are not in the order"):
        import_run("theirs", *paths[:2], saved(tmp_path, given), **place)
    assert not (study.root / "imported" / "market1501" / "theirs").exists()


def test_weights_are_extracted_and_scored(study: Study, tiny_study: Study, tmp_path: Path) -> None:
    weights = tiny_study.root / "pretrain" / "model.safetensors"
    copy = tmp_path / "theirs.safetensors"
    shutil.copy(weights, copy)
    shutil.copytree(tiny_study.data_folder("market1501") / "images", study.data_folder("market1501") / "images")
    place = ["--dataset", "market1501", "--results", str(study.root), "--device", "cpu"]
    run_cli("import", "theirs", str(copy), *place)
    folder = study.root / "imported" / "market1501" / "theirs"
    made, metrics = read_json(folder / "provenance.json"), read_json(folder / "metrics.json")
    assert (made["source"], made["source_sha256"]) == (str(copy), sha256_file(copy))
    try_weights(study, copy, tmp_path / "wanted.npz", dataset="market1501", device="cpu")
    wanted, _ = score_file(tmp_path / "wanted.npz", Options())
    assert metrics == {side: result.summary() for side, result in wanted.items()}
