"""What a study will take, before anything of it starts: runs, hours of its devices, disk, and when it ends.

The time of a training is the mean of finished ones of this study that cost the same, where there are some, and
otherwise what a few of its own steps tell (`engine.probe`).
"""

import datetime
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reidablate.artifacts import content_hash, read_record
from reidablate.config import RunConfig
from reidablate.data.folder import read_folder
from reidablate.data.holdout import divide
from reidablate.data.index import read_index
from reidablate.data.sampler import PKSampler
from reidablate.engine.devices import usable_gpus
from reidablate.engine.from_plan import pretrain_spec, train_spec
from reidablate.engine.probe import Probed, Speed, probe
from reidablate.errors import UserError
from reidablate.keeping import is_kept
from reidablate.models.neck import ReidModel
from reidablate.outcome import duration
from reidablate.provenance import usable_cores
from reidablate.runs import SIDES, Provenance
from reidablate.smoke import sample_records
from reidablate.standing import Standing
from reidablate.study import PRETRAIN, Run, Study

FLOAT_BYTES = 4
_SCHEDULE = ("lr", "epochs", "lr_factor", "epochs_factor", "warmup_fraction", "lr_step_at", "fraction", "holdout")


@dataclass(frozen=True)
class _Images:
    """A data set as far as it costs time: the identity and camera of each training image, and how many are tested."""

    labels: NDArray[np.int64]
    camids: NDArray[np.int64]
    num_test: int


@dataclass(frozen=True)
class _Job:
    """A training, or features alone, that is to come.

    Attributes:
        run: What it makes; that of the pre-training is named by its data set.
        config: None for another code base.
        steps: Of the training; 0 where only features are made.
        images: Whose features are made.
    """

    run: Run
    config: RunConfig | None
    kind: str
    steps: int
    images: int

    @property
    def like(self) -> tuple[str, str, int]:
        """What finished runs share that took the same time."""
        return self.kind, self.run.dataset, self.steps


@dataclass
class Estimate:
    """What is left of a study, and what it will take."""

    study: Study
    standing: Standing = field(init=False)
    device: str = ""
    speeds: dict[str, Speed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.standing = Standing(self.study)
        self.measured_on: set[str] = set()
        self._sizes: dict[str, _Images] = {}
        self._networks: dict[str, tuple[int, int]] = {}

    @cached_property
    def jobs(self) -> list[_Job]:
        """The trainings and extractions that this call would start, the pre-training first."""
        needs, study = self.standing.needs, self.study
        found = []
        if needs.pretrain and needs.train:
            run = Run(dataset=PRETRAIN, cell=PRETRAIN, seed=0)
            found.append(self._training(run, study.pretrain_config(), images=0))
        for run in needs.train:
            cell, images = study.cell(run.cell), self._images(run.dataset).num_test
            if cell.external:
                found.append(_Job(run, None, cell.identity_on(run.dataset), 1, images))
            elif run in needs.extract:
                config = cell.config_on(run.dataset)
                found.append(_Job(run, config, cost_class(config), 0, images))
            else:
                found.append(self._training(run, cell.config_on(run.dataset), images=images))
        for transfer in needs.transfer:
            config = study.cell(transfer.run.cell).config_on(transfer.run.dataset)
            images = self._images(transfer.on).num_test
            found.append(_Job(transfer.run, config, cost_class(config), 0, images))
        return found

    def _training(self, run: Run, config: RunConfig, *, images: int) -> _Job:
        found = self._images(run.dataset)
        division = divide(found.labels, found.camids, config.train)
        batches = PKSampler(  # another seed draws a few batches more or fewer
            division.labels, num_ids=config.train.num_ids, num_instances=config.train.num_instances, seed=0
        )
        steps = config.train.num_epochs * len(batches.epoch(0))
        return _Job(run, config, cost_class(config), steps, images)

    def _images(self, name: str) -> _Images:
        """Returns what a data set holds: by its index or, before there is one, by its recipe or its file names."""
        if name not in self._sizes:
            self._sizes[name] = _images_of(self.study, name, indexed=not self.standing.unindexed(name))
        return self._sizes[name]

    @cached_property
    def measured(self) -> dict[tuple[str, str, int], float]:
        """The mean seconds of finished runs by what they share; those of another configuration do not count."""
        found: dict[tuple[str, str, int], list[float]] = {}
        for run in self.study.runs:
            cell, folder = self.study.cell(run.cell), self.study.root / run.id
            try:
                made = read_record(folder / "provenance.json", Provenance)
            except UserError:
                continue
            if made.config_hash != cell.identity_on(run.dataset) or made.status != "finished" or made.wall_s is None:
                continue
            if cell.external:
                like = (cell.identity_on(run.dataset), run.dataset, 1)
            else:
                like = self._training(run, cell.config_on(run.dataset), images=0).like
            found.setdefault(like, []).append(made.wall_s)
            self.measured_on.add(made.device or "unknown devices")
        return {like: float(np.mean(walls)) for like, walls in found.items()}

    def probe(self, shown: Callable[[int, int], None]) -> None:
        """Measures the speed of what has to be estimated and was not measured in this study yet."""
        trainings: dict[str, Probed] = {}
        for job in self.jobs:
            if job.config is None or job.kind in trainings or (job.steps and job.like in self.measured):
                continue
            run, study = job.run, self.study
            if run.dataset != PRETRAIN and study.cell(run.cell).is_open_on(run.dataset):
                continue  # its candidates cost the same
            spec = (
                pretrain_spec(study)
                if run.dataset == PRETRAIN
                else train_spec(study, dataset=run.dataset, cell=run.cell, seed=run.seed)
            )
            trainings[job.kind] = Probed(spec, *self._shape(run.dataset, job.config))
        if trainings:
            self.device, self.speeds = probe(trainings, shown)

    def seconds(self, job: _Job) -> float | None:
        """Returns what a job takes, None where nothing tells it."""
        if job.steps and job.like in self.measured:
            return self.measured[job.like]
        if speed := self.speeds.get(job.kind):
            return speed.start_s + job.steps * speed.step_s + job.images * speed.image_s
        return None

    def disk_bytes(self) -> dict[str, int]:
        """Returns the bytes that will be written and stay: weights and features of kept runs, and caches."""
        found = {"weights": 0, "features": 0, "caches": 0}
        for job in self.jobs:
            if job.config is None or (job.run.dataset != PRETRAIN and not is_kept(self.study, job.run)):
                continue
            parameters, width = self._network(job)
            found["weights"] += FLOAT_BYTES * parameters * bool(job.steps)
            found["features"] += FLOAT_BYTES * width * len(SIDES) * job.images
        height, width = self.study.preset.model["image_size"]
        for name in self.standing.needs.caches:
            images = self._images(name)
            found["caches"] += height * width * 3 * (len(images.labels) + images.num_test)
        return found

    def state_bytes(self) -> int:
        """Returns the bytes of the checkpoints of one training, at most; they go when it is scored."""
        most = 0
        for job in self.jobs:
            if job.config and job.steps:
                values = 2 if job.config.train.optimiser == "sgd" else 3
                most = max(most, 2 * FLOAT_BYTES * values * self._network(job)[0])
        return most

    def _shape(self, dataset: str, config: RunConfig) -> tuple[int, tuple[int, ...]]:
        """Returns how many identities a network is to tell apart, and the cameras that it reads, if it does."""
        images = self._images(dataset)
        cameras = tuple(np.unique(images.camids).tolist()) if config.model.parts.read_cameras else ()
        return len(np.unique(images.labels)), cameras

    def _network(self, job: _Job) -> tuple[int, int]:
        """Returns the number of parameters and the width of the feature of a job's network."""
        assert job.config is not None
        if job.kind not in self._networks:
            num_classes, cameras = self._shape(job.run.dataset, job.config)
            model = ReidModel(job.config.model, num_classes=num_classes, cameras=cameras)
            self._networks[job.kind] = sum(p.numel() for p in model.parameters()), model.classifier.in_features
        return self._networks[job.kind]

    def lines(self, now: datetime.datetime) -> Iterator[str]:
        """Yields what is left, what each kind of run takes, and the sums."""
        study, jobs = self.study, self.jobs
        left = [job for job in jobs if job.steps and job.run.dataset != PRETRAIN]
        asked = len(study.asked_runs)
        yield f"{study.preset.name}: {asked} runs are asked for, {asked - len(left)} are trained, {len(left)} are left."
        if self.measured:
            yield f"  measured: the mean of finished runs of this study, on {' and '.join(sorted(self.measured_on))}"
        if self.speeds:
            steps = max(speed.steps for speed in self.speeds.values())
            yield f"  probed: by {steps} steps on {self.device}"
        groups: dict[tuple[str, str, int, str], list[_Job]] = {}
        for job in jobs:
            groups.setdefault((*job.like, job.run.cell), []).append(job)
        yield from (self._line(group) for group in groups.values())
        yield from self._sum(now)
        yield self._disk()

    def _line(self, group: list[_Job]) -> str:
        job, seconds = group[0], self.seconds(group[0])
        name = PRETRAIN if job.run.dataset == PRETRAIN else f"{job.run.dataset}/{job.run.cell}"
        what = "training" if job.steps else "extraction"
        counted = f"  {name}: {len(group)} {what}{'s' * (len(group) > 1)}"
        if seconds is None:
            return f"{counted}, not estimated"
        if job.steps and job.like in self.measured:
            return f"{counted} of {duration(seconds)}, measured"
        how = f": {job.steps} steps of {1000 * self.speeds[job.kind].step_s:.3g} ms" if job.steps else ""
        return f"{counted} of {duration(seconds)}, probed{how}"

    def _sum(self, now: datetime.datetime) -> Iterator[str]:
        known = [seconds for job in self.jobs if (seconds := self.seconds(job)) is not None]
        if not known:
            return
        at_once, gpus = self._at_once()
        total, unknown = sum(known), len(self.jobs) - len(known)
        wall = max(max(known), total / at_once)
        hours = total * max(1, gpus) / 3600
        where = "GPU-hours" if gpus else f"hours on the CPU, threads {self.study.preset.execution.threads_here} a run"
        ends = (now + datetime.timedelta(seconds=wall)).strftime("%a %d %b %H:%M")
        rest = f"; {unknown} are not estimated" if unknown else ""
        yield (
            f"  in all {hours:.3g} {where}{rest}. With {at_once} at once about {duration(wall)}, until {ends} if it "
            "starts now; preparing images, scores, diagnostics and report come on top."
        )

    def _at_once(self) -> tuple[int, int]:
        """Returns how many runs this machine trains at once, and on how many GPUs each, 0 on the CPU."""
        asked = self.study.gpus_per_run
        gpus = usable_gpus() if asked else 0
        if gpus:
            return max(1, gpus // asked), asked
        return max(1, usable_cores() // self.study.preset.execution.threads_here), 0

    def _disk(self) -> str:
        parts = {kind: size for kind, size in self.disk_bytes().items() if size}
        more = sum(parts.values())
        at_once, _ = self._at_once()
        state = at_once * self.state_bytes()
        free = shutil.disk_usage(_existing(self.study.root)).free
        named = f" ({', '.join(f'{kind} {_gigabytes(size)}' for kind, size in parts.items())})" if parts else ""
        short = ", which is too little" if more + state > free else ""
        return (
            f"  disk: {_gigabytes(more)} more{named}, and {_gigabytes(state)} for the checkpoints of {at_once} at "
            f"once; {_gigabytes(free)} are free{short}."
        )


def cost_class(config: RunConfig) -> str:
    """Returns what trainings share that take the same time a step: all but the schedule and the share of the data."""
    options = {name: value for name, value in config.dump().items() if name != "scored_on"}
    options["train"] = {name: value for name, value in options["train"].items() if name not in _SCHEDULE}
    return content_hash(options)


def _images_of(study: Study, name: str, *, indexed: bool) -> _Images:
    if indexed:
        frame = read_index(study.data_folder(name) / "index").frame
        train = frame[frame["split"] == "train"]
        return _sized(train["pid"].to_numpy(), train["camid"].to_numpy(), len(frame) - len(train))
    dataset = study.dataset(name)
    if dataset.generated:
        assert study.preset.synthetic is not None
        counts = study.preset.synthetic[name].counts
        pids = np.arange(counts.train_images) % counts.train_ids
        tested = counts.query_images + counts.gallery_images + counts.distractors + counts.junk
        return _sized(pids, np.arange(counts.train_images) // counts.train_ids % 2, tested)
    records = read_folder(dataset.root, dataset.layout).records
    if study.preset.sample is not None:
        records = sample_records(records, study.preset.sample)
    train_records = [record for record in records if record.split == "train"]
    return _sized(
        np.array([record.pid for record in train_records]),
        np.array([record.camid for record in train_records]),
        len(records) - len(train_records),
    )


def _sized(pids: NDArray[np.int64], camids: NDArray[np.int64], num_test: int) -> _Images:
    labels = np.unique(pids, return_inverse=True)[1]
    return _Images(labels.astype(np.int64), camids.astype(np.int64), num_test)


def _existing(folder: Path) -> Path:
    """Returns the nearest folder upwards that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 5e8 else f"{size / 1e6:.3g} MB"
