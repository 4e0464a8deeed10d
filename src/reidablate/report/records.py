"""What the report is made of: a number and where it comes from, a cell, a comparison, a declared difference.

Everything is in fractions, seconds and bytes; only the templates make points.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

VERDICTS = ("improves", "worsens", "equivalent", "undecided", "provisional")
_TURNING = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


@dataclass(frozen=True, slots=True)
class Where:
    """Which rows of a table a number was found in; `str` gives it as a page writes it, as `data-row`.

    Attributes:
        rows: Numbers of the rows, from 0; None where `values` selects them.
        values: Columns and what they hold in every row that is meant; all rows are where there is none.
        path: In a JSON table, the dotted path.
    """

    rows: tuple[int, ...] | None = None
    values: tuple[tuple[str, str | int | float], ...] = ()
    path: str = ""

    @classmethod
    def at(cls, *rows: int) -> "Where":
        """Returns rows by their numbers."""
        return cls(rows=rows)

    @classmethod
    def having(cls, **values: str | int | float) -> "Where":
        """Returns the rows in which columns hold some values."""
        return cls(values=tuple(values.items()))

    @classmethod
    def under(cls, path: str) -> "Where":
        """Returns a place in a JSON table."""
        return cls(path=path)

    def __str__(self) -> str:
        """Returns the path, the numbers joined by `,` (or `none`), or `column=value` pairs joined by `;`."""
        if self.path:
            return self.path
        if self.rows is not None:
            return ",".join(map(str, self.rows)) or "none"
        return ";".join(f"{column}={value}" for column, value in self.values)


@dataclass(frozen=True, slots=True)
class Number:
    """A value and where it comes from.

    `how` reduces the rows: `value`, `mean`, `sd`, `sum`, `min`, `max`, `count`, `paired mean`, `paired sd`,
    `unpaired sd`; the last three pair the rows by seed with those of the cell `reference`.
    """

    value: float | None
    table: str
    row: Where
    column: str = "value"
    how: str = "value"
    reference: str = ""


DAGGER = "\N{DAGGER}"


@dataclass(frozen=True)
class Cell:
    """One entry of `cells.json` and its place in the palette."""

    index: int
    name: str
    title: str
    group: str
    tier: str
    question: str
    notes: str
    references: tuple[str, ...]
    differences: dict[str, dict[str, list[Any]]]
    seed_offset: int
    unread: str = ""
    reads_cameras: bool = False
    special: dict[str, dict[str, dict[str, list[Any]]]] = field(default_factory=dict)  # differences by data set

    @property
    def mark(self) -> str:
        """What stands behind its name in every table, explained by `camera_note`."""
        return DAGGER if self.reads_cameras else ""

    def differences_on(self, dataset: str) -> dict[str, dict[str, list[Any]]]:
        """Returns the differences to each reference as they are on a data set."""
        return self.special.get(dataset, self.differences)

    @property
    def baseline(self) -> str | None:
        """The last reference: by default the root of the `extends` chain."""
        return self.references[-1] if self.references else None

    @property
    def start(self) -> str | None:
        """The first reference: by default the parent. The tables and figures of a group compare with it."""
        return self.references[0] if self.references else None


@dataclass(frozen=True)
class Change:
    """One line of a declared difference: a key, or a whole section that was added or removed."""

    key: str
    kind: str  # changed | added | removed
    before: Any
    after: Any
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Contrast:
    """A cell against a reference on one data set, side and metric."""

    dataset: str
    cell: Cell
    reference: Cell
    side: str
    metric: str
    estimate: Number
    paired_sd: Number
    unpaired_sd: Number
    num_seeds: Number
    row: int | None = None  # in the table of contrasts
    low: Number | None = None  # of the interval that is not adjusted for the family
    high: Number | None = None
    low_adjusted: Number | None = None
    high_adjusted: Number | None = None
    p_adjusted: Number | None = None
    detectable: Number | None = None
    seeds_needed: Number | None = None
    delta: Number | None = None
    look: Number | None = None  # after which it is judged, in a study that adds seeds until it is decided
    num_looks: Number | None = None
    look_seeds: Number | None = None
    undecidable: bool = False  # undecided, and no number of seeds would change that
    num_diverged: int = 0  # of the cell or its reference
    verdict: str = ""
    below_delta: bool = False
    note: str = ""
    warnings: str = ""

    @property
    def value(self) -> float:
        """The estimate, NaN if there is none."""
        return math.nan if self.estimate.value is None else self.estimate.value

    @property
    def word(self) -> str:
        """The verdict's first word if it is one of `VERDICTS`, else an empty string."""
        return next((word for word in VERDICTS if self.verdict.startswith(word)), "")

    @property
    def after(self) -> str:
        """After which look it is judged, "look 2 of 4 (5 seeds)"; empty where the number of seeds was fixed."""
        if self.look is None or self.look.value is None:
            return ""
        look, of, seeds = (int(n.value or 0) for n in (self.look, self.num_looks, self.look_seeds) if n)
        return f"look {look} of {of} ({seeds} seeds)"

    @property
    def ends(self) -> tuple[Number, Number] | None:
        """Both ends of the interval shown: the one that excludes zero exactly when the verdict does.

        While runs are missing there is no adjusted p-value; then it is the unadjusted one. None if there is neither.
        """
        for low, high in ((self.low_adjusted, self.high_adjusted), (self.low, self.high)):
            if low and high and low.value is not None and high.value is not None:
                return low, high
        return None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The values of `ends`."""
        return (self.ends[0].value or 0.0, self.ends[1].value or 0.0) if self.ends else None


def over_rows(contrasts: Sequence[Contrast], column: str, how: str) -> Number:
    """Returns a column of the table of contrasts over the rows of some comparisons: their number, least or largest.

    Args:
        contrasts: Comparisons that stand in the table.
        column: A column that `Contrast` has too.
        how: `count`, `min` or `max`.
    """
    row = Where.at(*(c.row for c in contrasts if c.row is not None))
    if how == "count":
        return Number(float(len(contrasts)), "contrasts", row, column, how)
    numbers = [getattr(c, column) for c in contrasts]
    values = [n.value for n in numbers if n is not None and n.value is not None]
    return Number(reduced(values, how), "contrasts", row, column, how)


def fixed(value: float, digits: int = 0, sign: bool = False) -> str:
    """Returns a number with a fixed number of decimals, thousands separated, with a real minus and no -0."""
    shown = f"{value:{'+' if sign else ''},.{digits}f}"
    if not any(digit in "123456789" for digit in shown):
        shown = shown.lstrip("+-")
    return shown.replace("-", "\N{MINUS SIGN}")


def plain(value: Any) -> float | None:
    """Returns a finite float, or None for a missing or non-finite value."""
    if value is None or value is pd.NA:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def reduced(values: Sequence[float], how: str) -> float | None:
    """Returns the mean, sum, min, max or sd (n - 1) of some values, None where there are too few."""
    if how == "sd":
        return float(np.std(values, ddof=1)) if len(values) > 1 else None
    if not values:
        return None
    known = {"mean": math.fsum(values) / len(values), "sum": math.fsum(values), "min": min(values), "max": max(values)}
    return known[how]


def text(value: Any) -> str:
    """Returns a cell of a table as text, empty when missing."""
    return "" if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else str(value)


def printable(value: Any) -> Any:
    """Returns JSON values without control characters and without those that turn the direction of what follows."""
    if isinstance(value, str):
        return "".join(c for c in value if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in _TURNING))
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


def changes(differences: dict[str, list[Any]]) -> list[Change]:
    """Returns differences `{dotted key: [before, after]}` with sections that appear or vanish as one line each.

    A section is either one key whose value is a mapping, or several keys below the same two first names.
    """
    sections: dict[str, dict[str, list[Any]]] = {}
    for key, pair in differences.items():
        parts = key.split(".")
        sections.setdefault(".".join(parts[:2]) if len(parts) > 2 else key, {})[key] = pair
    return [line for section, keys in sections.items() for line in _section(section, keys)]


def _section(name: str, keys: dict[str, list[Any]]) -> list[Change]:
    before, after = (
        {key.removeprefix(f"{name}."): pair[side] for key, pair in keys.items() if pair[side] is not None}
        for side in (0, 1)
    )
    whole = list(keys) != [name]
    if not before and (whole or isinstance(after.get(name), dict)):
        options = after if whole else after[name]
        return [Change(name, "added", None, None, tuple(options.items()))]
    if not after and (whole or isinstance(before.get(name), dict)):
        return [Change(name, "removed", None, None)]
    return [Change(key, "changed", *pair) for key, pair in keys.items()]


def main_baseline(cells: Iterable[Cell]) -> str:
    """Returns the baseline of most cells, which goes without saying; others are named. Empty where there is none."""
    return next(iter(Counter(cell.baseline for cell in cells if cell.baseline).most_common(1)), ("", 0))[0]


def camera_note(cells: Iterable[Cell]) -> str:
    """Returns the foot note of a table of these cells; empty where no mark has to be explained."""
    if not any(cell.reads_cameras for cell in cells):
        return ""
    return f"{DAGGER} reads the camera label of every query and gallery image at test time; the other cells do not."
