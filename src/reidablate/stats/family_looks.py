"""How often does a study err that adds seeds until it is decided? `families`, with looks in between.

Shapes: E experiments, K contrasts of one family, S seeds, G identities.

Every experiment goes through the looks of `looks.Looks` as a study does: at each look the seed variances are
moderated over all sisters, Holm's method runs over the repeated p-values, and a contrast that is decided takes no more
seeds. Some cells may really be better: they are decided early, and their variances, small by luck, stay among their
sisters'. An error is then a wrong word about any of the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidablate.rng import generator
from reidablate.seeds import CAP
from reidablate.stats.families import IDENTITY_DF, INTERACTION, RATIOS, SPREADS, WHOLE, draw_scores, two_way_p
from reidablate.stats.looks import Looks
from reidablate.stats.moderation import MIN_SISTERS, fit_prior
from reidablate.stats.paired import Array, Components, paired_components
from reidablate.stats.simulation import MOST, Setting, settings

SIZES = (1, 6, 32, 48)
BETTER = 0.5
PROCEDURES = ("looks", "looks_naive")

_GAIN = 6.0  # of the cells that are really better, in standard errors at the cap
_CHUNK = 2_000_000  # numbers drawn at once

AtLooks = Mapping[int, Components]
"""What the tests see of E families at each look, by its number of seeds."""


@dataclass(frozen=True)
class LooksSetting:
    """One simulated family under looking."""

    num_contrasts: int
    seed_spread: float  # standard deviation of the logarithm of a cell's seed-to-seed standard deviation
    sampling_ratio: float  # C / V_seed at the cap of a contrast of two average cells
    better: float  # share of cells that are really better


def looks_settings() -> list[LooksSetting]:
    """Returns every setting of the grid; a single contrast has neither sisters that vary nor others that are better."""
    none = [
        LooksSetting(size, spread, ratio, 0.0)
        for size in SIZES
        for spread in (SPREADS if size > 1 else SPREADS[:1])
        for ratio in RATIOS
    ]
    return none + [LooksSetting(size, SPREADS[-1], ratio, BETTER) for size in SIZES[1:] for ratio in RATIOS[::2]]


def whole_settings() -> list[tuple[Setting, int]]:
    """Returns the settings whose every score is drawn, with the number of contrasts."""
    families = [setting for setting in WHOLE if setting.seeds == WHOLE[0].seeds]
    return [(setting, 1) for setting in settings([CAP])] + [(replace(setting, seeds=CAP), 32) for setting in families]


def calibrate_looks(
    *,
    experiments: int,
    whole_experiments: int,
    seed: int = 0,
    chosen: Sequence[LooksSetting] | None = None,
    whole: Sequence[tuple[Setting, int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Returns the errors of families under looking, a row for every setting and procedure, like `calibrate_families`.

    `rejection` is the share of families with a wrong word at 5 %, `rejection_strict` at 0.5 %, `mean_seeds` the seeds
    that a cell other than the baseline took. The procedures are `looks` (the default) and `looks_naive`, which compares
    every look with the whole level. `seeds` is the cap.

    Args:
        experiments: Families a setting of the grid, and of a single contrast whose every score is drawn.
        whole_experiments: Larger families a setting whose every score is drawn.
        seed: Seed of the simulation.
        chosen: Settings of the grid; `looks_settings()` by default.
        whole: Settings whose every score is drawn; `whole_settings()` by default.
        progress: Called with the settings done and their number after every setting.
    """
    chosen = looks_settings() if chosen is None else chosen
    whole = whole_settings() if whole is None else whole
    total = len(chosen) + len(whole)
    rows: list[dict[str, Any]] = []
    for done, setting in enumerate(chosen, start=1):
        rng = generator(seed, "calibration/looks", *(round(100 * value) for value in vars(setting).values()))
        kind = "half better" if setting.better else "spread" if setting.seed_spread else "even"
        fixed = {"test_set": "families", "shape": "normal", "effects": kind, **vars(setting)}
        fixed.pop("better")  # it is in the effects
        rows += _rows(_draw(setting, experiments, rng), setting.better, fixed)
        if progress is not None:
            progress(done, total)
    for done, (full, size) in enumerate(whole, start=1 + len(chosen)):
        letters = [ord(letter) for letter in f"{full.test_set}{full.shape}{full.effects}"]
        rng = generator(seed, "calibration/whole_looks", size, *letters)
        number = experiments if size == 1 else whole_experiments
        rows += _rows(_draw_whole(full, size, number, rng), 0.0, {**vars(full), "num_contrasts": size})
        if progress is not None:
            progress(done, total)
    return pd.DataFrame(rows)


def _rows(draws: Iterator[AtLooks], better: float, fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for every procedure."""
    parts, first = _joined(list(draws)), _num_better(better, fixed["num_contrasts"])
    number = len(next(iter(parts.values())).estimate)
    rows = []
    for name in PROCEDURES:
        decided, seeds = walk(parts, 0.05, name)
        decided_strictly, _ = walk(parts, 0.005, name)
        rejection, strict = (float(found[:, first:].any(axis=-1).mean()) for found in (decided, decided_strictly))
        rows.append(
            {
                **fixed,
                "seeds": CAP,
                "gain_points": 0.0,
                "interval": name,
                "experiments": number,
                "rejection": rejection,
                "rejection_strict": strict,
                "mean_seeds": float(seeds.mean()),
                "monte_carlo_error": float(np.sqrt(0.05 * 0.95 / number)),
                "within_bounds": rejection <= MOST[CAP] if name == "looks" else None,
            }
        )
    return rows


def _joined(blocks: Sequence[AtLooks]) -> AtLooks:
    """Returns blocks of families as one."""
    names = ("estimate", "seed", "seed_df", "identity", "interaction")
    return {
        seeds: replace(first, **{name: np.concatenate([getattr(b[seeds], name) for b in blocks]) for name in names})
        for seeds, first in blocks[0].items()
    }


def walk(parts: AtLooks, alpha: float, procedure: str = "looks") -> tuple[NDArray[np.bool_], Array]:
    """Returns which contrasts of each family are decided at the end, and the seeds at which they stopped, both (E, K).

    Args:
        parts: What each look sees if nothing has stopped.
        alpha: Error of the family.
        procedure: One of `PROCEDURES`.
    """
    looks = Looks(tuple(parts))
    shape = next(iter(parts.values())).estimate.shape
    decided, seeds = np.zeros(shape, dtype=bool), np.zeros(shape)
    p_values, between, df = np.ones(shape), np.empty(shape), np.empty(shape)
    for look, (number, seen) in enumerate(parts.items()):
        running = ~decided
        seeds[running] = number
        between[running], df[running] = number * seen.seed[running], seen.seed_df[running]
        moderated, moderated_df = _moderated(between, df)
        found = two_way_p(seen, moderated / number, moderated_df, below=np.where(running, alpha, 0.0))
        p_values[running] = (found if procedure == "looks_naive" else looks.repeated(look, found))[running]
        decided |= _holm(p_values, alpha)
    return decided, seeds


def _moderated(between: Array, df: Array) -> tuple[Array, Array]:
    """Returns moderated variances between seeds and their degrees of freedom, of contrasts that share one baseline."""
    size = between.shape[-1]
    if size < MIN_SISTERS:
        return between, df
    return fit_prior(between, df, overlap=size * (size + 3) / 4).posterior(between, df)


def _holm(p_values: Array, alpha: float) -> NDArray[np.bool_]:
    """Returns what Holm's method rejects at a level, (E, K)."""
    size = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1)
    passed = np.take_along_axis(p_values, order, axis=-1) * (size - np.arange(size)) < alpha
    rejected = np.empty_like(passed)
    np.put_along_axis(rejected, order, np.logical_and.accumulate(passed, axis=-1), axis=-1)
    return np.asarray(rejected)


def _num_better(share: float, size: int) -> int:
    return round(share * size)


def _draw(setting: LooksSetting, experiments: int, rng: np.random.Generator) -> Iterator[AtLooks]:
    """Yields what the looks see of families, in units of the average cell's seed variance; the first cells are better.

    A look sees the first of the same seeds and the same identities as those before it.
    """
    size, df, looks = setting.num_contrasts, IDENTITY_DF, Looks.up_to(CAP)
    at_once = max(1, _CHUNK // ((size + 1) * CAP))
    sampling = setting.sampling_ratio * 2 / CAP
    gains = np.zeros(size)
    gains[: _num_better(setting.better, size)] = _GAIN * np.sqrt(2 / CAP + sampling)
    for start in range(0, experiments, at_once):
        number = min(at_once, experiments - start)
        sds = np.exp(setting.seed_spread * rng.standard_normal((number, size + 1, 1)))
        runs = sds * rng.standard_normal((number, size + 1, CAP))
        moves = runs[:, 1:] - runs[:, :1]
        identities = np.sqrt(sampling / 2) * rng.standard_normal((number, size + 1))
        shift = gains + identities[:, 1:] - identities[:, :1]
        interaction = INTERACTION * (np.square(sds[:, 1:, 0]) + np.square(sds[:, :1, 0]))
        clustered = rng.chisquare(df, (number, size)) / df
        spread = np.cumsum(rng.chisquare(df, (CAP - 1, number, size)), axis=0)
        yield {
            seeds: Components(
                estimate=moves[..., :seeds].mean(axis=-1) + shift,
                seed=moves[..., :seeds].var(axis=-1, ddof=1) / seeds,
                seed_df=np.full((number, size), seeds - 1.0),
                identity=(sampling + interaction / seeds) * clustered,
                identity_df=df,
                interaction=interaction / seeds * spread[seeds - 2] / ((seeds - 1) * df),
            )
            for seeds in looks.seeds
        }


def _draw_whole(setting: Setting, size: int, experiments: int, rng: np.random.Generator) -> Iterator[AtLooks]:
    """Yields what the looks see of families whose every score is drawn."""
    for sums, counts in draw_scores(setting, size, experiments, rng):
        yield {seeds: paired_components(sums[..., :seeds, :], counts) for seeds in Looks.up_to(CAP).seeds}
