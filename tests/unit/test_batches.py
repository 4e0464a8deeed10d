"""What a loader process is handed, and what it reads."""

import pickle
from pathlib import Path

import numpy as np
import torch

from reidablate.engine.batches import _Rows
from reidablate.engine.extract import precision_on


def test_a_loader_process_that_is_not_a_fork_is_handed_a_path_and_not_the_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (500, 32, 16, 3), np.uint8)
    np.save(tmp_path / "train.npy", images)
    rows = _Rows(np.lib.format.open_memmap(tmp_path / "train.npy", mode="r"))
    pickled = pickle.dumps(rows)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again[[3, 499, 0]], images[[3, 499, 0]])
    assert not again.images.flags.writeable


def test_images_in_memory_are_handed_over_as_they_are() -> None:
    images = np.arange(2 * 4 * 2 * 3, dtype=np.uint8).reshape(2, 4, 2, 3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(_Rows(images)))[[1]], images[[1]])


def test_only_a_gpu_extracts_in_half_precision() -> None:
    assert precision_on(torch.device("cuda"), "fp16") == "fp16"
    assert precision_on(torch.device("cpu"), "fp16") == "fp32"
