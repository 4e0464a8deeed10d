"""Named random streams: every draw is derived from (seed, purpose, key) and from nothing else.

Two consumers with different purposes never share numbers, so a cell that draws more of one kind (a new
parameter, another augmentation) leaves every other stream as it was, and cells of the same seed stay paired.
"""

import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _sequence(seed: int, purpose: str, key: tuple[int, ...]) -> np.random.SeedSequence:
    digest = hashlib.sha256(purpose.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.SeedSequence([seed, *words, *key])


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Returns the NumPy generator of the stream `purpose` (for example `"batches"`) of a seed.

    Args:
        seed: The run's seed, a non-negative integer.
        purpose: Name of the stream.
        key: Further non-negative integers, such as epoch and step.
    """
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, key)))


def seed_int(seed: int, purpose: str, *key: int) -> int:
    """Returns an integer in [0, 2^63) that seeds a foreign generator for the stream `purpose`."""
    return int(_sequence(seed, purpose, key).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: int, purpose: str, *key: int) -> "torch.Generator":
    """Returns a CPU `torch.Generator` for the stream `purpose` of a seed."""
    import torch

    return torch.Generator().manual_seed(seed_int(seed, purpose, *key))


def seed_globals(seed: int, *, cuda: bool = False) -> None:
    """Seeds the global generators of torch, NumPy and Python, which drop path and the code of others draw from.

    `torch.manual_seed` would do for torch, but without CUDA it remembers every call for later, which costs 1.5 ms.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
