"""Two studies side by side: what differs in data, code, cells, runs, numbers and verdicts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reidablate import integrity
from reidablate.artifacts import read_json, read_table
from reidablate.errors import shortened
from reidablate.trees import difference

_CONTRAST = ["dataset", "cell", "reference", "metric"]
_POINTS = 100.0


@dataclass(frozen=True)
class Tables:
    """What is compared of a study."""

    about: dict[str, Any]
    cells: dict[str, dict[str, Any]]
    runs: pd.DataFrame
    metrics: pd.DataFrame
    contrasts: pd.DataFrame


def diff_studies(first: Path, second: Path) -> Iterator[str]:
    """Yields a line for everything in which two studies differ; nothing where they found the same in the same way.

    Args:
        first: `results/<preset>` of a study, or of one that `pack` wrote, unpacked.
        second: Another one.

    Raises:
        UserError: Tables are missing or damaged.
    """
    old, new = _tables(first), _tables(second)
    yield from _data(old.about, new.about)
    yield from _values("code", *(_code(study) for study in (old, new)))
    yield from _values("package ", *(study.about.get("packages", {}) for study in (old, new)))
    yield from _cells(old.cells, new.cells)
    yield from _runs(old.runs, new.runs)
    yield from _numbers(old, new)
    yield from _verdicts(_headline(old), _headline(new))


def _tables(results: Path) -> Tables:
    tables = results / "tables"
    about = read_json(tables / "study.json")
    integrity.refuse_broken(tables)
    cells = {cell["name"]: cell for cell in read_json(tables / "cells.json")}
    frames = (read_table(tables / f"{name}.parquet") for name in ("runs", "metrics", "contrasts"))
    return Tables(about, cells, *frames)


def _data(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    sets = [{entry["name"]: entry for entry in study["datasets"]} for study in (old, new)]
    yield from _only(sets[0], sets[1], "data set")
    for name in sets[0]:
        if name in sets[1] and sets[0][name].get("fingerprint") != sets[1][name].get("fingerprint"):
            yield f"data set {name}: other images"
    yield from _values("", *({"headline": study["headline"], "preset": study["preset"]} for study in (old, new)))


def _code(study: Tables) -> dict[str, Any]:
    hashes = sorted(study.runs["code_hash"].dropna().unique())
    return {"": ", ".join(hashes) or None, " version": (study.about.get("code") or {}).get("version")}


def _cells(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _only(old, new, "cell")
    for name in old:
        if name in new:
            found = difference(old[name]["config"], new[name]["config"])
            found |= difference({"references": old[name]["references"]}, {"references": new[name]["references"]})
            for key, (before, after) in found.items():
                yield f"cell {name}: {key} {_shown(before)} -> {_shown(after)}"


def _runs(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[str]:
    finished = [
        {f"{row.dataset}/{row.cell}/seed{row.seed}": None for row in runs[runs["status"] == "finished"].itertuples()}
        for runs in (old, new)
    ]
    yield from _only(finished[0], finished[1], "finished run", most=10)


def _numbers(old: Tables, new: Tables) -> Iterator[str]:
    """Yields the cells whose runs in both studies do not score the same, with their means over those runs."""
    key = ["dataset", "cell", "seed"]
    sides = [
        study.metrics[study.metrics["side"].eq(study.about["headline"]) & study.metrics["metric"].eq("mAP")]
        for study in (old, new)
    ]
    both = sides[0][[*key, "value"]].merge(sides[1][[*key, "value"]], on=key, suffixes=("_old", "_new"))
    for (dataset, cell), rows in both.groupby(["dataset", "cell"], sort=False):
        if changed := int((rows["value_old"] != rows["value_new"]).sum()):
            means = (f"{_POINTS * rows[column].mean():.2f}" for column in ("value_old", "value_new"))
            yield f"{dataset}/{cell}: mAP {' -> '.join(means)}, {changed} of {len(rows)} runs in both score otherwise"


def _headline(study: Tables) -> dict[tuple[str, ...], dict[str, Any]]:
    rows = study.contrasts[study.contrasts["headline"].eq(True)].astype(object)
    rows = rows.where(rows.notna(), None)
    return {tuple(row[name] for name in _CONTRAST): row for row in rows.to_dict("records")}  # type: ignore[misc]


def _verdicts(old: Mapping[tuple[str, ...], Any], new: Mapping[tuple[str, ...], Any]) -> Iterator[str]:
    for key in old:
        if key in new and old[key]["verdict"] != new[key]["verdict"]:
            dataset, cell, reference, metric = key
            said = (f"{_shown(study[key]['verdict'])} {_difference(study[key])}" for study in (old, new))
            yield f"verdict {dataset}, {cell} over {reference}, {metric}: {' -> '.join(said)}"


def _difference(row: Mapping[str, Any]) -> str:
    values = [row[name] for name in ("estimate", "low_adjusted", "high_adjusted")]
    shown = ["?" if value is None else f"{_POINTS * value:+.2f}" for value in values]
    return f"({shown[0]} [{shown[1]}, {shown[2]}])"


def _values(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield f"{what}{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"


def _only(old: Mapping[str, Any], new: Mapping[str, Any], what: str, most: int | None = None) -> Iterator[str]:
    """Yields a line for each name that only one of the studies has, or, beyond `most`, their number."""
    for names, place in (([n for n in old if n not in new], "first"), ([n for n in new if n not in old], "second")):
        yield from (f"{what} {name}: only in the {place}" for name in names[:most])
        if most is not None and len(names) > most:
            yield f"{what}s: {len(names) - most} more only in the {place}"


def _shown(value: Any) -> str:
    return "none" if value is None else shortened(value, 80)
