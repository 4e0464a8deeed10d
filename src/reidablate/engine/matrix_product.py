"""Products of matrices by torch, on any device, for scoring: see `metrics.protocol.score`."""

import re
from typing import Any

import numpy.typing as npt
import torch

from reidablate.errors import UserError
from reidablate.metrics.distances import Product


def on_device(device: str) -> Product:
    """Returns a product computed by torch on a device such as "cuda".

    It is a float64 one whatever it is given, so no setting of torch that trades precision for speed (TF32, bfloat16)
    reaches it, and scores are those of NumPy bit for bit.

    Raises:
        UserError: There is no such device.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"--device is '{device}' but should be cpu, cuda or cuda:N.")
    try:
        torch.empty(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        sentence = str(error).splitlines()[0]
        raise UserError(f"device '{device}' cannot multiply ({sentence}); choose cpu, or cuda with a GPU.") from None

    def product(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        ours, theirs = (torch.from_numpy(side).to(device).double() for side in (left, right))
        found: npt.NDArray[Any] = (ours @ theirs.T).to(torch.from_numpy(left).dtype).cpu().numpy()
        return found

    return product
