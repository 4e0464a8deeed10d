"""What a contrast cannot say alone: moderated variances, adjusted p-values, verdicts, and what would decide the rest.

Lines of the table arrive with their estimates and raw variances. Sisters (contrasts of one data set, feature side and
metric) share what they know of the seed variance; families share five per cent of error. Everything is computed for all
lines at once.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from reidablate.stats.intervals import Interval, probability_above, two_way, two_way_half
from reidablate.stats.looks import Levels, Looks
from reidablate.stats.moderation import MIN_SISTERS, fit_prior, squared_correlations
from reidablate.stats.multiplicity import holm, verdict
from reidablate.stats.paired import Array, Components, select, stack
from reidablate.stats.power import MAX_SEEDS, detectable_difference, detectable_range, seeds_needed

Recipes = Mapping[str, Mapping[str, Any]]
"""{seed: {option: what it drew}}, seeds as words."""

MOST_PRIOR_DF = 1000.0
PRIMARY = "primary"
LATER = "added later"  # what a frozen study did not declare


@dataclass
class Line:
    """One row in the making: its fields, its notes, and scalar components with the seed variance as observed.

    `better` is of the share of queries that the cell scores better, minus one half; `cameras` has query cameras in
    place of identities; `gains` are the differences of paired seeds, whose numbers are the field `seeds`.
    """

    fields: dict[str, Any]
    notes: list[str]
    components: Components | None = None
    better: Components | None = None
    cameras: Components | None = None
    gains: list[float] = field(default_factory=list)


def finish(
    lines: Sequence[Line],
    *,
    family: Sequence[str],
    pool: Sequence[str],
    columns: Mapping[str, tuple[str, str]],
    looks: Looks | None = None,
    recipes: Recipes | None = None,
) -> pd.DataFrame:
    """Returns the table of all lines with interval, test, Holm over each family, verdict, power and notes.

    Args:
        lines: All lines of the table.
        family: Fields that a family shares, besides being primary or in one group.
        pool: Fields that sister contrasts share.
        columns: Columns of the table.
        looks: Those of a study that adds seeds until it is decided; the field `look` of a line is its own, from 1.
        recipes: What each seed drew of the recipe. Contrasts then differ in how much the recipe moves them, so their
            variances between seeds say nothing of each other and stay as they are.
    """
    tested = [line for line in lines if line.components is not None]
    raw = [line.components for line in tested if line.components is not None]
    components, prior_df = (stack(raw), np.zeros(len(raw))) if recipes else _moderated(tested, raw, pool)
    for line, df in zip(tested, prior_df, strict=True):
        line.fields["prior_df"] = min(float(df), MOST_PRIOR_DF)
    if tested:
        levels = Levels(looks, [line.fields.get("look") for line in tested])
        _add_tests(tested, components, levels)
        _add_sides(tested, components, [] if recipes else pool, levels)
    _adjust(lines, family)
    if tested:
        _add_adjusted(tested, components, levels)
    for line in lines:
        _add_verdict(line)
        if recipes and line.gains:
            line.notes.append(_by_recipe(line, recipes))
    if tested:
        _add_needs(tested, components, levels)
    rows = [{**line.fields, "note": " ".join(line.notes)} for line in lines]
    table = {name: [_plain(row.get(name)) for row in rows] for name in columns}
    return pd.DataFrame({name: pd.array(table[name], dtype=columns[name][0]) for name in columns})  # type: ignore[call-overload]


def _moderated(lines: Sequence[Line], parts: Sequence[Components], pool: Sequence[str]) -> tuple[Components, Array]:
    """Returns the components of all lines with moderated seed variances of paired contrasts, and the prior df, (N,).

    The prior is fitted to the variances between seeds (S times V_seed, so that numbers of seeds may differ) of the
    sisters that have all their runs and vary at all; unpaired contrasts keep what they have.
    """
    stacked = stack(parts)
    seed, seed_df, prior_df = stacked.seed.copy(), stacked.seed_df.copy(), np.zeros(len(parts))
    pools: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row, line in enumerate(lines):
        if line.fields["paired"]:
            pools[tuple(line.fields[key] for key in pool)].append(row)
    for members in pools.values():
        rows = np.array(members)
        num_seeds = np.array([lines[row].fields["num_seeds"] for row in members], dtype=np.float64)
        between, df = stacked.seed[rows] * num_seeds, stacked.seed_df[rows]
        whole = np.array([lines[row].fields["num_missing"] == 0 for row in members]) & (between > 0)
        if whole.sum() < MIN_SISTERS:
            continue
        names = [(lines[row].fields["cell"], lines[row].fields["reference"]) for row in rows[whole]]
        prior = fit_prior(between[whole], df[whole], overlap=squared_correlations(names))
        moderated, seed_df[rows] = prior.posterior(between, df)
        seed[rows] = moderated / num_seeds
        prior_df[rows] = np.where(prior.outlying(between, df), 0.0, prior.df)
    return replace(stacked, seed=seed, seed_df=seed_df), prior_df


def _add_tests(lines: Sequence[Line], components: Components, levels: Levels) -> None:
    """Adds error, interval, p-value and confidence in delta to the lines, whose components these are."""
    interval = two_way(components, level=1 - levels.of(0.05))
    delta = _deltas(lines)
    above = probability_above(components, delta)
    below = probability_above(components, -delta)
    # With endless seeds the half width is that of C alone.
    least = special.stdtrit(components.identity_df, 0.975) * np.sqrt(components.sampling)
    columns: dict[str, Array] = {
        "seed_error": np.sqrt(components.seed),
        "seed_df": components.seed_df,
        "sampling_error": np.sqrt(components.sampling),
        "identity_error": np.sqrt(components.identity),
        "identity_df": np.asarray(components.identity_df),
        "seed_share": components.seed / np.maximum(components.seed + components.sampling, np.finfo(float).tiny),
        "above_delta": above,
        "within_delta": np.maximum(below - above, 0.0),
        **_ends(interval, "", least=-1.0, most=1.0),
        "standard_error": interval.standard_error,
        "df": interval.df,
        "p_value": levels.repeated(interval.p_value),
    }
    from_both = np.isclose(interval.standard_error, np.sqrt(components.seed + components.sampling), rtol=1e-12, atol=0)
    for row, line in enumerate(lines):
        line.fields |= {name: float(values[row]) for name, values in columns.items()}
        line.fields["p_from"] = "both" if from_both[row] else "identities"
        if not np.isnan(delta[row]):
            line.fields["equivalence_reachable"] = bool(least[row] < delta[row])


def _add_sides(lines: Sequence[Line], components: Components, pool: Sequence[str], levels: Levels) -> None:
    """Adds the interval of P(better), and the test that takes cameras as drawn at random."""
    rows = np.array([row for row, line in enumerate(lines) if line.cameras is not None], dtype=np.int64)
    if len(rows):
        raw = stack([line.cameras for line in lines if line.cameras is not None])
        raw = replace(raw, seed=components.seed[rows], seed_df=components.seed_df[rows])
        chosen = levels.select(rows)
        alpha = chosen.of(0.05)
        half = np.maximum(two_way_half(raw, alpha), two_way_half(select(components, rows), alpha))
        p_values = chosen.repeated(two_way(raw).p_value)
        for place, row in enumerate(rows):
            fields, middle = lines[row].fields, float(raw.estimate[place])
            fields["p_cameras"] = max(float(p_values[place]), fields["p_value"])
            fields |= {"low_cameras": max(middle - half[place], -1.0), "high_cameras": min(middle + half[place], 1.0)}
    some = [line for line in lines if line.better is not None]
    if some:
        signs = [line.better for line in some if line.better is not None]
        better = _moderated(some, signs, pool)[0] if pool else stack(signs)
        ends = _ends(two_way(better), "p_better_", least=-0.5, most=0.5)
        for row, line in enumerate(some):
            if better.seed[row] + better.identity[row] > 0:
                line.fields |= {name: 0.5 + float(values[row]) for name, values in ends.items()}


def _adjust(lines: Sequence[Line], family: Sequence[str]) -> None:
    """Adds the family, its size and the adjusted p-value; a missing run leaves a contrast untested but counted."""
    families: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in lines:
        fields = line.fields
        first = fields["primary"] and not fields["exploratory"] and not fields.get("later")
        fields["family"] = LATER if fields.get("later") else PRIMARY if first else fields["group"]
        if fields["num_planned"]:
            families[(first, fields["family"], *(fields[key] for key in family))].append(line)
    for members in families.values():
        p_values = np.array(
            [np.nan if line.fields["num_missing"] else line.fields.get("p_value", np.nan) for line in members]
        )
        sizes = {"family_size": len(members), "family_tested": int(np.sum(~np.isnan(p_values)))}
        for line, p_adjusted in zip(members, holm(p_values), strict=True):
            line.fields |= {**sizes, "p_adjusted": float(p_adjusted)}


def _add_adjusted(lines: Sequence[Line], components: Components, levels: Levels) -> None:
    """Adds the interval at the level that Holm leaves to each contrast, and the detectable difference."""
    alpha = np.array([0.05 / (line.fields.get("family_size") or 1) for line in lines])
    low, high = detectable_range(components, alpha=levels.of_last(alpha))
    middle = detectable_difference(components, alpha=levels.of_last(alpha))
    adjusted = np.array([line.fields.get("p_adjusted", np.nan) for line in lines])
    p_values = np.array([line.fields["p_value"] for line in lines])
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(adjusted > 0, 0.05 * p_values / adjusted, alpha)
    half = two_way_half(components, levels.of(np.where(np.isnan(adjusted), 0.05, np.clip(level, 1e-12, 0.05))))
    for row, line in enumerate(lines):
        line.fields |= {
            "detectable": float(middle[row]),
            "detectable_low": float(low[row]),
            "detectable_high": float(high[row]),
        }
        if not np.isnan(adjusted[row]):
            line.fields["low_adjusted"] = max(float(components.estimate[row] - half[row]), -1.0)
            line.fields["high_adjusted"] = min(float(components.estimate[row] + half[row]), 1.0)


_OTHER_WAY = {"improves": "worsens", "worsens": "improves"}  # of a metric whose lower values are better


def _add_verdict(line: Line) -> None:
    """Adds the verdict; a refused comparison gets none."""
    fields = line.fields
    if fields.get("refused"):
        return
    delta = fields["delta"]
    fields["verdict"], fields["below_delta"] = verdict(
        estimate=fields.get("estimate", np.nan),
        low=fields.get("low", np.nan),
        high=fields.get("high", np.nan),
        p_adjusted=fields.get("p_adjusted", np.nan),
        delta=delta,
        cell_diverged=fields["num_diverged"] > 0,
        reference_diverged=fields["num_diverged_reference"] > 0,
        missing=fields["num_missing"] > 0,
    )
    if not fields.get("higher_is_better", True):
        fields["verdict"] = _OTHER_WAY.get(fields["verdict"], fields["verdict"])
    if fields["verdict"] == "provisional":
        runs = "1 planned run is" if fields["num_missing"] == 1 else f"{fields['num_missing']} planned runs are"
        line.notes.append(f"{runs} missing, so there is no verdict yet.")
    if fields["below_delta"]:
        line.notes.append(f"The difference is real but below delta ({100 * delta:.2g} points).")
    if fields.get("look") and fields["verdict"] != "provisional":
        line.notes.append(
            f"Judged after look {fields['look']} of {fields['num_looks']}, at {fields['look_seeds']} seeds, at a level "
            "that allows for all looks."
        )
    if fields.get("later"):
        line.notes.append(f"The study was frozen before its runs and {fields['later']}, so it is exploratory.")
    elif fields["exploratory"]:
        line.notes.append(
            "Declared primary after a run had been scored, so it is exploratory and stays in the family of its group."
        )


def _by_recipe(line: Line, recipes: Recipes) -> str:
    """Returns the sign of a difference in each recipe, and the difference against the drawn values."""
    pairs = [(recipes[str(seed)], gain) for seed, gain in zip(line.fields["seeds"], line.gains, strict=True)]
    above = sum(gain > 0 for _, gain in pairs)
    listed = [
        f"{option} ("
        + ", ".join(f"{drawn[option]}: {100 * gain:+.2f}" for drawn, gain in _in_order(pairs, option))
        + ")"
        for option in pairs[0][0]
    ]
    return f"Mean over {len(pairs)} recipes, above zero in {above}. Points by {' and by '.join(listed)}."


def _in_order(pairs: Sequence[tuple[Mapping[str, Any], float]], option: str) -> list[tuple[Mapping[str, Any], float]]:
    """Returns recipes and differences in the order of an option's value; words by letter, behind numbers."""
    return sorted(pairs, key=lambda pair: (isinstance(pair[0][option], str), pair[0][option]))


def _add_needs(lines: Sequence[Line], components: Components, levels: Levels) -> None:
    """Adds what would decide the undecided lines."""
    undecided = [row for row, line in enumerate(lines) if line.fields.get("verdict") == "undecided"]
    diverged = {r for r in undecided if lines[r].fields["num_diverged"] or lines[r].fields["num_diverged_reference"]}
    for row in diverged:
        lines[row].notes.append(
            "Only finished seeds entered; a cell with a diverged seed is never called better or equivalent."
        )
    rows = np.array([row for row in undecided if row not in diverged], dtype=np.int64)
    if not len(rows):
        return
    open_lines = [lines[row] for row in rows]
    num_seeds = np.array([line.fields["num_seeds"] for line in open_lines], dtype=np.float64)
    alpha = np.array([0.05 / line.fields["family_size"] for line in open_lines])
    alpha = levels.of_last(alpha)
    needed = seeds_needed(select(components, rows), num_seeds, delta=_deltas(open_lines), alpha=alpha)
    for line, seeds in zip(open_lines, needed, strict=True):
        line.fields["decidable"] = not np.isinf(seeds)
        if np.isinf(seeds):
            line.notes.append("No number of seeds suffices on this test set.")
        elif np.isnan(seeds):
            line.notes.append(f"More than {MAX_SEEDS} seeds would be needed.")
        else:
            line.fields["seeds_needed"] = int(seeds)
            line.notes.append(f"About {int(seeds)} seeds would decide it if the estimate is right.")
        if line.fields.get("equivalence_reachable") is False:
            line.notes.append(
                f"Equivalence within {100 * line.fields['delta']:.2g} points is out of reach on this test set with any "
                "number of seeds: its identities alone make the interval wider."
            )


def _ends(interval: Interval, prefix: str, *, least: float, most: float) -> dict[str, Array]:
    """Returns both ends of intervals by column, kept within what a difference can be."""
    return {f"{prefix}low": np.maximum(interval.low, least), f"{prefix}high": np.minimum(interval.high, most)}


def _deltas(lines: Iterable[Line]) -> Array:
    """Returns the largest difference that does not matter of every line, NaN where none is declared."""
    return np.array([np.nan if (delta := line.fields["delta"]) is None else delta for line in lines], dtype=np.float64)


def _plain(value: Any) -> Any:
    """Returns a value with NaN as null."""
    return None if isinstance(value, float) and np.isnan(value) else value
