"""What the provenance of a training says of the machine, and of what the training took of it."""

import os
from typing import Any

import torch

from reidablate import provenance
from reidablate.config import RunConfig
from reidablate.engine.cost import dense_share, peak_memory_bytes
from reidablate.engine.extract import precision_on
from reidablate.engine.fit import Fit, loss_scaling
from reidablate.engine.flops import flops_per_image
from reidablate.engine.parallel import num_processes
from reidablate.engine.spec import RunSpec


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


def effort(fit: Fit, config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Returns what a training took: parameters, FLOPs of an image, images and device seconds, bytes of memory."""
    flops = flops_per_image(fit.model, config.model.image_size, device)
    rate = float(fit.history["images_per_s"].mean())
    share = dense_share(
        _name(device), config.train.precision, flops_per_image=flops, images_per_s=rate / num_processes()
    )
    return {
        "loss_scaling": loss_scaling(fit.history),
        "num_parameters": sum(p.numel() for p in fit.model.parameters()),
        "flops_per_image": flops,
        "dense_share": share,
        "images_per_s": rate,
        "device_s": fit.train_s * num_processes(),
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
