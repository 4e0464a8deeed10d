"""The specification of one training: what it needs to know, and the device and settings that it is computed with."""

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from reidablate.config import RunConfig
from reidablate.engine.tracking import Mode
from reidablate.errors import UserError, out_of_memory, shortened
from reidablate.plugins import Plugin

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
        command: What to type to train the run by hand.
        stage_to: Where a copy of the data set on this machine's own disk is read from, None to read it where it is.
        gpu_needed: Whether a training that finds no usable GPU is refused, even if `device` is `auto`.
        recompute: Whether the backward pass computes activations again in place of keeping them: less memory, more
            time, the same bits.
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
    stage_to: str | None = None
    gpu_needed: bool = False
    recompute: bool = False
    same_code: bool = False
    command: str = ""


def torch_device(
    wanted: Literal["auto", "cpu", "cuda"], gpus: tuple[str, ...], *, needed: bool = False
) -> torch.device:
    """Returns where to compute with the leased `gpus`, if there are any and PyTorch can use them.

    Raises:
        UserError: A GPU is `needed`, or `wanted` is `cuda`, and PyTorch cannot use the leased device: nobody trains on
            a CPU unawares.
    """
    reason = _unusable() if gpus else "none was leased"
    if reason is None:
        return torch.device("cuda")
    if wanted == "cuda" or needed:
        asked = (
            "device=cuda was asked for" if wanted == "cuda" else "a run of this preset takes hundreds of hours on a CPU"
        )
        which = f"PyTorch {torch.__version__} cannot use the GPU {', '.join(gpus)}" if gpus else "there is no GPU"
        raise UserError(
            f"{asked} but on {platform.node()} {which} ({reason}); install a PyTorch for this card and driver, or give "
            "--config device=cpu."
        )
    return torch.device("cpu")


def _unusable() -> str | None:
    """Returns why PyTorch cannot compute on the visible GPU, None where it can; a card may be too old for its build."""
    if torch.version.cuda is None:
        return "it is built without CUDA"
    if not torch.cuda.is_available():
        return "no driver or device that it finds"
    try:
        torch.ones(1, device="cuda").add(1).item()
    except RuntimeError as error:
        return shortened(str(error).split("\n", 1)[0])
    return None


@contextmanager
def naming_batch(spec: RunSpec) -> Iterator[None]:
    """Makes one sentence of a training step that does not fit into memory: how large it is, and what changes no result.

    Raises:
        UserError: The block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        train, (height, width) = spec.config.train, spec.config.model.image_size
        way_out = "set execution.recompute: true in the preset, which takes less memory and more time for the same bits"
        if spec.recompute:
            way_out = "activations are not kept already (execution.recompute), so use a device with more memory"
        raise UserError(
            f"{spec.name}: a batch of {train.num_ids} x {train.num_instances} images of {height} x {width} does not "
            f"fit into memory ({shortened(str(error).split('. ')[0], 120)}); {way_out}, or free it of other processes."
        ) from None


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
    # float32 means float32, in products and convolutions alike; PyTorch's own default is TF32 in the latter.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def check_deterministic(threads: int, used: Sequence[Plugin]) -> None:
    """Makes sure that a training still computes as `be_deterministic` has set.

    Raises:
        UserError: A plug-in, which runs in the same process, has changed that.
    """
    kept = {
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the number of threads": torch.get_num_threads() == threads,
        "the default type": torch.get_default_dtype() == torch.float32,
        "cudnn.benchmark": not torch.backends.cudnn.benchmark,
        "TF32": not (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
    }
    own = "; ".join(plugin.where for plugin in used if plugin.code is not None)
    if own and (changed := [name for name, same in kept.items() if not same]):
        raise UserError(
            f"{own}: a plug-in changed how PyTorch computes ({', '.join(changed)}), so that runs could not be "
            "repeated or compared; remove that."
        )
