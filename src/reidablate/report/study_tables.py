"""The questions that the report asks of the tables of a study; nothing is measured here.

Shapes: R runs, S seeds, K ranks. Every number leaves as a `Number` that names the table, the rows and the column it
stands in and how they were reduced, so that a test (or a reader) can find it again.
Everything is in fractions, seconds and bytes; only the templates make points.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from reidablate.report.other_tables import OtherTables
from reidablate.report.records import Cell, Contrast, Number, Where, plain, printable, reduced, text
from reidablate.report.slices import Slices
from reidablate.smoke import MARK

HEADLINE = "before_neck"  # where study.json does not say


@dataclass(frozen=True)
class StudyTables:
    """The tables of `results/<preset>/tables` and the questions the templates ask of them."""

    tables_folder: Path
    about: dict[str, Any]
    cells: tuple[Cell, ...]
    runs: pd.DataFrame
    metrics: pd.DataFrame
    contrasts: pd.DataFrame | None
    history: pd.DataFrame | None
    cmc: pd.DataFrame | None  # dataset, cell, seed, rank (1..K), value
    claims: pd.DataFrame | None
    floors: pd.DataFrame | None
    calibration: pd.DataFrame | None
    joint: pd.DataFrame | None
    absent: dict[str, str]
    beside: OtherTables
    slices: Slices | None = None
    samples: dict[str, Path] = field(default_factory=dict)

    @property
    def smoke(self) -> str:
        """The mark of a smoke test, empty for a study."""
        return MARK if self.about.get("smoke") else ""

    @property
    def synthetic(self) -> bool:
        """Whether any of the data is synthetic; then no page goes without the word."""
        return bool(self.about.get("synthetic") or self.synthetic_names)

    @property
    def synthetic_names(self) -> set[str]:
        """The names of the synthetic data sets."""
        everything = bool(self.about.get("synthetic"))
        return {d["name"] for d in self.datasets if everything or d.get("synthetic") or d.get("generated")}

    @property
    def headline(self) -> str:
        """The declared feature side."""
        return str(self.about.get("headline", HEADLINE))

    @property
    def own_metrics(self) -> list[dict[str, Any]]:
        """The metrics of the study's own, as `metrics.registry.Metric` describes them."""
        return list(self.about.get("metrics") or ())

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """The data sets of `study.json`, in its order."""
        return list(self.about.get("datasets", []))

    @property
    def seeds(self) -> list[int]:
        """The planned seeds."""
        return [int(seed) for seed in self.about.get("seeds", [])]

    @cached_property
    def by_name(self) -> dict[str, Cell]:
        """Cells by name."""
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def groups(self) -> dict[str, list[Cell]]:
        """Cells by group, both in the order of `cells.json`."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.group, []).append(cell)
        return groups

    @cached_property
    def _scores(self) -> dict[tuple[str, str, str, str], dict[int, float]]:
        scores: dict[tuple[str, str, str, str], dict[int, float]] = {}
        frame = self.metrics[["dataset", "cell", "side", "metric", "seed", "value"]]
        for dataset, cell, side, metric, seed, value in frame.itertuples(index=False):
            if plain(value) is not None:
                scores.setdefault((dataset, cell, side, metric), {})[int(seed)] = float(value)
        return scores

    @cached_property
    def _runs_of(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for index, record in enumerate(self.runs.to_dict("records")):
            run = {str(key): None if not isinstance(v, str) and pd.isna(v) else v for key, v in record.items()}
            grouped.setdefault((str(run["dataset"]), str(run["cell"])), []).append(run | {"row": index})
        return grouped

    def runs_of(self, dataset: str, cell: str) -> list[dict[str, Any]]:
        """Returns the planned runs of a cell as dictionaries with their row number, missing values as None."""
        return self._runs_of.get((dataset, cell), [])

    def ran(self, dataset: str) -> list[Cell]:
        """Returns the cells with at least one planned run on a data set."""
        return [cell for cell in self.cells if self.runs_of(dataset, cell.name)]

    @cached_property
    def _num_runs(self) -> Counter[tuple[str, ...]]:
        """The number of runs by status, data set and cell; an empty name stands for any."""
        counts: Counter[tuple[str, ...]] = Counter()
        for names in self.runs[["status", "dataset", "cell"]].itertuples(index=False):
            counts.update(product(*((str(name), "") for name in names)))
        return counts

    def num_runs(self, status: str = "", dataset: str = "", cell: str = "") -> Number:
        """Returns how many runs have a status; an empty argument stands for any."""
        wanted = {"status": status, "dataset": dataset, "cell": cell}
        row = Where.having(**{column: value for column, value in wanted.items() if value})
        return Number(float(self._num_runs[status, dataset, cell]), "runs", row, "seed", "count")

    def seed_scores(self, dataset: str, cell: str, side: str, metric: str) -> dict[int, float]:
        """Returns `{seed: fraction}` of the finished runs."""
        return self._scores.get((dataset, cell, side, metric), {})

    def score(self, dataset: str, cell: str, metric: str, how: str = "mean", side: str = "") -> Number:
        """Returns the mean or sd (n - 1) over seeds of a metric; the side defaults to the headline."""
        side = side or self.headline
        values = list(self.seed_scores(dataset, cell, side, metric).values())
        row = Where.having(dataset=dataset, cell=cell, side=side, metric=metric)
        return Number(reduced(values, how), "metrics", row, "value", how)

    def seed_score(self, dataset: str, cell: str, metric: str, seed: int) -> Number:
        """Returns one run's headline metric."""
        value = self.seed_scores(dataset, cell, self.headline, metric).get(seed)
        row = Where.having(dataset=dataset, cell=cell, side=self.headline, metric=metric, seed=seed)
        return Number(value, "metrics", row)

    def cost(self, dataset: str, cell: str, column: str) -> Number:
        """Returns the mean of a cost column over a cell's finished runs."""
        values = [plain(run.get(column)) for run in self.runs_of(dataset, cell) if run["status"] == "finished"]
        row = Where.having(dataset=dataset, cell=cell, status="finished")
        return Number(reduced([v for v in values if v is not None], "mean"), "runs", row, column, "mean")

    def cost_sd(self, dataset: str, cell: str, column: str) -> Number:
        """Returns the sd (n - 1) of a cost column over a cell's finished runs."""
        found = [plain(run.get(column)) for run in self.runs_of(dataset, cell) if run["status"] == "finished"]
        sd = reduced([value for value in found if value is not None], "sd")
        return replace(self.cost(dataset, cell, column), value=sd, how="sd")

    def step_ratio(self, dataset: str, cell: Cell, reference: Cell) -> tuple[float, float, float] | None:
        """Returns the time of a training step relative to the reference's, same seed by same seed, and a 95 % interval.

        The geometric mean of the ratios of `images_per_s` with a t interval of their logarithms; None with fewer than
        two seeds that finished in both.
        """
        speeds = [
            {r["seed"]: float(r["images_per_s"]) for r in self.runs_of(dataset, c.name) if plain(r["images_per_s"])}
            for c in (cell, reference)
        ]
        ratios = np.log([speeds[1][seed] / speeds[0][seed] for seed in speeds[0].keys() & speeds[1].keys()])
        if len(ratios) < 2:
            return None
        half = special.stdtrit(len(ratios) - 1, 0.975) * ratios.std(ddof=1) / math.sqrt(len(ratios))
        return math.exp(ratios.mean()), math.exp(ratios.mean() - half), math.exp(ratios.mean() + half)

    def over_runs(self, column: str, how: str) -> Number:
        """Returns the sum, mean or max of a cost column over all runs."""
        values = [v for v in map(plain, self.runs[column]) if v is not None]
        return Number(reduced(values, how), "runs", Where.having(), column, how)

    def run_number(self, run: dict[str, Any], column: str) -> Number:
        """Returns one value of the table of runs."""
        return Number(plain(run[column]), "runs", Where.at(int(run["row"])), column)

    def about_number(self, path: str) -> Number:
        """Returns a number of `study.json` by its dotted path, None where it is not given."""
        node: Any = self.about
        for part in path.split("."):
            node = node[int(part)] if isinstance(node, list) else (node or {}).get(part)
        return Number(plain(node), "study", Where.under(path))

    def calibrated(self, column: str, how: str, **chosen: str | int | float) -> Number:
        """Returns a column of the calibration table, reduced over the rows with the chosen values."""
        row = Where.having(**chosen)
        if self.calibration is None:
            return Number(None, "calibration", row, column, how)
        mask = pd.Series(True, index=self.calibration.index)
        for name, value in chosen.items():
            mask &= self.calibration[name] == value
        values = [v for v in map(plain, self.calibration.loc[mask, column]) if v is not None]
        return Number(reduced(values, how), "calibration", row, column, how)

    def table_rows(self, name: str, **chosen: str | bool) -> list[dict[str, Number | str]]:
        """Returns an optional table row by row, or its rows with the chosen values: numbers as `Number`, or text."""
        frame = getattr(self, name)
        if frame is None:
            return []
        kept = pd.Series(True, index=frame.index)
        for column, value in chosen.items():
            kept &= frame[column].eq(value).fillna(False).astype(bool)
        numeric = {c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c].dtype) and frame[c].dtype != bool}
        return [
            {
                column: Number(plain(value), name, Where.at(index), column)
                if column in numeric
                else printable(text(value))
                for column, value in record.items()
            }
            for index, record in zip(np.flatnonzero(kept).tolist(), frame[kept].to_dict("records"), strict=True)
        ]

    def contrast(self, dataset: str, cell: Cell, reference: Cell, metric: str = "mAP") -> Contrast:
        """Returns the comparison of a cell with a reference on the headline side.

        With the contrasts table it is that table's row. Without it (or without the row) it is the mean difference
        over the seeds both finished, with no interval and no verdict.
        """
        side = self.headline
        row = Where.having(dataset=dataset, cell=cell.name, side=side, metric=metric)
        own = self.seed_scores(dataset, cell.name, side, metric)
        other = self.seed_scores(dataset, reference.name, side, metric)
        common = sorted(own.keys() & other.keys())
        deltas = [own[seed] - other[seed] for seed in common]
        pairs = len(common) > 1 and cell.seed_offset == reference.seed_offset
        spread = math.hypot(*(float(np.std([by[s] for s in common], ddof=1)) for by in (own, other))) if pairs else None

        def paired(value: float | None, how: str) -> Number:
            return Number(value, "metrics", row, "value", how, reference.name)

        plain_contrast = Contrast(
            dataset, cell, reference, side, metric,
            estimate=paired(reduced(deltas, "mean"), "paired mean"),
            paired_sd=paired(reduced(deltas, "sd") if pairs else None, "paired sd"),
            unpaired_sd=paired(spread, "unpaired sd"),
            num_seeds=paired(float(len(common)), "paired count"),
        )  # fmt: skip
        return self._judged(plain_contrast)

    @cached_property
    def _contrast_rows(self) -> dict[tuple[str, ...], tuple[int, dict[Any, Any]]]:
        if self.contrasts is None:
            return {}
        keys = ("dataset", "cell", "reference", "side", "metric")
        records = self.contrasts.to_dict("records")
        return {tuple(str(r[key]) for key in keys): (index, r) for index, r in enumerate(records)}

    def _judged(self, contrast: Contrast) -> Contrast:
        key = (contrast.dataset, contrast.cell.name, contrast.reference.name, contrast.side, contrast.metric)
        if key not in self._contrast_rows:
            return contrast
        index, record = self._contrast_rows[key]

        def number(column: str) -> Number:
            return Number(plain(record.get(column)), "contrasts", Where.at(index), column)

        known: dict[str, Any] = {
            column: number(column)
            for column in (
                "estimate", "num_seeds", "low", "high", "low_adjusted", "high_adjusted", "p_adjusted", "detectable",
                "seeds_needed", "delta", "look", "num_looks", "look_seeds",
            )
        }  # fmt: skip
        if "standard_error_unpaired" in record:
            known |= {"paired_sd": number("standard_error"), "unpaired_sd": number("standard_error_unpaired")}
        return replace(
            contrast,
            **known,
            row=index,
            undecidable=plain(record.get("decidable")) == 0,
            num_diverged=int(sum(plain(record.get(f"num_diverged{whose}")) or 0 for whose in ("", "_reference"))),
            verdict=text(record.get("verdict")),
            below_delta=plain(record.get("below_delta")) == 1,
            note=printable(text(record.get("note"))),
            warnings=printable(text(record.get("warnings"))),
        )

    def contrasts_of(self, dataset: str, cells: Iterable[Cell], metric: str = "mAP") -> list[Contrast]:
        """Returns the comparisons of some cells with those of their references that ran on the data set."""
        return [
            self.contrast(dataset, cell, self.by_name[name], metric)
            for cell in cells
            for name in cell.references
            if name in self.by_name and self.runs_of(dataset, cell.name) and self.runs_of(dataset, name)
        ]

    def to_baseline(self, dataset: str) -> dict[str, Contrast]:
        """Returns the comparison in mAP of each cell with its baseline, by the cell's name."""
        contrasts = self.contrasts_of(dataset, self.cells)
        return {c.cell.name: c for c in contrasts if c.reference.name == c.cell.baseline}

    def failures(self) -> list[dict[str, Any]]:
        """Returns the runs that did not finish."""
        return [run for runs in self._runs_of.values() for run in runs if run["status"] != "finished"]

    @property
    def codes(self) -> list[str]:
        """Hashes of the code that made the runs, the most frequent first; more than one is a warning."""
        return [str(code) for code in self.runs["code"].dropna().value_counts().index]
