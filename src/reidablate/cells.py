"""Ablation cells: one YAML file each, resolved over a preset to the exact configuration of its runs."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, field_validator

from reidablate.config import EvaluateConfig, Preset, RunConfig, Section, nearest, validate
from reidablate.errors import UserError
from reidablate.trees import difference, flatten, load_yaml, merge, yaml_files

SECTIONS = ("model", "losses", "train")
# What belongs to the preset, and what a cell may use in its place.
PRESET_ONLY = {"train.lr": "train.lr_factor", "train.epochs": "train.epochs_factor", "model.image_size": None}
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

Tier = Literal["core", "extended", "optional"]
TIERS: tuple[Tier, ...] = ("core", "extended", "optional")


def check_name(name: str, what: str) -> None:
    """Checks that a name may be that of a folder; `what` begins the sentence.

    Raises:
        UserError: It may not.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise UserError(
            f"{what} '{name}' is no safe folder name; "
            "use small letters, digits, '_', '-' and '.', at most 64, starting with a letter or digit."
        )


class CellFile(Section):
    """What may stand in `ablations/<name>.yaml`; the three sections hold only what differs from the parent."""

    name: str
    title: str = ""
    group: str = ""
    tier: Tier | None = None
    question: str = ""
    notes: str = ""
    primary: bool = False
    extends: str | None = None
    reference: list[str] | None = None
    seed_offset: Annotated[int, Field(ge=0)] | None = None
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    train: dict[str, Any] = {}
    evaluate: EvaluateConfig | None = None

    @field_validator("reference", mode="before")
    @classmethod
    def _one_reference(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The declared differences as a nested mapping."""
        return {name: getattr(self, name) for name in SECTIONS if getattr(self, name)}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One ablation variant with everything inherited filled in, before a preset gives it its scale."""

    name: str
    title: str
    group: str
    tier: Tier
    question: str
    notes: str
    primary: bool
    extends: str | None
    references: tuple[str, ...]
    seed_offset: int
    options: dict[str, Any]
    evaluate: EvaluateConfig | None
    path: Path

    @property
    def where(self) -> str:
        """The file that the cell comes from, and its name where a sweep makes several of one file."""
        return str(self.path) if self.path.stem == self.name else f"{self.path}, cell {self.name}"

    def resolve(self, preset: Preset) -> RunConfig:
        """Returns the configuration of this cell's runs under a preset.

        Raises:
            UserError: A key is unknown or a value is out of range; the sentence names the file and the key.
        """
        base = {section: getattr(preset, section) for section in SECTIONS}
        return validate(RunConfig, merge(base, self.options), where=self.where)


def load_cells(folder: Path, presets: Iterable[Preset]) -> dict[str, Cell]:
    """Returns every cell of a folder by name.

    Every cell is checked against every preset, also those that will not run, so a slip is found at once.

    Raises:
        UserError: Naming the file and the slip: an unknown key, an unsafe or repeated name, a cycle, and so on.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with ablation cells; give it with --config ablations=FOLDER.")
    files = {path: _read(path) for path in yaml_files(folder)}
    if not files:
        raise UserError(f"{folder} holds no .yaml file; `reidablate cells new NAME` makes one.")
    expanded = [(path, cell) for path, file in files.items() for cell in _expand(file, path)]
    by_name: dict[str, tuple[Path, CellFile]] = {}
    for path, file in expanded:
        if file.name in by_name:
            raise UserError(f"{path}: cell name '{file.name}' is already used by {by_name[file.name][0]}; rename one.")
        by_name[file.name] = (path, file)
    cells = {name: _inherit(name, by_name) for name in by_name}
    for cell in cells.values():
        for reference in cell.references:
            if reference not in cells:
                raise UserError(f"{cell.path}: reference '{reference}' is no cell; {nearest(reference, list(cells))}")
        for preset in presets:
            cell.resolve(preset)
    for preset in presets:
        for name in preset.primary:
            if name not in cells:
                raise UserError(f"preset '{preset.name}': primary '{name}' is no cell; {nearest(name, list(cells))}")
    return cells


def _read(path: Path) -> CellFile:
    data = load_yaml(path)
    for dotted in PRESET_ONLY.keys() & flatten(data).keys():
        _refuse_presets(path, dotted, verb="scale it with")
    return _checked(data, path)


def _refuse_presets(path: Path, dotted: str, *, verb: str) -> NoReturn:
    factor = PRESET_ONLY[dotted]
    instead = f"{verb} '{factor}' instead" if factor else "change it in a preset of your own (--config preset=FILE)"
    raise UserError(f"{path}: '{dotted}' belongs to the preset; {instead}.")


def _checked(data: Mapping[str, Any], path: Path) -> CellFile:
    file = validate(CellFile, data, where=str(path))
    check_name(file.name, f"{path}: cell name")
    return file


def _expand(file: CellFile, path: Path) -> list[CellFile]:
    """Returns one file per point of its sweep, or the file itself."""
    if not file.sweep:
        if path.stem != file.name:
            raise UserError(f"{path}: the file holds cell '{file.name}'; rename the file to {file.name}.yaml.")
        return [file]
    for key in file.sweep:
        if key.split(".")[0] not in SECTIONS or "." not in key:
            raise UserError(f"{path}: sweep key '{key}' should start with {', '.join(SECTIONS)} and a dot.")
        if key in PRESET_ONLY:
            _refuse_presets(path, key, verb="sweep")
    points = []
    for values in itertools.product(*file.sweep.values()):
        point = dict(zip(file.sweep, values, strict=True))
        short = [(key.rsplit(".", 1)[1], value) for key, value in point.items()]
        label = "_".join(f"{key}_{value}" for key, value in short)
        options: dict[str, Any] = file.options
        for key, value in point.items():
            options = merge(options, _nest(key, value))
        title = f"{file.title or file.name} ({', '.join(f'{key}: {value}' for key, value in short)})"
        swept = {"name": f"{file.name}_{label}".lower(), "title": title, "sweep": {}, **options}
        points.append(_checked({**file.model_dump(), **swept}, path))
    return points


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


def _inherit(name: str, files: Mapping[str, tuple[Path, CellFile]]) -> Cell:
    """Returns the cell with its parents' keys filled in; the root of the chain is the baseline."""
    path, file = files[name]
    chain = [file]
    while (parent := chain[-1].extends) is not None:
        if parent not in files:
            raise UserError(f"{path}: extends '{parent}', which is no cell; {nearest(parent, list(files))}")
        if any(parent == link.name for link in chain):
            loop = " -> ".join([*(link.name for link in chain), parent])
            raise UserError(f"{path}: 'extends' runs in a circle ({loop}); let one of them extend another cell.")
        chain.append(files[parent][1])
    options: dict[str, Any] = {}
    for link in reversed(chain):
        options = merge(options, link.options)
    offset = next((link.seed_offset for link in chain if link.seed_offset is not None), 0)
    default = dict.fromkeys(link.name for link in (chain[1:2] + chain[-1:] if len(chain) > 1 else []))
    references = file.reference if file.reference is not None else list(default)
    if name in references:
        raise UserError(f"{path}: a cell cannot be its own reference; remove '{name}' from 'reference'.")
    return Cell(
        name=name,
        title=file.title or name,
        group=next((link.group for link in chain if link.group), "main"),
        tier=next((link.tier for link in chain if link.tier), "core"),
        question=file.question,
        notes=file.notes,
        primary=file.primary,
        extends=file.extends,
        references=tuple(references),
        seed_offset=offset,
        options=options,
        evaluate=next((link.evaluate for link in chain if link.evaluate is not None), None),
        path=path,
    )


def select(cells: Mapping[str, Cell], *, names: Iterable[str] | None, tier: Tier) -> list[Cell]:
    """Returns the named cells, or without names all cells up to a tier; parents stand before their children.

    Raises:
        UserError: A name is no cell.
    """
    if names is None:
        wanted = [cell.name for cell in cells.values() if TIERS.index(cell.tier) <= TIERS.index(tier)]
    else:
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if name not in cells:
                raise UserError(f"there is no cell '{name}'; {nearest(name, list(cells))}")
    return sorted((cells[name] for name in wanted), key=lambda cell: _ancestry(cell, cells))


def _ancestry(cell: Cell, cells: Mapping[str, Cell]) -> tuple[str, ...]:
    """Returns the names from the root ancestor to the cell: sorted by it, a parent stands before its children."""
    chain = [cell.name]
    while (parent := cells[chain[-1]].extends) is not None:
        chain.append(parent)
    return tuple(reversed(chain))


def describe(cell: Cell, cells: Mapping[str, Cell], preset: Preset) -> dict[str, Any]:
    """Returns a cell as one entry of `cells.json`: its texts, options, and differences to parent and references."""
    config = cell.resolve(preset)
    dump = config.dump()
    parent = cells[cell.extends].resolve(preset).dump() if cell.extends else dump
    return {
        "name": cell.name,
        "title": cell.title,
        "group": cell.group,
        "tier": cell.tier,
        "question": cell.question,
        "notes": cell.notes,
        "primary": cell.primary or cell.name in preset.primary,
        "extends": cell.extends,
        "references": list(cell.references),
        "seed_offset": cell.seed_offset,
        "also_on": (cell.evaluate or preset.evaluate).also_on,
        "declared": difference(parent, dump),
        "differences": {name: difference(cells[name].resolve(preset).dump(), dump) for name in cell.references},
        "config": dump,
        "config_hash": config.hash,
    }


def new_cell(folder: Path, name: str, parent: Cell) -> Path:
    """Writes a commented `ablations/<name>.yaml` that extends `parent` and returns its path.

    Raises:
        UserError: The name is not safe or the file exists.
    """
    path = folder / f"{name}.yaml"
    _checked({"name": name}, path)
    if path.exists():
        raise UserError(f"{path} exists already; choose another name or edit it.")
    path.write_text(
        f"name: {name}\n"
        f"title: {json.dumps(f'{parent.title}, changed', ensure_ascii=False)}\n"
        f"extends: {parent.name}\n"
        'question: ""\n'
        "# Write below only what differs from the parent, for example:\n"
        "# losses:\n"
        "#   weighted_triplet: {ratio: 0.25}\n",
        encoding="utf-8",
    )
    return path


def cell_schema() -> dict[str, Any]:
    """Returns a JSON Schema of the cell file, for editors; every option is optional there."""
    schema = CellFile.model_json_schema()
    options = RunConfig.model_json_schema()
    definitions = {**schema.get("$defs", {}), **options["$defs"]}
    for definition in definitions.values():
        definition.pop("required", None)
    for dotted in PRESET_ONLY:
        section, option = dotted.split(".")
        definitions[f"{section.title()}Config"]["properties"].pop(option)
    for name, definition in definitions.items():
        for key, value in definition.get("properties", {}).items():
            if name == "LossesConfig":
                definition["properties"][key] = {"anyOf": [*value["anyOf"], {"const": "none"}]}
    for section in SECTIONS:
        schema["properties"][section] = options["properties"][section]
    schema["$defs"] = definitions
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "reidablate ablation cell"
    return schema
