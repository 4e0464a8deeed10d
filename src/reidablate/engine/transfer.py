"""Features of a trained run on the images of another data set: what it learned, seen elsewhere.

Nothing is trained and nothing of the run is changed. What is found lies in a folder of its own below the run's.
"""

import sys
import time
from pathlib import Path

import torch

from reidablate import integrity, provenance
from reidablate.artifacts import content_hash, only_writer, read_record, write_npz, write_record
from reidablate.config import RunConfig, validate
from reidablate.data.index import read_index
from reidablate.data.staging import staged
from reidablate.engine.devices import lease
from reidablate.engine.extract import extract_features, no_features, precision_on
from reidablate.engine.progress import CountBar
from reidablate.engine.spec import RunSpec, be_deterministic, place, torch_device
from reidablate.errors import UserError
from reidablate.models.checkpoints import load_weights
from reidablate.models.neck import ReidModel
from reidablate.runs import Trained, Transferred, state_folder
from reidablate.study import transfer_folder


def transfer_run(spec: RunSpec, *, on: str, data: Path) -> str:
    """Writes `features.npz` and `provenance.json` of a trained run on another data set, and returns a line about it.

    An interrupted extraction goes on behind the parts that it finished. A diverged run has features without a row, as
    in its own folder.

    Args:
        spec: The run, trained.
        on: Name of the other data set.
        data: Folder with that data set's `index/` and `cache/`.

    Raises:
        UserError: The run is not there or is of another configuration, its provenance is of another form, or its
            weights are not whole.
    """
    made = read_record(spec.out / "provenance.json", Trained)
    if validate(RunConfig, made.config, where=str(spec.out / "provenance.json")).hash != spec.config.hash:
        raise UserError(f"{spec.out} was trained with another configuration than the plan's; run snakemake again.")
    out, name = transfer_folder(spec.out, on), f"{spec.name} on {on}"
    with only_writer(out, name), lease(spec.gpus, device=spec.device) as gpus:
        device = torch_device(spec.device, gpus, needed=spec.gpu_needed)
        print(f"{name}: {place(spec, device, gpus)}", file=sys.stderr, flush=True)
        be_deterministic(spec.threads)
        started = time.perf_counter()
        model, weights = trained_model(spec.out, made)
        model.to(device)
        diverged = made.status == "diverged"
        data = staged(data, spec.stage_to)
        fingerprint = read_index(data / "index").summary["fingerprint"]
        if diverged:
            features = no_features(model)
        else:
            precision = precision_on(device, spec.config.train.precision)
            parts = state_folder(out) / f"features-{content_hash([weights, fingerprint, precision])}"
            with CountBar(f"{name} features") as bar:
                features = extract_features(
                    model,
                    data,
                    device,
                    workers=spec.workers,
                    precision=spec.config.train.precision,
                    parts=parts,
                    same_cameras=False,
                    progress=bar.show,
                )
        write_npz(out / "features.npz", features)
        facts = Transferred(
            on=on,
            weights_sha256=weights,
            data_fingerprint=fingerprint,
            code_hash=provenance.code_hash(),
            **provenance.git_state(),
            device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            threads=spec.threads,
            versions=provenance.versions(),
            wall_s=time.perf_counter() - started,
        )
        record = made.model_copy(update={"transfer": facts, "sha256": {}}).facts()
        write_record(out / "provenance.json", record, ["features.npz"])
    if diverged:
        return f"{name}: diverged, nothing to extract"
    return f"{name}: {len(features['query_pids'])} queries, {len(features['gallery_pids'])} gallery images"


def trained_model(run: Path, made: Trained) -> tuple[ReidModel, str]:
    """Returns the model of a finished run with its weights, and the SHA-256 of their file.

    Raises:
        UserError: The weights are damaged, or not of the model that the provenance names.
    """
    where = str(run / "provenance.json")
    config = validate(RunConfig, made.config, where=where).model
    model = ReidModel(config, num_classes=made.num_classes, cameras=tuple(made.cameras))
    integrity.check(run / "model.safetensors", run / "provenance.json", made.sha256)
    loaded = load_weights(model, run / "model.safetensors")
    if loaded.missing or loaded.ignored:
        lost = ", ".join((*loaded.missing, *loaded.ignored))
        raise UserError(f"{loaded.path} is not of the model in provenance.json ({lost}); train the run again.")
    return model, loaded.sha256
