"""The provenance of a training: what was trained by which code, on what machine, and what it took of that."""

import os
import time
from typing import Any

import torch

from reidablate import provenance
from reidablate.config import RunConfig
from reidablate.engine.cost import dense_share, peak_memory_bytes
from reidablate.engine.divergence import Divergence, loss_scaling
from reidablate.engine.extract import precision_on
from reidablate.engine.flops import flops_per_image
from reidablate.engine.parallel import num_processes
from reidablate.engine.spec import RunSpec
from reidablate.engine.state import TrainingState
from reidablate.engine.training import Training
from reidablate.runs import Trained


def provenance_of(training: Training, state: TrainingState, divergence: Divergence | None) -> Trained:
    """Returns the provenance but for the checksums of the files beside it.

    Args:
        training: Which training.
        state: At its end.
        divergence: Where it diverged, if it did.
    """
    spec, data, codes = training.spec, training.data, state.codes
    return Trained(
        dataset=spec.dataset,
        cell=spec.cell,
        seed=spec.seed,
        command=spec.command,
        status="diverged" if divergence else "finished",
        epoch=divergence.epoch if divergence else None,
        reason=divergence.reason if divergence else None,
        config=spec.config.dump(),
        config_hash=spec.config.hash,
        code_hash="+".join(codes),
        science_version=provenance.SCIENCE_VERSION,
        **provenance.git_state(),
        data_fingerprint=data.fingerprint,
        synthetic=data.synthetic,
        weights=str(spec.weights or "none"),
        weights_sha256=training.identity.weights,
        **computed_with(spec, training.device, training.gpus),
        num_classes=data.num_classes,
        cameras=list(data.cameras),
        **effort(state, training.config, training.device),
        wall_s=state.wall_s + time.perf_counter() - training.began,
    )


def computed_with(spec: RunSpec, device: torch.device, gpus: tuple[str, ...]) -> dict[str, Any]:
    """Returns what else than its configuration, images and seed may move a bit of a run: packages, device, settings."""
    precision = spec.config.train.precision
    runtime = {"runtime": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "device": _name(device),
        "gpus": list(gpus),
        "processes": num_processes(),
        "cuda": runtime if device.type == "cuda" else None,
        "threads": spec.threads,
        "workers": spec.workers,
        "recompute": spec.recompute,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "flags": {
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "float32_matmul": torch.get_float32_matmul_precision(),
            "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        },
        "precision": precision,
        "extraction_precision": precision_on(device, precision),
    }


def effort(state: TrainingState, config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Returns what a training took: parameters, FLOPs of an image, images and device seconds, bytes of memory."""
    flops = flops_per_image(state.result, config.model.image_size, device)
    rate = float(state.history["images_per_s"].mean())
    share = dense_share(
        _name(device), config.train.precision, flops_per_image=flops, images_per_s=rate / num_processes()
    )
    return {
        "loss_scaling": loss_scaling(state.history),
        "num_parameters": sum(p.numel() for p in state.result.parameters()),
        "flops_per_image": flops,
        "dense_share": share,
        "images_per_s": rate,
        "device_s": state.train_s * num_processes(),
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
