"""What a question costs before it is asked: seeds, runs and hours that find a difference of a given size.

Variances come from a study's own comparisons or, before there are any, from published ones (`simulation.EFFECTS`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reidablate.artifacts import read_table
from reidablate.errors import UserError
from reidablate.integrity import refuse_broken
from reidablate.stats.contrasts import MIN_SEEDS
from reidablate.stats.paired import Array, Components, effective_identities
from reidablate.stats.power import MAX_SEEDS, detectable_difference, seeds_to_detect, without_seed_noise
from reidablate.stats.simulation import EFFECTS, structure_of

ALPHA = 0.05
_POINTS = 100.0
_PRIOR_SEEDS = 5
_POWER = "with 80 % power"


@dataclass(frozen=True)
class Designs:
    """The comparisons of a data set: their names, variance components, seeds so far, and levels, all (N,)."""

    names: list[str]
    components: Components
    num_seeds: Array
    alpha: Array


def seeds_for(designs: Designs, points: float) -> Array:
    """Returns the seeds that find a difference of `points` in each comparison, (N,), as `seeds_to_detect` does."""
    size = points / _POINTS
    return seeds_to_detect(designs.components, designs.num_seeds, size=size, alpha=designs.alpha, least=MIN_SEEDS)


def study_lines(results: Path, points: float) -> Iterator[str]:
    """Yields what finding a difference in mAP takes in a study, a line a data set, from its own variances.

    Args:
        results: `results/<preset>` with tables.
        points: The difference, in points.

    Raises:
        UserError: Tables are missing or damaged, or no comparison has an interval yet.
    """
    tables = results / "tables"
    refuse_broken(tables)
    contrasts = read_table(tables / "contrasts.parquet")
    runs = read_table(tables / "runs.parquet")
    shown = contrasts[contrasts["headline"].eq(True) & contrasts["metric"].eq("mAP") & contrasts["seed_error"].notna()]
    if shown.empty:
        raise UserError(f"no comparison in {tables} has an interval yet; run three seeds, or use --priors.")
    for dataset, rows in shown.groupby("dataset", sort=False):
        designs = _of_rows(rows)
        seeds = seeds_for(designs, points)
        yield f"{dataset}: {_sentence(designs, seeds, points)}."
        yield from _costs(runs[runs["dataset"].eq(dataset) & runs["status"].eq("finished")], seeds)


def prior_lines(points: float, comparisons: int) -> Iterator[str]:
    """Yields what finding a difference in mAP takes by published variances, a line a data set and kind of difference.

    Args:
        points: The difference, in points.
        comparisons: How many comparisons share the level of 5 %, by Holm's first step.
    """
    for dataset, kinds in EFFECTS.items():
        for kind in ("none", "typical"):
            designs = prior_designs(dataset, kind, comparisons)
            seeds = seeds_for(designs, points)
            how = (
                "helps all identities alike" if kinds[kind].identity == 0 else "helps some identities and hurts others"
            )
            yield f"{dataset}, a change that {how}: {_sentence(designs, seeds, points)}."


def prior_designs(dataset: str, kind: str, comparisons: int) -> Designs:
    """Returns the design of one comparison by published variances: what those of the normal model are on average.

    Of V_seed the seeds' own variance and that of the identities' moves, of V_id the identities' variance and the same
    moves, which are the interaction.
    """
    structure, effects = structure_of(dataset), EFFECTS[dataset][kind]
    counts, queries = structure.counts, structure.queries.astype(np.float64)
    shares = np.square(counts / counts.sum()).sum()
    moves = effects.interaction**2 * shares + effects.pair**2 * np.square(queries / queries.sum()).sum()
    sampling, interaction = effects.identity**2 * shares, moves / _PRIOR_SEEDS
    variances = {
        "seed": (effects.seed**2 + moves) / _PRIOR_SEEDS,
        "identity": sampling + interaction,
        "interaction": interaction,
    }
    components = Components(
        estimate=np.zeros(1),
        seed_df=np.array([_PRIOR_SEEDS - 1.0]),
        identity_df=effective_identities(counts) - 1.0,
        **{name: np.array([value / _POINTS**2]) for name, value in variances.items()},
    )
    return Designs([kind], components, np.array([float(_PRIOR_SEEDS)]), np.array([ALPHA / comparisons]))


def _of_rows(rows: pd.DataFrame) -> Designs:
    """Returns the designs of rows of the table of contrasts, whose errors are roots of variances."""
    seed, sampling, identity = (
        rows[name].to_numpy(np.float64) ** 2 for name in ("seed_error", "sampling_error", "identity_error")
    )
    components = Components(
        estimate=np.zeros(len(rows)),
        seed=seed,
        seed_df=rows["seed_df"].to_numpy(np.float64),
        identity=identity,
        identity_df=rows["identity_df"].to_numpy(np.float64),
        interaction=np.maximum(identity - sampling, 0.0),
    )
    names = [f"{row.cell} over {row.reference}" for row in rows.itertuples()]
    alpha = ALPHA / rows["family_size"].fillna(1).to_numpy(np.float64)
    return Designs(names, components, rows["num_seeds"].to_numpy(np.float64), alpha)


def _sentence(designs: Designs, seeds: Array, points: float) -> str:
    one = len(seeds) == 1
    reached = np.isfinite(seeds)
    parts = []
    if reached.any():
        middle, most = (int(np.ceil(np.quantile(seeds[reached], q))) for q in (0.5, 1.0))
        if one or middle == most:
            parts.append(f"{points:g} points of mAP are found {_POWER} by {most} seeds")
        else:
            hardest = designs.names[int(np.flatnonzero(reached)[np.argmax(seeds[reached])])]
            parts.append(
                f"{points:g} points of mAP are found {_POWER} by {middle} seeds in half of {reached.sum()} comparisons "
                f"and by {most} in all of these ({hardest} takes most)"
            )
    if np.isnan(seeds).any():
        parts.append(f"{_some(designs, np.isnan(seeds))} would take more than {MAX_SEEDS} seeds")
    if (limit := np.isinf(seeds)).any():
        floor = detectable_difference(without_seed_noise(designs.components), alpha=designs.alpha)
        least = _POINTS * float(floor[limit].min())
        who = "" if one else f" for {_some(designs, limit)}"
        parts.append(
            f"no number of seeds is enough{who}: with these identities the least that can be found is {least:.2g} "
            "points or more; it takes more of them"
        )
    return "; ".join(parts)


def _some(designs: Designs, chosen: np.ndarray) -> str:
    names = [name for name, is_one in zip(designs.names, chosen, strict=True) if is_one]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _costs(runs: pd.DataFrame, seeds: Array) -> Iterator[str]:
    """Yields the runs and hours of as many seeds as all comparisons within reach take."""
    reached = seeds[np.isfinite(seeds)]
    if not len(reached) or runs.empty:
        return
    most = int(reached.max())
    hours = runs.groupby("cell")["wall_s"].mean().sum() / 3600
    done, cells = len(runs), runs["cell"].nunique()
    device = " and ".join(sorted(runs["device"].dropna().unique())) or "unknown device"
    yield (
        f"  {most} seeds of {cells} cells are {most * cells} runs ({done} are finished), {most * hours:.3g} hours in "
        f"all on {device} by what each cell took so far."
    )
