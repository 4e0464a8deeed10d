"""From settings, preset and cells to the plan of a study; `plan` is what the Snakefile calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidablate import recipes
from reidablate.cell_files import Tier
from reidablate.cell_views import planned_cell, unchanged_copies
from reidablate.cells import Cell, Cells, check_datasets, load_cells, select
from reidablate.config import ModelConfig, Preset, RunConfig, nearest, validate
from reidablate.errors import UserError
from reidablate.initial_weights import check_backbones, check_files
from reidablate.metrics.registry import Metric, own_metrics
from reidablate.next_look import asked_seeds, notice, with_looks, without_looks
from reidablate.places import PRESETS, layers, packaged
from reidablate.places import settings as folder_settings
from reidablate.planned import PlannedCell, PlannedDataset
from reidablate.published import study_claims, with_asked
from reidablate.requirements import require_parts
from reidablate.scope import cells_of, last_planned, read_scope, restrict, settle_primary, union, unread_notices
from reidablate.seeds import cap_of
from reidablate.selecting import check_folder, pick
from reidablate.settings import Settings
from reidablate.smoke import ELSEWHERE, NAME, smoke_preset
from reidablate.sources import Search, choose_datasets, earlier_datasets, name_notices, search_datasets
from reidablate.study import PRETRAIN, Selection, Study, latest_study
from reidablate.trees import load_yaml, merge, yaml_files
from reidablate.tuning import tuning_notices, with_candidates, with_choices

RESERVED = {
    "data",
    "imported",
    "logs",
    "plans",
    "pretrain",
    "report",
    "tables",
    "wandb",
}  # folders beside the data sets'


def load_presets(study: Path = Path()) -> dict[str, Preset]:
    """Returns the presets of the package and those of a study folder by name.

    Raises:
        UserError: What `load_preset` refuses, or a study's preset of another content has the name of a packaged one.
    """
    presets: dict[str, Preset] = {}
    for folder in layers(PRESETS, study):
        for path in yaml_files(folder):
            _add_preset(presets, path)
    return presets


def _add_preset(presets: dict[str, Preset], path: Path) -> Preset:
    preset = load_preset(path)
    if presets.setdefault(preset.name, preset) != preset:
        other = "comes with the package" if packaged(f"{PRESETS}/{preset.name}.yaml").exists() else f"is in {PRESETS}"
        raise UserError(
            f"{path}: another preset '{preset.name}' {other}, and results are kept by that name; "
            "rename this one and its file."
        )
    return preset


def load_preset(path: Path) -> Preset:
    """Returns the preset in a YAML file, whose name is the file's.

    Raises:
        UserError: An unknown key or a wrong value.
    """
    preset = validate(Preset, load_yaml(path), where=str(path))
    if preset.name == NAME or preset.sample is not None:
        raise UserError(f"{path}: 'smoke' and 'sample' belong to the smoke test of every preset; rename or remove it.")
    if preset.name != path.stem:
        raise UserError(f"{path}: the preset is called '{preset.name}'; call it '{path.stem}' like its file.")
    base = {"model": preset.model, "losses": preset.losses, "train": preset.train}
    validate(RunConfig, base, where=str(path))
    check_backbones(preset.weights, str(path))
    if preset.weights == "pretrain" and PRETRAIN not in (preset.synthetic or {}):
        raise UserError(f"{path}: 'weights: pretrain' needs a data set 'pretrain' under 'synthetic'; add one.")
    validate(RunConfig, merge(base, preset.pretrain or {}), where=f"{path}, pretrain")
    return preset


def base_models(preset: str | None) -> dict[str, ModelConfig]:
    """Returns the network of each shipped preset by its name, or of the one preset that is named by name or file.

    Raises:
        UserError: There is no such preset.
    """
    if preset is not None and preset.lower().endswith((".yaml", ".yml")):
        presets = {preset: load_preset(Path(preset))}
    else:
        presets = load_presets()
    if preset is not None and preset not in presets:
        raise UserError(f"--preset: there is no preset '{preset}'; {nearest(preset, list(presets))}")
    chosen = presets if preset is None else {preset: presets[preset]}
    return {name: validate(ModelConfig, found.model, where=name) for name, found in chosen.items()}


def trial_study(dataset: str, study: Path | None, given: Mapping[str, str]) -> Study:
    """Returns the study on whose data set a weight file is tried.

    Args:
        dataset: The data set.
        study: `results/<preset>` of a study, None to plan one as `snakemake` would.
        given: Settings that differ from `default.yaml`; none with a study.

    Raises:
        UserError: There is no such study or data set, or both a study and settings are given.
    """
    if study is None:
        return plan({**folder_settings(Path()), **given, "datasets": dataset, "weights": "none"})
    if given:
        raise UserError(f"--results and --{next(iter(given)).replace('_', '-')} exclude each other; give one of them.")
    found = latest_study(study)
    found.dataset(dataset)
    return found


def plan(config: Mapping[str, Any]) -> Study:
    """Returns the study that a merged Snakemake configuration asks for.

    Raises:
        UserError: Anything wrong in settings, presets or cells, in one sentence.
    """
    settings = _settings(config)
    smoke = settings.preset == NAME
    settings, preset, presets, wanted, search = _chosen_preset(settings, smoke=smoke)
    check_files(preset.weights if settings.weights == "preset" else settings.weights)
    root = settings.results / preset.name
    check_folder(root)
    sources = choose_datasets(settings, preset, wanted, search)
    datasets, notices = sources.datasets, sources.notices
    cells = load_cells(settings.ablations, presets.values())
    check_datasets(cells.values(), settings.dataset_table)
    tier = preset.tier if settings.tier == "preset" else settings.tier
    chosen, lines = _chosen_cells(settings, preset, cells, tier, smoke=smoke)
    scope = read_scope(root, settings.ablations) if settings.scope == "grow" and not smoke else None
    settings = without_looks(settings) if smoke else with_looks(settings, scope, root)
    unread = last_planned(scope, root, cells) if scope else []
    offsets = {name: cell.seed_offset for name, cell in cells.items()}
    offsets |= {cell.name: cell.seed_offset for cell in unread}
    before = restrict(scope.runs if scope else {}, datasets=settings.dataset_table, offsets=offsets)
    asked = _asked(settings, preset, chosen, datasets, before)
    if smoke:
        asked = _smoke_runs(asked, list(settings.dataset_table))
        notices.insert(0, _smoke_notice(preset, settings))
    planned = union(before, asked)
    asked, planned = with_candidates(asked, planned, cells)
    kept = select(cells, names=[name for name in cells_of(planned) if name in cells], tier=tier)
    declared = [planned_cell(cell, cells, preset) for cell in kept]
    declared += [cell for cell in unread if cell.name in cells_of(planned)]
    described, settled = settle_primary(declared, root)
    datasets += earlier_datasets(settings, preset, [n for n in planned if n not in {d.name for d in datasets}])
    datasets.sort(key=lambda dataset: list(settings.dataset_table).index(dataset.name))
    palette = [name for name in (scope.palette if scope else []) if name in offsets]
    test_only = [d for d in sources.test_only if any(c.also_on == "all" or d.name in c.also_on for c in described)]
    seeds = [seed for of in planned.values() for each in of.values() for seed in each]
    recipes.check_recipes(preset, described, seeds)
    metrics, not_metrics = own_metrics(settings.metrics)
    cap = cap_of(settings.seeds)
    notices += [
        *([notice(cap)] if cap else []),
        *([recipes.notice(preset.jitter)] if preset.jitter else []),
        *name_notices(test_only, settings.dataset_table),
        *_own_code(kept, preset, datasets, metrics),
        *_without_pretraining(kept, preset),
        *tuning_notices(described, asked),
        *lines,
        *cells.notices,
        *unread_notices(unread),
        *unchanged_copies(kept, cells, preset),
        *settled,
        *not_metrics,
        *_left_out(described, settings, [dataset.name for dataset in [*datasets, *test_only]]),
    ]
    study = Study(
        settings=settings,
        metrics=metrics,
        preset=preset,
        datasets=datasets,
        test_only=test_only,
        missing_datasets=sources.missing,
        cells=described,
        seeds=max(len(seeds) for of in asked.values() for seeds in of.values()),
        notices=notices,
        planned=planned,
        asked=asked,
        palette=palette + [cell.name for cell in described if cell.name not in palette],
    )
    return with_choices(study)


def _asked(
    settings: Settings, preset: Preset, chosen: list[Cell], datasets: list[PlannedDataset], before: Selection
) -> Selection:
    """Returns the runs that a call asks for, as many of each cell as the setting `seeds` says."""
    if cap := cap_of(settings.seeds):
        if tuned := [cell.name for cell in chosen if cell.candidates]:
            raise UserError(
                f"seeds={settings.seeds}: what {tuned[0]} is tuned to depends on its number of seeds, so they cannot "
                "be added; give a number of seeds, or leave the cell out."
            )
        return asked_seeds(chosen, datasets, cap=cap, planned=before, root=settings.results / preset.name)
    seeds = settings.seeds if isinstance(settings.seeds, int) else preset.seeds
    return {d.name: {c.name: [c.seed_offset + k for k in range(seeds)] for c in chosen} for d in datasets}


def _settings(config: Mapping[str, Any]) -> Settings:
    settings = validate(Settings, dict(config), where="--config or workflow/config/default.yaml")
    check_backbones(settings.weights, "--config")
    for name in settings.dataset_table:
        if name in RESERVED or not name.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"dataset_table: '{name}' is reserved or no safe folder name; rename the data set.")
    return settings


def _chosen_preset(settings: Settings, *, smoke: bool) -> tuple[Settings, Preset, dict[str, Preset], list[str], Search]:
    """Returns the settings with the preset's name, the preset, all presets, the data sets asked for, and the finds."""
    presets = load_presets()
    if smoke:
        settings = settings.model_copy(update={"preset": settings.smoke_of})
    if settings.preset.lower().endswith((".yaml", ".yml")):
        given = _add_preset(presets, Path(settings.preset))
        settings = settings.model_copy(update={"preset": given.name})
    if settings.preset != "auto" and settings.preset not in presets:
        raise UserError(
            f"--config preset: there is no preset '{settings.preset}'; {nearest(settings.preset, [*presets, NAME])}"
        )
    wanted = _wanted_datasets(settings)
    search = search_datasets(settings, wanted, presets.get(settings.preset))
    auto = "paper" if search.found else "quickstart"
    preset = presets[auto if settings.preset == "auto" else settings.preset]
    return settings, smoke_preset(preset) if smoke else preset, presets, wanted, search


def _chosen_cells(
    settings: Settings, preset: Preset, cells: Cells, tier: Tier, *, smoke: bool
) -> tuple[list[Cell], list[str]]:
    """Returns the cells to run, with those that they are compared with, and lines about both."""
    broken = {name: fault.sentence for name, fault in cells.broken.items()}
    names = None if settings.cells == "all" else pick("cells", settings.cells, cells.words, broken)
    chosen, foreign = select(cells, names=names, tier=tier), list[str]()
    if smoke:
        chosen, foreign = _trained_here(chosen)
    if names is None:
        chosen = with_asked(chosen, cells, preset, study_claims(Path(), cells))
    if not chosen and cells.notices:
        raise UserError(cells.notices[0])
    if not chosen:
        raise UserError(f"no cell of {settings.ablations} is of tier '{tier}'; name some with --config cells=NAME.")
    chosen, line = _with_references(chosen, cells)
    for cell in chosen:
        for dataset in (None, *cell.by_dataset):
            require_parts(cell.resolve(preset, dataset), f"{cell.where_on(dataset)} at preset '{preset.name}'")
    return chosen, [*foreign, *line]


def _trained_here(chosen: list[Cell]) -> tuple[list[Cell], list[str]]:
    """Returns the cells that a smoke test can run, and a line about those of other code bases.

    They would read every image of a data set, and a smoke test reads few.
    """
    foreign = [cell.name for cell in chosen if cell.external]
    tuned = [cell.name for cell in chosen if cell.tunes or cell.candidates]
    why = {"another code base trains on all images": foreign, "its few people cannot be held out": tuned}
    lines = [f"{', '.join(names)} left out of the smoke test: {reason}." for reason, names in why.items() if names]
    return [cell for cell in chosen if cell.name not in {*foreign, *tuned}], lines


def _smoke_runs(asked: Selection, order: list[str]) -> Selection:
    """Returns every cell on the first data set, and the baseline and the full method, if asked for, on the others."""
    first = min(asked, key=order.index)
    few = {name: seeds for name, seeds in asked[first].items() if name in ELSEWHERE} or asked[first]
    return {name: cells if name == first else few for name, cells in asked.items()}


def _smoke_notice(preset: Preset, settings: Settings) -> str:
    given = settings.weights not in {"preset", "none"}
    weights = f"weights from {settings.weights}" if given else "random weights, as none are given with weights=PATH"
    return f"{preset.description} Starts from {weights}."


def _with_references(chosen: list[Cell], cells: Mapping[str, Cell]) -> tuple[list[Cell], list[str]]:
    """Returns the chosen cells with those that they are compared with, and a line that names the latter."""
    names = {cell.name: None for cell in chosen}
    added = [r for cell in chosen for r in cell.references if r not in names]
    if not added:
        return chosen, []
    added = list(dict.fromkeys(added))
    line = f"{', '.join(added)} run too: selected cells are compared with {'it' if len(added) == 1 else 'them'}."
    return select(cells, names=[*names, *added], tier="optional"), [line]


def _own_code(chosen: list[Cell], preset: Preset, datasets: list[PlannedDataset], metrics: list[Metric]) -> list[str]:
    """Returns a line that names the code of others that the study will execute, if any, and who uses it."""
    users = {dataset.format: [dataset.name] for dataset in datasets if dataset.layout.is_own}
    for cell in chosen:
        for used in cell.resolve(preset).plugins:
            users.setdefault(used, []).append(cell.name)
    for metric in metrics:
        users.setdefault(str(metric.use), []).append("metric")
    named = "; ".join(f"{used} ({', '.join(names)})" for used, names in users.items())
    return [f"runs code of this study and of installed packages: {named}."] if users else []


def _without_pretraining(chosen: list[Cell], preset: Preset) -> list[str]:
    """Returns a line that names the cells whose backbone the preset does not pre-train."""
    own = preset.model.get("backbone")
    names = [cell.name for cell in chosen if cell.resolve(preset).model.backbone != own]
    if preset.weights != "pretrain" or not names:
        return []
    return [f"{', '.join(names)}: weights are drawn from the seed, as the preset pre-trains {own} alone."]


def _left_out(cells: list[PlannedCell], settings: Settings, present: list[str]) -> list[str]:
    """Returns a line for each data set that cells are to be scored on as well and that the study does not have."""
    asked: dict[str, list[str]] = {}
    for cell in cells:
        for name in [] if cell.also_on == "all" else cell.also_on:
            asked.setdefault(name, []).append(cell.name)
    for name, askers in asked.items():
        if name not in settings.dataset_table:
            known = nearest(name, list(settings.dataset_table))
            raise UserError(f"evaluate.also_on of {askers[0]}: there is no data set '{name}' in dataset_table; {known}")
    return [
        f"{settings.dataset_table[name].title} is no part of this study, so no run is also scored on it "
        f"(evaluate.also_on of {', '.join(askers)})."
        for name, askers in asked.items()
        if name not in present
    ]


def _wanted_datasets(settings: Settings) -> list[str]:
    table = settings.dataset_table
    return list(table) if settings.datasets == "all" else pick("datasets", settings.datasets, {n: [n] for n in table})
