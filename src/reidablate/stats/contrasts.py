"""The table `contrasts`: every declared comparison of two cells with its interval, test, verdict and a plain note.

Shapes: M metrics, S seeds, Q queries, G identities.

A contrast pairs a cell with one of its references twice, by seed and by query; cells that declare different seed
offsets, and those of another code base, keep only the pairing by query. Every number is a fraction. A number that
cannot be given is null, and `note` says why in a sentence.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidablate.errors import UserError
from reidablate.metrics.registry import SHIPPED, Metric
from reidablate.runs import SIDES
from reidablate.stats.conclude import Line, Recipes, finish
from reidablate.stats.contrast_columns import COLUMNS
from reidablate.stats.guard import Guard
from reidablate.stats.looked import LOOK_COLUMNS, Looked
from reidablate.stats.paired import (
    Array,
    Components,
    effective_identities,
    identity_sums,
    paired_components,
    pick,
    probability_better,
    sign_flip_p,
    unpaired_components,
)
from reidablate.stats.scores import Layout, Queries, RunStatus, ScoreBook, count, finished_seeds, numbers

MIN_SEEDS = 3
MIN_CAMERAS = 3
MAX_SIGN_FLIP_SEEDS = 16

DEFAULT_DELTA_POINTS: dict[str, dict[str, float]] = {
    "market1501": {"mAP": 0.2, "mAP_trapezoid": 0.2},
    "occluded_duke": {"mAP": 0.5, "mAP_trapezoid": 0.5},
}
"""Largest difference that does not matter, in points, of data sets whose entry in `dataset_table` declares none."""


@dataclass(frozen=True)
class Matched:
    """The scores of two cells, ready to be subtracted: `cell` and `reference` are (M, S, Q) over the same queries."""

    cell: Array
    reference: Array
    layout: Layout
    paired: bool


def contrast_table(
    queries: Queries,
    runs: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    *,
    deltas: Mapping[str, Mapping[str, float]],
    headline_side: str,
    borrowed: Collection[str] = (),
    least_seeds: int = 0,
    metrics: Sequence[Metric] = SHIPPED,
    later: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None,
    looked: Looked | None = None,
    recipes: Recipes | None = None,
) -> pd.DataFrame:
    """Returns a row for every data set, declared contrast, feature side and metric, with the columns of `COLUMNS`.

    Args:
        queries: The table `queries`.
        runs: The table `runs`: which runs are planned and what became of them.
        cells: Entries of `cells.json`; `name`, `group`, `references`, `seed_offset`, `primary` and `exploratory` (the
            references over which it was declared primary after a run had been scored) are read, and what the guard
            compares: `config`, `config_hash`, `declared` and `differences`.
        deltas: {dataset: {metric: largest difference that does not matter}}, fractions.
        headline_side: The declared feature side.
        borrowed: Procedural data sets, whose delta is that of the real one.
        least_seeds: Seeds of the preset. A contrast that has any run is provisional with fewer planned ones.
        metrics: The metrics that are compared.
        later: {dataset: {cell: {reference: why}}} of the comparisons that a frozen study did not declare.
        looked: The look of every comparison, in a study that adds seeds until it is decided.
        recipes: What each seed drew of the recipe, in a study that has it drawn.

    Raises:
        UserError: The headline side is not a feature side.
    """
    if headline_side not in SIDES:
        raise UserError(f"headline side '{headline_side}' is no feature side; use one of {', '.join(SIDES)}.")
    book, guard = ScoreBook(queries, runs, metrics), Guard(runs, cells)
    lines: list[Line] = []
    for dataset in book.datasets:
        for fields in declared_contrasts(cells):
            for side in SIDES:
                start = {"dataset": dataset, "side": side, "headline": side == headline_side, **fields}
                start |= looked.fields(dataset, fields) if looked else {}
                start["delta_borrowed"] = dataset in borrowed
                if why := (later or {}).get(dataset, {}).get(fields["cell"], {}).get(fields["reference"]):
                    start |= {"exploratory": True, "later": why}
                found, base = match(book, guard, start, least_seeds=least_seeds)
                lines += measure(found, base, metrics, deltas.get(dataset, {}))
    keys = ("dataset", "metric", "side")
    columns, looks = (COLUMNS | LOOK_COLUMNS, looked.looks) if looked else (COLUMNS, None)
    return finish(lines, family=keys, pool=keys, columns=columns, looks=looks, recipes=recipes)


def declared_contrasts(cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields group, cell, reference, `paired`, `primary` and `exploratory` of every declared contrast, each once."""
    offsets = {cell["name"]: cell.get("seed_offset") or 0 for cell in cells}
    apart = {cell["name"] for cell in cells if (cell.get("external") or {}).get("seeds") == "unpaired"}
    for cell in cells:
        for reference in dict.fromkeys(cell.get("references") or ()):
            same = offsets[cell["name"]] == offsets.get(reference, 0)
            paired = same and not apart & {cell["name"], reference}
            yield {
                "group": cell.get("group") or "",
                "cell": cell["name"],
                "reference": reference,
                "paired": paired,
                "primary": bool(cell.get("primary")),
                "exploratory": bool(cell.get("primary")) and reference in (cell.get("exploratory") or ()),
            }


def match(book: ScoreBook, guard: Guard, fields: dict[str, Any], *, least_seeds: int) -> tuple[Matched | None, Line]:
    """Returns the scores of a contrast, None when there is nothing to compare, and the line that counts its seeds."""
    cell_runs, reference_runs = (book.runs(fields["dataset"], fields["side"], fields[k]) for k in ("cell", "reference"))
    cell_runs, reference_runs = (
        dict(islice(of.items(), fields.get("look_seeds"))) for of in (cell_runs, reference_runs)
    )
    cell_seeds, reference_seeds = finished_seeds(cell_runs), finished_seeds(reference_runs)
    if fields["paired"]:
        cell_seeds = reference_seeds = [seed for seed in cell_seeds if seed in reference_seeds]
    unplanned = _unplanned(fields, cell_runs, reference_runs, least_seeds)
    line = Line(
        fields
        | {
            "num_seeds": min(len(cell_seeds), len(reference_seeds)),
            "seeds": cell_seeds,
            "num_planned": len(cell_runs),
            "num_missing": count(cell_runs, "missing") + count(reference_runs, "missing") + sum(unplanned.values()),
            "num_diverged": count(cell_runs, "diverged"),
            "num_diverged_reference": count(reference_runs, "diverged"),
            "warnings": "",
        },
        [*_absences(fields["cell"], cell_runs), *_absences(fields["reference"], reference_runs)],
    )
    line.notes += [
        f"{number} of the preset's {least_seeds} seeds of {name} are not planned." for name, number in unplanned.items()
    ]
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
    metrics: Sequence[Metric],
    deltas: Mapping[str, float],
    keep: NDArray[np.bool_] | None = None,
) -> list[Line]:
    """Returns a line a metric with everything that needs no other contrast: estimate, interval, test, P(better).

    Args:
        found: The scores, None when there are none.
        base: Fields and notes that all metrics share.
        metrics: The metrics of the scores, in their order.
        deltas: Largest difference that does not matter, by metric.
        keep: The queries of a slice, (Q,); all by default.
    """
    shared = [
        Line(
            {**base.fields, "metric": m.name, "delta": deltas.get(m.name), "higher_is_better": m.higher_is_better},
            [*base.notes],
        )
        for m in metrics
    ]
    if found is None:
        return shared
    keep = np.ones(len(found.layout.pids), dtype=bool) if keep is None else keep
    cell, reference = found.cell[..., keep], found.reference[..., keep]
    pids = found.layout.pids[keep]
    parts, apart, counts = _components(cell, reference, pids, paired=found.paired)
    better = _better(cell, reference, pids) if found.paired else None
    cameras = _cameras(found, cell, reference, keep)
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
        _add_components(line, pick(parts, index), obstacle, same=_same(own, other))
        if line.components is not None:
            line.better = None if better is None else pick(better, index)
            line.cameras = None if cameras is None else pick(cameras, index)
            if found.paired:
                line.fields["standard_error_unpaired"] = np.sqrt(apart.seed[index] + apart.sampling[index])
        if found.paired:
            line.gains = (own.mean(axis=-1) - other.mean(axis=-1)).tolist()
        if found.paired and own.shape[0] <= MAX_SIGN_FLIP_SEEDS:
            line.fields["sign_flip_p"] = sign_flip_p(np.array(line.gains))
    return shared


def _components(
    cell: Array, reference: Array, clusters: NDArray[np.int64], *, paired: bool
) -> tuple[Components, Components, Array]:
    """Returns the components as paired or not, those without pairing, and the queries of each cluster."""
    cell_sums, counts = identity_sums(cell, clusters)
    reference_sums, _ = identity_sums(reference, clusters)
    apart = unpaired_components(cell_sums, reference_sums, counts)
    return (paired_components(cell_sums - reference_sums, counts) if paired else apart), apart, counts


def _better(cell: Array, reference: Array, pids: NDArray[np.int64]) -> Components:
    """Returns the components of P(better) - 1/2, the mean over seeds and queries of half the sign of D."""
    return paired_components(*identity_sums(0.5 * np.sign(cell - reference), pids))


def _cameras(found: Matched, cell: Array, reference: Array, keep: NDArray[np.bool_]) -> Components | None:
    """Returns the components with query cameras as clusters, None where they are too few."""
    camids = found.layout.columns["camid"].to_numpy(np.int64)[keep] if "camid" in found.layout.columns else keep[:0]
    counts = np.unique(camids, return_counts=True)[1].astype(np.float64)
    if len(counts) < MIN_CAMERAS or effective_identities(counts) < 2:
        return None
    return _components(cell, reference, camids.astype(np.int64), paired=found.paired)[0]


def _add_components(line: Line, parts: Components, obstacle: str | None, *, same: bool) -> None:
    """Adds what a test needs to a line, or the sentence that says why there is none."""
    if obstacle is not None:
        line.notes.append(obstacle)
    elif same:
        line.fields |= {"standard_error": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
        line.fields |= {"low_adjusted": 0.0, "high_adjusted": 0.0}
        line.notes.append("Every query scores the same in both cells.")
    elif np.sqrt(max(float(parts.seed + parts.sampling), float(parts.identity))) < 1e-12:
        line.notes.append("The mean difference does not vary between seeds and identities, so it has no interval.")
    else:
        line.components = parts
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


def _unplanned(
    fields: Mapping[str, Any], cell: Mapping[int, RunStatus], reference: Mapping[int, RunStatus], least_seeds: int
) -> dict[str, int]:
    """Returns how many seeds each of two cells lacks of those of the preset; none before either of them has a run."""
    if not cell or all(run.status == "missing" for run in (*cell.values(), *reference.values())):
        return {}
    planned = {fields["cell"]: len(cell), fields["reference"]: len(reference)}
    return {name: least_seeds - number for name, number in planned.items() if number < least_seeds}


def _same(cell: Array, reference: Array) -> bool:
    """Returns whether every score of one cell equals every score of the other that it meets."""
    return cell.shape == reference.shape and bool(np.array_equal(cell, reference))


def _probability(cell: Array, reference: Array, *, paired: bool) -> float:
    """Returns P(better) over queries and seeds, or over queries and all pairs of seeds when those are unpaired."""
    if paired:
        return float(probability_better(cell, reference))
    return float(np.mean([probability_better(cell, np.broadcast_to(row, cell.shape)) for row in reference]))
