"""Checks what two cells must share besides the difference they declare; what differs is noted or refused.

A difference between two cells is evidence for what their files declare only if nothing else differs between the runs
behind it. What changes the question (other images, another feature side, another configuration than the cell's) is
refused. What may move a score (other code, device, threads, precision, weights, packages) is a warning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reidablate.stats.scores import numbers
from reidablate.trees import difference

FACTS: dict[str, str] = {
    "code": "were made by different source code",
    "device": "were trained on different devices",
    "processes": "were trained by different numbers of processes",
    "threads": "were trained with different numbers of threads",
    "precision": "were trained in different precisions",
    "weights_sha256": "started from different weights",
    "versions": "were made with different packages",
}
"""Columns of the table of runs that no cell can declare (but `precision`), and what a difference in them means."""

_MOST_SHOWN = 24  # letters of a value; enough to tell two hashes apart


@dataclass(frozen=True)
class Findings:
    """Plain sentences: what qualifies a comparison, and why there is none."""

    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


class Guard:
    """Compares the runs of two cells in everything that is known of them."""

    def __init__(self, runs: pd.DataFrame, cells: Sequence[Mapping[str, Any]]) -> None:
        """Reads the tables `runs` and `cells.json`; a column or key that is absent is not known."""
        self._cells = {str(cell["name"]): cell for cell in cells}
        self._runs = {(str(run["dataset"]), str(run["cell"]), int(run["seed"])): run for run in runs.to_dict("records")}

    def check(self, dataset: str, cell: str, reference: str, pairs: Sequence[tuple[int, int]]) -> Findings:
        """Returns what differs between two cells on a data set and is not declared.

        Args:
            dataset: Data set.
            cell: The cell.
            reference: The cell that it is compared with.
            pairs: (seed of the cell, seed of the reference) of every two runs that are compared.
        """
        refusals = [*self._stale(dataset, cell, pairs, 0), *self._stale(dataset, reference, pairs, 1)]
        images = self._differing(dataset, cell, reference, pairs, "data_fingerprint")
        if images is not None:
            refusals.append(
                f"{cell} and {reference} saw different files of {dataset} ({images}), so they are not compared; "
                "train both on the same files."
            )
        warnings: list[str] = []
        for column, words in FACTS.items():
            declared = column == "precision" and "train.precision" in self._declared(dataset, cell, reference)
            found = None if declared else self._differing(dataset, cell, reference, pairs, column)
            if found is not None:
                files = (
                    self._differing(dataset, cell, reference, pairs, "weights") if column == "weights_sha256" else None
                )
                what = found if files is None else f"{files}: {found}"
                warnings.append(f"{cell} and {reference} {words} ({what}).")
        if "external" in self._declared(dataset, cell, reference):  # then everything may differ
            return Findings(tuple(warnings), tuple(refusals))
        hidden = self._hidden(dataset, cell, reference)
        if "model.test_feature" in hidden:
            own, other = hidden.pop("model.test_feature")
            refusals.append(
                f"{cell} is tested on {own} and {reference} on {other}, which is not declared, so they are not "
                "compared; declare it in the cell."
            )
        if hidden:
            warnings.append(f"{cell} differs from {reference} in {_listed(hidden)}, which is not declared.")
        warnings += self._inherited(dataset, cell, reference)
        return Findings(tuple(warnings), tuple(refusals))

    def _entry(self, dataset: str, cell: str) -> Mapping[str, Any]:
        """Returns the entry of a cell as it is on a data set, empty when there is none."""
        entry = self._cells.get(cell, {})
        return {**entry, **(entry.get("by_dataset") or {}).get(dataset, {})}

    def _declared(self, dataset: str, cell: str, reference: str) -> Mapping[str, Any]:
        """Returns the differences to the reference that `cells.json` states."""
        found: Mapping[str, Any] = (self._entry(dataset, cell).get("differences") or {}).get(reference) or {}
        return found

    def _hidden(self, dataset: str, cell: str, reference: str) -> dict[str, tuple[Any, Any]]:
        """Returns {option: (own, reference's value)} where the configurations differ without a declaration."""
        own, other = (self._entry(dataset, name).get("config") for name in (cell, reference))
        if own is None or other is None:
            return {}
        declared = self._declared(dataset, cell, reference)
        return {key: (new, old) for key, (old, new) in difference(other, own).items() if key not in declared}

    def _inherited(self, dataset: str, cell: str, reference: str) -> Iterator[str]:
        """Yields what a difference brings that neither cell declares itself: another schedule or feature side."""
        own = {key for name in (cell, reference) for key in self._entry(dataset, name).get("declared") or {}}
        declared = self._declared(dataset, cell, reference)
        brought = {key: (new, old) for key, (old, new) in declared.items() if key not in own}
        sides = brought.pop("model.test_feature", None)
        if sides is not None:
            yield f"{cell} is meant for {sides[0]} and {reference} for {sides[1]}; both are compared on one side here."
        rest = {key: pair for key, pair in brought.items() if key.startswith("train.") or key == "model.image_size"}
        if rest:
            yield f"{cell} also differs from {reference} in what it inherits: {_listed(rest)}."

    def _stale(self, dataset: str, cell: str, pairs: Sequence[tuple[int, int]], side: int) -> Iterator[str]:
        """Yields a sentence when runs have another configuration than their cell."""
        wanted = self._entry(dataset, cell).get("config_hash")
        seeds = sorted({pair[side] for pair in pairs})
        stale = [s for s in seeds if wanted and self._fact(dataset, cell, s, "config_hash") not in (None, wanted)]
        if stale:
            yield f"{cell}: {numbers(stale)} had another configuration than the cell has now; run the study again."

    def _fact(self, dataset: str, cell: str, seed: int, column: str) -> str | None:
        """Returns what is known of a run as text, None when it is not known."""
        value = self._runs.get((dataset, cell, seed), {}).get(column)
        if value is None or pd.isna(value):
            return None
        return Path(str(value)).name if column == "weights" else str(value)

    def _differing(
        self, dataset: str, cell: str, reference: str, pairs: Sequence[tuple[int, int]], column: str
    ) -> str | None:
        """Returns how the runs of some pair differ in a column, None when no pair is known to differ."""
        known = [
            (own, other, seeds)
            for seeds in pairs
            if (own := self._fact(dataset, cell, seeds[0], column)) is not None
            and (other := self._fact(dataset, reference, seeds[1], column)) is not None
        ]
        differing = [entry for entry in known if entry[0] != entry[1]]
        if not differing:
            return None
        shown = dict.fromkeys(_against(own, other) for own, other, _ in differing)
        seeds = sorted({own for _, _, (own, _) in differing})
        partly = len(differing) < len(pairs)
        return ", ".join(shown) + (f"; {numbers(seeds)} of {len({own for own, _ in pairs})}" if partly else "")


def _against(own: str, other: str) -> str:
    """Returns "own against other"; of two lists with commas, the items that differ."""
    left, right = own.split(", "), other.split(", ")
    if len(left) > 1 or len(right) > 1:
        own = ", ".join(item for item in left if item not in right) or "nothing"
        other = ", ".join(item for item in right if item not in left) or "nothing"
        return f"{own} against {other}"
    return f"{own[:_MOST_SHOWN]} against {other[:_MOST_SHOWN]}"


def _listed(options: Mapping[str, tuple[Any, Any]]) -> str:
    """Returns "a (1 against 2), b (x against y)"."""
    return ", ".join(f"{key} ({own} against {other})" for key, (own, other) in options.items())
