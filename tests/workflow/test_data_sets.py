"""The further data sets of the field, drawn at reduced size, from their folders to the report in one study."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from support import planned, snakemake

COUNTS = {"train_images": 24, "train_ids": 6, "query_images": 6, "query_ids": 3, "gallery_images": 14, "gallery_ids": 4}
FOLDERS = {
    "dukemtmc": "DukeMTMC-reID",
    "msmt17_v1": "MSMT17/MSMT17_V1",
    "msmt17_v2": "MSMT17/MSMT17_V2",
    "cuhk03_detected": "CUHK03-NP/detected",
    "cuhk03_labeled": "CUHK03-NP/labeled",
    "occluded_reid": "Occluded_REID",
}


def synthesize(style: str, folder: Path) -> None:
    counts = COUNTS | ({"train_images": 0, "train_ids": 0} if style == "occluded_reid" else {})
    command = ["data", "synthesize", str(folder), "--style", style, "--counts", json.dumps(counts)]
    subprocess.run(
        [Path(sys.executable).with_name("reidablate"), *command, "--image-size", "32x16"],
        check=True,
        capture_output=True,
    )


@pytest.mark.slow
def test_every_further_set_trains_to_the_report_and_one_misnamed_image_stops_the_plan(project: Path) -> None:
    for style, folder in FOLDERS.items():
        synthesize(style, project / "my data" / folder)
    preset = yaml.safe_load(Path("tiny.yaml").read_text())
    del preset["synthetic"], preset["pretrain"]
    preset |= {"name": "real", "weights": "none", "seeds": 1, "evaluate": {"also_on": ["occluded_reid"]}}
    preset["train"] |= {"epochs": 1, "num_ids": 3}
    Path("real.yaml").write_text(yaml.safe_dump(preset))
    config = ["preset=real.yaml", "data_root=my data", "cells=naive_triplet"]
    assert planned(snakemake("-n", config=config))["train"] == 5
    done = snakemake(config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = project / "results" / "real" / "tables"
    runs = pd.read_parquet(tables / "runs.parquet")
    assert dict(zip(runs["dataset"], runs["status"], strict=True)) == dict.fromkeys(
        [name for name in FOLDERS if name != "occluded_reid"], "finished"
    )
    elsewhere = pd.read_parquet(tables / "cross_domain.parquet")
    assert set(elsewhere["on"]) == {"occluded_reid"}
    assert set(elsewhere["dataset"]) == set(runs["dataset"])
    html = (project / "results" / "real" / "report" / "index.html").read_text()
    assert all(title in html for title in ("DukeMTMC-reID", "MSMT17 V1", "MSMT17 V2", "CUHK03-NP labelled"))
    assert "Trained on DukeMTMC-reID, scored on Occluded-REID" in html
    image = next((project / "my data" / "DukeMTMC-reID" / "query").iterdir())
    image.rename(image.with_name("0001.jpg"))
    refused = snakemake("-n", config=config)
    assert refused.returncode == 2
    assert "'0001.jpg' is not a DukeMTMC-reID name such as 0001_c2_f0046182.jpg" in refused.stderr
