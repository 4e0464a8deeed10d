"""From settings, preset and cells to the plan of a study; `plan` is what the Snakefile calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidablate.cells import describe, load_cells, select
from reidablate.config import ModelConfig, Preset, RunConfig, nearest, validate
from reidablate.data.formats import SYNTHETIC_FILE, locate
from reidablate.errors import UserError
from reidablate.initial_weights import check_backbones
from reidablate.study import PRETRAIN, MissingDataset, PlannedCell, PlannedDataset, Settings, Study, latest_study
from reidablate.trees import load_yaml, merge, yaml_files

CONFIG_FOLDER = Path("workflow/config")
RESERVED = {"data", "imported", "logs", "plans", "pretrain", "report", "tables"}  # folders beside the data sets'


def load_presets(folder: Path = CONFIG_FOLDER / "presets") -> dict[str, Preset]:
    """Returns the shipped presets by name."""
    return {path.stem: load_preset(path) for path in yaml_files(folder)}


def load_preset(path: Path) -> Preset:
    """Returns the preset in a YAML file, whose name is the file's.

    Raises:
        UserError: An unknown key or a wrong value.
    """
    preset = validate(Preset, load_yaml(path), where=str(path))
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
    elif not (CONFIG_FOLDER / "presets").is_dir():
        raise UserError(f"there is no {CONFIG_FOLDER / 'presets'} here; run this in the folder of the study.")
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
        settings = load_yaml(CONFIG_FOLDER / "default.yaml")
        return plan({**settings, **given, "datasets": dataset, "weights": "none"})
    if given:
        raise UserError(f"--study and --{next(iter(given)).replace('_', '-')} exclude each other; give one of them.")
    found = latest_study(study)
    found.dataset(dataset)
    return found


def plan(config: Mapping[str, Any]) -> Study:
    """Returns the study that a merged Snakemake configuration asks for.

    Raises:
        UserError: Anything wrong in settings, presets or cells, in one sentence.
    """
    settings = validate(Settings, dict(config), where="--config or workflow/config/default.yaml")
    check_backbones(settings.weights, "--config")
    for name in settings.dataset_table:
        if name in RESERVED or not name.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"dataset_table: '{name}' is reserved or no safe folder name; rename the data set.")
    presets = load_presets()
    if settings.preset.lower().endswith((".yaml", ".yml")):
        given = load_preset(Path(settings.preset))
        presets[given.name] = given
        settings = settings.model_copy(update={"preset": given.name})
    if settings.preset != "auto" and settings.preset not in presets:
        raise UserError(
            f"--config preset: there is no preset '{settings.preset}'; {nearest(settings.preset, list(presets))}"
        )
    wanted = _wanted_datasets(settings)
    found, missing = _find(settings, wanted)
    preset = presets["paper" if found else "quickstart"] if settings.preset == "auto" else presets[settings.preset]
    if any(letter.isspace() for letter in f"{settings.results}{preset.name}"):
        raise UserError(f"results folder '{settings.results / preset.name}' has a space in it; choose one without.")
    datasets, notices = _datasets(settings, preset, wanted, found, missing)
    cells = load_cells(settings.ablations, presets.values())
    names = None if settings.cells == "all" else _words("cells", settings.cells)
    tier = preset.tier if settings.tier == "preset" else settings.tier
    chosen = select(cells, names=names, tier=tier)
    if not chosen:
        raise UserError(f"no cell of {settings.ablations} is of tier '{tier}'; name some with --config cells=NAME.")
    for cell in chosen:
        cell.resolve(preset).require_patches(f"{cell.where} at preset '{preset.name}'")
    planned = [PlannedCell.model_validate(describe(cell, cells, preset)) for cell in chosen]
    notices += _left_out(planned, settings, [dataset.name for dataset in datasets])
    return Study(
        settings=settings,
        preset=preset,
        datasets=datasets,
        missing_datasets=[] if preset.synthetic else missing,
        cells=planned,
        seeds=preset.seeds if settings.seeds == "preset" else settings.seeds,
        notices=notices,
    )


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


def _words(key: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UserError(f"--config {key}: '{text}' names none; write all, or names separated by commas.")
    return words


def _wanted_datasets(settings: Settings) -> list[str]:
    if settings.datasets == "all":
        return list(settings.dataset_table)
    names = _words("datasets", settings.datasets)
    for name in names:
        if name not in settings.dataset_table:
            known = nearest(name, list(settings.dataset_table))
            raise UserError(f"--config datasets: there is no data set '{name}' in dataset_table; {known}")
    return names


def _find(settings: Settings, wanted: list[str]) -> tuple[dict[str, Path], list[MissingDataset]]:
    found: dict[str, Path] = {}
    missing: list[MissingDataset] = []
    for name in wanted:
        folders = settings.dataset_table[name].folders
        place = locate(settings.data_root, folders)
        if place is None:
            looked_in = [settings.data_root / folder for folder in folders]
            missing.append(MissingDataset(name=name, looked_in=looked_in))
        else:
            found[name] = place
    return found, missing


def _datasets(
    settings: Settings, preset: Preset, wanted: list[str], found: dict[str, Path], missing: list[MissingDataset]
) -> tuple[list[PlannedDataset], list[str]]:
    """Returns the study's data sets, found or to be generated, and the lines that say so."""
    table = settings.dataset_table
    if preset.synthetic:
        root = settings.results / preset.name / "data"
        names = [name for name in wanted if name in preset.synthetic]
        if not names:
            known = ", ".join(preset.synthetic.keys() - {PRETRAIN})
            raise UserError(f"preset '{preset.name}' makes procedural pedestrians only for {known}; ask for those.")
        why = "" if found else f"; no data set was found in {settings.data_root}/ (its place: --config data_root=...)"
        roots = {name: root / name / "images" for name in names}
        _check_recipes(preset, root)
        planned = [
            PlannedDataset(name=n, title=table[n].title, format=table[n].format, root=place, generated=True)
            for n, place in roots.items()
        ]
        return planned, [f"Preset '{preset.name}' runs on SYNTHETIC procedural pedestrians{why}."]
    if not found:
        places = ", ".join(str(place) for entry in missing for place in entry.looked_in)
        raise UserError(
            f"no data set was found for preset '{preset.name}' (looked in {places}); set --config data_root=..."
        )
    planned = [
        PlannedDataset(name=n, title=table[n].title, format=table[n].format, root=place, generated=False)
        for n, place in found.items()
    ]
    lines = [
        f"{table[entry.name].title} is missing and left out (looked in {', '.join(map(str, entry.looked_in))})."
        for entry in missing
    ]
    return planned, lines


def _check_recipes(preset: Preset, data: Path) -> None:
    """Refuses numbers of images that no procedural set can have, of the sets that are still to be drawn."""
    for name, recipe in (preset.synthetic or {}).items():
        if (data / name / "images" / SYNTHETIC_FILE).is_file():
            continue
        from reidablate.data.synthetic import check_recipe  # takes a second to import

        try:
            check_recipe(recipe)
        except UserError as error:
            raise UserError(f"preset '{preset.name}', synthetic.{name}: {error}") from None
