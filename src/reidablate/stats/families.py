"""How often does a family of contrasts say something that is not true? Simulated, as `calibration` does for one.

Shapes: E experiments, K contrasts of one family, S seeds, G identities.

K cells share one baseline and none differs from it, so a verdict *improves* or *worsens* anywhere is an error. Holm's
first step, p < 0.05 / K for the smallest p, decides whether there is one. What is simulated is what the tests see:
seed means of K + 1 cells, identity effects of zero mean, and the estimates of their variances. The training noise of a
cell is a log-normal multiple of its neighbours' (`seed_spread`), because moderation assumes that variances resemble
each other; `sampling_ratio` is C / V_seed, from nothing to ten times. A few settings draw every score instead
(`simulation`), to show that the short cut leaves nothing out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from reidablate.rng import generator
from reidablate.stats.behrens_fisher import tail
from reidablate.stats.intervals import two_way_satterthwaite
from reidablate.stats.moderation import fit_prior
from reidablate.stats.paired import Array, Components, paired_components
from reidablate.stats.simulation import EFFECTS, MOST, Setting, normal_cells, skewed_cells, structure_of

SIZES = (1, 3, 6, 32, 48)
SPREADS = (0.0, 0.5)
RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
WHOLE = (
    Setting("market1501", "normal", "weak", 3),
    Setting("market1501", "normal", "weak", 5),
    Setting("market1501", "normal", "typical", 3),
    Setting("market1501", "normal", "typical", 5),
    Setting("market1501", "skewed", "weak", 3),
    Setting("market1501", "skewed", "weak", 5),
)
"""Settings whose every score is drawn, with 32 contrasts."""

IDENTITY_DF = 699.0  # of Market-1501: 700 effective identities
INTERACTION = 0.1  # share of V_seed that is a move of single identities
_CHUNK = 2_000_000  # numbers drawn at once


@dataclass(frozen=True)
class FamilySetting:
    """One simulated family."""

    num_contrasts: int
    seeds: int
    seed_spread: float  # standard deviation of the logarithm of a cell's seed-to-seed standard deviation
    sampling_ratio: float  # C / V_seed of a contrast of two average cells


def family_settings() -> list[FamilySetting]:
    """Returns every setting of the grid; a single contrast has no sisters whose spreads could differ."""
    return [
        FamilySetting(size, seeds, spread, ratio)
        for size in SIZES
        for seeds in MOST
        for spread in (SPREADS if size > 1 else SPREADS[:1])
        for ratio in RATIOS
    ]


def calibrate_families(
    *,
    experiments: int,
    whole_experiments: int,
    seed: int = 0,
    chosen: Sequence[FamilySetting] | None = None,
    whole: Sequence[Setting] = WHOLE,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Returns the family-wise errors, a row for every setting and procedure, with columns of the calibration table.

    `rejection` is the share of families with an adjusted p below 0.05, `rejection_strict` with one below 0.005. The
    procedures are `holm` (the default: moderated seed variances), `holm_unmoderated`, `holm_satterthwaite` (the former
    default) and `dunnett` (moderated; correlation 1/2). A single contrast has neither sisters nor a family.

    Args:
        experiments: Families a setting of the grid.
        whole_experiments: Families a setting whose every score is drawn.
        seed: Seed of the simulation.
        chosen: Settings of the grid; `family_settings()` by default.
        whole: Settings whose every score is drawn.
        progress: Called with the settings done and their number after every setting.
    """
    chosen = family_settings() if chosen is None else chosen
    rows: list[dict[str, Any]] = []
    for done, setting in enumerate(chosen, start=1):
        key = (
            setting.num_contrasts,
            setting.seeds,
            round(100 * setting.seed_spread),
            round(setting.sampling_ratio * 10),
        )
        draws = _draw(setting, experiments, generator(seed, "calibration/families", *key))
        fixed = {"test_set": "families", "shape": "normal", "effects": "spread" if setting.seed_spread else "even"}
        rows += _rows(draws, setting.num_contrasts, setting.seeds, fixed | vars(setting))
        if progress is not None:
            progress(done, len(chosen) + len(whole))
    for done, full in enumerate(whole, start=1 + len(chosen)):
        letters = [ord(letter) for letter in f"{full.shape}{full.effects}"]
        rng = generator(seed, "calibration/whole", full.seeds, *letters)
        rows += _rows(_draw_whole(full, 32, whole_experiments, rng), 32, full.seeds, vars(full))
        if progress is not None:
            progress(done, len(chosen) + len(whole))
    return pd.DataFrame(rows)


def _rows(draws: Iterator[Components], size: int, seeds: int, fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for every procedure."""
    smallest: dict[str, list[Array]] = {}
    for components in draws:
        for name, p_values in _tests(components).items():
            smallest.setdefault(name, []).append(p_values.min(axis=-1))
    rows = []
    for name, blocks in smallest.items():
        least = np.concatenate(blocks)
        first = (
            [_dunnett_level(size, 0.05), _dunnett_level(size, 0.005)]
            if name == "dunnett"
            else [0.05 / size, 0.005 / size]
        )
        rejection, strict = (float(np.mean(least < level)) for level in first)
        rows.append(
            {
                **fixed,
                "num_contrasts": size,
                "gain_points": 0.0,
                "interval": name,
                "experiments": len(least),
                "rejection": rejection,
                "rejection_strict": strict,
                "monte_carlo_error": float(np.sqrt(0.05 * 0.95 / len(least))),
                "within_bounds": rejection <= MOST[seeds] if name == "holm" else None,
            }
        )
    return rows


def _tests(components: Components) -> dict[str, Array]:
    """Returns the p-values of every procedure, (E, K); those above 0.05 only as 1, which no first step reaches."""
    size = components.estimate.shape[-1]
    per_seed_df = components.seed_df
    found = {"holm_unmoderated": two_way_p(components, components.seed, per_seed_df)}
    if size == 1:
        found["holm"] = found["holm_unmoderated"]
    else:
        prior = fit_prior(components.seed, per_seed_df, overlap=size * (size + 3) / 4)
        moderated, df = prior.posterior(components.seed, per_seed_df)
        found["holm"] = found["dunnett"] = two_way_p(components, moderated, df)
    former = two_way_satterthwaite(components).p_value
    found["holm_satterthwaite"] = np.maximum(former, _identity_p(components))
    return found


def two_way_p(components: Components, seed: Array, seed_df: Array, below: float | Array = 0.05) -> Array:
    """Returns p-values as `two_way` has them, 1 for some that are not `below` a level.

    A t has heavier tails than a normal, which spares most of the work.
    """
    size, sampling = np.abs(components.estimate), components.sampling
    near = 2 * special.ndtr(-size / np.sqrt(seed + sampling)) < below
    p_values = np.ones_like(size)
    p_values[near] = tail(size[near], seed[near], seed_df[near], sampling[near], np.asarray(components.identity_df))
    return np.maximum(p_values, _identity_p(components))


def _identity_p(components: Components) -> Array:
    """Returns the p-values of the identities alone."""
    with np.errstate(divide="ignore"):
        statistic = np.abs(components.estimate) / np.sqrt(components.identity)
    return np.asarray(2 * special.stdtr(components.identity_df, -statistic))


def _draw(setting: FamilySetting, experiments: int, rng: np.random.Generator) -> Iterator[Components]:
    """Yields what the tests see of families without a difference, in units of the average cell's seed variance."""
    size, seeds, df = setting.num_contrasts, setting.seeds, IDENTITY_DF
    at_once = max(1, _CHUNK // ((size + 1) * seeds))
    for start in range(0, experiments, at_once):
        number = min(at_once, experiments - start)
        sds = np.exp(setting.seed_spread * rng.standard_normal((number, size + 1, 1)))
        runs = sds * rng.standard_normal((number, size + 1, seeds))
        moves = runs[:, 1:] - runs[:, :1]
        sampling = setting.sampling_ratio * 2 / seeds
        identities = np.sqrt(sampling / 2) * rng.standard_normal((number, size + 1))
        interaction = INTERACTION * (np.square(sds[:, 1:, 0]) + np.square(sds[:, :1, 0])) / seeds
        shape = (number, size)
        yield Components(
            estimate=moves.mean(axis=-1) + identities[:, 1:] - identities[:, :1],
            seed=moves.var(axis=-1, ddof=1) / seeds,
            seed_df=np.full(shape, seeds - 1.0),
            identity=(sampling + interaction) * rng.chisquare(df, shape) / df,
            identity_df=df,
            interaction=interaction * rng.chisquare((seeds - 1) * df, shape) / ((seeds - 1) * df),
        )


def _draw_whole(setting: Setting, size: int, experiments: int, rng: np.random.Generator) -> Iterator[Components]:
    """Yields the components of families whose every score is drawn."""
    for sums, counts in draw_scores(setting, size, experiments, rng):
        yield paired_components(sums, counts)


def draw_scores(
    setting: Setting, size: int, experiments: int, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Yields sums of the differences of families over each identity, (E, K, S, G), and its queries, (G,)."""
    structure, effects = structure_of(setting.test_set), EFFECTS[setting.test_set][setting.effects]
    at_once = max(1, _CHUNK // ((size + 1) * setting.seeds * len(structure.queries)))
    for start in range(0, experiments, at_once):
        number = min(at_once, experiments - start)
        if setting.shape == "normal":
            sums = normal_cells(structure, effects, setting.seeds, size + 1, number, rng)
        else:
            sums = skewed_cells(structure, effects, setting.seeds, [structure.mean] * (size + 1), number, rng)
        yield sums[:, 1:] - sums[:, :1], structure.counts


def _dunnett_level(size: int, alpha: float) -> float:
    """Returns the p-value below which Dunnett's first step rejects: contrasts that share a baseline, correlation 1/2.

    Given the baseline's share x of the errors, P(max |Z_k| < c) is a product; Gauss-Hermite over x.
    """
    if size == 1:
        return alpha
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    root = np.sqrt(0.5)

    def excess(c: float) -> float:
        inside = special.ndtr((c - root * nodes) / root) - special.ndtr((-c - root * nodes) / root)
        return float(1 - weights @ inside**size / weights.sum() - alpha)

    return float(2 * special.ndtr(-optimize.brentq(excess, 1.0, 8.0)))
