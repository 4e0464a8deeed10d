"""A whole code base as a cell: what its command may do, and what of it enters the study."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from reidablate.artifacts import read_json, read_npz, read_record, read_table
from reidablate.cells import load_cells
from reidablate.data.index import read_index
from reidablate.engine.external import run_command, run_external
from reidablate.engine.reproduce import reproduce_run
from reidablate.errors import UserError
from reidablate.external import External
from reidablate.metrics.evaluate import evaluate_run
from reidablate.metrics.matching import matched_features
from reidablate.planning import load_presets, plan
from reidablate.runs import FEATURE_ARRAYS, Provenance
from reidablate.standing import Standing
from reidablate.study import Run, Study
from reidablate.tables.aggregate import aggregate_study

# Features that are the mean colours of stripes, with noise of the seed; `how` says what goes wrong.
THEIRS = """
import re, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
data, seed, out, how = sys.argv[1:]
rng = np.random.default_rng(int(seed))
print("their code, seed", seed, flush=True)
arrays = {}
for split, folder in (("query", "query"), ("gallery", "bounding_box_test")):
    files = sorted(Path(data, folder).glob("*.jpg"), reverse=how == "backwards")
    files = [path for path in files if not path.name.startswith("-1")] if how == "no junk" else files
    stripes = [np.asarray(Image.open(path), float).reshape(8, -1, 3).mean(axis=1).ravel() for path in files]
    arrays[split + "_features"] = np.stack(stripes) + rng.standard_normal((len(files), 24))
    ids = np.array([re.match(r"(-?\\d+)_c(\\d+)", path.name).groups() for path in files], int)
    arrays[split + "_pids"], arrays[split + "_camids"] = ids[:, 0], ids[:, 1] - 1
    arrays[split + "_names"] = [path.name for path in files]
if how == "fails":
    raise RuntimeError("no such layer")
if how == "hangs":
    time.sleep(600)
if how == "nothing":
    sys.exit()
if how == "nan":
    arrays["query_features"][3] = np.nan
if how == "other":
    arrays["query_pids"] = arrays["query_pids"] + 1
if how == "unnamed":
    del arrays["query_names"], arrays["gallery_names"]
np.savez(Path(out, "features.npz"), **arrays)
if how == "half":
    path = Path(out, "features.npz")
    path.write_bytes(path.read_bytes()[:5000])
"""
CELL: dict[str, Any] = {
    "name": "theirs",
    "group": "other code bases",
    "reference": "naive_triplet",
    "external": {"command": f"{sys.executable} their_code/run.py {{data}} {{seed}} {{out}} well", "code": "their_code"},
}


@pytest.fixture
def folder(tiny_study: Study, project: Path) -> Path:
    """A study folder with the tiny study's data and a code base of somebody else's."""
    ignored = shutil.ignore_patterns("cache", "diagnostics")
    shutil.copytree(tiny_study.root / "data" / "market1501", project / "results/tiny/data/market1501", ignore=ignored)
    (project / "their_code").mkdir()
    (project / "their_code" / "run.py").write_text(THEIRS)
    return project


def planned(settings: dict[str, object], how: str = "well", **external: Any) -> Study:
    cell = {**CELL, "external": {**CELL["external"], **external}}
    cell["external"]["command"] = cell["external"]["command"].replace(" well", f" '{how}'")
    Path("ablations/theirs.yaml").write_text(yaml.safe_dump(cell))
    return plan({**settings, "cells": "theirs", "datasets": "market1501", "device": "cpu"})


def run(study: Study, seed: int = 0) -> Path:
    run_external(study, dataset="market1501", cell="theirs", seed=seed)
    return study.root / "market1501" / "theirs" / f"seed{seed}"


def test_its_run_is_scored_and_stands_until_command_code_or_data_change(
    folder: Path, settings: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    study = planned(settings)
    out = run(study)
    assert "their code, seed 0" in capfd.readouterr().err
    assert not (out / "state").exists()
    made = read_record(out / "provenance.json", Provenance)
    assert made.external is not None
    assert (made.status, made.code_hash, made.synthetic) == ("finished", None, True)
    arrays = read_npz(out / "features.npz", FEATURE_ARRAYS)
    query = read_index(study.data_folder("market1501") / "index").frame.query("split == 'query'")
    assert arrays["query_names"].tolist() == query["name"].tolist()
    assert arrays["query_camids"].tolist() == query["camid"].tolist()  # theirs count from 0
    assert np.array_equal(arrays["query_before_neck"], arrays["query_after_neck"])
    evaluate_run(out)
    this = Run(dataset="market1501", cell="theirs", seed=0)
    assert Standing(study).unscored(this) == ""
    assert run_external(study, dataset="market1501", cell="theirs", seed=0).endswith("complete already")
    assert Standing(planned(settings, time_limit_s=5, seeds="paired")).unscored(this) == ""
    assert Standing(planned(settings, how="no junk")).unscored(this) == "trained with another configuration"
    (folder / "their_code" / "__pycache__").mkdir()
    (folder / "their_code" / "__pycache__" / "run.pyc").write_bytes(b"")
    assert Standing(planned(settings)).unscored(this) == ""
    (folder / "their_code" / "model.py").write_text("width = 3")
    assert Standing(planned(settings)).unscored(this) == "trained with another configuration"


@pytest.mark.parametrize("how", ["backwards", "no junk", "unnamed"])
def test_order_and_junk_are_its_own_affair(folder: Path, settings: dict[str, object], how: str) -> None:
    wanted = read_npz(run(planned(settings, "well"), seed=0) / "features.npz")
    shutil.rmtree(folder / "results/tiny/market1501")
    found = read_npz(run(planned(settings, how), seed=0) / "features.npz")
    assert found["query_names"].tolist() == wanted["query_names"].tolist()
    kept = wanted["gallery_pids"] != (-1 if how == "no junk" else None)
    assert found["gallery_names"].tolist() == wanted["gallery_names"][kept].tolist()
    same = np.abs(found["query_after_neck"] - wanted["query_after_neck"]).max(axis=1)  # up to the noise
    assert same.max() < 10 < np.abs(np.diff(wanted["query_after_neck"], axis=0)).max(axis=1).min()


@pytest.mark.parametrize(
    ("how", "external", "sentence"),
    [
        ("fails", {}, r"ended with status 1; its last line: RuntimeError: no such layer\.$"),
        ("hangs", {"time_limit_s": 3}, r"took longer than external\.time_limit_s \(3 s\)"),
        ("nothing", {}, r"left nothing in \{out\} and no features\.npz; write it there"),
        ("half", {}, r"features\.npz cannot be read as an \.npz archive"),
        ("nan", {}, r"features\.npz: row 3 of query_features has the length nan"),
        ("other", {}, r"features\.npz holds other query images than market1501: \d+ of market1501 are not in the file"),
        ("well", {"command": "no_such_program {data} {seed} {out}"}, r"cannot be started .*: no_such_program\)"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    folder: Path, settings: dict[str, object], how: str, external: dict[str, Any], sentence: str
) -> None:
    study = planned(settings, how, **external)
    with pytest.raises(UserError, match=sentence) as caught:
        run(study)
    assert str(caught.value).startswith("market1501/theirs/seed0: ")
    assert str(folder) not in str(caught.value)
    out = study.root / "market1501" / "theirs" / "seed0"
    assert not (out / "provenance.json").exists()
    assert not (out / "features.npz").exists()
    # Nothing is left to wait for, and the next call begins anew.
    assert (run(planned(settings)) / "features.npz").is_file()


def test_code_that_changes_between_plan_and_run_is_refused(folder: Path, settings: dict[str, object]) -> None:
    study = planned(settings)
    (folder / "their_code" / "run.py").write_text(THEIRS + "\n")
    with pytest.raises(UserError, match=r"external\.code has changed since the study was planned"):
        run(study)


def test_a_command_that_is_told_to_stop_takes_its_children_with_it(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    child = f"import signal; open({str(alive)!r}, 'w').close(); signal.pause()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    words = [sys.executable, "-c", parent]
    code = f"import os; from reidablate.engine.external import run_command as run; run({words}, name='x', limit_s=600, "
    code += "environment=os.environ)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        alive.read_bytes()  # returns when the child has closed it
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)  # would not end while a child had the pipe
    assert process.returncode == 143
    assert "stopped by SIGTERM" in said


def test_each_placeholder_stays_one_argument(tmp_path: Path) -> None:
    external = External(command='sh -c \'printf %s "$0" > "$2/$1"\' {data} {seed} {out}', code=["x"])
    odd = tmp_path / "a b; $(c) 'd'"
    odd.mkdir()
    run_command(external.arguments(data=odd, seed=3, out=odd), name="x", limit_s=30, environment={"PATH": "/bin"})
    assert (odd / "3").read_text() == str(odd)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"external": {"command": "run {data} {seed}", "code": "their_code"}}, r"should be a program with \{data\}"),
        ({"external": {"command": "run {data} {seed} {out} {gpu}", "code": "x"}}, r"and no other \{name\}"),
        (
            {"external": {"command": "run '{data} {seed} {out}", "code": "x"}},
            r"a command line \(No closing quotation\)",
        ),
        ({"external": {**CELL["external"], "code": "gone.py"}}, r"external\.code 'gone\.py' is no file"),
        ({"external": {**CELL["external"], "comand": "x"}}, r"unknown key 'external\.comand'; did you mean 'command'"),
        ({"external": {**CELL["external"], "time_limit_s": 0}}, r"'external\.time_limit_s' is 0"),
        ({"extends": "p1"}, "'extends' says how this package trains"),
        ({"losses": {"triplet": "none"}}, "'losses' says how this package trains"),
    ],
)
def test_a_section_that_makes_no_sense_breaks_its_own_cell(folder: Path, change: dict[str, Any], sentence: str) -> None:
    Path("ablations/theirs.yaml").write_text(yaml.safe_dump({**CELL, **change}))
    cells = load_cells(folder / "ablations", load_presets().values())
    assert set(cells.broken) == {"theirs"}
    with pytest.raises(UserError, match=sentence):
        raise UserError(cells.broken["theirs"].sentence)


def test_tables_hold_its_runs_and_the_difference_is_declared_as_a_whole(
    folder: Path, settings: dict[str, object]
) -> None:
    study = planned(settings)
    evaluate_run(run(study))
    aggregate_study(study)
    tables = study.root / "tables"
    cell = next(cell for cell in read_json(tables / "cells.json") if cell["name"] == "theirs")
    command = cell["external"]["command"]
    assert cell["differences"] == {"naive_triplet": {"external": [None, f"another code base: {command}"]}}
    runs = read_table(tables / "runs.parquet").set_index(["cell", "seed"])
    assert runs.loc[("theirs", 0), "status"] == "finished"
    assert (
        runs.loc[("theirs", 0), "config_hash"] == cell["config_hash"] == study.cell("theirs").identity_on("market1501")
    )
    assert str(runs.loc[("theirs", 1), "reason"]).endswith("not trained yet.")


def test_it_is_left_out_of_a_smoke_test_and_cannot_be_reproduced(folder: Path, settings: dict[str, object]) -> None:
    out = run(planned(settings))
    with pytest.raises(UserError, match="is a run of another code base"):
        reproduce_run(out)
    study = plan(
        {**settings, "preset": "smoke", "smoke_of": "tiny.yaml", "cells": "p1,theirs", "datasets": "market1501"}
    )
    assert "theirs" not in {cell.name for cell in study.cells}
    assert any("theirs left out of the smoke test" in line for line in study.notices)


def test_features_without_names_in_another_order_are_refused(folder: Path, settings: dict[str, object]) -> None:
    frame = read_index(folder / "results/tiny/data/market1501/index").frame
    arrays: dict[str, Any] = {}
    for split in ("query", "gallery"):
        images = frame[frame["split"] == split].iloc[::-1]
        arrays |= {f"{split}_{key}s": images[key].to_numpy(np.int64) for key in ("pid", "camid")}
        arrays[f"{split}_features"] = np.random.default_rng(0).random((len(images), 4))
    np.savez(folder / "theirs.npz", **arrays)
    with pytest.raises(UserError, match="are not in the order of the data set's files by name"):
        matched_features(folder / "theirs.npz", frame, dataset="market1501")
