"""The plan of a study: which runs on which data, decided once from settings, preset and cells.

`planning.plan` makes it. It is written under its own hash, and every stage reads it, so a file edited while the study
runs changes nothing before the next call.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import model_validator

from reidablate.artifacts import content_hash, read_json, write_json
from reidablate.config import Preset, RunConfig, Section, nearest, validate
from reidablate.data.folder import source_of
from reidablate.data.table import layout_of
from reidablate.errors import UserError
from reidablate.gpus import gpu_refusals
from reidablate.initial_weights import Choice, file_for, weight_refusals
from reidablate.metrics.registry import Metric
from reidablate.planned import MissingDataset, PlannedCell, PlannedDataset
from reidablate.provenance import keep_sources
from reidablate.seeds import cap_of
from reidablate.settings import Settings
from reidablate.trees import merge

S = TypeVar("S", bound=Section)
PRETRAIN = "pretrain"
Selection = dict[str, dict[str, list[int]]]  # data set -> cell -> seeds


class Run(Section):
    """One training: cell x data set x seed."""

    dataset: str
    cell: str
    seed: int

    @property
    def id(self) -> str:
        """The run's folder below the results of its preset."""
        return f"{self.dataset}/{self.cell}/seed{self.seed}"

    @classmethod
    def of(cls, id: str) -> "Run":
        """Returns the run of a folder's name."""
        dataset, cell, seed = id.split("/")
        return cls(dataset=dataset, cell=cell, seed=int(seed.removeprefix("seed")))


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
    """Everything that is decided before the first job starts.

    Attributes:
        datasets: Those of every planned run, whether or not this call asks for them.
        cells: Likewise.
        seeds: Seeds of a run that this call asks for.
        planned: Every run of the study; calls add to it, and a cell leaves it with its file.
        asked: The runs that this call is to see finished, a part of the planned ones.
        metrics: Those of the study's own.
        palette: The cells in the order in which they came to the study: their colours in every report.
    """

    settings: Settings
    preset: Preset
    datasets: list[PlannedDataset]
    test_only: list[PlannedDataset] = []  # runs of others are scored on them as well, and none is trained on them
    missing_datasets: list[MissingDataset]
    cells: list[PlannedCell]
    seeds: int
    notices: list[str]
    planned: Selection = {}
    asked: Selection = {}
    palette: list[str] = []
    metrics: list[Metric] = []

    @model_validator(mode="before")
    @classmethod
    def _everything(cls, data: Any) -> Any:
        """A plan of version 0.1.0 names no runs: it is every cell on every data set with every seed."""
        if isinstance(data, Mapping) and "planned" not in data:
            cells = {c["name"]: [c["seed_offset"] + k for k in range(data["seeds"])] for c in data["cells"]}
            everything = {dataset["name"]: cells for dataset in data["datasets"]}
            return {**data, "planned": everything, "asked": everything, "palette": list(cells)}
        return data

    @property
    def root(self) -> Path:
        """The folder of this preset's results."""
        return self.settings.results / self.preset.name

    @property
    def looks(self) -> int | None:
        """Most seeds where they are added in looks, None where their number is fixed."""
        return cap_of(self.settings.seeds)

    @property
    def runs(self) -> list[Run]:
        """Every planned run, data set by data set, cell by cell and seed by seed."""
        return self._in_order(self.planned)

    @property
    def tested_runs(self) -> list[Run]:
        """Those of them that are scored on the test set: all but the candidates' of tuned cells."""
        candidates = {cell.name for cell in self.cells if cell.tunes}
        return [run for run in self.runs if run.cell not in candidates]

    @property
    def asked_runs(self) -> list[Run]:
        """The runs that this call is to see finished, in the same order."""
        return self._in_order(self.asked)

    def _in_order(self, selection: Selection) -> list[Run]:
        return [
            Run(dataset=dataset.name, cell=cell.name, seed=seed)
            for dataset in self.datasets
            for cell in self.cells
            for seed in sorted(selection.get(dataset.name, {}).get(cell.name, ()))
        ]

    @property
    def transfers(self) -> list[Transfer]:
        """Every run on every other data set of the study that its cell asks for."""
        return [
            Transfer(run=run, on=other.name)
            for run in self.runs
            for other in [*self.datasets, *self.test_only]
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
    def pretrains(self) -> bool:
        """Whether runs start from a backbone that the study trains itself."""
        return self.settings.weights == "preset" and self.preset.weights == "pretrain"

    @property
    def weights(self) -> Path | None:
        """The file that the preset's own backbone starts from; see `weights_of`."""
        return self.weights_of(self.base_config())

    def weights_of(self, config: RunConfig) -> Path | None:
        """Returns the file that a run's initial weights are read from, None when they are drawn from the seed."""
        if self.pretrains and config.model.backbone != self.preset.model["backbone"]:
            return None
        if self.pretrains:
            return self.root / "pretrain" / "model.safetensors"
        file = file_for(self.weights_choice, config.model.backbone)
        return None if file is None else Path(file)

    @property
    def weights_choice(self) -> Choice:
        """What names the files: the settings or, if they leave it to it, a preset that gives each backbone its own."""
        if self.settings.weights != "preset":
            return self.settings.weights
        return "none" if isinstance(self.preset.weights, str) else self.preset.weights

    def dataset(self, name: str) -> PlannedDataset:
        """Returns a data set of the study by name, also the one that only the pre-training uses."""
        if name == PRETRAIN and self.preset.synthetic:
            root = self.data_folder(name) / "images"
            layout = layout_of(self.preset.synthetic[name].style, self.settings.dataset_table)
            return PlannedDataset(
                name=name, title="Pre-training", format=layout.format, root=root, generated=True, grammar=layout.grammar
            )
        return _named({dataset.name: dataset for dataset in [*self.datasets, *self.test_only]}, name, "data set")

    def cell(self, name: str) -> PlannedCell:
        """Returns a cell of the study by name."""
        return _named({cell.name: cell for cell in self.cells}, name, "cell")

    def planned_run(self, *, dataset: str, cell: str, seed: int, gpus: int | None = None) -> Run:
        """Returns a run of the plan.

        Args:
            dataset: Name of a data set.
            cell: Name of a cell.
            seed: The run's seed.
            gpus: GPUs that the scheduler granted, None when started by hand.

        Raises:
            UserError: There is no such run, or fewer GPUs were granted than the plan asks.
        """
        asked = self.gpus_per_run
        if gpus is not None and gpus != asked:
            raise UserError(f"the plan asks for gpu={asked} a run but {gpus} were granted; grant as many as it asks.")
        run = Run(dataset=self.dataset(dataset).name, cell=self.cell(cell).name, seed=seed)
        if run not in self.runs:
            more = "ask for more with --config seeds=N"
            raise UserError(f"the plan has no run {run.id}, so no table would show it; {more}.")
        return run

    def synthetic_recipe(self, name: str) -> dict[str, Any]:
        """Returns what decides a generated data set, as plain JSON values."""
        assert self.preset.synthetic is not None
        return self.preset.synthetic[name].model_dump(mode="json")

    def data_folder(self, name: str) -> Path:
        """Returns the folder of a data set's images (if generated), index, cache and diagnostics."""
        return self.root / "data" / name

    def base_config(self) -> RunConfig:
        """Returns the configuration of the preset alone, before any cell."""
        preset = self.preset
        base = {"model": preset.model, "losses": preset.losses, "train": preset.train}
        return validate(RunConfig, base, where=f"preset {preset.name}")

    def pretrain_config(self) -> RunConfig:
        """Returns the configuration of the one backbone that the quickstart trains itself."""
        base = {"model": self.preset.model, "losses": self.preset.losses, "train": self.preset.train}
        return validate(
            RunConfig, merge(base, self.preset.pretrain or {}), where=f"preset {self.preset.name}, pretrain"
        )

    def write(self) -> Path:
        """Writes the plan under its hash, also over an older copy, and returns its path.

        The sources of the code that will train its runs are kept beside it, once.

        Raises:
            UserError: The results folder cannot be written, or no longer.
        """
        write_json(self.path, self.model_dump(mode="json"))
        keep_sources(self.path.parent)
        return self.path

    def reindex_changed(self) -> None:
        """Indexes every real data set again whose files are no longer those that its index was built from.

        It is done while planning because what has to run again depends on the outcome: nothing when the files were
        only copied or touched, everything behind the index when an image changed.

        Raises:
            UserError: A changed data set is no longer a good one.
        """
        for dataset in [*self.datasets, *self.test_only]:
            folder = self.data_folder(dataset.name) / "index"
            if dataset.generated or not (folder / "index.json").is_file():
                continue
            try:
                current = read_json(folder / "source.json") == source_of(dataset.root, dataset.layout)
            except UserError:
                current = False
            if not current:
                from reidablate.data.index import index_dataset

                print(f"reidablate: the files of {dataset.title} changed; indexing {dataset.root}", file=sys.stderr)
                index_dataset(dataset.root, dataset.layout, folder, workers=2, sample=self.preset.sample)

    def refusals(self, *, gpu_limit: int | None, num_gpus: int | None) -> list[str]:
        """Returns every reason why this study should not start on this machine, and what can be tried instead.

        Args:
            gpu_limit: What `--resources gpu=` allows, None without a limit.
            num_gpus: GPUs that PyTorch can use on this machine, None when the jobs run on others.
        """
        found = [*gpu_refusals(self, gpu_limit=gpu_limit, num_gpus=num_gpus), *weight_refusals(self)]
        if found and self.preset.sample is None:
            found.append("to try data and installation first, in minutes and without a GPU: --config preset=smoke")
        return found


def _asks(cell: PlannedCell, dataset: str) -> bool:
    return cell.also_on == "all" or dataset in cell.also_on


def _named(items: Mapping[str, S], name: str, kind: str) -> S:
    if name not in items:
        raise UserError(f"the plan has no {kind} '{name}'; {nearest(name, list(items))}")
    return items[name]


def load_study(path: Path) -> Study:
    """Returns a plan that `Study.write` wrote, with what its tuned cells have become.

    Raises:
        UserError: The file is missing or is no plan.
    """
    from reidablate.tuning import with_choices

    return with_choices(validate(Study, read_json(path), where=str(path)))


def latest_study(results: Path) -> Study:
    """Returns the plan behind the tables of `results/<preset>`; before there are tables, the last plan.

    Raises:
        UserError: There is no plan.
    """
    plans = results / "plans"
    for record, key in ((results / "tables" / "study.json", "plan_hash"), (results / "study.json", "last_plan")):
        if record.is_file() and (path := plans / f"{read_json(record).get(key)}.json").is_file():
            return load_study(path)
    found = sorted(plans.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{results} holds no plan of a study; run snakemake first.")
    return load_study(found[-1])


def find_results(folder: Path = Path("results")) -> Path:
    """Returns the one `results/<preset>` that holds a study.

    Raises:
        UserError: There is none, or more than one.
    """
    found = sorted(plans.parent for plans in folder.glob("*/plans"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"there is no study in {folder}; run snakemake first, or give its results/<preset>.")
    raise UserError(f"there are several studies ({', '.join(map(str, found))}); give one of them.")
