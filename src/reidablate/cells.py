"""Ablation cells: one YAML file each, resolved over a preset to the exact configuration of its runs."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import Field, field_validator

from reidablate import plugins
from reidablate.config import EvaluateConfig, Preset, RunConfig, Section, nearest, validate
from reidablate.errors import UserError
from reidablate.external import External, PlannedExternal, differences, refuse_options
from reidablate.trees import difference, flatten, load_yaml, merge, yaml_files

SECTIONS = ("model", "losses", "train")
# What belongs to the preset, and what a cell may use in its place.
PRESET_ONLY = {"train.lr": "train.lr_factor", "train.epochs": "train.epochs_factor", "model.image_size": None}
MOST_SEED = 10**9
MOST_POINTS = 500  # of the sweep of one file
MOST_CELLS = 2000
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
            f"{what} '{name}' is not a safe folder name; "
            "use small letters, digits, '_', '-' and '.', at most 64, starting with a letter or digit."
        )


class DatasetOptions(Section):
    """What a cell does differently on one data set."""

    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    train: dict[str, Any] = {}


class CellFile(Section):
    """What may stand in `ablations/<name>.yaml`; the three sections hold only what differs from the parent.

    `by_dataset` holds the same three sections for single data sets: what differs there from the rest of the file.
    """

    name: str
    title: str = ""
    group: str = ""
    tier: Tier | None = None
    question: str = ""
    notes: str = ""
    notes_not_under: list[str] = []
    primary: bool = False
    extends: str | None = None
    reference: list[str] | None = None
    seed_offset: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    train: dict[str, Any] = {}
    by_dataset: dict[str, DatasetOptions] = {}
    evaluate: EvaluateConfig | None = None
    external: External | None = None

    @field_validator("reference", mode="before")
    @classmethod
    def _one_reference(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The declared differences as a nested mapping."""
        return {name: getattr(self, name) for name in SECTIONS if getattr(self, name)}

    def options_on(self, dataset: str) -> dict[str, Any]:
        """The declared differences on one data set."""
        own = self.by_dataset.get(dataset)
        return merge(self.options, own.model_dump(exclude_unset=True)) if own else self.options


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One ablation variant with everything inherited filled in, before a preset gives it its scale.

    `by_dataset` holds, for each data set on which it differs, all of its options there. What is trained by another code
    base is `external` and has no options.
    """

    name: str
    title: str
    group: str
    tier: Tier
    question: str
    notes: str
    notes_not_under: tuple[str, ...]
    primary: bool
    extends: str | None
    references: tuple[str, ...]
    seed_offset: int
    options: dict[str, Any]
    by_dataset: dict[str, dict[str, Any]]
    evaluate: EvaluateConfig | None
    path: Path
    external: PlannedExternal | None = None

    @property
    def where(self) -> str:
        """The file that the cell comes from, and its name where a sweep makes several of one file."""
        return str(self.path) if self.path.stem == self.name else f"{self.path}, cell {self.name}"

    def where_on(self, dataset: str | None) -> str:
        """The place of the cell's options on a data set."""
        return f"{self.where}, by_dataset.{dataset}" if dataset in self.by_dataset else self.where

    def resolve(self, preset: Preset, dataset: str | None = None) -> RunConfig:
        """Returns the configuration of this cell's runs under a preset, on a data set if one is named.

        Raises:
            UserError: A key is unknown or a value is out of range; the sentence names the file and the key.
        """
        base = {section: getattr(preset, section) for section in SECTIONS}
        options = self.options if dataset is None else self.by_dataset.get(dataset, self.options)
        with plugins.study_around(self.path):
            return validate(RunConfig, merge(base, options), where=self.where_on(dataset))


_Files = Mapping[str, tuple[Path, CellFile]]  # the place and the content of each cell's own file, by its name


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Why a cell cannot be used.

    Attributes:
        sentence: What is wrong, in which file, and what to do.
        cause: The cell or file at fault; not the cell itself where that one only needs it.
    """

    sentence: str
    cause: str


class Cells(dict[str, Cell]):
    """The usable cells of a folder by name.

    Attributes:
        broken: The others by name; a file that cannot be read stands under its name without the suffix.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broken: dict[str, Broken] = {}

    @property
    def words(self) -> dict[str, list[str]]:
        """The cells that each word selects: its own name one, the name of a file with a sweep all its points."""
        files: dict[str, list[str]] = {}
        for cell in self.values():
            files.setdefault(cell.path.stem, []).append(cell.name)
        return files | {name: [name] for name in self}

    @property
    def notices(self) -> list[str]:
        """One line for each fault, with the cells that are left out because of it."""
        lines = []
        for name, fault in self.broken.items():
            if fault.cause == name:
                others = [other for other, why in self.broken.items() if why.cause == name != other]
                lines.append(f"{fault.sentence} Left out until then: {', '.join([name, *others])}.")
        return lines

    def why_broken(self, name: str) -> Broken | None:
        """Returns why a cell cannot be used, also a point of a sweep whose file is broken; None if nothing is known."""
        points = (fault for stem, fault in self.broken.items() if name.startswith(f"{stem}_"))
        return None if name in self else self.broken.get(name) or next(points, None)

    def drop(self, name: str, error: UserError) -> None:
        """Takes a cell out as broken."""
        self.pop(name, None)
        cause = error.cause if isinstance(error, _NeedsBrokenError) else name
        self.broken[name] = Broken(sentence=str(error), cause=cause)


def load_cells(folder: Path, presets: Iterable[Preset], study: Path = Path()) -> Cells:
    """Returns the usable cells of a folder by name, and with them why the others are broken.

    Every cell is checked against every preset, also those that will not run, so a slip is found at once. It breaks
    its own cell and those that extend it or are compared with it, and no other.

    Args:
        folder: The folder.
        presets: The presets.
        study: The study folder, from which cells name the files of another code base.

    Raises:
        UserError: There is no such folder or no file in it, or two files give one name.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with ablation cells; give it with --config ablations=FOLDER.")
    paths, presets = yaml_files(folder), list(presets)
    if not paths:
        raise UserError(f"{folder} holds no .yaml file; `reidablate cells new NAME` makes one.")
    refuse_twins(paths)
    cells = Cells()
    files = _read_files(paths, cells)
    if len(files) > MOST_CELLS:
        raise UserError(
            f"{folder} holds {len(files)} cells, more than {MOST_CELLS}; move some to a folder of their own."
        )
    for name in _parents_first(files, cells):
        path, file = files[name]
        try:
            _require(path, "extends", [file.extends] if file.extends else [], cells, files)
            cell = _inherit(name, files, study)
            for preset, dataset in itertools.product(presets, (None, *cell.by_dataset)):
                cell.resolve(preset, dataset)
            cells[name] = cell
        except UserError as error:
            cells.drop(name, error)
    _drop_uncomparable(cells, files)
    for preset in presets:
        for name in preset.primary:
            if name not in cells and not cells.why_broken(name):
                raise UserError(f"preset '{preset.name}': primary '{name}' is not a cell; {nearest(name, list(cells))}")
    return cells


def check_datasets(cells: Iterable[Cell], known: Iterable[str]) -> None:
    """Checks that every data set on which a cell differs is one of the known ones.

    Raises:
        UserError: It is not.
    """
    names = list(known)
    for cell in cells:
        for dataset in cell.by_dataset:
            if dataset not in names:
                raise UserError(f"{cell.path}: by_dataset names '{dataset}'; {nearest(dataset, names)}")


def refuse_twins(paths: Iterable[Path]) -> None:
    """Refuses files whose names differ in nothing but suffix and case, which on many systems are one file.

    Raises:
        UserError: There are two.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        name = path.stem.casefold()
        if name in seen:
            raise UserError(
                f"{path}: cell name '{name}' is already used by {seen[name]}; rename one, not only its case."
            )
        seen[name] = path


def _read_files(paths: Iterable[Path], cells: Cells) -> dict[str, tuple[Path, CellFile]]:
    """Returns every cell's own file by name, the points of a sweep one by one; a broken file is dropped."""
    files: dict[str, tuple[Path, CellFile]] = {}
    for path in paths:
        try:
            expanded = _expand(_read(path), path)
        except UserError as error:
            cells.drop(path.stem, error)
            continue
        for file in expanded:
            if file.name in files:
                raise UserError(
                    f"{path}: cell name '{file.name}' is already used by {files[file.name][0]}; rename one."
                )
            files[file.name] = (path, file)
    return files


def _parents_first(files: _Files, cells: Cells) -> list[str]:
    """Returns the names of the cells, each behind the one that it extends; those in a circle are dropped."""
    depths = {}
    for name, (path, file) in files.items():
        chain, parent = [name], file.extends
        while parent is not None and parent in files and parent not in chain:
            chain.append(parent)
            parent = files[parent][1].extends
        if parent in chain:
            loop = " -> ".join([*chain, parent])
            sentence = f"{path}: 'extends' runs in a circle ({loop}); let one of them extend another cell."
            cells.drop(name, UserError(sentence))
        else:
            depths[name] = len(chain)
    return sorted(depths, key=lambda name: depths[name])


def _require(path: Path, key: str, needed: Iterable[str], cells: Cells, files: _Files) -> None:
    """Checks that a cell has the cells that it names under `key`.

    Raises:
        UserError: One is broken, with its fault, or is not a cell.
    """
    for name in needed:
        if fault := cells.why_broken(name):
            why = cells.broken[fault.cause].sentence
            raise _NeedsBrokenError(f"{path}: {key} '{name}' cannot be used, because {why}", fault.cause)
        if name not in cells:
            known = nearest(name, list(files))
            raise UserError(f"{path}: {key} '{name}'{', which' if key == 'extends' else ''} is not a cell; {known}")


class _NeedsBrokenError(UserError):
    def __init__(self, sentence: str, cause: str) -> None:
        super().__init__(sentence)
        self.cause = cause


def _drop_uncomparable(cells: Cells, files: _Files) -> None:
    """Drops the cells whose references cannot be used, and those that extend them or are compared with them."""
    before = None
    while before != len(cells):
        before = len(cells)
        for cell in list(cells.values()):
            try:
                _require(cell.path, "extends", [cell.extends] if cell.extends else [], cells, files)
                _require(cell.path, "reference", cell.references, cells, files)
            except UserError as error:
                cells.drop(cell.name, error)


def _read(path: Path) -> CellFile:
    data = _names_as_written(load_yaml(path), path)
    special = data.get("by_dataset")
    for part in (data, *(special.values() if isinstance(special, dict) else ())):
        for dotted in PRESET_ONLY.keys() & flatten(part if isinstance(part, dict) else {}).keys():
            _refuse_presets(path, dotted, verb="scale it with")
        _refuse_code(path, part)
    return _checked(data, path)


def _refuse_code(path: Path, part: Any) -> None:
    model, losses = (part.get(name) if isinstance(part, dict) else None for name in ("model", "losses"))
    if isinstance(model, dict) and "backbone_code" in model:
        raise UserError(f"{path}: 'model.backbone_code' is written by the program alone; remove it.")
    for name, section in losses.items() if isinstance(losses, dict) else ():
        if isinstance(section, dict) and "code" in section:
            raise UserError(f"{path}: 'losses.{name}.code' is written by the program alone; remove it.")


def _names_as_written(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the content of a cell file with names as text, also where YAML reads a number or date (2024_05)."""
    keys = ("name", "extends", "reference")
    values = [value for key in keys for value in (data[key] if isinstance(data.get(key), list) else [data.get(key)])]
    if all(value is None or isinstance(value, str) for value in values):
        return data
    written = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return {**data, **{key: written[key] for key in keys if key in written and data[key] is not None}}


def _refuse_presets(path: Path, dotted: str, *, verb: str) -> NoReturn:
    factor = PRESET_ONLY[dotted]
    instead = f"{verb} '{factor}' instead" if factor else "change it in a preset of your own (--config preset=FILE)"
    raise UserError(f"{path}: '{dotted}' belongs to the preset; {instead}.")


def _checked(data: Mapping[str, Any], path: Path) -> CellFile:
    file = validate(CellFile, data, where=str(path))
    check_name(file.name, f"{path}: cell name")
    return file


def _points(file: CellFile) -> int:
    return math.prod(len(values) for values in file.sweep.values())


def _expand(file: CellFile, path: Path) -> list[CellFile]:
    """Returns one file per point of its sweep, or the file itself."""
    if not file.sweep:
        if path.stem != file.name:
            raise UserError(f"{path}: the file holds cell '{file.name}'; rename the file to {file.name}.yaml.")
        return [file]
    if (number := _points(file)) > MOST_POINTS:
        raise UserError(f"{path}: the sweep has {number} points, more than {MOST_POINTS}; write fewer values.")
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


def _inherit(name: str, files: _Files, study: Path) -> Cell:
    """Returns the cell with its parents' keys filled in; the root of the chain is the baseline."""
    path, file = files[name]
    chain = [file]
    while (parent := chain[-1].extends) is not None:
        chain.append(files[parent][1])
    if any(link.external for link in chain):
        given = {"extends": file.extends, "by_dataset": file.by_dataset, "evaluate": file.evaluate}
        refuse_options(str(path), {**given, **file.options})
    options: dict[str, Any] = {}
    special: dict[str, dict[str, Any]] = {dataset: {} for link in chain for dataset in link.by_dataset}
    for link in reversed(chain):
        options = merge(options, link.options)
        special = {dataset: merge(above, link.options_on(dataset)) for dataset, above in special.items()}
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
        notes_not_under=tuple(file.notes_not_under),
        primary=file.primary,
        extends=file.extends,
        references=tuple(references),
        seed_offset=offset,
        options=options,
        by_dataset=special,
        evaluate=next((link.evaluate for link in chain if link.evaluate is not None), None),
        path=path,
        external=file.external.planned(study, str(path)) if file.external else None,
    )


def select(cells: Mapping[str, Cell], *, names: Iterable[str] | None, tier: Tier) -> list[Cell]:
    """Returns the named cells, or without names all cells up to a tier; parents stand before their children.

    Raises:
        UserError: A name is not a cell.
    """
    if names is None:
        wanted = [cell.name for cell in cells.values() if TIERS.index(cell.tier) <= TIERS.index(tier)]
    else:
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if isinstance(cells, Cells) and (fault := cells.why_broken(name)):
                raise UserError(fault.sentence)
            if name not in cells:
                raise UserError(f"there is no cell '{name}'; {nearest(name, list(cells))}")
    return sorted((cells[name] for name in wanted), key=lambda cell: _ancestry(cell, cells))


def unchanged_copies(chosen: Iterable[Cell], cells: Mapping[str, Cell], preset: Preset) -> list[str]:
    """Returns a line for each chosen cell that has the runs of an earlier one, chosen too or a parent."""
    asked = [cell.name for cell in chosen]
    special = sorted({dataset for cell in cells.values() for dataset in cell.by_dataset})
    first: dict[tuple[tuple[RunConfig, ...] | str, int], str] = {}
    lines = []
    for name in dict.fromkeys(name for one in asked for name in _ancestry(cells[one], cells)):
        cell = cells[name]
        everywhere = tuple(cell.resolve(preset, dataset) for dataset in (None, *special))
        runs = cell.external.identity if cell.external else everywhere
        other = first.setdefault((runs, cell.seed_offset), name)
        if other != name and name in asked:
            lines.append(
                f"{name}: same configuration as {other}, so its runs repeat those of {other}; "
                f"write what differs into {cell.path}."
            )
    return lines


def _ancestry(cell: Cell, cells: Mapping[str, Cell]) -> tuple[str, ...]:
    """Returns the names from the root ancestor to the cell: sorted by it, a parent stands before its children."""
    chain = [cell.name]
    while (parent := cells[chain[-1]].extends) is not None:
        chain.append(parent)
    return tuple(reversed(chain))


def describe(cell: Cell, cells: Mapping[str, Cell], preset: Preset) -> dict[str, Any]:
    """Returns a cell as one entry of `cells.json`: its texts, options, and differences to parent and references.

    `by_dataset` says the last four again for each data set on which the cell, its parent or a reference differs.
    """
    related = [cell, *(cells[name] for name in (cell.extends, *cell.references) if name)]
    special = sorted({dataset for one in related for dataset in one.by_dataset})
    return {
        "name": cell.name,
        "title": cell.title,
        "group": cell.group,
        "tier": cell.tier,
        "question": cell.question,
        "notes": "" if preset.name in cell.notes_not_under else cell.notes,
        "extends": cell.extends,
        "references": list(cell.references),
        "seed_offset": cell.seed_offset,
        "primary": cell.primary or cell.name in preset.primary,
        "also_on": [] if cell.external else (cell.evaluate or preset.evaluate).also_on,
        "external": cell.external.model_dump() if cell.external else None,
        **_configured(cell, cells, preset, None),
        "by_dataset": {dataset: _configured(cell, cells, preset, dataset) for dataset in special},
    }


def _configured(cell: Cell, cells: Mapping[str, Cell], preset: Preset, dataset: str | None) -> dict[str, Any]:
    """Returns a cell's configuration on a data set, and how it differs from its parent and references there."""
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
        "config": dump,
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
        added = merge(added, _nest(key, value))
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
    _checked({"name": name}, path)
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
