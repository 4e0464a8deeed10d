"""Ablation cells: one YAML file each, resolved over a preset to the exact configuration of its runs."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidablate import plugins
from reidablate.cell_files import SECTIONS, TIERS, CellFile, Tier, expand, read_cell_file
from reidablate.config import EvaluateConfig, Preset, RunConfig, nearest, validate
from reidablate.errors import UserError
from reidablate.external import PlannedExternal, refuse_options
from reidablate.trees import merge, yaml_files

MOST_CELLS = 2000
TUNING_SHARE = 0.1  # of the training identities, held out for the candidates of a tuned cell


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One ablation variant with everything inherited filled in, before a preset gives it its scale.

    `by_dataset` holds, for each data set on which it differs, all of its options there. What is trained by another code
    base is `external` and has no options. A tuned cell is one of its `candidates`, which are scored on held-out
    identities alone; each of these `tunes` it.
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
    candidates: tuple[str, ...] = ()
    tunes: str = ""

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
        if self.tunes:
            base["scored_on"] = "holdout"
        if preset.jitter and not self.external:
            base["jitter"] = preset.jitter
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
    _name_sweeps(cells, files)
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
            expanded = expand(read_cell_file(path), path)
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
    """Drops the cells whose references or candidates cannot be used, and those that need them."""
    before = None
    while before != len(cells):
        before = len(cells)
        for cell in list(cells.values()):
            try:
                _require(cell.path, "extends", [cell.extends] if cell.extends else [], cells, files)
                _require(cell.path, "reference", cell.references, cells, files)
                _require(cell.path, "candidate", cell.candidates, cells, files)
                _require(cell.path, "tuned cell", [cell.tunes] if cell.tunes else [], cells, files)
            except UserError as error:
                cells.drop(cell.name, error)


def _name_sweeps(cells: Cells, files: _Files) -> None:
    """Lets the name of a file of which no point can be used stand among the broken ones, too."""
    usable = {cell.path for cell in cells.values()}
    for name, (path, _) in files.items():
        if path not in usable and name in cells.broken:
            cells.broken.setdefault(path.stem, cells.broken[name])


def _inherit(name: str, files: _Files, study: Path) -> Cell:
    """Returns the cell with its parents' keys filled in; the root of the chain is the baseline."""
    path, file = files[name]
    chain = [file]
    while (parent := chain[-1].extends) is not None:
        chain.append(files[parent][1])
    _refuse_tuned(path, file, files)
    if any(link.external for link in chain):
        given = {"extends": file.extends, "by_dataset": file.by_dataset, "evaluate": file.evaluate}
        refuse_options(str(path), {**given, **file.options})
    options: dict[str, Any] = {}
    special: dict[str, dict[str, Any]] = {dataset: {} for link in chain for dataset in link.by_dataset}
    for link in reversed(chain):
        options = merge(options, link.options)
        special = {dataset: merge(above, link.options_on(dataset)) for dataset, above in special.items()}
    if file.tune:
        options = _with_holdout(options, file)
        special = {dataset: _with_holdout(there, file) for dataset, there in special.items()}
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
        references=() if file.is_candidate else tuple(references),
        seed_offset=offset,
        options=options,
        by_dataset=special,
        evaluate=next((link.evaluate for link in chain if link.evaluate is not None), None),
        path=path,
        external=file.external.planned(study, str(path)) if file.external else None,
        candidates=tuple(n for n, (of, other) in files.items() if of == path and other.is_candidate and file.is_tuned),
        tunes=path.stem if file.is_candidate else "",
    )


def _with_holdout(options: dict[str, Any], file: CellFile) -> dict[str, Any]:
    """Returns the options of a candidate, which holds identities out, or of the tuned cell, which trains on all."""
    share = options.get("train", {}).get("holdout") or TUNING_SHARE
    return merge(options, {"train": {"holdout": share if file.is_candidate else 0.0}})


def _refuse_tuned(path: Path, file: CellFile, files: _Files) -> None:
    """Refuses to extend a tuned cell, whose options nobody knows before it is trained, and to compare with a candidate.

    Raises:
        UserError: A file does.
    """
    parent = files[file.extends][1] if file.extends else None
    if parent and parent.tune:
        instead = f"'{parent.extends}'" if parent.extends else "another cell"
        raise UserError(
            f"{path}: '{file.extends}' is tuned, so its options are not known before it is trained; extend {instead}."
        )
    for name in file.reference or ():
        if name in files and files[name][1].is_candidate:
            raise UserError(
                f"{path}: reference '{name}' is scored on held-out identities alone; compare with "
                f"'{files[name][0].stem}', which becomes the best of them."
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
    return sorted((cells[name] for name in wanted), key=lambda cell: ancestry(cell, cells))


def ancestry(cell: Cell, cells: Mapping[str, Cell]) -> tuple[str, ...]:
    """Returns the names from the root ancestor to the cell: sorted by it, a parent stands before its children."""
    chain = [cell.name]
    while (parent := cells[chain[-1]].extends) is not None:
        chain.append(parent)
    return tuple(reversed(chain))
