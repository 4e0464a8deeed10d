"""What a training leaves: weights, history, features and its record, which vouches for them."""

import pandas as pd

from reidablate import provenance
from reidablate.artifacts import content_hash, read_record, sha256_file, write_npz, write_record, write_table
from reidablate.engine.divergence import Divergence
from reidablate.engine.extract import Features, extract_features, no_features, precision_on
from reidablate.engine.progress import CountBar
from reidablate.engine.record import provenance_of
from reidablate.engine.state import TrainingState
from reidablate.engine.stopping import StopSignal
from reidablate.engine.training import Training
from reidablate.engine.transfer import trained_model
from reidablate.errors import UserError
from reidablate.models.checkpoints import save_weights
from reidablate.models.neck import ReidModel
from reidablate.runs import Trained, remove_state


def write_results(training: Training, state: TrainingState, divergence: Divergence | None, stop: StopSignal) -> str:
    """Writes a run's artifacts, the provenance last, and returns the line that sums it up.

    The resume state stays until the run is scored.

    Raises:
        UserError: It is a pre-training that diverged.
    """
    spec, num_epochs = training.spec, training.config.train.num_epochs
    out = spec.out
    if divergence and not spec.extract:
        raise UserError(
            f"{spec.name} diverged in epoch {divergence.epoch + 1} of {num_epochs}: {divergence.reason}; "
            "lower train.lr under 'pretrain' of the preset."
        )
    history = {name: column.numpy() for name, column in state.history.items()}
    write_table(pd.DataFrame(history), out / "history.parquet")
    save_weights(state.result, out / "model.safetensors")
    if spec.extract:
        features = no_features(state.result) if divergence else _features(training, state.result, stop)
        write_npz(out / "features.npz", features)
    files = ["model.safetensors", "history.parquet"] + ["features.npz"] * spec.extract
    write_record(out / "provenance.json", provenance_of(training, state, divergence).facts(), files)
    if not spec.extract:  # nobody scores a pre-training
        remove_state(out)
    if divergence:
        return f"{spec.name}: DIVERGED in epoch {divergence.epoch + 1} of {num_epochs}: {divergence.reason}"
    rate = float(state.history["images_per_s"].mean())
    last = float(state.history["total"][state.history["epoch"] == num_epochs - 1].mean())
    return f"{spec.name}: {num_epochs} epochs in {state.train_s:.1f} s, {rate:.0f} images/s, last loss {last:.3f}"


def extract_again(training: Training, stop: StopSignal) -> str:
    """Writes the features of a finished training from its weights, and returns the line that says so."""
    out, record = training.spec.out, training.spec.out / "provenance.json"
    made = read_record(record, Trained)
    model, _ = trained_model(out, made)
    model.to(training.device)
    features = no_features(model) if made.status == "diverged" else _features(training, model, stop)
    write_npz(out / "features.npz", features)
    codes = dict.fromkeys([*made.code_hash.split("+"), provenance.code_hash()])
    write_record(record, {**made.facts(), "code_hash": "+".join(codes)}, ["features.npz"])
    return f"{training.spec.name}: features extracted again from its weights, nothing trained"


def _features(training: Training, model: ReidModel, stop: StopSignal) -> Features:
    """Returns the run's features; parts that an earlier call finished with these weights are not computed again."""
    spec, precision = training.spec, training.config.train.precision
    if training.config.scored_on == "holdout":  # a candidate of a tuned cell never reads the test set
        return training.holdout.features(model)
    weights = sha256_file(spec.out / "model.safetensors")
    made_of = content_hash([weights, training.data.fingerprint, precision_on(training.device, precision)])
    name = f"{spec.name} features"
    with CountBar(name) as bar:

        def progress(done: int, total: int) -> None:
            bar.show(done, total)
            if stop.came:
                stop.leave(name, f"{done} of {total} images")

        return extract_features(
            model,
            spec.data,
            training.device,
            workers=spec.workers,
            precision=precision,
            parts=training.folder / f"features-{made_of}",
            progress=progress,
        )
