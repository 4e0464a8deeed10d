"""The smoke test of a folder that looks like real data, from the images to the report."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from support import run_cli, snakemake

COUNTS = {
    "train_images": 24,
    "train_ids": 6,
    "query_images": 12,
    "query_ids": 6,
    "gallery_images": 30,
    "gallery_ids": 6,
}


def real_looking(folder: Path) -> None:
    """Draws a small Market-1501 and removes every mark of its origin."""
    command = ["data", "synthesize", str(folder), "--style", "market1501", "--counts", json.dumps(COUNTS)]
    program = Path(sys.executable).with_name("reidablate")
    subprocess.run([program, *command, "--image-size", "32x16"], check=True, capture_output=True)
    (folder / "SYNTHETIC").unlink()
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image)).save(path, "JPEG")


@pytest.mark.slow
def test_real_looking_data_goes_from_the_index_to_a_report_that_disclaims_its_numbers(project: Path) -> None:
    real_looking(project / "data" / "Market-1501-v15.09.15")
    preset = yaml.safe_load(Path("tiny.yaml").read_text())
    del preset["synthetic"], preset["pretrain"]
    Path("mine.yaml").write_text(yaml.safe_dump({**preset, "name": "mine", "weights": "file"}))
    login = snakemake("-n", config=["preset=mine.yaml"])
    assert login.returncode == 0, login.stderr
    assert "starts from pre-trained weights" in login.stderr
    assert "preset=smoke" in login.stderr
    cells = ["cells=naive_triplet,p1_rpe_jsd"]
    done = snakemake(config=["preset=smoke", "smoke_of=mine.yaml", *cells])
    assert done.returncode == 0, done.stderr
    root = Path("results/smoke")
    about = json.loads((root / "tables" / "study.json").read_text())
    assert about["smoke"] is True
    assert about["synthetic"] is False
    histories = sorted(root.glob("market1501/*/seed0/history.parquet"))
    assert [len(pd.read_parquet(path)) for path in histories] == [1, 1, 1]  # a step each; p1_rpe is compared with too
    index = pd.read_parquet(root / "data" / "market1501" / "index" / "index.parquet")
    assert index["split"].value_counts().to_dict() == {"train": 4, "query": 6, "gallery": 6}
    page = (root / "report" / "index.html").read_text()
    assert "Smoke test, the numbers mean nothing" in page
    assert "SMOKE TEST, THE NUMBERS MEAN NOTHING" in run_cli("report", str(root), "--text")
    assert not list(root.glob("market1501/*/*/model.safetensors"))
