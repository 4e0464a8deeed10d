"""What a study can lack, from run folders to the page: a plain sentence or a finite number, never a crash or a NaN."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from reidablate.artifacts import write_json, write_npz, write_table
from reidablate.metrics.evaluate import evaluate_run
from reidablate.planning import plan
from reidablate.report.render import render_report
from reidablate.rng import generator
from reidablate.stats.pipeline import write_statistics
from reidablate.study import Run, Study
from reidablate.tables.aggregate import RUN_COLUMNS, aggregate_study
from support import ROOT

pytestmark = pytest.mark.slow

FORTY = np.repeat(np.arange(1, 41), 2)  # forty identities with two queries each
CELLS = {"base": {"group": "main"}, "own": {"extends": "base"}}


def folder_of_runs(
    folder: Path,
    *,
    seeds: int = 3,
    pids: Any = FORTY,
    diverged: Callable[[Run], bool] = lambda run: False,
    missing: Callable[[Run], bool] = lambda run: False,
    alike: bool = False,
) -> Study:
    """A planned study of `base` and `own` whose run folders are written here, features and all."""
    for name, cell in CELLS.items():
        path = folder / "ablations" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"name": name, **cell}))
    settings = yaml.safe_load((ROOT / "workflow" / "config" / "default.yaml").read_text())
    changed = {"preset": "tests/tiny.yaml", "datasets": "market1501", "ablations": str(folder / "ablations")}
    places = {"results": str(folder / "results"), "data_root": str(folder / "data"), "device": "cpu", "weights": "none"}
    study = plan({**settings, **changed, **places, "seeds": seeds})
    counts = {"images": len(pids), "ids": len(np.unique(pids))}
    index = {
        "synthetic": True,
        "counts": {"query": counts},
        "official_counts": False,
        "fingerprint": "f",
        "warnings": [],
    }
    write_json(study.data_folder("market1501") / "index" / "index.json", index)
    write_table(pd.DataFrame({"split": ["query"]}), study.data_folder("market1501") / "index" / "index.parquet")
    for run in study.runs:
        if not missing(run):
            write_run(study, run, pids, diverged=diverged(run), noise=0 if alike else int(run.cell == "own"))
    return study


def write_run(study: Study, run: Run, pids: Any, *, diverged: bool, noise: int) -> None:
    """Writes what a training leaves, with random features near one direction an identity, and scores it."""
    cell, folder = study.cell(run.cell), study.root / run.id
    facts = dict.fromkeys(RUN_COLUMNS) | {"status": "diverged" if diverged else "finished", "synthetic": True}
    facts |= {"epoch": 1, "reason": "the loss became nan at step 3"} if diverged else {}
    facts |= {"config_hash": cell.config_hash, "data_fingerprint": "f", "versions": {}, "git_dirty": False}
    write_json(folder / "provenance.json", {**facts, **vars(run), "config": cell.config.dump()})
    loss = [1.0, np.nan] if diverged else [1.0, 0.5]
    write_table(pd.DataFrame({"epoch": [0, 1], "total": loss, "lr": 0.1}), folder / "history.parquet")
    gallery = np.append(np.repeat(np.unique(pids), 3), [0] * 10)
    centres = generator(0, "centres").normal(size=(gallery.max() + 1, 8))
    rng = generator(run.seed, "features", noise)
    arrays: dict[str, Any] = {}
    for split, who, camera in (("query", np.asarray(pids), 1), ("gallery", gallery, 2)):
        arrays |= {f"{split}_pids": who, f"{split}_camids": np.full(len(who), camera)}
        arrays[f"{split}_names"] = np.array([f"{i:04d}.jpg" for i in range(len(who))])
        for side in ("before_neck", "after_neck"):
            arrays[f"{split}_{side}"] = (centres[who] + rng.normal(size=(len(who), 8))).astype(np.float32)
    write_npz(folder / "features.npz", arrays)
    (folder / "model.safetensors").touch()
    evaluate_run(folder)


def own(run: Run) -> bool:
    return run.cell == "own"


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "one seed": ({"seeds": 1}, "1 seed compared: an interval needs at least 3."),
    "two seeds": ({"seeds": 2}, "2 seeds compared: an interval needs at least 3."),
    "a diverged seed": (
        {"seeds": 4, "diverged": lambda run: own(run) and run.seed == 2},
        "1 of 4 seeds of own diverged (seed 2 diverged at epoch 1). Only finished seeds entered",
    ),
    "every seed diverged": ({"diverged": own}, "No seed finished in both own and base"),
    "a missing run": ({"seeds": 4, "missing": lambda run: own(run) and run.seed == 0}, "own: seed 0 has not been run."),
    "nothing was run": ({"missing": lambda run: True}, "No seed finished in both own and base"),
    "a single identity": ({"pids": [1] * 20}, "All queries show one identity"),
    "all scores equal": ({"alike": True}, "Every query scores the same in both cells."),
    "an identity with 300 queries": (
        {"pids": [1] * 300 + list(range(2, 22))},
        "One identity holds 300 of 320 queries",
    ),
    "one query an identity": ({"pids": list(range(1, 13))}, ""),
}
INTERVAL = {"a diverged seed", "a missing run", "one query an identity", "all scores equal"}


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_sentence_or_a_finite_number(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    changed, sentence = CASES[case]
    study = folder_of_runs(tmp_path, **changed)
    aggregate_study(study)
    write_statistics(study.root)
    page = study.root / "report" / "index.html"
    render_report(study.root, ROOT / "report_templates", page)

    contrasts = pd.read_parquet(study.root / "tables" / "contrasts.parquet")
    row = contrasts[contrasts["headline"] & (contrasts["metric"] == "mAP")].iloc[0]
    assert sentence in row["note"]
    assert row["verdict"] == ("equivalent" if case == "all scores equal" else row["verdict"])
    missing = case in {"one seed", "a missing run", "nothing was run"}  # the preset has two seeds
    assert row["verdict"] in ({"provisional"} if missing else {"improves", "worsens", "equivalent", "undecided"})
    assert pd.notna(row["low"]) == (case in INTERVAL), row.to_string()
    assert contrasts["note"].notna().all()
    for path in sorted((study.root / "tables").glob("*.parquet")):
        for name, column in zip((table := pq.read_table(path)).column_names, table.columns, strict=True):
            if str(column.type) in {"double", "float"}:
                assert not pc.any(pc.invert(pc.is_finite(column))).as_py(), f"{path.name}: {name}"
    for path in (study.root / "tables").glob("*.csv"):
        assert not re.search(r"(?im)(^|,)-?(nan|inf)(,|$)", path.read_text()), path
    html = re.sub(r"(?s)<(script|style)>.*?</\1>", "", page.read_text(encoding="utf-8"))
    shown = html.replace("the loss became nan at step 3", "").replace("became NaN or infinite", "")
    assert re.findall(r".{60}(?:\b(?:nan|NaN|inf|None|NaT)\b|&lt;NA&gt;)", shown) == []
    assert sentence in html
