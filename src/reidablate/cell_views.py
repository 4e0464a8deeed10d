"""A cell as others see it: its entry in a plan, its complete YAML file, and copies of it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from reidablate.cell_files import checked
from reidablate.cells import Cell, ancestry
from reidablate.config import Preset
from reidablate.errors import UserError
from reidablate.external import differences
from reidablate.planned import Configured, PlannedCell
from reidablate.trees import difference, flatten, merge, nested, yaml_files


def unchanged_copies(chosen: Iterable[Cell], cells: Mapping[str, Cell], preset: Preset) -> list[str]:
    """Returns a line for each chosen cell that has the runs of an earlier one, chosen too or a parent."""
    asked = [cell.name for cell in chosen]
    special = sorted({dataset for cell in cells.values() for dataset in cell.by_dataset})
    first: dict[tuple[tuple[str, ...] | str, int], str] = {}
    lines = []
    for name in dict.fromkeys(name for one in asked for name in ancestry(cells[one], cells)):
        cell = cells[name]
        everywhere = tuple(cell.resolve(preset, dataset).hash for dataset in (None, *special))
        if cell.candidates:  # it will be another one
            continue
        runs = cell.external.identity if cell.external else everywhere
        other = first.setdefault((runs, cell.seed_offset), name)
        if other != name and name in asked:
            lines.append(
                f"{name}: same configuration as {other}, so its runs repeat those of {other}; "
                f"write what differs into {cell.path}."
            )
    return lines


def planned_cell(cell: Cell, cells: Mapping[str, Cell], preset: Preset) -> PlannedCell:
    """Returns a cell as a plan and `cells.json` hold it: its texts, options, and differences to parent and references.

    `by_dataset` says the last four again for each data set on which the cell, its parent or a reference differs.
    """
    related = [cell, *(cells[name] for name in (cell.extends, *cell.references) if name)]
    special = sorted({dataset for one in related for dataset in one.by_dataset})
    configs = [cell.resolve(preset, dataset) for dataset in (None, *special)]
    return PlannedCell(
        name=cell.name,
        title=cell.title,
        group=cell.group,
        tier=cell.tier,
        question=cell.question,
        notes="" if preset.name in cell.notes_not_under else cell.notes,
        extends=cell.extends,
        references=list(cell.references),
        seed_offset=cell.seed_offset,
        primary=cell.primary or cell.name in preset.primary,
        also_on=[] if cell.external or cell.tunes else (cell.evaluate or preset.evaluate).also_on,
        reads_cameras=not cell.external and any(config.model.parts.read_cameras for config in configs),
        external=cell.external,
        candidates=list(cell.candidates),
        tunes=cell.tunes,
        by_dataset={dataset: Configured(**_configured(cell, cells, preset, dataset)) for dataset in special},
        **_configured(cell, cells, preset, None),
    )


def _configured(cell: Cell, cells: Mapping[str, Cell], preset: Preset, dataset: str | None) -> dict[str, Any]:
    """Returns the fields of `Configured`: the configuration on a data set, its differences to parent and references."""
    config = cell.resolve(preset, dataset)
    dump = config.dump()
    others = {name: cells[name].resolve(preset, dataset).dump() for name in (cell.extends, *cell.references) if name}
    foreign = {name: cells[name].external for name in cell.references if cell.external or cells[name].external}
    return {
        "declared": difference(others[cell.extends], dump) if cell.extends else {},
        "differences": {
            name: differences(cell.external, foreign[name]) if name in foreign else difference(others[name], dump)
            for name in cell.references
        },
        "config": config,
        "config_hash": cell.external.identity if cell.external else config.hash,
    }


def as_cell_file(cell: Cell, preset: Preset) -> str:
    """Returns a cell as the text of a cell file: every option once.

    What the cell and its parents declare stands as YAML that means the same under every preset; what it has of the
    preset or by default stands behind it in comments.
    """
    file = {
        "name": cell.name,
        "title": cell.title,
        "group": cell.group,
        "tier": cell.tier,
        "question": cell.question,
        "notes": cell.notes,
        "notes_not_under": list(cell.notes_not_under),
        "primary": cell.primary,
        "extends": cell.extends,
        "reference": list(cell.references) if cell.extends else [],
        "seed_offset": cell.seed_offset,
        **cell.options,
        "by_dataset": {dataset: _beyond(cell.options, options) for dataset, options in cell.by_dataset.items()},
        "evaluate": cell.evaluate.model_dump() if cell.evaluate else None,
        "external": cell.external.model_dump(exclude={"code_sha256"}) if cell.external else None,
    }
    empty = {"reference"} if cell.extends else set()
    shown = {key: value for key, value in file.items() if value or key in empty}
    text = yaml.dump(shown, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=110)
    if cell.candidates:
        text = f"# Tuned: it becomes one of {', '.join(cell.candidates)}; shown is the first.\n{text}"
    if cell.external:
        return text
    declared = flatten(cell.options)
    rest = {key: value for key, value in flatten(cell.resolve(preset).dump()).items() if key not in declared}
    lines = [f"#   {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in rest.items()]
    return "".join([text, f"# And of preset {preset.name}, or by default:\n", *lines])


def _beyond(options: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what has to be laid over some options to have the special ones."""
    added: dict[str, Any] = {}
    for key, (_, value) in difference(options, special).items():
        added = merge(added, nested(key, value))
    return added


class _PlainDumper(yaml.SafeDumper):
    """Writes equal values twice rather than as anchor and alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def new_cell(folder: Path, name: str, parent: Cell) -> Path:
    """Writes a commented `ablations/<name>.yaml` that extends `parent` and returns its path.

    Raises:
        UserError: The name is not safe or the file exists.
    """
    path = folder / f"{name}.yaml"
    checked({"name": name}, path)
    if taken := next((other for other in yaml_files(folder) if other.stem.casefold() == name), None):
        raise UserError(f"{taken} exists already; choose another name or edit it.")
    path.write_text(
        f"name: {_as_yaml(name)}\n"
        f"title: {json.dumps(f'{parent.title}, changed', ensure_ascii=False)}\n"
        f"extends: {_as_yaml(parent.name)}\n"
        'question: ""\n'
        "# Write below only what differs from the parent, for example:\n"
        "# losses:\n"
        "#   weighted_triplet: {ratio: 0.25}\n",
        encoding="utf-8",
    )
    return path


def _as_yaml(name: str) -> str:
    """Returns a name as YAML reads it back, in quotes where it looks like a number or a date."""
    return name if yaml.safe_load(name) == name else json.dumps(name)
