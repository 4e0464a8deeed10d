"""Which data sets a study runs on, and all that their names tell before anything is computed."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from reidablate.config import Preset
from reidablate.data.census import check_identities, count, counted, warnings_by_name
from reidablate.data.folder import read_folder
from reidablate.data.formats import SYNTHETIC_FILE, Layout, Listing, some
from reidablate.data.locating import Whereabouts, find_set, stray_sets, what_is_in
from reidablate.data.table import Table, layout_of
from reidablate.errors import UserError
from reidablate.planned import MissingDataset, PlannedDataset
from reidablate.settings import Settings
from reidablate.study import PRETRAIN


@dataclass(frozen=True)
class Search:
    """What was found below `data_root`.

    Attributes:
        found: The folders of the sets that can be trained on.
        test_only: The folders of the sets without training images.
        absent: Of the other wanted sets, what was found instead.
    """

    found: dict[str, Path] = field(default_factory=dict)
    test_only: dict[str, Path] = field(default_factory=dict)
    absent: dict[str, Whereabouts] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """The data sets of a study, those that are only tested on, those that are missed, and the lines that say so."""

    datasets: list[PlannedDataset]
    test_only: list[PlannedDataset]
    missing: list[MissingDataset]
    notices: list[str]


def search_datasets(settings: Settings, wanted: list[str], preset: Preset | None) -> Search:
    """Returns where the wanted data sets lie; a preset that draws its own looks for none.

    Raises:
        UserError: A set lies in several places.
    """
    table, search = settings.dataset_table, Search()
    if preset and preset.synthetic:
        return search
    for name in wanted:
        layout = layout_of(name, table)
        there = find_set(settings.data_root, table[name], layout)
        if there.root is None:
            search.absent[name] = there
        else:
            (search.test_only if layout.test_only else search.found)[name] = there.root
    for name, there in search.absent.items():
        if there.folder is not None and _belongs_to_one(there.folder, search):  # of another data set with the same name
            search.absent[name] = replace(there, folder=None, incomplete="")
    return search


def _belongs_to_one(folder: Path, search: Search) -> bool:
    """Returns whether a folder holds a set that was found, or is part of one."""
    roots = [root.resolve() for root in [*search.found.values(), *search.test_only.values()]]
    own = folder.resolve()
    return any(root.is_relative_to(own) or own.is_relative_to(root) for root in roots)


def choose_datasets(settings: Settings, preset: Preset, wanted: list[str], search: Search) -> Sources:
    """Returns the study's data sets, found or to be generated; every name in the folders that are found is checked.

    Raises:
        UserError: What was asked for is not there, or a folder could not be indexed or scored.
    """
    if not search.found and search.test_only and settings.datasets != "all":
        titles = ", ".join(settings.dataset_table[name].title for name in search.test_only)
        raise UserError(
            f"--config datasets: there are no training images of {titles}; add a data set to train on, and name this "
            "one in evaluate.also_on of a cell or preset."
        )
    if preset.synthetic:
        if settings.preset == "auto":
            _refuse_to_replace(settings, search)
        return _generated(settings, preset, wanted)
    if not search.found:
        raise UserError(f"no data set was found for preset '{preset.name}' {_looked(settings, search)}.")
    table, notices = settings.dataset_table, []
    for name, there in search.absent.items():
        if settings.datasets != "all" or (there.incomplete and not table[name].optional):
            raise UserError(there.incomplete or f"{table[name].title} was not found {_looked(settings, search)}.")
        if there.incomplete:
            notices.append(f"{table[name].title} is left out: {there.incomplete}")
    missing = [
        MissingDataset(name=name, looked_in=list(there.looked_in))
        for name, there in search.absent.items()
        if not table[name].optional
    ]
    notices += [
        f"{table[entry.name].title} is missing and left out (looked in {', '.join(map(str, entry.looked_in))}; "
        f"{settings.data_root} holds {what_is_in(settings.data_root)})."
        for entry in missing
    ]
    datasets = [_planned(name, table, root) for name, root in search.found.items()]
    test_only = [_planned(name, table, root) for name, root in search.test_only.items()]
    return Sources(datasets, test_only, missing, [*notices, *name_notices(datasets, table)])


def name_notices(datasets: list[PlannedDataset], table: Table) -> list[str]:
    """Returns a line for whatever is unusual about data set folders that are there.

    Raises:
        UserError: A folder cannot be indexed, or no query could be scored.
    """
    real = [dataset for dataset in datasets if not dataset.generated]
    return [f"{dataset.title} in {dataset.root}: {line}." for dataset in real for line in check_names(dataset, table)]


def check_names(dataset: PlannedDataset, table: Table) -> list[str]:
    """Returns what is unusual about a data set folder as far as its names tell.

    Raises:
        UserError: The folder cannot be indexed, or no query could be scored.
    """
    listing = read_folder(dataset.root, dataset.layout)
    check_identities(listing.records, dataset.layout)
    if dataset.grammar is None:
        _check_files(listing, dataset.root)
    synthetic = (listing.root / SYNTHETIC_FILE).is_file()
    lines = warnings_by_name(listing, dataset.layout, synthetic=synthetic)
    if lines and not synthetic and (other := _twin(listing, dataset.layout, table)):
        lines[0] += f"; they are those of {other}"
    return lines


def _twin(listing: Listing, layout: Layout, table: Table) -> str:
    """Returns the title of the data set of the table whose published counts a folder has; empty where there is none."""
    counts = count(listing.records, layout)
    others = (entry for entry in table.values() if entry.counts and entry.counts.model_dump() == counts)
    return next((entry.title for entry in others if entry.title != layout.title), "")


def _check_files(listing: Listing, manifest: Path) -> None:
    lost = [record.path for record in listing.records if not os.path.isfile(listing.root / record.path)]
    if lost:
        raise UserError(
            f"{counted(len(lost), 'image')} of the manifest in {manifest} cannot be found: {some(lost)}; "
            "correct the paths, which are relative to the manifest's folder."
        )


def _refuse_to_replace(settings: Settings, search: Search) -> None:
    """Refuses to run on procedural pedestrians where real data was asked for and is not there.

    Raises:
        UserError: Naming what was asked for, what was looked for and what is there.
    """
    wishes: list[tuple[str, object, object]] = [
        ("data_root", settings.data_root, Path("data")),
        ("weights", settings.weights, "preset"),
    ]
    if not (settings.results / "quickstart" / "plans").is_dir():  # else they are of the synthetic study that is there
        wishes += [("seeds", settings.seeds, "preset"), ("datasets", settings.datasets, "all")]
    given = [f"{key}={value}" for key, value, default in wishes if value != default]
    incomplete = [there.incomplete for there in search.absent.values() if there.incomplete]
    root = settings.data_root
    something = incomplete or stray_sets(root, settings.dataset_table) or (os.path.lexists(root) and not root.is_dir())
    if not given and not something:
        return
    asked = f" although {' '.join(given)} was given" if given else ""
    raise UserError(
        f"no data set was found{asked} {_looked(settings, search)}. To try your data in minutes once it is found: "
        "--config preset=smoke; for the synthetic study: preset=quickstart."
    )


def _looked(settings: Settings, search: Search) -> str:
    """Returns where data sets were looked for and what is there instead, as the end of a sentence."""
    incomplete = [there.incomplete.removesuffix(".") for there in search.absent.values() if there.incomplete]
    if incomplete:
        return f"({incomplete[0]})"
    root, table = settings.data_root, settings.dataset_table
    asked = [name for name in search.absent if settings.datasets != "all" or not table[name].optional]
    places = ", ".join(str(place) for name in asked for place in search.absent[name].looked_in)
    strays = [folder for folder in stray_sets(root, table) if not _belongs_to_one(folder, search)]
    if root in strays:
        return (
            f"(looked in {places}; {root} is itself the folder of a data set: give the folder that holds it, and call "
            "it by one of these names)"
        )
    like = f"; {some([str(path) for path in strays])} looks like a data set, rename or move it" if strays else ""
    return f"(looked in {places}; {root} holds {what_is_in(root)}{like}); correct --config data_root"


def _generated(settings: Settings, preset: Preset, wanted: list[str]) -> Sources:
    assert preset.synthetic is not None
    data = settings.results / preset.name / "data"
    names = [name for name in wanted if name in preset.synthetic]
    if not names:
        known = ", ".join(preset.synthetic.keys() - {PRETRAIN})
        raise UserError(f"preset '{preset.name}' makes procedural pedestrians only for {known}; ask for those.")
    _check_recipes(preset, data)
    planned = [_planned(name, settings.dataset_table, data / name / "images", generated=True) for name in names]
    holds = f", which holds {what_is_in(settings.data_root)}" if settings.data_root.is_dir() else ""
    none = f"; no data set was found in {settings.data_root}/{holds} (its place: --config data_root=...)"
    why = none if settings.preset == "auto" else ""
    notice = f"Preset '{preset.name}' runs on SYNTHETIC procedural pedestrians{why}."
    trained = [dataset for dataset in planned if not dataset.layout.test_only]
    return Sources(trained, [dataset for dataset in planned if dataset not in trained], [], [notice])


def earlier_datasets(settings: Settings, preset: Preset, names: list[str]) -> list[PlannedDataset]:
    """Returns the data sets of runs that earlier calls planned, wherever their images are now."""
    table = settings.dataset_table
    if preset.synthetic:
        data, drawn = settings.results / preset.name / "data", preset.synthetic
        return [_planned(name, table, data / name / "images", generated=True) for name in names if name in drawn]
    found = search_datasets(settings, names, preset).found
    return [_planned(name, table, found.get(name, settings.data_root / name)) for name in names]


def _planned(name: str, table: Table, root: Path, *, generated: bool = False) -> PlannedDataset:
    entry, layout = table[name], layout_of(name, table)
    return PlannedDataset(
        name=name,
        title=entry.title,
        format=layout.format,
        root=root,
        generated=generated,
        grammar=layout.grammar,
        published=layout.published,
        delta=entry.delta,
    )


def _check_recipes(preset: Preset, data: Path) -> None:
    """Refuses numbers of images that no procedural set can have, of the sets that are still to be drawn."""
    for name, recipe in (preset.synthetic or {}).items():
        if (data / name / "images" / SYNTHETIC_FILE).is_file():
            continue
        from reidablate.synthetic.plan import check_recipe  # takes a second to import

        try:
            check_recipe(recipe)
        except UserError as error:
            raise UserError(f"preset '{preset.name}', synthetic.{name}: {error}") from None
