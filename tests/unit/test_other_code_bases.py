"""The files of docs/other_code_bases.md: the cell can be planned, and the converter makes what `score` reads."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from reidablate.cells import load_cells
from reidablate.metrics.files import Options, read_file, read_image_names, score_retrieval
from reidablate.planning import load_presets
from support import ROOT, present

PAGE = (ROOT / "docs" / "other_code_bases.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_locally_aware_transformer_is_an_external_cell(tmp_path: Path) -> None:
    (tmp_path / "LA-Transformer").mkdir()
    (tmp_path / "LA-Transformer" / "model.py").write_text("")
    for name in ("la_transformer.py", "ablations/la_transformer.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(FILES[name])
    compile(FILES["la_transformer.py"], "la_transformer.py", "exec")
    (tmp_path / "ablations" / "naive_triplet.yaml").write_text((ROOT / "ablations/naive_triplet.yaml").read_text())
    cells = load_cells(tmp_path / "ablations", load_presets().values(), tmp_path)
    assert not cells.broken
    external = present(cells["la_transformer"].external)
    assert external.arguments(data=Path("d"), seed=2, out=Path("o"))[-4:] == ["--seed", "2", "--out", "o"]


def test_the_scores_of_transmatcher_become_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.array([[0.2, 0.9, 0.5], [0.8, 0.1, 0.3]])  # as its `--save_score` writes them
    theirs = {
        "score": scores,
        **{"prob_ids": [7, 9], "gal_ids": [9, 7, 0], "prob_cams": [0, 1], "gal_cams": [2, 1, 0]},
        "prob_list": np.array(["q0.jpg", "q1.jpg"], dtype=object),
        "gal_list": np.array(["g0.jpg", "g1.jpg", "g2.jpg"], dtype=object),
    }
    savemat(tmp_path / "market_score.mat", theirs, oned_as="column", do_compression=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transmatcher.py", "market_score.mat", "transmatcher.npz"])
    (tmp_path / "transmatcher.py").write_text(FILES["transmatcher.py"])
    runpy.run_path("transmatcher.py", run_name="__main__")
    (problem,) = read_file(tmp_path / "transmatcher.npz").values()
    assert present(problem.distances).argsort(1).tolist() == [[1, 2, 0], [0, 2, 1]]
    assert score_retrieval(problem, Options()).summary()["mAP"] == 1
    assert read_image_names(tmp_path / "transmatcher.npz")["gallery_names"].tolist() == ["g0.jpg", "g1.jpg", "g2.jpg"]
