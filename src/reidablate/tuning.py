"""Which configuration a tuned cell becomes: chosen on held-out training identities, before the test set is read.

A cell with `tune` is a sweep whose points, its candidates, hold training identities out and are scored on them alone.
Chosen is the candidate with the highest mean mAP over the seeds, on the side of the neck that the cell declares; of
equal ones the earlier, and none of which a seed diverged. The cell then trains it on all identities, and is tested.

The choice is kept nowhere. It follows from the candidates' scores whenever a plan is read, so it cannot be out of date.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reidablate.artifacts import read_record
from reidablate.cells import Cell
from reidablate.config import RunConfig
from reidablate.errors import UserError
from reidablate.external import differences
from reidablate.planned import Configured, PlannedCell
from reidablate.runs import Metrics, Provenance
from reidablate.scope import union
from reidablate.study import Run, Selection, Study
from reidablate.trees import difference

COLUMNS = {
    **dict.fromkeys(("dataset", "cell", "candidate", "title"), "string"),
    **dict.fromkeys(("num_seeds", "num_diverged"), "int64"),
    "holdout_mAP": "float64",
    "chosen": "bool",
}
"""Of `tables/tuning.parquet`."""


@dataclass(frozen=True)
class Tried:
    """A candidate on a data set.

    Attributes:
        name: The candidate's.
        scores: mAP on held-out identities by seed, a fraction, of the runs that are scored.
        diverged: Seeds that diverged.
        missing: Seeds that are not scored yet.
    """

    name: str
    scores: dict[int, float]
    diverged: list[int]
    missing: list[int]

    @property
    def mean(self) -> float | None:
        """The mean over seeds, None while one is missing or where one diverged."""
        return None if self.missing or self.diverged else math.fsum(self.scores.values()) / len(self.scores)


def with_candidates(asked: Selection, planned: Selection, cells: Mapping[str, Cell]) -> tuple[Selection, Selection]:
    """Returns the asked and the planned runs with those that tuned cells need: every candidate, on every planned seed.

    What a cell becomes must not depend on how many seeds one call asks for.
    """
    needed = {
        dataset: {name: planned[dataset][cell] for cell in of if cell in cells for name in cells[cell].candidates}
        for dataset, of in asked.items()
    }
    return union(asked, needed), union(planned, needed)


def tuning_notices(cells: Iterable[PlannedCell], asked: Selection) -> list[str]:
    """Returns a line for each tuned cell that is asked for: what is tried, on what, and what is done with the best."""
    lines = []
    for cell in cells:
        seeds = max((len(of[cell.name]) for of in asked.values() if cell.name in of), default=0)
        if cell.candidates and seeds:
            lines.append(
                f"{cell.name} is tuned: on each data set, {len(cell.candidates)} configurations x {seeds} seeds are "
                f"scored on held-out training identities ({', '.join(cell.candidates)}); the best is trained on all "
                "identities and tested once."
            )
    return lines


def tuning_runs(study: Study, dataset: str, cell: str) -> list[Run]:
    """Returns the runs that decide what a cell becomes on a data set, none where it is not tuned."""
    seeds = study.planned[dataset][cell]
    return [Run(dataset=dataset, cell=name, seed=seed) for name in study.cell(cell).candidates for seed in seeds]


def tried(study: Study, dataset: str, cell: str) -> list[Tried]:
    """Returns the candidates of a tuned cell on a data set, in their order, as far as they are trained and scored."""
    found = {name: Tried(name, {}, [], []) for name in study.cell(cell).candidates}
    planned = {one.name: one.identity_on(dataset) for one in study.cells if one.name in found}
    for run in tuning_runs(study, dataset, cell):
        one = found[run.cell]
        score = _score(study.root / run.id, planned.get(run.cell, ""))
        if isinstance(score, float):
            one.scores[run.seed] = score
        else:
            (one.diverged if score == "diverged" else one.missing).append(run.seed)
    return list(found.values())


def _score(folder: Path, identity: str) -> float | str:
    """Returns the mAP of a planned run on what it was scored on, or why there is none."""
    try:
        made = read_record(folder / "provenance.json", Provenance)
        metrics = read_record(folder / "metrics.json", Metrics)
        if made.identity(folder / "provenance.json").configuration != identity:
            return "of another configuration"
    except UserError as error:
        return str(error)
    return metrics.status if metrics.status == "diverged" else getattr(metrics, metrics.headline)["mAP"]


def winner(candidates: list[Tried]) -> str | None:
    """Returns the name of the best candidate, None while a score is missing, or where every candidate diverged."""
    means = {one.name: one.mean for one in candidates if one.mean is not None}
    if any(one.missing for one in candidates) or not means:
        return None
    return max(means, key=lambda name: means[name])  # the first of equal ones


def why_not_chosen(study: Study, dataset: str, cell: str) -> str:
    """Returns why it is not known what a tuned cell is on a data set, as a sentence."""
    waiting = [f"{one.name} seed {seed}" for one in tried(study, dataset, cell) for seed in one.missing]
    if waiting:
        return f"{', '.join(waiting)} are not scored yet, so the best candidate is not known; run snakemake again."
    return "a seed of every candidate diverged, so none can be chosen; give the sweep other values."


def tuning_table(study: Study) -> pd.DataFrame:
    """Returns a row for each candidate of a tuned cell on a data set: what it scored on held-out identities."""
    rows = []
    for dataset, of in study.planned.items():
        for cell in (one for one in study.cells if one.candidates and one.name in of):
            candidates = tried(study, dataset, cell.name)
            best = winner(candidates)
            rows += [
                {
                    "dataset": dataset,
                    "cell": cell.name,
                    "candidate": one.name,
                    "title": study.cell(one.name).title,
                    "num_seeds": len(one.scores) + len(one.diverged),
                    "num_diverged": len(one.diverged),
                    "holdout_mAP": one.mean,
                    "chosen": one.name == best,
                }
                for one in candidates
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def entry_of(cell: PlannedCell) -> dict[str, Any]:
    """Returns a cell as one entry of `cells.json`, with what it became on each data set.

    In general, a tuned cell is what it became where that is the same everywhere; otherwise the values of an option are
    told apart by data set.
    """
    entry = cell.model_dump(mode="json", exclude={"tunes"})
    chosen = {dataset: configured.model_dump(mode="json") for dataset, configured in cell.chosen.items()}
    entry["by_dataset"] |= chosen
    if cell.candidates and chosen:
        entry |= {**next(iter(chosen.values())), "differences": {}}
        entry["reads_cameras"] = any(of.config.model.parts.read_cameras for of in cell.chosen.values())
        for name in cell.references:
            entry["differences"][name] = _told_apart({d: of["differences"][name] for d, of in chosen.items()})
    return entry


def _told_apart(by_dataset: dict[str, dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Returns differences {key: [before, after]}, what is after them by data set where that is not the same."""
    found = {}
    for key in dict.fromkeys(key for of in by_dataset.values() for key in of):
        before, first = next(of[key] for of in by_dataset.values() if key in of)
        after = {dataset: of[key][1] if key in of else before for dataset, of in by_dataset.items()}
        apart = ", ".join(f"{value} on {dataset}" for dataset, value in after.items())
        found[key] = [before, first if all(value == first for value in after.values()) else apart]
    return found


def with_choices(study: Study) -> Study:
    """Returns a study whose tuned cells have become their best candidates, where these are known.

    What other cells declare against a tuned cell is then said anew, too.
    """
    best = {
        (dataset, cell.name): name
        for cell in study.cells
        for dataset, of in study.planned.items()
        if cell.candidates and cell.name in of and (name := winner(tried(study, dataset, cell.name)))
    }
    if not any(cell.candidates for cell in study.cells):
        return study
    cells = [cell.model_copy(update={"chosen": _chosen(study, cell, best)}) for cell in study.cells]
    return study.model_copy(update={"cells": cells})


def _chosen(study: Study, cell: PlannedCell, best: dict[tuple[str, str], str]) -> dict[str, Configured]:
    names = {cell.name, *cell.references}
    return {d: _configured(study, cell, d, best) for d in study.planned if any((d, name) in best for name in names)}


def _configured(study: Study, cell: PlannedCell, dataset: str, best: dict[tuple[str, str], str]) -> Configured:
    """Returns what a cell is on a data set, and how it differs from its references, with all choices made."""

    def config_of(name: str) -> RunConfig:
        candidate = best.get((dataset, name))
        if candidate is None:
            return study.cell(name).config_on(dataset)
        found = study.cell(candidate).config_on(dataset)
        whole = found.train.model_copy(update={"holdout": 0.0})
        return found.model_copy(update={"train": whole, "scored_on": "test"})

    planned = cell.by_dataset.get(dataset, cell)
    config = config_of(cell.name)
    dump = config.dump()
    others = {name: study.cell(name).external for name in cell.references}
    return Configured(
        declared=difference(_undone(planned), dump) if cell.candidates else planned.declared,
        differences={
            name: differences(cell.external, other)
            if cell.external or other
            else difference(config_of(name).dump(), dump)
            for name, other in others.items()
        },
        config=config,
        config_hash=cell.external.identity if cell.external else config.hash,
    )


def _undone(planned: Configured) -> dict[str, Any]:
    """Returns the options of a cell's parent: its own without what it declares."""
    options = planned.config.dump()
    for dotted, (before, _) in planned.declared.items():
        *sections, key = dotted.split(".")
        node = options
        for section in sections:
            node = node[section]
        node[key] = before
    return options
