"""A call that adds seeds until its comparisons are decided goes to the end by itself."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from support import BASE, nothing_to_do, snakemake

pytestmark = pytest.mark.slow


def test_one_call_takes_look_after_look(study: Path) -> None:
    results = study / "results" / "tiny"
    for name in ("market1501", "tables", "report", "plans"):
        shutil.rmtree(results / name)
    (results / "study.json").unlink()
    config = [*BASE, "seeds=auto:4"]
    done = snakemake(config=config)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "6 runs to train" in output
    assert "the look is over and 2 more runs are needed" in output  # a test set of 6 people decides nothing
    table = pd.read_parquet(results / "tables" / "contrasts.parquet")
    (row,) = table[table["headline"] & (table["metric"] == "mAP")].to_dict("records")
    assert (row["look"], row["num_looks"], row["look_seeds"], row["num_seeds"]) == (2, 2, 4, 4)
    page = (results / "report" / "index.html").read_text()
    assert "looks at 3 and 4 seeds" in page
    assert "after look 2 of 2 (4 seeds)" in (results / "report" / "exports" / "main_table.md").read_text()
    for again in (config, BASE):  # the looks belong to the study from now on
        assert nothing_to_do(snakemake(config=again))
    refused = snakemake("-n", config=[*BASE, "seeds=5"])
    assert refused.returncode == 2
    assert "adds seeds in looks up to 4" in refused.stderr
