"""The study as a user runs it: Snakemake itself, on the tiny preset."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from reidablate.artifacts import read_json, sha256_file
from support import BASE, nothing_to_do, planned, snakemake, start_snakemake

pytestmark = pytest.mark.slow


def test_one_command_leaves_every_run_and_the_report(study: Path) -> None:
    tables = study / "results" / "tiny" / "tables"
    runs = pd.read_parquet(tables / "runs.parquet")
    assert set(zip(runs["cell"], runs["seed"], strict=True)) == {
        ("naive_triplet", 0),
        ("naive_triplet", 1),
        ("p1", 0),
        ("p1", 1),
    }
    assert set(runs["status"]) == {"finished"}
    assert runs["synthetic"].all()
    metrics = pd.read_parquet(tables / "metrics.parquet").set_index(["cell", "seed", "side", "metric"])["value"]
    queries = pd.read_parquet(tables / "queries.parquet")
    key: Any
    for key, rows in queries.groupby(["cell", "seed", "side"]):
        assert rows["average_precision"].mean() == pytest.approx(metrics[*key, "mAP"], abs=1e-12)
        assert (rows["first_hit_rank"] <= 5).mean() == pytest.approx(metrics[*key, "rank5"], abs=1e-12)
    contrasts = pd.read_parquet(tables / "contrasts.parquet")
    shown = contrasts[(contrasts["metric"] == "mAP") & (contrasts["side"] == "before_neck")]
    assert list(zip(shown["cell"], shown["reference"], strict=True)) == [("p1", "naive_triplet")]
    means = queries[queries["side"] == "before_neck"].groupby("cell")["average_precision"].mean()
    assert shown["estimate"].iloc[0] == pytest.approx(means["p1"] - means["naive_triplet"], abs=1e-12)
    html = (study / "results" / "tiny" / "report" / "index.html").read_text()
    assert "synthetic" in html.lower()
    assert "not tested (synthetic data)" in html


def test_a_second_call_does_nothing_whatever_is_reordered_or_commented(study: Path) -> None:
    assert nothing_to_do(snakemake("-n"))
    path = study / "ablations" / "p1.yaml"
    cell = yaml.safe_load(path.read_text())
    path.write_text("# a new comment\n" + yaml.safe_dump(dict(reversed(cell.items())), sort_keys=False))
    assert path.read_text().index("losses") < path.read_text().index("name")
    assert nothing_to_do(snakemake("-n"))


def test_a_changed_cell_repeats_its_own_runs_and_what_lies_behind(study: Path) -> None:
    path = study / "ablations" / "p1.yaml"
    path.write_text(path.read_text().replace("weighted_triplet: {}", "weighted_triplet: {ratio: 0.25}"))
    assert planned(snakemake("-n")) == {"train": 2, "evaluate": 2, "aggregate": 1, "statistics": 1, "report": 1}


def test_a_new_cell_adds_its_own_runs(study: Path) -> None:
    made = subprocess.run(
        [Path(sys.executable).with_name("reidablate"), "cells", "new", "mine", "--from", "p1"],
        check=True,
        capture_output=True,
    )
    assert b"ablations/mine.yaml" in made.stdout
    path = study / "ablations" / "mine.yaml"
    path.write_text(path.read_text() + "losses:\n  weighted_triplet: {ratio: 0.25}\n")
    config = [*BASE[:2], "cells=naive_triplet,p1,mine"]
    assert planned(snakemake("-n", config=config)) == {
        "train": 2, "evaluate": 2, "aggregate": 1, "statistics": 1, "report": 1,
    }  # fmt: skip


def test_more_seeds_only_add_runs(study: Path) -> None:
    assert planned(snakemake("-n", config=[*BASE, "seeds=3"]))["train"] == 2


def test_a_changed_template_only_renders_again(study: Path) -> None:
    template = next((study / "report_templates").glob("*.j2"))
    template.write_text(template.read_text() + "\n")
    assert planned(snakemake("-n")) == {"report": 1}


def test_snakemakes_own_report_holds_ours_with_captions(study: Path) -> None:
    done = snakemake("--report", "whole.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path("whole.html").read_text()
    for expected in ('"Report"', '"Tables"', "what was tried, what is real", "standard deviations over seeds"):
        assert expected in page


def test_a_narrower_call_changes_nothing_and_a_deleted_cell_leaves_no_stale_row(study: Path) -> None:
    tables = study / "results" / "tiny" / "tables"
    before = pd.read_parquet(tables / "runs.parquet")
    assert nothing_to_do(snakemake(config=[*BASE[:2], "cells=naive_triplet", "seeds=1"]))
    pd.testing.assert_frame_equal(pd.read_parquet(tables / "runs.parquet"), before)
    for name in ("p1.yaml", *(path.name for path in (study / "ablations").glob("*.yaml"))):
        if name != "naive_triplet.yaml":
            (study / "ablations" / name).unlink(missing_ok=True)
    done = snakemake(config=[*BASE[:2], "cells=naive_triplet"])
    assert done.returncode == 0, done.stderr
    for table in ("runs", "metrics", "queries", "history"):
        assert set(pd.read_parquet(tables / f"{table}.parquet")["cell"]) == {"naive_triplet"}
    assert set(pd.read_parquet(tables / "runs.parquet")["seed"]) == {0, 1}


@pytest.mark.parametrize(("name", "jobs"), [("metrics.json", {"evaluate"}), ("features.npz", {"train", "evaluate"})])
def test_a_deleted_file_is_made_again(study: Path, name: str, jobs: set[str]) -> None:
    (study / "results" / "tiny" / "market1501" / "p1" / "seed1" / name).unlink()
    assert planned(snakemake("-n")) == {**dict.fromkeys(jobs, 1), "aggregate": 1, "statistics": 1, "report": 1}


def test_retraining_by_code_happens_only_when_asked(study: Path) -> None:
    assert nothing_to_do(snakemake("-n", config=[*BASE, "retrain=code"]))


def test_one_failing_cell_stops_no_other_and_is_named(study: Path) -> None:
    (study / "ablations" / "big.yaml").write_text("name: big\nextends: p1\ntrain: {num_ids: 64}\n")
    (study / "ablations" / "good.yaml").write_text(
        "name: good\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.25}}\n"
    )
    done = snakemake(config=[*BASE[:2], "cells=naive_triplet,big,good", "seeds=1"])
    assert done.returncode == 1
    assert "8 identities, a batch needs 64" in done.stdout + done.stderr
    tables = study / "results" / "tiny" / "tables"
    runs = pd.read_parquet(tables / "runs.parquet").set_index("cell")
    assert runs["status"]["big"] == "missing"
    assert set(runs["status"].drop("big")) == {"finished"}
    assert set(runs.index) == {"naive_triplet", "p1", "big", "good"}  # p1 is what the others are compared with
    assert "p1 run too" in done.stderr
    assert "a batch needs 64" in runs["reason"]["big"]
    html = (study / "results" / "tiny" / "report" / "index.html").read_text()
    assert "big" in html
    without = [*BASE[:2], "cells=naive_triplet,good", "seeds=1"]
    assert planned(snakemake("-n", config=without)) == {"aggregate": 1, "statistics": 1, "report": 1}


def test_a_run_killed_with_snakemake_itself_ends_with_the_same_bits(study: Path) -> None:
    run = study / "results" / "tiny" / "market1501" / "p1" / "seed1"
    before = {name: sha256_file(run / name) for name in ("model.safetensors", "features.npz")}
    shutil.rmtree(run)
    process = start_snakemake(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (run / ".lock").exists():
        assert process.poll() is None
    os.killpg(process.pid, 9)
    process.wait()
    assert not (run / "provenance.json").exists()
    done = snakemake()
    assert done.returncode == 0, done.stderr
    assert {name: sha256_file(run / name) for name in before} == before
    assert read_json(run / "metrics.json")["status"] == "finished"


@pytest.mark.parametrize(
    ("config", "gpu", "sentence"),
    [
        (["celss=p1"], 4, "unknown key 'celss'; did you mean 'cells'?"),
        (["cells=p11"], 4, "there is no cell 'p11'; did you mean 'p1'?"),
        (["preset=paper"], 4, "no data set was found for preset 'paper'"),
        (BASE, 0, "asks for gpu=1 but --resources gpu=0 allows fewer"),
    ],
)
def test_a_refusal_is_one_sentence_and_status_2(study: Path, config: list[str], gpu: int, sentence: str) -> None:
    (study / "ablations" / "fresh.yaml").write_text(
        "name: fresh\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.25}}\n"
    )
    chosen = [entry.replace("cells=naive_triplet,p1", "cells=fresh") for entry in config]
    done = snakemake(config=chosen, gpu=gpu)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("reidablate: ")]
    lines = [line for line in said if not any(word in line for word in ("SYNTHETIC", "run too", "preset=smoke"))]
    assert len(lines) == 1
    assert sentence in lines[0]


def test_a_broken_settings_file_is_one_sentence_and_status_2(study: Path) -> None:
    path = study / "workflow" / "config" / "default.yaml"
    path.write_text(path.read_text() + "seeds: 3\n")
    done = snakemake("-n")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")] == [
        "reidablate: workflow/config/default.yaml is not valid YAML: key 'seeds' stands twice in line "
        f"{len(path.read_text().splitlines())}, column 1: "
        "seeds: 3 ^; correct the line."
    ]


def test_real_looking_data_enters_the_paper_preset_still_labelled_synthetic(study: Path) -> None:
    counts = {
        "train_images": 64,
        "train_ids": 8,
        "query_images": 8,
        "query_ids": 4,
        "gallery_images": 16,
        "gallery_ids": 4,
    }
    subprocess.run(
        [Path(sys.executable).with_name("reidablate"), "data", "synthesize", "elsewhere/market1501",
         "--counts", json.dumps(counts)],
        check=True, capture_output=True,
    )  # fmt: skip
    config = ["data_root=elsewhere"]
    assert planned(snakemake("-n", config=config))["train"] == (10 + 6 + 1) * 5
    refused = snakemake(config=config)
    assert refused.returncode == 2
    assert "without a GPU" in refused.stderr or "pre-trained weights" in refused.stderr
    indexed = [*config, "device=cpu", "weights=none"]
    done = snakemake("results/paper/data/market1501/index/index.json", config=indexed)
    assert done.returncode == 0, done.stderr
    summary = read_json(study / "results" / "paper" / "data" / "market1501" / "index" / "index.json")
    assert summary["synthetic"] is True
    assert summary["official_counts"] is False


def test_a_copied_data_set_repeats_nothing_and_a_changed_image_everything_behind_it(study: Path) -> None:
    preset = yaml.safe_load(Path("tiny.yaml").read_text())
    counts = json.dumps(preset.pop("synthetic")["market1501"]["counts"])
    del preset["pretrain"]
    Path("real.yaml").write_text(yaml.safe_dump({**preset, "name": "real", "weights": "none"}))
    reidablate = Path(sys.executable).with_name("reidablate")
    subprocess.run(
        [reidablate, "data", "synthesize", "one/market1501", "--counts", counts], check=True, capture_output=True
    )

    def call(*arguments: str, root: str) -> "subprocess.CompletedProcess[str]":
        chosen = ["preset=real.yaml", f"data_root={root}", "datasets=market1501", "cells=naive_triplet", "seeds=1"]
        return snakemake(*arguments, config=chosen)

    assert call(root="one").returncode == 0
    assert nothing_to_do(call("-n", root="one"))
    shutil.copytree("one", "two", copy_function=shutil.copy)  # other times
    moved = call("-n", root="two")
    assert "the files of Market-1501 changed; indexing two/market1501" in moved.stderr
    assert nothing_to_do(moved)
    folder = Path("two/market1501/bounding_box_train")
    first, *_, last = sorted(folder.iterdir())
    shutil.copy(first, last)
    behind = ("cache", "diagnose", "train", "evaluate", "aggregate", "statistics", "report")
    assert planned(call("-n", root="two")) == dict.fromkeys(behind, 1)
    last.write_bytes(b"no image")
    refused = call("-n", root="two")
    assert refused.returncode == 2
    assert f"{last.name} (not a JPEG, PNG or TIFF image)" in refused.stderr


def also_on(study: Path, cell: str, names: str) -> None:
    path = study / "ablations" / f"{cell}.yaml"
    path.write_text(path.read_text() + f"evaluate: {{also_on: {names}}}\n")


def test_asking_for_another_data_set_trains_nothing_and_leaves_the_runs_alone(study: Path) -> None:
    both = ["preset=tiny.yaml", "cells=naive_triplet,p1", "seeds=1"]
    done = snakemake(config=both)
    assert done.returncode == 0, done.stderr
    results = study / "results" / "tiny"
    runs = {path: sha256_file(path) for path in results.glob("*/p1/seed0/[!.]*.*")}
    assert len(runs) == 2 * 7
    also_on(study, "p1", "all")
    after = {"aggregate": 1, "statistics": 1, "report": 1}
    assert planned(snakemake("-n", config=both)) == {"transfer": 2, "evaluate": 2, **after}
    done = snakemake(config=both)
    assert done.returncode == 0, done.stderr
    assert {path: sha256_file(path) for path in runs} == runs
    table = pd.read_parquet(results / "tables" / "cross_domain.parquet")
    pairs = {("market1501", "occluded_duke", "p1"), ("occluded_duke", "market1501", "p1")}
    assert set(zip(table["dataset"], table["on"], table["cell"], strict=True)) == pairs
    html = (results / "report" / "index.html").read_text()
    assert "Trained on Occluded-Duke, scored on Market-1501" in html
    assert nothing_to_do(snakemake("-n", config=both))
    (results / "market1501" / "p1" / "seed0" / "on_occluded_duke" / "metrics.json").unlink()
    assert planned(snakemake("-n", config=both)) == {"evaluate": 1, **after}


def test_a_data_set_outside_the_study_is_left_out_with_a_notice(study: Path) -> None:
    also_on(study, "p1", "[occluded_duke]")
    assert planned(snakemake("-n")) == {"aggregate": 1, "statistics": 1, "report": 1}  # the cell says something new
    done = snakemake()
    assert done.returncode == 0, done.stderr
    assert "Occluded-Duke is no part of this study" in done.stderr
    assert pd.read_parquet(study / "results" / "tiny" / "tables" / "cross_domain.parquet").empty


def test_an_import_comes_and_goes_with_its_folder_and_repeats_tables_and_report_alone(study: Path) -> None:
    results = study / "results" / "tiny"
    theirs = results / "market1501" / "p1" / "seed0" / "features.npz"
    shutil.copy(theirs, study / "theirs.npz")
    reidablate = Path(sys.executable).with_name("reidablate")
    command = [str(reidablate), "import", "theirs", "theirs.npz", "--dataset", "market1501"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "theirs on market1501: mAP" in done.stdout
    behind = {"aggregate": 1, "statistics": 1, "report": 1}
    assert planned(snakemake("-n")) == behind
    assert snakemake().returncode == 0
    tables = results / "tables"
    own, metrics = pd.read_parquet(tables / "imported.parquet"), pd.read_parquet(tables / "metrics.parquet")
    run = metrics[(metrics["cell"] == "p1") & (metrics["seed"] == 0)]
    keys = ["side", "metric"]
    assert own.set_index(keys)["value"].to_dict() == run.set_index(keys)["value"].to_dict()
    assert "one run, not trained here; no interval" in (results / "report" / "index.html").read_text()
    assert nothing_to_do(snakemake("-n"))
    shutil.rmtree(results / "imported" / "market1501" / "theirs")
    assert planned(snakemake("-n")) == behind
    assert snakemake().returncode == 0
    assert pd.read_parquet(tables / "imported.parquet").empty
    assert "not trained here; no interval" not in (results / "report" / "index.html").read_text()
    refused = subprocess.run([*command[:2], "p1", *command[3:]], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("reidablate: 'p1' is a cell of the study")
