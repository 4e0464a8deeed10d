"""Cuts a group of cells into tables that can be read alone: cells that answer one question, and their references."""

from dataclasses import dataclass

from reidablate.report.records import Cell, Contrast, changes
from reidablate.report.study_tables import StudyTables

MOST_VALUES = 6
_ACRONYMS = {"cls": "CLS", "ape": "APE", "rpe": "RPE", "lr": "learning rate"}


@dataclass(frozen=True)
class Part:
    """One table of a group: the cells, and above them the references that are not among them."""

    title: str  # empty where it is the whole group
    cells: tuple[Cell, ...]
    references: tuple[Cell, ...]


def parts_of(study: StudyTables, cells: list[Cell]) -> list[Part]:
    """Returns the tables of a group in the order of its cells.

    Cells that start from each other stay together. Cells that start from outside the group share a table if they change
    the same options of the same reference.
    """
    inside = {cell.name: cell for cell in cells}
    tables: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        top, seen = cell, {cell.name}
        while top.references and top.references[0] in inside.keys() - seen:
            top = inside[top.references[0]]
            seen.add(top.name)
        start = top.references[0] if top.references else ""
        tables.setdefault((start, *sorted(top.differences.get(start, {}))), []).append(cell)
    found = []
    for members in tables.values():
        own = {cell.name for cell in members}
        starts = dict.fromkeys(c.references[0] for c in members if c.references and c.references[0] not in own)
        references = tuple(study.by_name[name] for name in starts if name in study.by_name)
        found.append(Part(_title(members) if len(tables) > 1 else "", tuple(members), references))
    return found


def _title(cells: list[Cell]) -> str:
    """Returns `option: value in the reference, values in the cells` where all change one option, else the titles."""
    lines = [changes(cell.differences.get(cell.references[0], {})) if cell.references else [] for cell in cells]
    changed = {line.key for each in lines for line in each}
    if len(changed) == 1 and all(len(each) == 1 and each[0].kind == "changed" for each in lines):
        values = list(dict.fromkeys([lines[0][0].before, *(each[0].after for each in lines)]))
        shown = ", ".join(str(value)[:30] for value in values[:MOST_VALUES])
        words = [_ACRONYMS.get(word, word) for word in changed.pop().rpartition(".")[2].split("_")]
        name = " ".join(words)
        return f"{name[0].upper()}{name[1:]}: {shown}"
    titles = ", ".join(cell.title for cell in cells)
    return titles if len(titles) <= 80 else f"{cells[0].title} and {len(cells) - 1} more"


def first_contrasts(study: StudyTables, dataset: str, part: Part) -> dict[str, Contrast]:
    """Returns the comparison in mAP of each cell of a table with its first reference, by the cell's name."""
    contrasts = study.contrasts_of(dataset, part.cells)
    return {c.cell.name: c for c in contrasts if c.reference.name == c.cell.references[0]}
