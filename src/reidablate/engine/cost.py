"""Measures what a training uses of its machine: memory, and the share of a card's published rate."""

import re
import resource
import sys

import torch

DENSE_TFLOPS: dict[str, tuple[float, float | None, float]] = {
    # fp16, bf16 and fp32, from NVIDIA's data sheets and white papers (GeForce: GA102 and Ada): tensor cores without
    # sparsity, accumulated in fp32. Their rates of TF32 mean nothing here, as float32 is computed as float32
    # (`spec.be_deterministic`).
    "V100": (125, None, 15.7),
    "V100 PCIE": (112, None, 14),
    "T4": (65, None, 8.1),
    "A10": (125, 125, 31.2),
    "A30": (165, 165, 10.3),
    "A40": (149.7, 149.7, 37.4),
    "A100": (312, 312, 19.5),
    "A100 PCIE": (312, 312, 19.5),
    "L4": (121, 121, 30.3),
    "L40S": (362.05, 362.05, 91.6),
    "H100": (989.5, 989.5, 67),
    "H100 PCIe": (756.5, 756.5, 51),
    "H100 NVL": (835.5, 835.5, 60),
    "H200": (989.5, 989.5, 67),
    "H200 NVL": (835.5, 835.5, 60),
    "RTX A6000": (154.8, 154.8, 38.7),
    "GeForce RTX 3090": (71, 71, 35.6),
    "GeForce RTX 4090": (165.2, 165.2, 82.6),
}
"""Published dense rates of cards in 10^12 operations a second, by their names without maker, memory and socket."""

_NO_MODEL = re.compile(r"NVIDIA|Tesla|SXM\d?|\d+GB|HBM\w+")


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the most memory that this process has held: of the GPU where it computes on one, else of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def dense_share(card: str, precision: str, *, flops_per_image: float, images_per_s: float) -> float | None:
    """Returns the share of a card's published dense rate that a training takes, None where no rate is known.

    A step costs three times the way forward; what is computed a second time to save memory does not count.

    Args:
        card: Name of the device, as PyTorch gives it.
        precision: fp32, bf16 or fp16.
        flops_per_image: Of the way forward.
        images_per_s: That one card trained.
    """
    model = " ".join(word for word in re.split("[ -]", card) if not _NO_MODEL.fullmatch(word))
    rates = dict(zip(("fp16", "bf16", "fp32"), DENSE_TFLOPS.get(model, ()), strict=False))
    rate = rates.get(precision)
    return None if rate is None else 3 * flops_per_image * images_per_s / (rate * 1e12)
