"""A whole code base as a cell, from the page that explains it to the report."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from reidablate.artifacts import read_json
from support import ROOT, nothing_to_do, planned, snakemake

pytestmark = pytest.mark.slow
BASE = ["preset=tiny.yaml", "datasets=market1501", "cells=plain_cnn,broken", "seeds=3"]


def save_from_page(page: Path, section: str) -> list[Path]:
    """Saves the files of a section of a page, whose first line is a comment with their name; returns the names."""
    text = page.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    files = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for name, content in files:
        Path(name).write_text(content, encoding="utf-8")
    return [Path(name) for name, _ in files]


def test_the_example_of_the_page_is_judged_and_a_broken_one_stops_nobody(study: Path) -> None:
    cell = save_from_page(ROOT / "docs" / "add_your_own.md", "5. A whole code base")[1]
    text = cell.read_text().replace("command: python ", f"command: {sys.executable} ")
    cell.write_text(text)
    broken = text.replace("name: plain_cnn", "name: broken").replace(" --seed", " --sed")
    Path("ablations/broken.yaml").write_text(broken)
    done = snakemake(config=BASE)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "market1501/broken/seed2: the external command ended with status 2; its last line:" in said
    tables = study / "results" / "tiny" / "tables"
    runs = pd.read_parquet(tables / "runs.parquet").set_index(["cell", "seed"])
    assert runs["status"].to_dict().items() >= {("plain_cnn", 0): "finished", ("plain_cnn", 2): "finished"}.items()
    assert [runs.loc[("broken", seed), "status"] for seed in range(3)] == ["missing"] * 3
    why = str(runs.loc[("broken", 0), "reason"])
    assert why.startswith("reidablate: market1501/broken/seed0: the external command")
    scores = pd.read_parquet(tables / "metrics.parquet").query("cell == 'plain_cnn' and side == 'before_neck'")
    assert scores.query("metric == 'mAP'")["value"].nunique() == 3  # seeds differ
    contrasts = pd.read_parquet(tables / "contrasts.parquet").query("headline and metric == 'mAP'").set_index("cell")
    found = contrasts.loc["plain_cnn"].to_dict()
    assert (found["reference"], found["num_seeds"], found["paired"]) == ("naive_triplet", 3, False)
    assert found["low"] < found["estimate"] < found["high"]
    assert found["verdict"] in {"improves", "worsens", "equivalent", "undecided"}
    assert found["warnings"] == ""
    assert contrasts["low"].isna().to_dict().items() >= {"plain_cnn": False, "broken": True}.items()
    cells = {entry["name"]: entry["external"] for entry in read_json(tables / "cells.json")}
    assert (cells["plain_cnn"]["seeds"], cells["naive_triplet"]) == ("unpaired", None)
    page = (study / "results" / "tiny" / "report" / "index.html").read_text(encoding="utf-8")
    assert "another code base" in page
    log = study / "results" / "tiny" / "logs" / "train" / "market1501" / "plain_cnn" / "seed1.log"
    assert "epoch 4: loss" in log.read_text()

    cell.with_name("broken.yaml").unlink()
    rest = [*BASE[:2], "cells=plain_cnn", BASE[3]]
    Path("train_cnn.py").touch()
    snakemake(config=rest)
    assert nothing_to_do(snakemake("-n", config=rest))
    shutil.copy("train_cnn.py", "copy.py")
    Path("train_cnn.py").write_text(Path("copy.py").read_text() + "# a change\n")
    again = planned(snakemake("-n", config=rest))
    assert (again["external"], again["evaluate"], again.get("train")) == (3, 3, None)
