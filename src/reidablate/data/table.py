"""The table of data sets: what each is called, where it is looked for, how it is read, what is published about it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from reidablate import places, plugins
from reidablate.config import Section, Weight, nearest, validate
from reidablate.data.formats import MANIFEST, Grammar, Layout, Published
from reidablate.errors import UserError

MetricName = Literal["mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10"]


class DatasetEntry(Section):
    """An entry of `dataset_table`.

    Attributes:
        title: The set's usual name.
        format: `manifest`, a function `FILE:NAME`, or the entry whose grammar names and folders follow, which may be
            this one.
        folders: Where the set is looked for below `data_root`; case, hyphens, underscores and dots do not matter.
        optional: Part of a study where found, and never missed.
        grammar: How images are named and sorted; needed once for each `format` but `manifest`.
        counts: The published numbers of images, people and cameras.
        delta: Largest difference that does not matter, in points, by metric.
    """

    title: str
    format: str
    folders: list[str]
    optional: bool = False
    grammar: Grammar | None = None
    counts: Published | None = None
    delta: dict[MetricName, Weight] = {}


Table = Mapping[str, DatasetEntry]


def shipped_table() -> dict[str, DatasetEntry]:
    """Returns `dataset_table` of the study around the working directory; where there is none, the package's.

    Raises:
        UserError: The study's settings are not valid.
    """
    entries = places.settings(places.study_of(Path())).get("dataset_table") or {}
    return {name: validate(DatasetEntry, entry, where=f"dataset_table.{name}") for name, entry in entries.items()}


def layout_of(name: str, table: Table | None = None) -> Layout:
    """Returns how a data set of the table (by default the shipped one) is read; `manifest` names any manifest.

    Raises:
        UserError: There is no such data set, or its format is no entry with a grammar.
    """
    table = shipped_table() if table is None else table
    if name == MANIFEST and name not in table:
        return Layout(title="manifest", format=MANIFEST)
    if name not in table:
        known = [*table, MANIFEST]
        raise UserError(f"there is no data set '{name}' in dataset_table; {nearest(name, known)}")
    entry = table[name]
    if entry.format == MANIFEST or ":" in entry.format:
        return Layout(title=entry.title, format=entry.format, published=entry.counts)
    if entry.format not in table and entry.format in plugins.offered("formats"):
        return Layout(title=entry.title, format=entry.format, published=entry.counts)
    parent = table.get(entry.format)
    grammar = entry.grammar or (parent.grammar if parent else None)
    if grammar is None:
        known = [key for key, other in table.items() if other.grammar] + [MANIFEST]
        raise UserError(
            f"dataset_table.{name}: format '{entry.format}' is no entry with a grammar; {nearest(entry.format, known)}"
        )
    return Layout(title=entry.title, format=entry.format, grammar=grammar, published=entry.counts)
