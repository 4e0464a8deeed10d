"""The plan of a study: which runs on which data, decided once from settings, preset and cells.

`plan` is what the Snakefile calls. The plan it returns is written under its own hash, and every stage reads it, so
a file edited while the study runs changes nothing before the next call.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import field_validator

from reidablate.artifacts import content_hash, read_json, write_json
from reidablate.cells import Tier, describe, load_cells, select
from reidablate.config import Preset, RunConfig, Section, load_yaml, merge, nearest, validate, yaml_files
from reidablate.data.formats import SYNTHETIC_FILE, locate, source_of
from reidablate.errors import UserError

S = TypeVar("S", bound=Section)
PRETRAIN = "pretrain"
CONFIG_FOLDER = Path("workflow/config")
RESERVED = {"data", "imported", "logs", "plans", "pretrain", "report", "tables"}  # folders beside the data sets'


class DatasetEntry(Section):
    """Where a data set is looked for and how it is read."""

    title: str
    format: Literal["market1501", "occluded_duke", "manifest"]
    folders: list[str]


class Settings(Section):
    """The keys of `default.yaml` and `--config`."""

    data_root: Path
    results: Path
    ablations: Path
    preset: str
    cells: str
    datasets: str
    seeds: int | Literal["preset"]
    tier: Tier | Literal["preset"]
    device: Literal["auto", "cpu", "cuda"]
    weights: str
    wandb: Literal["disabled", "offline", "online"]
    retrain: Literal["config", "code"]
    dataset_table: dict[str, DatasetEntry]

    @field_validator("wandb", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "disabled" if value is False else value

    @field_validator("seeds")
    @classmethod
    def _some_seed(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("a whole number of at least 1")
        return value


class PlannedDataset(Section):
    """A data set of the study; a generated one is written by the study itself."""

    name: str
    title: str
    format: str
    root: Path
    generated: bool


class PlannedCell(Section):
    """A cell with everything resolved, as `cells.json` shows it."""

    name: str
    title: str
    group: str
    tier: Tier
    question: str
    notes: str
    extends: str | None
    references: list[str]
    seed_offset: int
    also_on: Literal["all"] | list[str] = []
    declared: dict[str, list[Any]]
    differences: dict[str, dict[str, list[Any]]]
    config: RunConfig
    config_hash: str


class MissingDataset(Section):
    """A data set that was asked for and not found."""

    name: str
    looked_in: list[Path]


class Run(Section):
    """One training: cell x data set x seed."""

    dataset: str
    cell: str
    seed: int

    @property
    def id(self) -> str:
        """The run's folder below the results of its preset."""
        return f"{self.dataset}/{self.cell}/seed{self.seed}"


class Transfer(Section):
    """One finished run, scored on another data set as well."""

    run: Run
    on: str

    @property
    def id(self) -> str:
        """The transfer's folder below the results of its preset."""
        return transfer_folder(Path(self.run.id), self.on).as_posix()


def transfer_folder(run: Path, on: str) -> Path:
    """Returns where a run's features and scores on another data set lie."""
    return run / f"on_{on}"


class Study(Section):
    """Everything that is decided before the first job starts."""

    settings: Settings
    preset: Preset
    datasets: list[PlannedDataset]
    missing_datasets: list[MissingDataset]
    cells: list[PlannedCell]
    seeds: int
    notices: list[str]

    @property
    def root(self) -> Path:
        """The folder of this preset's results."""
        return self.settings.results / self.preset.name

    @property
    def runs(self) -> list[Run]:
        """Every run, data set by data set and seed by seed."""
        return [
            Run(dataset=dataset.name, cell=cell.name, seed=cell.seed_offset + k)
            for dataset in self.datasets
            for cell in self.cells
            for k in range(self.seeds)
        ]

    @property
    def transfers(self) -> list[Transfer]:
        """Every run on every other data set of the study that its cell asks for."""
        return [
            Transfer(run=run, on=other.name)
            for run in self.runs
            for other in self.datasets
            if other.name != run.dataset and _asks(self.cell(run.cell), other.name)
        ]

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with anything in the plan."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def path(self) -> Path:
        """Where the plan is kept."""
        return self.root / "plans" / f"{self.hash}.json"

    @property
    def gpus_per_run(self) -> int:
        """How many GPUs a training asks of Snakemake."""
        return 0 if self.settings.device == "cpu" else self.preset.execution.gpu

    @property
    def weights(self) -> Path | None:
        """The file that initial weights are read from, None when they are drawn from the seed."""
        if self.settings.weights not in {"preset", "none"}:
            return Path(self.settings.weights)
        if self.settings.weights == "preset" and self.preset.weights == "pretrain":
            return self.root / "pretrain" / "model.safetensors"
        return None

    def dataset(self, name: str) -> PlannedDataset:
        """Returns a data set of the study by name, also the one that only the pre-training uses."""
        if name == PRETRAIN and self.preset.synthetic:
            root = self.data_folder(name) / "images"
            style = self.preset.synthetic[name].style
            return PlannedDataset(name=name, title="Pre-training", format=style, root=root, generated=True)
        return _named({dataset.name: dataset for dataset in self.datasets}, name, "data set")

    def cell(self, name: str) -> PlannedCell:
        """Returns a cell of the study by name."""
        return _named({cell.name: cell for cell in self.cells}, name, "cell")

    def synthetic_recipe(self, name: str) -> dict[str, Any]:
        """Returns what decides a generated data set, as plain JSON values."""
        assert self.preset.synthetic is not None
        return self.preset.synthetic[name].model_dump(mode="json")

    def data_folder(self, name: str) -> Path:
        """Returns the folder of a data set's images (if generated), index, cache and diagnostics."""
        return self.root / "data" / name

    def pretrain_config(self) -> RunConfig:
        """Returns the configuration of the one backbone that the quickstart trains itself."""
        base = {"model": self.preset.model, "losses": self.preset.losses, "train": self.preset.train}
        return validate(
            RunConfig, merge(base, self.preset.pretrain or {}), where=f"preset {self.preset.name}, pretrain"
        )

    def write(self) -> Path:
        """Writes the plan under its hash, also over an older copy, and returns its path.

        Raises:
            UserError: The results folder cannot be written, or no longer.
        """
        write_json(self.path, self.model_dump(mode="json"))
        return self.path

    def reindex_changed(self) -> None:
        """Indexes every real data set again whose files are no longer those that its index was built from.

        It is done while planning because what has to run again depends on the outcome: nothing when the files were
        only copied or touched, everything behind the index when an image changed.

        Raises:
            UserError: A changed data set is no longer a good one.
        """
        for dataset in self.datasets:
            folder = self.data_folder(dataset.name) / "index"
            if dataset.generated or not (folder / "index.json").is_file():
                continue
            try:
                current = read_json(folder / "source.json") == source_of(dataset.root, dataset.format)
            except UserError:
                current = False
            if not current:
                from reidablate.data.index import index_dataset

                print(f"reidablate: the files of {dataset.title} changed; indexing {dataset.root}", file=sys.stderr)
                index_dataset(dataset.root, dataset.format, folder, workers=2)

    def refusal(self, *, gpu_limit: int | None, num_gpus: int | None) -> str | None:
        """Returns why this study should not start on this machine, or None.

        Args:
            gpu_limit: What `--resources gpu=` allows, None without a limit.
            num_gpus: GPUs that PyTorch can use on this machine, None when the jobs run on others.
        """
        asked = self.gpus_per_run
        if gpu_limit is not None and gpu_limit < asked:
            return (
                f"a run of preset '{self.preset.name}' asks for gpu={asked} but --resources gpu={gpu_limit} allows "
                "fewer; raise it, or add --config device=cpu."
            )
        if self.settings.device == "cuda" and num_gpus == 0:
            return (
                "device=cuda was asked for but PyTorch can use no GPU here; check nvidia-smi, CUDA_VISIBLE_DEVICES and "
                "that PyTorch is built for CUDA."
            )
        if num_gpus and num_gpus < asked:
            return (
                f"a run of preset '{self.preset.name}' asks for gpu={asked} but only {num_gpus} can be used here; "
                "lower execution.gpu of the preset, or add --config device=cpu."
            )
        if self.weights is not None and self.settings.weights != "preset" and not self.weights.is_file():
            return f"there are no weights at {self.weights}; correct --config weights=PATH."
        if self.preset.weights != "file":
            return None
        if self.settings.device == "auto" and num_gpus == 0:
            return (
                f"preset '{self.preset.name}' would take hundreds of hours without a GPU and none can be used; "
                "add --config device=cpu to start it all the same, or preset=quickstart for the tiny study."
            )
        if self.settings.weights == "preset":
            return (
                f"preset '{self.preset.name}' starts from pre-trained weights; give them with --config weights=PATH, "
                "or train from scratch with --config weights=none."
            )
        return None


def _asks(cell: PlannedCell, dataset: str) -> bool:
    return cell.also_on == "all" or dataset in cell.also_on


def _named(items: Mapping[str, S], name: str, kind: str) -> S:
    if name not in items:
        raise UserError(f"the plan has no {kind} '{name}'; {nearest(name, list(items))}")
    return items[name]


def load_study(path: Path) -> Study:
    """Returns a plan that `Study.write` wrote.

    Raises:
        UserError: The file is missing or is no plan.
    """
    return validate(Study, read_json(path), where=str(path))


def latest_study(results: Path) -> Study:
    """Returns the plan behind the tables of `results/<preset>`; before there are tables, the newest plan.

    Raises:
        UserError: There is no plan.
    """
    tables = results / "tables" / "study.json"
    plans = sorted((results / "plans").glob("*.json"), key=lambda path: path.stat().st_mtime)
    if tables.is_file():
        behind = results / "plans" / f"{read_json(tables).get('plan_hash')}.json"
        plans += [behind] if behind.is_file() else []
    if not plans:
        raise UserError(f"{results} holds no plan of a study; run snakemake first.")
    return load_study(plans[-1])


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
    if preset.weights == "pretrain" and PRETRAIN not in (preset.synthetic or {}):
        raise UserError(f"{path}: 'weights: pretrain' needs a data set 'pretrain' under 'synthetic'; add one.")
    validate(RunConfig, merge(base, preset.pretrain or {}), where=f"{path}, pretrain")
    return preset


def plan(config: Mapping[str, Any]) -> Study:
    """Returns the study that a merged Snakemake configuration asks for.

    Raises:
        UserError: Anything wrong in settings, presets or cells, in one sentence.
    """
    settings = validate(Settings, dict(config), where="--config or workflow/config/default.yaml")
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
