"""Where features are multiplied, and in which order, changes no bit of a score."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from reidablate import cli
from reidablate.engine.matrix_product import on_device
from reidablate.errors import UserError
from reidablate.metrics import score
from reidablate.metrics.checks import check_labels
from reidablate.metrics.distances import Product
from reidablate.metrics.protocol import score_by
from reidablate.metrics.rerank import Constants, RerankedDistances


def problem() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Random features with copies and near ties, of a width at which float32 rounds differently in every order."""
    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((number, 300)).astype(np.float32) for number in (60, 900))
    gallery[:40] = gallery[0]
    gallery[40:200] += 20 * query[0]
    labels = {
        "query_pids": rng.integers(0, 20, 60),
        "gallery_pids": rng.integers(-1, 20, 900),
        "query_camids": rng.integers(0, 3, 60),
        "gallery_camids": rng.integers(0, 3, 900),
    }
    return query, gallery, labels


def backwards(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.ascontiguousarray(left[:, ::-1]) @ np.ascontiguousarray(right[:, ::-1]).T
    return found


def one_by_one(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    found = np.zeros((len(left), len(right)), left.dtype)
    for x, y in zip(left.T, right.T, strict=True):
        found += np.outer(x, y)
    return found


@pytest.mark.parametrize("product", [on_device("cpu"), backwards, one_by_one])
def test_every_product_scores_the_same(product: Product) -> None:
    query, gallery, labels = problem()
    wanted = score(query, gallery, **labels)
    found = score(query, gallery, **labels, product=product)
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)


def test_torch_re_ranks_the_same() -> None:
    query, gallery, labels = problem()
    pids, camids = ((labels[f"query_{ids}"], labels[f"gallery_{ids}"]) for ids in ("pids", "camids"))
    checked = check_labels((60, 900), pids=pids, camids=camids, names=None)
    wanted = score_by(RerankedDistances(query, gallery, Constants()), checked)
    found = score_by(RerankedDistances(query, gallery, Constants(), on_device("cpu")), checked)
    pd.testing.assert_frame_equal(found.queries, wanted.queries, check_exact=True)


def test_torch_multiplies_in_float64_whatever_it_is_given() -> None:
    rng = np.random.default_rng(1)
    left, right = (rng.standard_normal((20, 500)).astype(np.float32) for _ in range(2))
    found = on_device("cpu")(left, right)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (left.astype(np.float64) @ right.astype(np.float64).T).astype(np.float32))


def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="device is 'abacus' but should be cpu, cuda"):
        on_device("abacus")
    if not torch.cuda.is_available():
        monkeypatch.setattr("sys.argv", ["reidablate", "score", str(tmp_path / "x.npz"), "--device", "cuda"])
        with pytest.raises(SystemExit, match="2"):
            cli.main()
        assert "device 'cuda' cannot multiply" in capsys.readouterr().err
