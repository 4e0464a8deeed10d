"""A tuned cell in the workflow: one call tries the candidates, chooses, trains the winner and tests it."""

from pathlib import Path

import pandas as pd
import pytest

from reidablate.artifacts import read_json
from support import nothing_to_do, snakemake

pytestmark = pytest.mark.slow
CONFIG = ["preset=tiny.yaml", "datasets=market1501", "cells=tuned"]
TUNED = """
name: tuned
extends: p1
tune: true
sweep: {losses.weighted_triplet.ratio: [0.25, 0.75]}
"""


def test_one_call_tunes_a_cell_and_the_next_has_nothing_to_do(study: Path) -> None:
    (study / "ablations" / "tuned.yaml").write_text(TUNED)
    dry = snakemake("-n", config=CONFIG)
    assert "tuned is tuned: on each data set, 2 configurations x 2 seeds are scored on held-out" in dry.stderr
    done = snakemake(config=CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on held-out identities" in done.stdout + done.stderr
    results = study / "results" / "tiny"
    table = pd.read_parquet(results / "tables" / "tuning.parquet")
    (best,) = table.loc[table["chosen"], "candidate"]
    tried, made = (
        read_json(results / "market1501" / cell / "seed0" / "provenance.json")["config"] for cell in (best, "tuned")
    )
    assert made["losses"] == tried["losses"]
    assert (tried["scored_on"], made["scored_on"]) == ("holdout", "test")
    assert "tuned_ratio" not in " ".join(pd.read_parquet(results / "tables" / "runs.parquet")["cell"])
    again = snakemake("-n", config=CONFIG)
    assert nothing_to_do(again), again.stdout + again.stderr
