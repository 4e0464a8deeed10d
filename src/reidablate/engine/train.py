"""One run from its initial weights to its features: fit, resume, divergence and extraction.

B batch, D feature width.
"""

import math
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from reidablate import provenance
from reidablate.artifacts import only_writer, read_json, sha256_file, write_json, write_npz, write_table
from reidablate.config import RunConfig
from reidablate.data import augment
from reidablate.data.cache import read_cache
from reidablate.data.index import read_index
from reidablate.data.sampler import PKSampler
from reidablate.engine.batches import image_batches
from reidablate.engine.checkpoint import (
    Checkpoint,
    checkpoint_path,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
)
from reidablate.engine.devices import lease
from reidablate.engine.extract import extract_features, no_features
from reidablate.engine.progress import ProgressBar
from reidablate.engine.schedule import build_optimiser, build_schedule, set_epoch
from reidablate.engine.tracking import Mode, Tracker
from reidablate.losses.positions import PositionState
from reidablate.losses.total import BatchOutputs, study_loss
from reidablate.models.checkpoints import load_weights, save_weights
from reidablate.models.neck import ReidModel, ReidOutput, initialise
from reidablate.rng import generator, seed_int, torch_generator

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything one training needs to know.

    Attributes:
        config: The science of the run.
        name: What messages call it, for example `market1501/p1/seed0`.
        data: Folder with the data set's `index/` and `cache/`.
        out: Folder of the run.
        weights: Initial weights, None to draw them from the seed.
        extract: Whether features of query and gallery are wanted (the pre-training has none).
        planned_code: The code hash the plan was made with, kept beside the one that ran.
    """

    config: RunConfig
    name: str
    dataset: str
    cell: str
    seed: int
    data: Path
    out: Path
    weights: Path | None
    gpus: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    workers: int = 0
    wandb: Mode = "disabled"
    extract: bool = True
    planned_code: str = ""


@dataclass
class _Fit:
    """The moving parts of a training."""

    model: ReidModel
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epochs_done: int = 0
    history: dict[str, torch.Tensor] = field(default_factory=dict)
    train_s: float = 0.0


@dataclass(frozen=True)
class Divergence:
    """Where and why a training stopped being finite."""

    epoch: int
    reason: str


def train_run(spec: RunSpec) -> str:
    """Trains one run, writes its artifacts and returns the line that sums it up.

    An interrupted run goes on from its last whole epoch and ends bit-identical to an undisturbed one. A run that is
    complete already is left alone. A non-finite loss or weight ends it with status `diverged`.

    Raises:
        UserError: Anything the user can mend: no index or cache, weights that do not fit, too few identities.
    """
    with only_writer(spec.out, spec.name), lease(spec.gpus, device=spec.device) as gpus:
        if _complete(spec):
            return f"{spec.name}: complete already"
        device = torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")
        if device.type == "cpu" and spec.device != "cpu" and spec.gpus:
            print(f"{spec.name}: no usable GPU, training on the CPU", file=sys.stderr, flush=True)
        _deterministic(spec.threads)
        return _Training(spec, device).run()


def _complete(spec: RunSpec) -> bool:
    files = ["provenance.json", "history.parquet", "model.safetensors", *(["features.npz"] if spec.extract else [])]
    if checkpoint_path(spec.out).exists() or not all((spec.out / name).is_file() for name in files):
        return False
    made: dict[str, Any] = read_json(spec.out / "provenance.json")
    return made.get("config_hash") == spec.config.hash and made.get("planned_code_hash") == spec.planned_code


def _deterministic(threads: int) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


class _Training:
    """The steps of `train_run`, which share the data, the device and the model."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self.spec, self.device, self.config = spec, device, spec.config
        index = read_index(spec.data / "index")
        self.fingerprint = str(index.summary["fingerprint"])
        self.synthetic = bool(index.summary["synthetic"])
        self.images = read_cache(spec.data / "cache", "train")
        labels = index.frame.loc[index.frame["split"] == "train", "label"].to_numpy()
        self.rows, self.labels = _fraction(labels, self.config.train.fraction)
        self.num_classes = int(self.labels.max()) + 1
        self.sampler = PKSampler(
            self.labels,
            num_ids=self.config.train.num_ids,
            num_instances=self.config.train.num_instances,
            seed=spec.seed,
        )
        self.weights_hash = sha256_file(spec.weights) if spec.weights else "none"
        self.identity = {
            "configuration": self.config.hash,
            "data": self.fingerprint,
            "weights": self.weights_hash,
            "seed": str(spec.seed),
        }

    def run(self) -> str:
        started = time.perf_counter()
        fit = self._restore()
        tracker = Tracker(
            self.spec.wandb,
            folder=self.spec.out,
            run=self.spec.name,
            group=self.spec.cell,
            config=self.config.dump(),
        )
        divergence = None
        with ProgressBar(self.spec.name, self.config.train.num_epochs) as bar:
            while fit.epochs_done < self.config.train.num_epochs:
                divergence = self._epoch(fit, bar)
                row = _epoch_means(fit.history, fit.epochs_done if divergence else fit.epochs_done - 1)
                tracker.log(row, step=int(row["epoch"]))
                if divergence:
                    break
        tracker.finish()
        if divergence:
            history, train_s = fit.history, fit.train_s
            fit = self._restore()
            fit.history, fit.train_s = history, train_s
        return self._write(fit, divergence, time.perf_counter() - started)

    def _restore(self) -> _Fit:
        """Returns the state to train from: that of the last checkpoint, or the initial one."""
        model = ReidModel(self.config.model, num_classes=self.num_classes)
        initialise(model, self.spec.seed)
        if self.spec.weights:
            load_weights(model, self.spec.weights, head=False)
        model.to(self.device)
        optimiser = build_optimiser(model, self.config)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.train.precision == "fp16")
        fit = _Fit(model=model, optimiser=optimiser, scaler=scaler)
        found, reason = load_checkpoint(self.spec.out, self.identity, self.device)
        if reason:
            print(f"{self.spec.name}: {reason}", file=sys.stderr, flush=True)
        if found:
            model.load_state_dict(found.model)
            optimiser.load_state_dict(found.optimiser)
            scaler.load_state_dict(found.scaler)
            fit.epochs_done, fit.history, fit.train_s = found.epochs_done, found.history, found.train_s
        return fit

    def _epoch(self, fit: _Fit, bar: ProgressBar) -> Divergence | None:
        """Trains one epoch and writes its checkpoint, unless it diverged."""
        epoch, started = fit.epochs_done, time.perf_counter()
        set_epoch(build_schedule(fit.optimiser, self.config), epoch, self.config)
        fit.model.train()
        batches = self.sampler.epoch(epoch)
        rows = [self.rows[batch] for batch in batches]
        loader = image_batches(self.images, rows, workers=self.spec.workers, pin=self.device.type == "cuda")
        steps = []
        for step, (batch, images) in enumerate(zip(batches, loader, strict=True)):
            steps.append(self._step(fit, images, self.labels[batch], epoch, step))
            bar.step(epoch, step, len(batches))
        columns = {name: torch.stack([values[name] for values in steps]).double().cpu() for name in steps[0]}
        elapsed = time.perf_counter() - started
        fit.train_s += elapsed
        num_images = batches.size
        columns |= {
            "epoch": torch.full((len(steps),), epoch, dtype=torch.float64),
            "lr": torch.full((len(steps),), fit.optimiser.param_groups[0]["lr"], dtype=torch.float64),
            "images_per_s": torch.full((len(steps),), num_images / elapsed, dtype=torch.float64),
        }
        fit.history = {name: torch.cat([fit.history.get(name, columns[name][:0]), columns[name]]) for name in columns}
        bar.epoch(epoch, float(columns["total"].mean()), num_images / elapsed)
        if divergence := _divergence(epoch, columns, fit.model):
            return divergence
        fit.epochs_done += 1
        save_checkpoint(self.spec.out, self._checkpoint(fit))
        return None

    def _checkpoint(self, fit: _Fit) -> Checkpoint:
        return Checkpoint(
            identity=self.identity,
            epochs_done=fit.epochs_done,
            model=fit.model.state_dict(),
            optimiser=fit.optimiser.state_dict(),
            scaler=fit.scaler.state_dict(),
            history=fit.history,
            train_s=fit.train_s,
        )

    def _step(
        self, fit: _Fit, images: torch.Tensor, labels: np.ndarray[Any, Any], epoch: int, step: int
    ) -> dict[str, torch.Tensor]:
        """Takes one optimiser step and returns its loss terms and norms, still on the device."""
        spec, train, model = self.spec, self.config.train, fit.model
        height, width = self.config.model.image_size
        decisions = augment.draw(
            torch_generator(spec.seed, "augment", epoch, step),
            len(images),
            height=height,
            width=width,
            pad=train.augment.pad_px,
            flip_probability=train.augment.flip,
            erase_probability=train.augment.erase,
        )
        inputs = augment.apply(images.to(self.device, non_blocking=True), decisions)
        targets = torch.from_numpy(labels).to(self.device, non_blocking=True)
        _reseed(seed_int(spec.seed, "dropout", epoch, step), self.device)
        autocast = AUTOCAST.get(train.precision)
        with torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
            outputs = model(inputs)
        positions = PositionState(
            ape=model.ape_rows(), tables=model.rpe_tables(), index=model.rpe_index, cls_bias=model.cls_bias()
        )
        progress = epoch / max(1, train.num_epochs - 1)
        terms = study_loss(self.config.losses, _loss_inputs(model, outputs), targets, positions, progress=progress)
        fit.optimiser.zero_grad(set_to_none=True)
        fit.scaler.scale(terms["total"]).backward()  # type: ignore[no-untyped-call]
        fit.scaler.unscale_(fit.optimiser)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms = {
            "gradient_norm": torch.nn.utils.get_total_norm(gradients),
            "feature_norm": outputs.feature_before_neck.detach().float().norm(dim=1).mean(),
        }
        if positions.ape is not None:
            norms["ape_norm"] = positions.ape.detach().norm()
        if positions.tables is not None:
            norms["rpe_norm"] = positions.tables.detach().norm()
        fit.scaler.step(fit.optimiser)
        fit.scaler.update()
        return {name: value.detach() for name, value in (terms | norms).items()}

    def _write(self, fit: _Fit, divergence: Divergence | None, wall_s: float) -> str:
        """Writes the run's artifacts, the provenance last, and drops the resume state."""
        out, num_epochs = self.spec.out, self.config.train.num_epochs
        write_table(
            pd.DataFrame({name: column.numpy() for name, column in fit.history.items()}), out / "history.parquet"
        )
        save_weights(fit.model, out / "model.safetensors")
        extract_s = 0.0
        if self.spec.extract:
            started = time.perf_counter()
            features = (
                no_features(fit.model) if divergence else extract_features(fit.model, self.spec.data, self.device)
            )
            write_npz(out / "features.npz", features)
            extract_s = time.perf_counter() - started
        rate = float(fit.history["images_per_s"].mean()) if fit.history else math.nan
        write_json(out / "provenance.json", self._provenance(fit, divergence, wall_s + extract_s, rate))
        remove_checkpoint(out)
        if divergence:
            return f"{self.spec.name}: DIVERGED in epoch {divergence.epoch + 1} of {num_epochs}: {divergence.reason}"
        last = float(fit.history["total"][fit.history["epoch"] == num_epochs - 1].mean())
        return (
            f"{self.spec.name}: {num_epochs} epochs in {fit.train_s:.1f} s, {rate:.0f} images/s, last loss {last:.3f}"
        )

    def _provenance(self, fit: _Fit, divergence: Divergence | None, wall_s: float, rate: float) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        return {
            "dataset": self.spec.dataset,
            "cell": self.spec.cell,
            "seed": self.spec.seed,
            "status": "diverged" if divergence else "finished",
            "epoch": divergence.epoch if divergence else None,
            "reason": divergence.reason if divergence else None,
            "config": self.config.dump(),
            "config_hash": self.config.hash,
            "code_hash": provenance.code_hash(),
            "planned_code_hash": self.spec.planned_code,
            **provenance.git_state(),
            "data_fingerprint": self.fingerprint,
            "synthetic": self.synthetic,
            "weights": str(self.spec.weights or "none"),
            "weights_sha256": self.weights_hash,
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "threads": self.spec.threads,
            "workers": self.spec.workers,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "precision": self.config.train.precision,
            "num_parameters": sum(p.numel() for p in fit.model.parameters()),
            "num_classes": self.num_classes,
            "images_per_s": rate,
            "wall_s": wall_s,
            "device_s": fit.train_s,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else _peak_rss_bytes(),
        }


def _reseed(seed: int, device: torch.device) -> None:
    """Seeds the global generators that drop path draws from.

    `torch.manual_seed` would do, but without CUDA it remembers every call for later, which costs 1.5 ms a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _loss_inputs(model: ReidModel, outputs: ReidOutput) -> BatchOutputs:
    return BatchOutputs(
        feature=outputs.feature_before_neck,
        patches=outputs.patches,
        logits=outputs.logits,
        classifier=model.classifier.weight,
    )


def _fraction(labels: np.ndarray[Any, Any], fraction: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns the rows of a share of the identities, the same for every seed and cell, and their new labels."""
    num_ids = int(labels.max()) + 1
    kept = np.sort(generator(0, "fraction").permutation(num_ids)[: max(1, round(fraction * num_ids))])
    rows = np.flatnonzero(np.isin(labels, kept))
    return rows, np.searchsorted(kept, labels[rows])


def _divergence(epoch: int, columns: dict[str, torch.Tensor], model: ReidModel) -> Divergence | None:
    """Returns where a step's loss or, after the last step, a weight stopped being finite; None when all are."""
    bad = torch.nonzero(~torch.isfinite(columns["total"]))
    if len(bad):
        step = int(bad[0])
        terms = [name for name, column in columns.items() if name != "total" and not bool(torch.isfinite(column[step]))]
        return Divergence(epoch, f"the loss is not finite at step {step} ({', '.join(terms) or 'total'})")
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return Divergence(epoch, f"{name} is not finite after the epoch")
    return None


def _epoch_means(history: dict[str, torch.Tensor], epoch: int) -> dict[str, float]:
    """Returns the mean of every column over one epoch's steps."""
    rows = history["epoch"] == epoch
    return {name: float(column[rows].mean()) for name, column in history.items()}
