"""A/A: more than a thousand contrasts of equally good cells, judged by the tables themselves."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reidablate.rng import generator
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.moderation import fit_prior, squared_correlations

SEEDS, SISTERS, STUDIES = 3, 32, 32
PIDS = np.repeat(np.arange(60), 2)


def study(number: int) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """Scores of cells that differ by training noise and, in every other study, by identities they do well on."""
    rng = generator(number, "same systems")
    names = ["base", *(f"cell{k}" for k in range(SISTERS))]
    hard = rng.uniform(0.4, 0.8, len(PIDS))
    frames = []
    for name in names:
        taste = rng.normal(0, 0.02 * (number % 2), 60)[PIDS]
        for seed in range(SEEDS):
            noise = rng.normal(0, 0.004) + rng.normal(0, 0.01, 60)[PIDS] + rng.normal(0, 0.02, len(PIDS))
            score = np.clip(hard + taste + noise, 0, 1)
            frames.append(pd.DataFrame({"cell": name, "seed": seed, "average_precision": score}))
    queries = pd.concat(frames, ignore_index=True)
    runs = queries[["cell", "seed"]].drop_duplicates()
    queries["query"] = np.tile([f"{k:03d}" for k in range(len(PIDS))], len(runs))
    queries["pid"], queries["camid"] = np.tile(PIDS, len(runs)), 0
    queries["average_precision_trapezoid"] = queries["inverse_negative_penalty"] = queries["average_precision"]
    queries = queries.assign(first_hit_rank=1, dataset="set", side="before_neck")
    cells: list[dict[str, Any]] = [
        {"name": name, "group": "main", "references": ["base"] * (name != "base")} for name in names
    ]
    return queries, runs.assign(dataset="set", status="finished").reset_index(drop=True), cells


@pytest.mark.slow
def test_a_thousand_contrasts_of_equally_good_cells_are_seldom_told_apart() -> None:
    wrong, p_values = [], []
    for number in range(STUDIES):
        queries, runs, cells = study(number)
        table = contrast_table(queries, runs, cells, deltas={}, headline_side="before_neck")
        shown = table[table["headline"] & (table["metric"] == "mAP")]
        assert len(shown) == SISTERS
        wrong.append(bool(shown["verdict"].isin(["improves", "worsens"]).any()))
        p_values.append(shown["p_value"].to_numpy(float))
    assert np.size(p_values) >= 1_000
    # A rate of 7.5 % shows at most this many of 32 studies in 999 of 1,000 repetitions.
    assert sum(wrong) <= stats.binom.ppf(0.999, STUDIES, 0.075)
    # Contrasts of a study share a baseline, so the share varies from study to study.
    share = [np.mean(values < 0.05) for values in p_values]
    assert np.mean(share) <= 0.05 + 4 * np.std(share, ddof=1) / np.sqrt(STUDIES)


def test_ten_thousand_contrasts_of_sisters_have_their_share_of_small_p_values() -> None:
    rng, studies = np.random.default_rng(0), 400
    runs = rng.standard_normal((studies, SISTERS + 1, SEEDS))
    moves = runs[:, 1:] - runs[:, :1]
    variance, df = moves.var(axis=-1, ddof=1), np.full((studies, SISTERS), SEEDS - 1.0)
    overlap = squared_correlations([(f"cell{k}", "base") for k in range(SISTERS)])
    posterior, total = fit_prior(variance, df, overlap=overlap).posterior(variance, df)
    p_values = np.asarray(2 * stats.t.sf(np.abs(moves.mean(axis=-1)) / np.sqrt(posterior / SEEDS), total))
    share = (p_values < 0.05).mean(axis=1)
    assert share.mean() == pytest.approx(0.05, abs=4 * share.std(ddof=1) / np.sqrt(studies))
    assert np.mean(p_values.min(axis=1) < 0.05 / SISTERS) <= 0.075
