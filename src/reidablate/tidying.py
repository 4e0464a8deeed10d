"""What a study no longer needs: found, listed with its size, and removed on demand. Imports are never touched."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reidablate.artifacts import read_json, read_record
from reidablate.call_lock import CallLock
from reidablate.cells import Cells, load_cells
from reidablate.disk import size_bytes
from reidablate.errors import UserError
from reidablate.keeping import REMOVABLE, is_scored, surplus
from reidablate.keeping import remove as remove_recorded
from reidablate.planning import RESERVED
from reidablate.runs import state_folder
from reidablate.study import PRETRAIN, Study, latest_study, load_study

SCOPE = "study.json"
_SEED = re.compile(r"seed(\d+)")


class _Scope(BaseModel):
    """`study.json` of the results, as far as tidying needs it: every planned run."""

    runs: dict[str, dict[str, list[int]]]


class _Folders(BaseModel):
    ablations: Path


class _Name(BaseModel):
    name: str


class _Plan(BaseModel):
    """A plan of any version, as far as tidying needs it."""

    settings: _Folders
    cells: list[_Name]


@dataclass(frozen=True)
class Item:
    """Something that is not needed.

    Attributes:
        kind: Why, as a heading.
        path: A file or folder.
        size_bytes: What removing it frees.
        lock: The folder whose lock its writers hold.
        changed_ns: When it was last changed; an item that changed since it was listed is left alone.
    """

    kind: str
    path: Path
    size_bytes: int
    lock: Path
    changed_ns: int


def clean_study(results: Path, *, remove: bool) -> list[str]:
    """Returns lines that list what a study no longer needs; with `remove`, it is gone.

    To remove, it waits until no call is using the study. What a process still writes is left alone.

    Args:
        results: `results/<preset>` of the study.
        remove: Remove what is found.

    Raises:
        UserError: There is no study in the folder, it was planned from another working directory, or its records
            cannot be read; nothing is removed then.
    """
    latest_study(results)  # before a lock file is made in a folder that is no study
    if remove:
        CallLock(results).take()
    lines, freed, kind = [], 0, ""
    items = find_items(results)
    for item in items:
        note = ""
        if remove:
            note = "" if _remove(item) else ", in use and left alone"
        freed += 0 if note else item.size_bytes
        lines += [] if item.kind == kind else [item.kind]
        lines.append(f"  {item.path}  {_readable(item.size_bytes)}{note}")
        kind = item.kind
    if not items:
        return ["nothing to clean"]
    end = "removed." if remove else "in all; add --yes to remove."
    return [*lines, f"{len(items)} item{'s' * (len(items) > 1)}, {_readable(freed)} {end}"]


def find_items(results: Path) -> list[Item]:
    """Returns everything that a study no longer needs.

    Raises:
        UserError: What is needed cannot be told, because a plan, `study.json` or the cells cannot be read.
    """
    known = _Known(results)
    items: list[Item] = []
    gone: set[Path] = set()
    for kind, run in known.superfluous_runs():
        gone.add(run)
        items.append(_item(kind, run, lock=run))
    for folder in (folder for run in _runs(results) if run not in gone for folder in (run, *run.glob("on_*/"))):
        state = state_folder(folder)
        if state.is_dir() and is_scored(folder):
            items.append(_item("states of scored runs", state, lock=folder))
    for path in known.superfluous_weights():
        items.append(_item("weights and features that the preset does not keep", path, lock=path.parent))
    items += [_item("caches of data sets that are not planned", path, lock=path) for path in known.unused_caches()]
    items += [_item("superseded plans", path, lock=path.parent) for path in known.superseded_plans()]
    for path in _leftovers(results):
        if not any(path.is_relative_to(other.path) for other in items):
            items.append(_item("left by killed calls", path, lock=path if path.is_dir() else path.parent))
    return items


def _item(kind: str, path: Path, *, lock: Path) -> Item:
    return Item(kind, path, size_bytes(path), lock, path.lstat().st_mtime_ns)


class _Known:
    """What plans, `study.json` and YAML files know of a study."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.plans = sorted((results / "plans").glob("[!.]*.json"), key=lambda path: path.stat().st_mtime_ns)
        self.newest = load_study(self.plans[-1])
        if self.newest.root.resolve() != results.resolve():
            raise UserError(
                f"{results} was planned as {self.newest.root} from another working directory; run clean from there."
            )
        self.kept = {self.plans[-1], *(path for path in self.plans if path.stem == self._behind_the_tables())}
        scope = results / SCOPE
        self.scope = read_record(scope, _Scope).runs if scope.is_file() else None

    def _behind_the_tables(self) -> Any:
        tables = self.results / "tables" / "study.json"
        return read_json(tables).get("plan_hash") if tables.is_file() else None

    @cached_property
    def studies(self) -> list[Study]:
        """The kept plans."""
        return [load_study(path) for path in sorted(self.kept)]

    @cached_property
    def cells(self) -> tuple[set[str], list[Cells]]:
        """The cells of plans whose folder of cells is gone, and those of every other folder that was ever used."""
        names: set[str] = set()
        folders: dict[Path, Cells] = {}
        for path in self.plans:
            plan = read_record(path, _Plan)
            folder = plan.settings.ablations
            if not folder.is_dir():
                names |= {cell.name for cell in plan.cells}
            elif folder not in folders:
                folders[folder] = load_cells(folder, [])
        return names, list(folders.values())

    def has_cell(self, name: str) -> bool:
        """Returns whether a YAML file stands for a cell, also a broken one."""
        names, folders = self.cells
        return name in names or any(name in cells or cells.why_broken(name) for cells in folders)

    @cached_property
    def datasets(self) -> set[str]:
        """The data sets of `study.json`, of the kept plans and of their table."""
        names = set(self.scope or {})
        for study in self.studies:
            names |= {dataset.name for dataset in study.datasets} | set(study.settings.dataset_table)
        return names

    @cached_property
    def runs(self) -> set[str]:
        """The ids of all runs of `study.json` and of the kept plans."""
        scope = {
            f"{dataset}/{cell}/seed{seed}"
            for dataset, cells in (self.scope or {}).items()
            for cell, seeds in cells.items()
            for seed in seeds
        }
        return scope | {run.id for study in self.studies for run in study.runs}

    def superfluous_runs(self) -> Iterator[tuple[str, Path]]:
        """Yields the runs whose cell has no file any more, and those of a seed or data set that nobody plans.

        Without `study.json` it is not known what was ever planned, so seeds and data sets are not judged.
        """
        for run in _runs(self.results):
            dataset, cell = run.parts[-3:-1]
            if not self.has_cell(cell):
                yield "runs of deleted cells", run
            elif self.scope is not None and dataset not in self.datasets:
                yield "runs on data sets that are not planned", run
            elif self.scope is not None and dataset in self.scope and "/".join(run.parts[-3:]) not in self.runs:
                yield "runs of seeds that are not planned", run

    def superfluous_weights(self) -> Iterator[Path]:
        """Yields weights and features of scored runs that the preset does not keep."""
        for run in self.newest.runs if self.newest.preset.keep != "all" else []:
            elsewhere = [study.root / t.id for study in self.studies for t in study.transfers if t.run == run]
            if all(map(is_scored, elsewhere)):
                yield from surplus(self.newest, run)

    def unused_caches(self) -> Iterator[Path]:
        """Yields the caches of data sets that no plan and no table of data sets has."""
        pretrains = any(study.weights and study.settings.weights == "preset" for study in self.studies)
        for cache in sorted((self.results / "data").glob("*/cache/")):
            name = cache.parent.name
            if not (pretrains if name == PRETRAIN else name in self.datasets):
                yield cache

    def superseded_plans(self) -> list[Path]:
        """Returns all plans but the newest one and that behind the tables."""
        return [path for path in self.plans if path not in self.kept]


def _runs(results: Path) -> list[Path]:
    """Returns the folders of all runs."""
    return [
        run
        for run in sorted(results.glob("*/*/seed*/"))
        if _SEED.fullmatch(run.name)
        and run.parts[-3] not in RESERVED
        and any((run / mark).exists() for mark in ("provenance.json", "state", ".lock"))
    ]


def _leftovers(results: Path) -> list[Path]:
    """Returns half-written files and interrupted repetitions; what an import left belongs to the import."""
    found = [*results.rglob(".tmp-*"), *results.glob("*/*/.seed*.reproduce/")]
    imported = results / "imported"
    return [path for path in sorted(found) if not path.is_relative_to(imported)]


def _remove(item: Item) -> bool:
    """Removes an item unless a process writes there or it changed since it was found; returns whether it did."""
    locks = [item.lock / ".lock", *item.path.rglob(".lock")]
    with ExitStack() as held:
        if not all(_hold(held, lock) for lock in dict.fromkeys(locks) if lock.exists()):
            return False
        if not item.path.exists() or item.path.stat().st_mtime_ns != item.changed_ns:
            return False
        if item.path.name in REMOVABLE:
            remove_recorded(item.path)
        elif item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink()
    if _SEED.fullmatch(item.path.name):
        with suppress(OSError):  # other runs are left
            item.path.parent.rmdir()
            item.path.parent.parent.rmdir()
    return True


def _hold(held: ExitStack, lock: Path) -> bool:
    """Takes a lock until `held` ends; returns False where another process has it."""
    from filelock import FileLock, Timeout

    try:
        held.enter_context(FileLock(lock, timeout=0))
    except Timeout:
        return False
    return True


def _readable(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
