"""One run from its initial weights to its features: fit, resume, divergence and extraction.

B batch, D feature width.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidablate import integrity, plugins, provenance
from reidablate.artifacts import (
    content_hash,
    only_writer,
    read_record,
    remove_half_written,
    sha256_file,
    write_npz,
    write_record,
    write_table,
)
from reidablate.data.cache import read_cache
from reidablate.data.holdout import divide
from reidablate.data.index import read_index
from reidablate.data.sampler import PKSampler
from reidablate.engine import parallel
from reidablate.engine.batches import image_batches
from reidablate.engine.checkpoint import Checkpoint, CheckpointWriter, load_checkpoint, refusals, training_folder
from reidablate.engine.devices import lease
from reidablate.engine.extract import Features, extract_features, no_features, precision_on
from reidablate.engine.fit import Divergence, Fit, begin, find_divergence
from reidablate.engine.holdout import Holdout
from reidablate.engine.progress import CountBar, ProgressBar
from reidablate.engine.record import computed_with, effort
from reidablate.engine.schedule import build_schedule, set_epoch
from reidablate.engine.spec import RunSpec, be_deterministic, check_deterministic, naming_batch, place, torch_device
from reidablate.engine.step import Place, draw_inputs, take_step
from reidablate.engine.stopping import StopSignal
from reidablate.engine.tracking import LiveTracker, card_of_training
from reidablate.engine.transfer import Trained, trained_model
from reidablate.errors import UserError, reading
from reidablate.gpus import share_refusal
from reidablate.models.checkpoints import save_weights
from reidablate.models.neck import ReidModel
from reidablate.recipes import with_recipe
from reidablate.runs import NO_WEIGHTS, TRAINED_FILES, Checksums, Identity, differs, is_fitted, remove_state


def train_run(spec: RunSpec) -> str:
    """Trains one run, writes its artifacts and returns the line that sums it up.

    An interrupted run goes on from its last checkpoint, one an epoch, and ends bit-identical to an undisturbed one.
    SIGTERM and SIGINT end it after the step under way, which is saved too. A run that is complete already is left
    alone; one that lacks nothing but its features gets them from its weights. A non-finite loss or weight ends it with
    status `diverged`.

    Raises:
        UserError: Anything the user can mend: no index or cache, weights that do not fit, too few identities, a
            diverged pre-training.
        SystemExit: The process was told to stop; the state is saved.
    """
    with only_writer(spec.out, spec.name), lease(spec.gpus, device=spec.device) as gpus:
        if len(gpus) > 1:
            config = with_recipe(spec.config, spec.seed, where=spec.name)
            if sentence := share_refusal(spec.name, config.train.batch_size, len(gpus)):
                raise UserError(sentence)
            return parallel.run_on_each(gpus, spec.out / ".meeting", _train, spec, gpus)
        return _train(spec, gpus)


def _train(spec: RunSpec, gpus: tuple[str, ...]) -> str:
    """Does what `train_run` says in this process, the only one or one of several."""
    device = torch_device(spec.device, gpus)
    training = _Training(spec, device, gpus)
    if training.is_complete():
        return f"{spec.name}: complete already"
    print(f"{spec.name}: {place(spec, device, gpus)}", file=sys.stderr, flush=True)
    be_deterministic(spec.threads)
    with StopSignal(only_note=parallel.num_processes() > 1) as stop:
        if training.is_fitted():
            return training.extract_again(stop) if parallel.rank() == 0 else ""
        return training.run(stop)


class _Training:
    """The steps of `train_run`, which share the data, the device and the model."""

    def __init__(self, spec: RunSpec, device: torch.device, gpus: tuple[str, ...]) -> None:
        self.spec, self.device, self.gpus = spec, device, gpus
        self.config = with_recipe(spec.config, spec.seed, where=spec.name)
        self.started = time.perf_counter()
        index = read_index(spec.data / "index")
        self.fingerprint = str(index.summary["fingerprint"])
        self.synthetic = bool(index.summary["synthetic"])
        self.images = read_cache(spec.data / "cache", "train")
        train = index.frame[index.frame["split"] == "train"]
        camids = train["camid"].to_numpy(np.int64)
        division = divide(train["label"].to_numpy(), camids, self.config.train)
        self.rows, self.labels, self.camids = division.rows, division.labels, camids[division.rows]
        self.holdout = Holdout(images=self.images, train=train, division=division, config=self.config, device=device)
        self.num_classes = int(self.labels.max()) + 1
        self.cameras = tuple(np.unique(self.camids).tolist()) if self.config.model.parts.read_cameras else ()
        self.sampler = PKSampler(
            self.labels,
            num_ids=self.config.train.num_ids,
            num_instances=self.config.train.num_instances,
            seed=spec.seed,
        )
        self.weights_hash = _weights_hash(spec.weights) if spec.weights else NO_WEIGHTS
        self.planned = Identity(
            configuration=spec.config.hash, data=self.fingerprint, weights=self.weights_hash, seed=spec.seed
        )
        self.identity = {name: str(value) for name, value in asdict(self.planned).items()}
        if spec.same_code:
            self.identity["code"] = provenance.code_hash()
        self.state = training_folder(spec.out, self.identity)

    def is_complete(self) -> bool:
        """Returns whether the run's folder holds this very training, finished."""
        out = self.spec.out
        reason = differs(out, self.planned, features=self.spec.extract, same_code=self.spec.same_code)
        if not reason and (broken := [name for name in integrity.broken_files(out) if name in TRAINED_FILES]):
            self._say(f"{' and '.join(broken)} {'is' if len(broken) == 1 else 'are'} damaged and made again")
            return False
        return not reason

    def is_fitted(self) -> bool:
        """Returns whether the run's folder holds this very training, finished, but for its features."""
        broken = integrity.broken_files(self.spec.out)
        return self.spec.extract and is_fitted(
            self.spec.out, self.planned, broken=broken, same_code=self.spec.same_code
        )

    def extract_again(self, stop: StopSignal) -> str:
        """Writes the features of a finished training from its weights, and returns the line that says so."""
        out, record = self.spec.out, self.spec.out / "provenance.json"
        made = read_record(record, Trained)
        model, _ = trained_model(out, made)
        model.to(self.device)
        features = no_features(model) if made.status == "diverged" else self._features(model, stop)
        write_npz(out / "features.npz", features)
        codes = dict.fromkeys([*made.code_hash.split("+"), provenance.code_hash()])
        write_record(record, {**made.model_dump(), "code_hash": "+".join(codes)}, ["features.npz"])
        return f"{self.spec.name}: features extracted again from its weights, nothing trained"

    def run(self, stop: StopSignal) -> str:
        """Trains, extracts, writes, and returns the line that sums it up."""
        with parallel.in_turn():
            for folder in (self.state, *self.state.glob("features-*")):
                remove_half_written(folder)
            fit = self._restore()
        parallel.prepare(fit, self.device)
        card = card_of_training(self.spec, self.planned, synthetic=self.synthetic)
        tracker = LiveTracker(self.spec.wandb if parallel.rank() == 0 else "disabled", card)
        loader = image_batches(
            self.images,
            self._rows_left(fit),
            workers=self.spec.workers,
            pin=self.device.type == "cuda",
            batch_size=self.config.train.batch_size // parallel.num_processes(),
        )
        divergence = None
        num_epochs = self.config.train.num_epochs
        with ProgressBar(self.spec.name, num_epochs) as bar, closing(loader), CheckpointWriter(self.state) as writer:
            while fit.epochs_done < num_epochs and not divergence:
                divergence = self._epoch(fit, loader, bar, writer, stop)
                tracker.history(fit.history)
        tracker.finish()
        if parallel.rank() > 0:
            return ""
        if divergence:
            diverged, fit = fit, self._restore(whole_epoch=True)
            for name in ("history", "train_s", "wall_s", "codes"):
                setattr(fit, name, getattr(diverged, name))
        return self._write(fit, divergence, stop)

    def _restore(self, *, whole_epoch: bool = False) -> Fit:
        """Returns the state to train from: that of the last checkpoint, or the initial one."""
        spec = self.spec
        fit = begin(
            self.config,
            num_classes=self.num_classes,
            cameras=self.cameras,
            seed=spec.seed,
            device=self.device,
            weights=spec.weights,
            recompute=spec.recompute,
        )
        found, damaged = load_checkpoint(self.state, whole_epoch=whole_epoch)
        for path in damaged:
            self._say(f"{path} is damaged and is not used")
            path.unlink()
        if found:
            fit.model.load_state_dict(found.model)
            fit.loss.load_state_dict(found.loss)
            fit.optimiser.load_state_dict(found.optimiser)
            fit.scaler.load_state_dict(found.scaler)
            for name in ("epochs_done", "history", "steps", "codes", "train_s", "epoch_s", "wall_s"):
                setattr(fit, name, getattr(found, name))
        if found and not whole_epoch:
            self._say(f"goes on after epoch {fit.epochs_done}, step {fit.steps_done} of the next")
        elif not whole_epoch and (refused := refusals(self.spec.out, self.identity)):
            for sentence in refused:
                self._say(sentence)
            self._say("training starts from the first epoch")
        if provenance.code_hash() not in fit.codes:
            if fit.codes:
                self._say("the source code was edited since the run began; its provenance names both versions")
            fit.codes.append(provenance.code_hash())
        return fit

    def _say(self, sentence: str) -> None:
        print(f"{self.spec.name}: {sentence}", file=sys.stderr, flush=True)

    def _rows_left(self, fit: Fit) -> Iterator[np.ndarray[Any, Any]]:
        """Yields the rows of every batch from where `fit` stands now."""
        first, skip = fit.epochs_done, fit.steps_done
        for epoch in range(first, self.config.train.num_epochs):
            for batch in self.sampler.epoch(epoch)[skip if epoch == first else 0 :]:
                yield parallel.share(self.rows[batch])

    def _epoch(
        self, fit: Fit, loader: Iterator[torch.Tensor], bar: ProgressBar, writer: CheckpointWriter, stop: StopSignal
    ) -> Divergence | None:
        """Trains what is left of an epoch and begins to write its checkpoint, unless it diverged."""
        epoch, started = fit.epochs_done, time.perf_counter()
        set_epoch(build_schedule(fit.optimiser, self.config), epoch, self.config)
        fit.model.train()
        batches = self.sampler.epoch(epoch)
        values: list[dict[str, torch.Tensor]] = []
        for step in range(fit.steps_done, len(batches)):
            images = _next(loader, stop)
            if parallel.all_say(images is not None):
                assert images is not None
                values.append(self._step(fit, images, batches[step], Place(self.spec.seed, epoch, step)))
                bar.step(epoch, step, len(batches))
            if parallel.agree_to_stop(stop):
                fit.add_steps(values, time.perf_counter() - started)
                self._save(fit, writer)
                writer.wait()  # before we say that nothing is lost
                stop.leave(self.spec.name, f"epoch {epoch}, step {fit.steps_done} of {len(batches)} of the next")
        fit.add_steps(values, time.perf_counter() - started)
        check_deterministic(self.spec.threads, fit.used)
        rate = batches.size / fit.epoch_s
        columns = fit.steps | {
            "epoch": torch.full((len(batches),), epoch, dtype=torch.float64),
            "lr": torch.full((len(batches),), fit.optimiser.param_groups[0]["lr"], dtype=torch.float64),
            "images_per_s": torch.full((len(batches),), rate, dtype=torch.float64),
        }
        fit.add_history(columns)
        last = epoch + 1 == self.config.train.num_epochs
        divergence = find_divergence(epoch, columns, fit.history, fit.model, fit.loss, last=last)
        held_out = None if divergence else self.holdout.book(fit, epoch)
        bar.epoch(epoch, float(columns["total"].mean()), rate, held_out)
        if divergence:
            return divergence
        fit.epochs_done, fit.steps, fit.epoch_s = epoch + 1, {}, 0.0
        self._save(fit, writer)
        return None

    def _save(self, fit: Fit, writer: CheckpointWriter) -> None:
        if parallel.rank() == 0:
            writer.save(self._checkpoint(fit))

    def _checkpoint(self, fit: Fit) -> Checkpoint:
        return Checkpoint(
            identity=self.identity,
            codes=fit.codes,
            epochs_done=fit.epochs_done,
            steps_done=fit.steps_done,
            model=fit.model.state_dict(),
            loss=fit.loss.state_dict(),
            optimiser=fit.optimiser.state_dict(),
            scaler=fit.scaler.state_dict(),
            history=fit.history,
            steps=fit.steps,
            train_s=fit.train_s,
            epoch_s=fit.epoch_s,
            wall_s=fit.wall_s + time.perf_counter() - self.started,
        )

    def _step(
        self, fit: Fit, images: torch.Tensor, chosen: np.ndarray[Any, Any], place: Place
    ) -> dict[str, torch.Tensor]:
        labels, camids = (torch.from_numpy(numbers[chosen]) for numbers in (self.labels, self.camids))
        inputs = draw_inputs(self.config, images, labels, camids, place)
        with naming_batch(self.spec), plugins.running("a step of the training", *fit.used):
            return take_step(fit, self.config, inputs, self.device, place)

    def _write(self, fit: Fit, divergence: Divergence | None, stop: StopSignal) -> str:
        """Writes the run's artifacts, the provenance last; the resume state stays until the run is scored."""
        out, num_epochs = self.spec.out, self.config.train.num_epochs
        if divergence and not self.spec.extract:
            raise UserError(
                f"{self.spec.name} diverged in epoch {divergence.epoch + 1} of {num_epochs}: {divergence.reason}; "
                "lower train.lr under 'pretrain' of the preset."
            )
        write_table(
            pd.DataFrame({name: column.numpy() for name, column in fit.history.items()}), out / "history.parquet"
        )
        save_weights(fit.model, out / "model.safetensors")
        if self.spec.extract:
            write_npz(out / "features.npz", no_features(fit.model) if divergence else self._features(fit.model, stop))
        files = ["model.safetensors", "history.parquet"] + ["features.npz"] * self.spec.extract
        write_record(out / "provenance.json", self._provenance(fit, divergence), files)
        if not self.spec.extract:  # nobody scores a pre-training
            remove_state(out)
        if divergence:
            return f"{self.spec.name}: DIVERGED in epoch {divergence.epoch + 1} of {num_epochs}: {divergence.reason}"
        rate = float(fit.history["images_per_s"].mean())
        last = float(fit.history["total"][fit.history["epoch"] == num_epochs - 1].mean())
        return (
            f"{self.spec.name}: {num_epochs} epochs in {fit.train_s:.1f} s, {rate:.0f} images/s, last loss {last:.3f}"
        )

    def _features(self, model: ReidModel, stop: StopSignal) -> Features:
        """Returns the run's features; parts that an earlier call finished with these weights are not computed again."""
        if self.config.scored_on == "holdout":  # a candidate of a tuned cell never reads the test set
            return self.holdout.features(model)
        precision = precision_on(self.device, self.config.train.precision)
        made_of = content_hash([sha256_file(self.spec.out / "model.safetensors"), self.fingerprint, precision])
        name = f"{self.spec.name} features"
        with CountBar(name) as bar:

            def progress(done: int, total: int) -> None:
                bar.show(done, total)
                if stop.came:
                    stop.leave(name, f"{done} of {total} images")

            return extract_features(
                model,
                self.spec.data,
                self.device,
                workers=self.spec.workers,
                precision=self.config.train.precision,
                parts=self.state / f"features-{made_of}",
                progress=progress,
            )

    def _provenance(self, fit: Fit, divergence: Divergence | None) -> dict[str, Any]:
        return {
            "dataset": self.spec.dataset,
            "cell": self.spec.cell,
            "seed": self.spec.seed,
            "command": self.spec.command,
            "status": "diverged" if divergence else "finished",
            "epoch": divergence.epoch if divergence else None,
            "reason": divergence.reason if divergence else None,
            "config": self.spec.config.dump(),
            "config_hash": self.spec.config.hash,
            "code_hash": fit.codes[0] if len(fit.codes) == 1 else "+".join(fit.codes),
            "science_version": provenance.SCIENCE_VERSION,
            **provenance.git_state(),
            "data_fingerprint": self.fingerprint,
            "synthetic": self.synthetic,
            "weights": str(self.spec.weights or "none"),
            "weights_sha256": self.weights_hash,
            **computed_with(self.spec, self.device, self.gpus),
            "num_classes": self.num_classes,
            "cameras": list(self.cameras),
            **effort(fit, self.config, self.device),
            "wall_s": fit.wall_s + time.perf_counter() - self.started,
        }


def _weights_hash(path: Path) -> str:
    """Returns the SHA-256 of initial weights, which must be what their training wrote where that is known."""
    record = path.with_name("provenance.json")
    if record.is_file():
        integrity.check(path, record, read_record(record, Checksums).sha256)
    with reading(path, "weights", remedy="give others", missing="correct --config weights=PATH"):
        return sha256_file(path)


def _next(loader: Iterator[torch.Tensor], stop: StopSignal) -> torch.Tensor | None:
    """Returns the next batch; None when the signal that stops us ended a loader process before it could ignore it."""
    try:
        return next(loader)
    except (RuntimeError, OSError, EOFError):
        if stop.came:
            return None
        raise
