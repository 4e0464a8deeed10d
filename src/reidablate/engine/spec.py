"""What one training needs to know, and what it is computed on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from reidablate.config import RunConfig
from reidablate.engine.tracking import Mode


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
        command: What to type to train the run by hand.
        same_code: Whether a finished run or a checkpoint that other code made is not used; else the run stands, or
            goes on and names both.
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
    same_code: bool = False
    command: str = ""


def place(spec: RunSpec, device: torch.device, gpus: tuple[str, ...]) -> str:
    """Returns in words what a run is computed on."""
    if device.type == "cuda":
        where = f"GPU {', '.join(gpus)}"
    elif gpus:
        where = f"the CPU (the leased GPU {', '.join(gpus)} is not usable by torch)"
    else:
        where = "the CPU" if spec.device == "cpu" or not spec.gpus else "the CPU (no usable GPU)"
    return f"on {where}, threads {spec.threads}, loader processes {spec.workers}"


def be_deterministic(threads: int) -> None:
    """Makes torch compute the same bits every time, on a fixed number of threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling new memory, which nobody reads, takes 3 % of a step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
