"""MATLAB files with the names and shapes that the field's code bases write, scored like the same arrays in .npz."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from reidablate.cli import main
from reidablate.errors import UserError
from reidablate.metrics import score
from reidablate.metrics.files import Options, read_file, score_file
from support import run_cli

FIELD = {"features": "f", "pids": "label", "camids": "cam"}


def problem(num_queries: int = 9, num_gallery: int = 60, dim: int = 11) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "query_features": rng.standard_normal((num_queries, dim)).astype(np.float32),
        "gallery_features": rng.standard_normal((num_gallery, dim)).astype(np.float32),
        "query_pids": rng.integers(0, 5, num_queries),
        "gallery_pids": rng.integers(-1, 5, num_gallery),
        "query_camids": rng.integers(1, 4, num_queries),
        "gallery_camids": rng.integers(1, 4, num_gallery),
    }


def field(given: dict[str, Any]) -> dict[str, Any]:
    """The same under the names of the field."""
    return {f"{side}_{FIELD[what]}": v for (side, what), v in ((name.split("_"), v) for name, v in given.items())}


def saved(folder: Path, given: dict[str, Any], name: str = "pytorch_result.mat") -> Path:
    savemat(folder / name, given)
    return folder / name


@pytest.mark.parametrize("kind", ["lists", "columns", "doubles", "turned", "our names"])
def test_features_of_a_matlab_file_score_as_in_memory(tmp_path: Path, kind: str) -> None:
    given = problem()
    changed = field(given)
    if kind == "lists":  # savemat makes (1, N) of them
        changed = {name: value if name.endswith("_f") else value.tolist() for name, value in changed.items()}
    if kind == "columns":
        changed = {name: value if name.endswith("_f") else value[:, None] for name, value in changed.items()}
    if kind == "doubles":
        changed = {name: value.astype(np.float64) for name, value in changed.items()}
    if kind == "turned":
        changed = {name: value.T if name.endswith("_f") else value for name, value in changed.items()}
    path = saved(tmp_path, given if kind == "our names" else changed)
    assert score_file(path, Options())[0]["features"].summary() == score(**given).summary()
    assert json.loads(run_cli("score", str(path), "--json"))["features"]["mAP"] == score(**given).summary()["mAP"]


def test_other_variables_are_left_alone_and_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    others = {"mquery_f": np.ones((2, 3)), "query_names": ["a.jpg", "b.jpg"], "note": "text"}
    path = saved(tmp_path, field(problem()) | others, "A.MAT")
    assert list(read_file(path)) == ["features"]


def test_a_matlab_file_and_an_npz_of_the_same_features_do_not_differ(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **problem())
    path = saved(tmp_path, field(problem()))
    found = json.loads(run_cli("compare", str(tmp_path / "a.npz"), str(path), "--json"))
    assert found["metrics"]["mAP"]["difference"] == 0


def broken(folder: Path, kind: str) -> tuple[Path, str]:
    given = field(problem())
    path = saved(folder, given)
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "fraction": ({"gallery_label": np.full(60, 1.5)}, "gallery_label of .* holds 1.5; give whole numbers"),
        "nan": ({"query_cam": np.full(9, np.nan)}, "query_cam of .* holds nan; give whole numbers"),
        "matrix": ({"query_label": np.ones((3, 3))}, r"query_label of .* has shape \(3, 3\)"),
        "text": ({"query_cam": "c1"}, "query_cam of .* holds no plain numbers"),
        "short": ({"gallery_label": np.ones((1, 59))}, r"gallery_pids has shape \(59,\)"),
        "names": ({"query_f": np.nan}, "query_features"),
    }
    if kind in changes:
        change, words = changes[kind]
        return saved(folder, given | change), words
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
        return path, "cannot be read|not a complete MATLAB file"
    if kind == "not matlab":
        path.write_text("pid,camid\n")
        return path, "is not a complete MATLAB file"
    if kind == "7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
        return path, "version 7.3 .*save it again with the option '-v7'"
    del given["query_cam"]
    return saved(folder, given), "it should hold query_pids"


@pytest.mark.parametrize(
    "kind", ["fraction", "nan", "matrix", "text", "short", "names", "truncated", "not matlab", "7.3", "a name missing"]
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, words = broken(tmp_path, kind)
    with pytest.raises(UserError, match=words):
        score_file(path, Options())
    monkeypatch.setattr(sys, "argv", ["reidablate", "score", str(path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
