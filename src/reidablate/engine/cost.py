"""What a training takes of the machine it runs on."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the most memory that this process has held: of the GPU where it computes on one, else of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
