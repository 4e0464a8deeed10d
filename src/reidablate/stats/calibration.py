"""How often does each interval err, and what can it find? Simulated experiments with a known truth (`simulation`)."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidablate.artifacts import write_table
from reidablate.rng import generator
from reidablate.stats.families import calibrate_families
from reidablate.stats.family_looks import calibrate_looks
from reidablate.stats.intervals import ANALYTIC, BOOTSTRAP
from reidablate.stats.paired import Array, paired_components
from reidablate.stats.simulation import MOST, Setting, settings, simulate

GAINS_POINTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def write_calibration(
    out: Path, *, experiments: int = 10_000, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> str:
    """Writes `calibration` and `looks`, each as `.parquet` and `.csv`, and returns the line that sums them up.

    `looks` is about studies that add seeds until they are decided; arguments as below. The power curve sees a tenth of
    the experiments, as do the families whose every score is drawn.
    """
    single = calibrate(experiments=experiments, power_experiments=experiments // 10, seed=seed, progress=progress)
    families = calibrate_families(
        experiments=experiments, whole_experiments=experiments // 10, seed=seed, progress=progress
    )
    table = pd.concat([single, families.astype({"within_bounds": "boolean", "rejection_strict": "Float64"})])
    looks = calibrate_looks(
        experiments=experiments, whole_experiments=experiments // 10, seed=seed, progress=progress
    ).astype({"within_bounds": "boolean"})
    for name, whole in (("calibration", table.reset_index(drop=True)), ("looks", looks)):
        for suffix in ("parquet", "csv"):
            write_table(whole.round(6), out / f"{name}.{suffix}")
    return (
        f"calibration: the default within its bounds in {_inside(table)} settings, and in {_inside(looks)} of studies "
        f"that add seeds; tables in {out}"
    )


def _inside(table: pd.DataFrame) -> str:
    return f"{table['within_bounds'].sum()} of {table['within_bounds'].notna().sum()}"


def calibrate(
    *,
    experiments: int = 10_000,
    bootstrap_experiments: int = 500,
    resamples: int = 1_000,
    power_experiments: int = 1_000,
    gains_points: Sequence[float] = GAINS_POINTS,
    chosen: Sequence[Setting] | None = None,
    seed: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Returns the calibration table of single contrasts: a row for every setting, true gain and interval.

    Columns: test_set, shape, effects, seeds, num_contrasts (1), gain_points (0: no difference), interval, experiments;
    rejection (share of p < 0.05, for a gain of 0 the false-positive rate), rejection_strict (share of p < 0.005, the
    first step of Holm among ten; null for bootstraps), coverage (share of 95 % intervals that hold the true gain),
    half_width_points (median), error_points (standard deviation of the estimates), seed_error_points and
    identity_error_points (root mean variance of the two parts), monte_carlo_error (standard error of a 5 % rate at
    this number of experiments), within_bounds (gain 0, `two_way`: whether the rejection is at most `MOST`; null
    elsewhere). `calibrate_families` adds seed_spread and sampling_ratio.

    Args:
        experiments: Experiments a setting without gain; the analytic intervals see all.
        bootstrap_experiments: Of these, how many the bootstraps see.
        resamples: Bootstrap resamples.
        power_experiments: Experiments a setting and gain, for the effects `typical`.
        gains_points: True gains of the power curve.
        chosen: Settings; `settings()` by default.
        seed: Seed of the simulation.
        threads: Settings computed at once; the numbers do not depend on it.
        progress: Called with the blocks done and their number after every block.
    """
    chosen = settings() if chosen is None else chosen
    tasks = [(setting, 0.0, experiments, bootstrap_experiments) for setting in chosen]
    tasks += [
        (setting, gain, power_experiments, 0)
        for setting in chosen
        if setting.effects == "typical"
        for gain in gains_points
    ]
    with ThreadPoolExecutor(threads) as pool:
        rows = []
        for done, block in enumerate(pool.map(lambda task: _block(*task, resamples=resamples, seed=seed), tasks)):
            rows += block
            if progress is not None:
                progress(done + 1, len(tasks))
    table = pd.DataFrame(rows)
    return table.astype({"within_bounds": "boolean", "rejection_strict": "Float64"})


def _block(
    setting: Setting, gain_points: float, experiments: int, bootstrap_experiments: int, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Returns the rows of one setting and gain."""
    key = [ord(letter) for letter in f"{setting.test_set}{setting.shape}{setting.effects}"]
    rng, draws = (
        generator(seed, purpose, setting.seeds, round(100 * gain_points), *key)
        for purpose in ("calibration", "calibration/bootstrap")
    )
    truth = gain_points / 100
    tally: dict[str, list[Array]] = {name: [] for name in (*ANALYTIC, *BOOTSTRAP)}
    pieces: list[Array] = []
    for sums, counts in simulate(setting, gain_points, experiments, rng=rng):
        parts = paired_components(sums, counts)
        pieces.append(np.stack([parts.estimate, parts.seed, parts.sampling]))
        for name, interval in ANALYTIC.items():
            found = interval(parts)
            tally[name].append(np.stack([found.low, found.high, found.p_value < 0.005]))
        left = bootstrap_experiments - sum(block.shape[1] for block in tally["identity_bootstrap"])
        for name, resample in BOOTSTRAP.items() if left > 0 else ():
            low, high = resample(sums[:left], counts, resamples=resamples, rng=draws)
            tally[name].append(np.stack([low, high, np.full_like(low, np.nan)]))
    estimate, seed_variance, sampling = np.concatenate(pieces, axis=1)
    errors = {
        "error_points": 100 * estimate.std(ddof=1),
        "seed_error_points": 100 * np.sqrt(seed_variance.mean()),
        "identity_error_points": 100 * np.sqrt(sampling.mean()),
    }
    rows = []
    for name, blocks in tally.items():
        if not blocks:
            continue
        low, high, strict = np.concatenate(blocks, axis=1)
        rejection = float(np.mean((low > 0) | (high < 0)))
        most = MOST.get(setting.seeds) if name == "two_way" and gain_points == 0 else None
        rows.append(
            {
                **vars(setting),
                "num_contrasts": 1,
                "gain_points": gain_points,
                "interval": name,
                "experiments": len(low),
                "rejection": rejection,
                "rejection_strict": None if np.isnan(strict).any() else float(strict.mean()),
                "coverage": float(np.mean((low <= truth) & (truth <= high))),
                "half_width_points": 50 * float(np.median(high - low)),
                **errors,
                "monte_carlo_error": float(np.sqrt(0.05 * 0.95 / len(low))),
                "within_bounds": None if most is None else rejection <= most,
            }
        )
    return rows
