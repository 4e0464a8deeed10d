"""The table `contrasts`: every declared comparison of two cells with its interval, test, verdict and a plain note.

Shapes: M metrics, S seeds, Q queries, G identities.

A contrast pairs a cell with one of its references twice, by seed and by query; cells that declare different seed
offsets keep only the pairing by query. Every number is a fraction. A number that cannot be given is null, and `note`
says why in a sentence.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidablate.errors import UserError
from reidablate.runs import SIDES
from reidablate.stats.guard import Guard
from reidablate.stats.intervals import Interval, two_way
from reidablate.stats.multiplicity import holm, verdict
from reidablate.stats.paired import (
    Array,
    Components,
    effective_identities,
    identity_sums,
    paired_components,
    probability_better,
    sign_flip_p,
    unpaired_components,
)
from reidablate.stats.power import MAX_SEEDS, detectable, seeds_needed
from reidablate.stats.scores import METRICS, Layout, RunStatus, ScoreBook, numbers

MIN_SEEDS = 3
MAX_SIGN_FLIP_SEEDS = 16

COLUMNS: dict[str, tuple[str, str]] = {
    "dataset": ("string", "Data set."),
    "group": ("string", "Group of the cell; a family is one data set, group, metric and feature side."),
    "cell": ("string", "Cell under test."),
    "reference": ("string", "Cell it is compared with."),
    "side": ("string", "Feature side, before_neck or after_neck."),
    "headline": ("boolean", "Whether this is the declared feature side; the other one is shown for comparison."),
    "metric": ("string", "Metric."),
    "num_seeds": ("Int64", "Seeds that entered: finished in both cells; unpaired, the smaller number of the two."),
    "num_planned": ("Int64", "Planned seeds of the cell."),
    "num_diverged": ("Int64", "Seeds of the cell that diverged."),
    "num_diverged_reference": ("Int64", "Seeds of the reference that diverged."),
    "paired": ("boolean", "Whether seeds are paired."),
    "num_queries": ("Int64", "Valid queries."),
    "num_identities": ("Int64", "Identities among them."),
    "cell_mean": ("Float64", "Mean of the cell over the seeds and queries that entered."),
    "reference_mean": ("Float64", "The same of the reference."),
    "estimate": ("Float64", "cell_mean - reference_mean."),
    "seed_sd": ("Float64", "Standard deviation of the difference between seeds."),
    "standard_error": ("Float64", "Standard error of the estimate from seeds and identities."),
    "standard_error_unpaired": ("Float64", "The same had the seeds not been paired; null where they are not."),
    "seed_share": ("Float64", "Share of the seeds in V_seed + C, the variance by source; the rest is the test set's."),
    "df": ("Float64", "Satterthwaite degrees of freedom of the standard error."),
    "low": ("Float64", "Lower end of the 95 % interval, not adjusted for the family."),
    "high": ("Float64", "Upper end."),
    "p_value": ("Float64", "Two-sided p-value of no difference."),
    "family_size": ("Int64", "Declared contrasts in the family."),
    "p_adjusted": ("Float64", "p-value after Holm over the family."),
    "sign_flip_p": ("Float64", "Exact sign-flip test over the paired seeds, at least 2 / 2^S; up to 16 seeds."),
    "p_better": ("Float64", "Probability that the cell scores a query better, ties one half."),
    "delta": ("Float64", "Largest difference that does not matter; null when none is declared."),
    "verdict": ("string", "improves, worsens, equivalent or undecided; null when the comparison is refused."),
    "below_delta": ("boolean", "Improves or worsens, but the whole interval lies inside plus or minus delta."),
    "detectable": ("Float64", "Smallest true difference found with 80 % power at level 0.05 / family_size."),
    "seeds_needed": ("Int64", "Seeds that would decide an undecided contrast if its estimate and errors were exact."),
    "decidable": ("boolean", "Undecided: whether any number of seeds would decide it on this test set."),
    "note": ("string", "What the reader must know, in plain sentences; empty when there is nothing."),
    "warnings": ("string", "Differences between the compared runs that no cell declares, in sentences; empty if none."),
}
"""Type and meaning of every column of the table."""


@dataclass(frozen=True)
class Matched:
    """The scores of two cells, ready to be subtracted: `cell` and `reference` are (M, S, Q) over the same queries."""

    cell: Array
    reference: Array
    layout: Layout
    paired: bool


@dataclass
class Line:
    """One row in the making: its fields, its notes, and the scalar components the second pass needs."""

    fields: dict[str, Any]
    notes: list[str]
    components: Components | None = None


def contrast_table(
    queries: pd.DataFrame,
    runs: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    *,
    deltas: Mapping[str, Mapping[str, float]],
    headline_side: str,
) -> pd.DataFrame:
    """Returns a row for every data set, declared contrast, feature side and metric, with the columns of `COLUMNS`.

    Args:
        queries: The table `queries`.
        runs: The table `runs`: which runs are planned and what became of them.
        cells: Entries of `cells.json`; `name`, `group`, `references` and `seed_offset` are read, and what the guard
            compares: `config`, `config_hash`, `declared` and `differences`.
        deltas: {dataset: {metric: largest difference that does not matter}}, fractions.
        headline_side: The declared feature side.

    Raises:
        UserError: The headline side is not a feature side.
    """
    if headline_side not in SIDES:
        raise UserError(f"headline side '{headline_side}' is no feature side; use one of {', '.join(SIDES)}.")
    book, guard = ScoreBook(queries, runs), Guard(runs, cells)
    lines: list[Line] = []
    for dataset in book.datasets:
        for fields in declared_contrasts(cells):
            for side in SIDES:
                start = {"dataset": dataset, "side": side, "headline": side == headline_side, **fields}
                found, base = match(book, guard, start)
                lines += measure(found, base, METRICS, deltas.get(dataset, {}))
    return finish(lines, family=("dataset", "group", "metric", "side"), columns=COLUMNS)


def declared_contrasts(cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields group, cell, reference and `paired` of every declared contrast, each once."""
    offsets = {cell["name"]: cell.get("seed_offset") or 0 for cell in cells}
    for cell in cells:
        for reference in dict.fromkeys(cell.get("references") or ()):
            paired = offsets[cell["name"]] == offsets.get(reference, 0)
            yield {
                "group": cell.get("group") or "",
                "cell": cell["name"],
                "reference": reference,
                "paired": paired,
            }


def match(book: ScoreBook, guard: Guard, fields: dict[str, Any]) -> tuple[Matched | None, Line]:
    """Returns the scores of a contrast, None when there is nothing to compare, and the line that counts its seeds."""
    cell_runs, reference_runs = (book.runs(fields["dataset"], fields["side"], fields[k]) for k in ("cell", "reference"))
    cell_seeds, reference_seeds = _finished(cell_runs), _finished(reference_runs)
    if fields["paired"]:
        cell_seeds = reference_seeds = [seed for seed in cell_seeds if seed in reference_seeds]
    line = Line(
        fields
        | {
            "num_seeds": min(len(cell_seeds), len(reference_seeds)),
            "num_planned": len(cell_runs),
            "num_diverged": _diverged(cell_runs),
            "num_diverged_reference": _diverged(reference_runs),
            "warnings": "",
        },
        [*_absences(fields["cell"], cell_runs), *_absences(fields["reference"], reference_runs)],
    )
    if not cell_seeds or not reference_seeds:
        pair = f"{fields['cell']} and {fields['reference']}"
        line.notes.append(f"No seed finished in both {pair}, so there is nothing to compare.")
        return None, line
    pairs = [(own, other) for own in cell_seeds for other in reference_seeds if own == other or not fields["paired"]]
    findings = guard.check(fields["dataset"], fields["cell"], fields["reference"], pairs)
    line.fields |= {"warnings": " ".join(findings.warnings), "refused": bool(findings.refusals)}
    if findings.refusals:
        line.notes += findings.refusals
        return None, line
    entries = [cell_runs[s].scores for s in cell_seeds], [reference_runs[s].scores for s in reference_seeds]
    cell, reference = ([entry for entry in side if entry is not None] for side in entries)
    layout = cell[0].layout
    if any(run.layout is not layout for run in cell + reference):
        line.notes.append(
            "The runs were not scored on the same queries, so they are not compared; evaluate them again."
        )
        return None, line
    stacked = [np.stack([run.values for run in side], axis=1) for side in (cell, reference)]
    return Matched(stacked[0], stacked[1], layout, fields["paired"]), line


def measure(
    found: Matched | None,
    base: Line,
    metrics: Sequence[str],
    deltas: Mapping[str, float],
    keep: NDArray[np.bool_] | None = None,
) -> list[Line]:
    """Returns a line a metric with everything that needs no other contrast: estimate, interval, test, P(better).

    Args:
        found: The scores, None when there are none.
        base: Fields and notes that all metrics share.
        metrics: Metrics wanted.
        deltas: Largest difference that does not matter, by metric.
        keep: The queries of a slice, (Q,); all by default.
    """
    shared = [Line({**base.fields, "metric": m, "delta": deltas.get(m)}, [*base.notes]) for m in metrics]
    if found is None:
        return shared
    wanted = [METRICS.index(metric) for metric in metrics]
    keep = np.ones(len(found.layout.pids), dtype=bool) if keep is None else keep
    cell, reference = found.cell[wanted][..., keep], found.reference[wanted][..., keep]
    pids = found.layout.pids[keep]
    cell_sums, counts = identity_sums(cell, pids)
    reference_sums, _ = identity_sums(reference, pids)
    apart = unpaired_components(cell_sums, reference_sums, counts)
    parts = paired_components(cell_sums - reference_sums, counts) if found.paired else apart
    interval = two_way(parts)
    apart_error = two_way(apart).standard_error
    obstacle = _obstacle(base.fields["num_seeds"], counts)
    for index, line in enumerate(shared):
        own, other = cell[index], reference[index]
        line.fields |= {
            "num_queries": len(pids),
            "num_identities": len(counts),
            "cell_mean": own.mean(),
            "reference_mean": other.mean(),
            "estimate": parts.estimate[index],
            "seed_sd": np.sqrt(parts.seed[index] * base.fields["num_seeds"]),
            "p_better": _probability(own, other, paired=found.paired),
        }
        _add_interval(line, _pick(parts, index), _pick_interval(interval, index), obstacle, same=_same(own, other))
        if found.paired and line.fields.get("standard_error") is not None:
            line.fields["standard_error_unpaired"] = apart_error[index]
        if found.paired and own.shape[0] <= MAX_SIGN_FLIP_SEEDS:
            line.fields["sign_flip_p"] = sign_flip_p(own.mean(axis=-1) - other.mean(axis=-1))
    return shared


def finish(lines: Sequence[Line], *, family: Sequence[str], columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Returns the table of all lines, after Holm over each family, with verdict, power and notes."""
    families: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in lines:
        families[tuple(line.fields[key] for key in family)].append(line)
    for members in families.values():
        p_values = np.array([line.fields.get("p_value", np.nan) for line in members], dtype=np.float64)
        for line, p_adjusted in zip(members, holm(p_values), strict=True):
            line.fields |= {"family_size": len(members), "p_adjusted": p_adjusted}
            _conclude(line)
    rows = [{**line.fields, "note": " ".join(line.notes)} for line in lines]
    table = {name: [_plain(row.get(name)) for row in rows] for name in columns}
    return pd.DataFrame({name: pd.array(table[name], dtype=columns[name][0]) for name in columns})  # type: ignore[call-overload]


def _conclude(line: Line) -> None:
    """Adds verdict and power to a line whose adjusted p-value is known; a refused comparison gets neither."""
    fields = line.fields
    if fields.get("refused"):
        return
    delta = fields["delta"]
    fields["verdict"], fields["below_delta"] = verdict(
        estimate=fields.get("estimate", np.nan),
        low=fields.get("low", np.nan),
        high=fields.get("high", np.nan),
        p_adjusted=fields["p_adjusted"],
        delta=delta,
        cell_diverged=fields["num_diverged"] > 0,
        reference_diverged=fields["num_diverged_reference"] > 0,
    )
    if fields["below_delta"]:
        line.notes.append(f"The difference is real but below delta ({100 * delta:.2g} points).")
    if line.components is None:
        return
    alpha = 0.05 / fields["family_size"]
    fields["detectable"] = float(detectable(fields["standard_error"], fields["df"], alpha=alpha))
    if fields["verdict"] != "undecided":
        return
    if fields["num_diverged"] or fields["num_diverged_reference"]:
        line.notes.append(
            "Only finished seeds entered; a cell with a diverged seed is never called better or equivalent."
        )
        return
    needed = seeds_needed(line.components, fields["num_seeds"], delta=delta, alpha=alpha)
    fields["decidable"] = not np.isinf(needed)
    if np.isinf(needed):
        line.notes.append("No number of seeds suffices on this test set.")
    elif np.isnan(needed):
        line.notes.append(f"More than {MAX_SEEDS} seeds would be needed.")
    else:
        fields["seeds_needed"] = int(needed)
        line.notes.append(f"About {int(needed)} seeds would decide it if the estimate is right.")


def _add_interval(line: Line, parts: Components, interval: Interval, obstacle: str | None, *, same: bool) -> None:
    """Adds error, interval and test to a line, or the sentence that says why there are none."""
    if obstacle is not None:
        line.notes.append(obstacle)
        return
    if same:
        line.fields |= {"standard_error": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
        line.notes.append("Every query scores the same in both cells.")
        return
    error = float(interval.standard_error)
    if error < 1e-12:
        line.notes.append("The mean difference does not vary between seeds and identities, so it has no interval.")
        return
    line.components = parts
    variance = float(parts.seed + parts.sampling)
    line.fields |= {
        "standard_error": error,
        "seed_share": float(parts.seed) / variance if variance > 0 else None,
        "df": float(interval.df),
        "low": max(float(interval.low), -1.0),
        "high": min(float(interval.high), 1.0),
        "p_value": float(interval.p_value),
    }
    if parts.identity_df + 1 < 20:
        line.notes.append(
            f"The queries weigh like {parts.identity_df + 1:.1f} identities; the interval is approximate."
        )


def _obstacle(num_seeds: int, counts: Array) -> str | None:
    """Returns why these seeds and identities allow no interval, None when they do."""
    if num_seeds < MIN_SEEDS:
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
        return f"{seeds} compared: an interval needs at least {MIN_SEEDS}."
    if len(counts) < 2:
        return "All queries show one identity, so the error of the test set is unknown and there is no interval."
    if effective_identities(counts) < 2:
        return (
            f"One identity holds {int(counts.max())} of {int(counts.sum())} queries, so the test set is hardly more "
            "than one identity and there is no interval."
        )
    return None


def _absences(name: str, runs: Mapping[int, RunStatus]) -> Iterator[str]:
    """Yields a sentence for the diverged and one for the missing seeds of a cell."""
    if not runs:
        yield f"{name} has no runs on this data set."
    diverged = [run.problem for run in runs.values() if run.status == "diverged" and run.problem]
    if diverged:
        yield f"{len(diverged)} of {len(runs)} seeds of {name} diverged ({', '.join(diverged)})."
    problems: dict[str, list[int]] = defaultdict(list)
    for seed, run in runs.items():
        if run.status == "missing" and run.problem:
            problems[run.problem.removeprefix(f"seed {seed} ")].append(seed)
    for problem, seeds in problems.items():
        plural = problem if len(seeds) == 1 else problem.replace("has ", "have ", 1)
        yield f"{name}: {numbers(seeds)} {plural}."


def _finished(runs: Mapping[int, RunStatus]) -> list[int]:
    return [seed for seed, run in runs.items() if run.scores is not None]


def _diverged(runs: Mapping[int, RunStatus]) -> int:
    return sum(run.status == "diverged" for run in runs.values())


def _same(cell: Array, reference: Array) -> bool:
    """Returns whether every score of one cell equals every score of the other that it meets."""
    return cell.shape == reference.shape and bool(np.array_equal(cell, reference))


def _probability(cell: Array, reference: Array, *, paired: bool) -> float:
    """Returns P(better) over queries and seeds, or over queries and all pairs of seeds when those are unpaired."""
    if paired:
        return float(probability_better(cell, reference))
    return float(np.mean([probability_better(cell, np.broadcast_to(row, cell.shape)) for row in reference]))


def _pick(parts: Components, index: int) -> Components:
    """Returns the components of one metric."""
    return Components(
        estimate=parts.estimate[index],
        seed=parts.seed[index],
        seed_df=parts.seed_df[index],
        identity=parts.identity[index],
        identity_df=parts.identity_df,
        interaction=parts.interaction[index],
    )


def _pick_interval(interval: Interval, index: int) -> Interval:
    """Returns the interval of one metric."""
    return Interval(*(values[index] for values in vars(interval).values()))


def _plain(value: Any) -> Any:
    """Returns a value with NaN as null."""
    return None if isinstance(value, float) and np.isnan(value) else value
