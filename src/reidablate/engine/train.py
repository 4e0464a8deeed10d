"""One run from its initial weights to its features: the loop, and the ways in which it ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import torch

from reidablate import plugins
from reidablate.artifacts import only_writer
from reidablate.data.staging import staged
from reidablate.engine import parallel
from reidablate.engine.batches import image_batches
from reidablate.engine.checkpoint import CheckpointWriter
from reidablate.engine.devices import lease
from reidablate.engine.divergence import Divergence, find_divergence
from reidablate.engine.progress import ProgressBar
from reidablate.engine.results import extract_again, write_results
from reidablate.engine.resume import restored, save
from reidablate.engine.schedule import build_schedule, set_epoch
from reidablate.engine.spec import RunSpec, be_deterministic, check_deterministic, naming_batch, place, torch_device
from reidablate.engine.state import TrainingState
from reidablate.engine.step import Place, draw_inputs, take_step
from reidablate.engine.stopping import StopSignal
from reidablate.engine.tracking import LiveTracker, card_of_training
from reidablate.engine.training import Training, training_of
from reidablate.errors import UserError
from reidablate.gpus import share_refusal
from reidablate.recipes import with_recipe


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
        spec = replace(spec, data=staged(spec.data, spec.stage_to))
        if len(gpus) > 1:
            config = with_recipe(spec.config, spec.seed, where=spec.name)
            if sentence := share_refusal(spec.name, config.train.batch_size, len(gpus)):
                raise UserError(sentence)
            return parallel.run_on_each(gpus, spec.out / ".meeting", _train, spec, gpus)
        return _train(spec, gpus)


def _train(spec: RunSpec, gpus: tuple[str, ...]) -> str:
    """Does what `train_run` says in this process, the only one or one of several."""
    device = torch_device(spec.device, gpus, needed=spec.gpu_needed)
    training = training_of(spec, device, gpus)
    if training.is_complete():
        return f"{spec.name}: complete already"
    print(f"{spec.name}: {place(spec, device, gpus)}", file=sys.stderr, flush=True)
    be_deterministic(spec.threads)
    with StopSignal(only_note=parallel.num_processes() > 1) as stop:
        if training.is_fitted():
            return extract_again(training, stop) if parallel.rank() == 0 else ""
        state, divergence = _fit(training, stop)
        if parallel.rank() > 0:
            return ""
        if divergence:  # what is left to show is the network before the epoch in which it happened
            before = restored(training, whole_epoch=True)
            record = {name: getattr(state, name) for name in ("history", "codes", "train_s", "wall_s")}
            state = replace(before, **record)
        return write_results(training, state, divergence, stop)


def _fit(training: Training, stop: StopSignal) -> tuple[TrainingState, Divergence | None]:
    """Trains to the last epoch or to a divergence, and returns the state then."""
    spec, config, data = training.spec, training.config, training.data
    num_epochs = config.train.num_epochs
    with parallel.in_turn():
        state = restored(training)
    parallel.prepare(state, training.device)
    card = card_of_training(spec, training.identity, synthetic=data.synthetic)
    tracker = LiveTracker(spec.wandb if parallel.rank() == 0 else "disabled", card)
    loader = image_batches(
        data.images,
        data.rows_from(state.epochs_done, state.steps_done, num_epochs=num_epochs),
        workers=spec.workers,
        pin=training.device.type == "cuda",
        batch_size=config.train.batch_size // parallel.num_processes(),
    )
    divergence = None
    with ProgressBar(spec.name, num_epochs) as bar, closing(loader), CheckpointWriter(training.folder) as writer:
        while state.epochs_done < num_epochs and not divergence:
            epoch = state.epochs_done
            _train_epoch(training, state, loader, bar, writer, stop)
            check_deterministic(spec.threads, state.used)
            columns = state.book_steps(batch_size=config.train.batch_size)
            # Once an epoch: to look after every step, the processor would have to wait for the GPU each time.
            divergence = find_divergence(
                epoch, columns, state.history, state.model, state.loss, last=epoch + 1 == num_epochs
            )
            held_out = None if divergence else training.holdout.book(state, epoch)
            bar.epoch(epoch, float(columns["total"].mean()), float(columns["images_per_s"][0]), held_out)
            if not divergence:
                state.end_epoch()
                save(training, state, writer)
            tracker.history(state.history)
    tracker.finish()
    return state, divergence


def _train_epoch(
    training: Training,
    state: TrainingState,
    loader: Iterator[torch.Tensor],
    bar: ProgressBar,
    writer: CheckpointWriter,
    stop: StopSignal,
) -> None:
    """Takes the steps that are left of an epoch; told to stop, it saves them and ends the process."""
    spec, config, data = training.spec, training.config, training.data
    epoch, started = state.epochs_done, time.perf_counter()
    set_epoch(build_schedule(state.optimiser, config), epoch, config)
    state.model.train()
    batches = data.sampler.epoch(epoch)
    values: list[dict[str, torch.Tensor]] = []
    for step in range(state.steps_done, len(batches)):
        images = _next(loader, stop)
        if parallel.all_say(images is not None):
            assert images is not None
            where = Place(spec.seed, epoch, step)
            inputs = draw_inputs(config, images, *data.labels_of(batches[step]), where)
            with naming_batch(spec), plugins.running("a step of the training", *state.used):
                values.append(take_step(state, config, inputs, training.device, where))
            bar.step(epoch, step, len(batches))
        if parallel.agree_to_stop(stop):
            state.add_steps(values, time.perf_counter() - started)
            save(training, state, writer)
            writer.wait()  # before we say that nothing is lost
            stop.leave(spec.name, f"epoch {epoch}, step {state.steps_done} of {len(batches)} of the next")
    state.add_steps(values, time.perf_counter() - started)


def _next(loader: Iterator[torch.Tensor], stop: StopSignal) -> torch.Tensor | None:
    """Returns the next batch; None when the signal that stops us ended a loader process before it could ignore it."""
    try:
        return next(loader)
    except (RuntimeError, OSError, EOFError):
        if stop.came:
            return None
        raise
