"""Where a study lies and what it leaves there: folders of any name, and weights that do not outlive their scores."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from reidablate.keeping import removed
from support import BASE, nothing_to_do, planned, snakemake

pytestmark = pytest.mark.slow

NAME = """my "results" [v1] & more; >X $HOME 'é #1"""
ONE = ["preset=tiny.yaml", "datasets=market1501", "seeds=1"]


def test_a_study_lives_in_a_folder_of_any_name(project: Path) -> None:
    before = set(project.iterdir())
    Path("call.yaml").write_text("cells: [naive_triplet]\nseeds: null\n")
    config = [*ONE, f"results={NAME}"]
    done = snakemake("--configfile", "call.yaml", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    results = project / NAME / "tiny"
    assert (results / "report" / "index.html").is_file()
    runs = pd.read_parquet(results / "tables" / "runs.parquet")
    assert runs[["cell", "status"]].to_numpy().tolist() == [["naive_triplet", "finished"]]
    assert set(project.iterdir()) - before == {project / name for name in (NAME, "call.yaml", ".snakemake")}
    assert nothing_to_do(snakemake("-n", "--configfile", "call.yaml", config=config))


def test_a_broken_cell_and_a_copy_are_named_in_one_line_and_stop_only_calls_that_need_them(study: Path) -> None:
    (study / "ablations" / "half.yaml").write_text("name: half\nextends: p1\nlosses: [\n")
    (study / "ablations" / "mine.yaml").write_text("name: mine\nextends: p1\n")
    done = snakemake("-n")
    assert nothing_to_do(done)
    (line,) = [line for line in done.stderr.splitlines() if "half" in line]
    assert line.startswith("reidablate: ablations/half.yaml is not valid YAML: ")
    assert line.endswith("Left out until then: half.")
    for cells in ("p1,half", "h*"):
        refused = snakemake("-n", config=[*BASE[:2], f"cells={cells}"])
        assert refused.returncode == 2
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("reidablate: ")]
        assert line.startswith("reidablate: ablations/half.yaml is not valid YAML: ")
    done = snakemake("-n", config=[*BASE[:2], "cells=p1,mine"])
    assert "mine: same configuration as p1" in done.stderr
    assert planned(done)["train"] == 2


def test_weights_that_are_not_kept_are_gone_and_their_runs_are_finished(study: Path) -> None:
    path = study / "tiny.yaml"
    path.write_text(path.read_text() + "keep: none\n")
    cell = study / "ablations" / "p1.yaml"
    cell.write_text(cell.read_text() + "evaluate: {also_on: all}\n")
    config = ["preset=tiny.yaml", "cells=p1", "seeds=1"]
    done = snakemake(config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    results = study / "results" / "tiny"
    for run in (results / "market1501" / "p1" / "seed0", results / "occluded_duke" / "p1" / "seed0"):
        (there,) = run.glob("on_*/")
        assert removed(run) == {"model.safetensors", "features.npz"}
        assert removed(there) == {"features.npz"}
        assert not [*run.rglob("model.safetensors"), *run.rglob("features.npz")]
    assert set(pd.read_parquet(results / "tables" / "runs.parquet")["status"]) == {"finished"}
    assert len(pd.read_parquet(results / "tables" / "cross_domain.parquet")["on"].unique()) == 2
    assert nothing_to_do(snakemake("-n", config=config))
    path.write_text(path.read_text().replace("keep: none", "keep: all"))
    assert nothing_to_do(snakemake("-n", config=config))


def test_weights_of_a_finished_study_are_removed_by_clean_and_nothing_is_trained_again(study: Path) -> None:
    path = study / "tiny.yaml"
    path.write_text(path.read_text() + "keep: last\n")
    assert nothing_to_do(snakemake())  # plans anew
    command = [str(Path(sys.executable).with_name("reidablate")), "clean", "--yes"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    weights = sorted(study.glob("results/tiny/market1501/*/*/model.safetensors"))
    assert [file.parent.name for file in weights] == ["seed1", "seed1"]
    assert listed.count("/seed0/model.safetensors") == listed.count("/seed0/features.npz") == 2
    assert nothing_to_do(snakemake("-n"))
    plans = set(study.glob("results/tiny/plans/*"))
    assert planned(snakemake("-n", config=[*BASE, "seeds=3"]))["train"] == 2
    assert set(study.glob("results/tiny/plans/*")) == plans  # a dry run leaves none
