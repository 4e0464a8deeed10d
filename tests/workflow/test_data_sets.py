"""Every data set of the field in the layouts in circulation, drawn small and trained to the report in one study."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from reidablate.data.formats import PERSON_FOLDERS, SPLIT_FOLDERS
from support import planned, snakemake

COUNTS = {"train_images": 24, "train_ids": 6, "query_images": 6, "query_ids": 3, "gallery_images": 14, "gallery_ids": 4}
DATA = "my dätä"  # a blank and letters that are not ASCII
FOLDERS = {
    "market1501": "Market/pytorch",  # sorted into a folder for each person
    "occluded_duke": "Occluded_Duke",  # a link
    "dukemtmc": "DukeMTMC-reID/DukeMTMC-reID",  # an archive unpacked into itself
    "msmt17_v1": "MSMT17/MSMT17_V1",
    "msmt17_v2": "MSMT17/MSMT17_V2",  # two sets in one folder
    "cuhk03_detected": "CUHK03-NP/detected",
    "cuhk03_labeled": "CUHK03-NP/labeled",  # read-only
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


def arrange(data: Path) -> None:
    """Brings the drawn sets into the layouts in which people have them."""
    for split, own in SPLIT_FOLDERS.items():
        drawn = data / FOLDERS["market1501"] / own
        for image in list(drawn.iterdir()):
            person = data / FOLDERS["market1501"] / PERSON_FOLDERS[split] / image.name.partition("_")[0]
            person.mkdir(parents=True, exist_ok=True)
            image.rename(person / image.name)
        if own != PERSON_FOLDERS[split]:
            drawn.rmdir()
    duke = data / FOLDERS["occluded_duke"]
    duke.symlink_to(duke.rename(data.parent / "elsewhere"))
    (data / "DukeMTMC-reID" / "__MACOSX").mkdir()
    (data / "DukeMTMC-reID" / "__MACOSX" / "._query").touch()
    for folder in (data / FOLDERS["cuhk03_labeled"]).iterdir():
        folder.chmod(0o555)


@pytest.mark.slow
def test_every_set_and_layout_trains_to_the_report_and_one_misnamed_image_stops_the_plan(project: Path) -> None:
    data = project / DATA
    for style, folder in FOLDERS.items():
        synthesize(style, data / folder)
    arrange(data)
    preset = yaml.safe_load(Path("tiny.yaml").read_text())
    del preset["synthetic"], preset["pretrain"]
    preset |= {"name": "real", "weights": "none", "seeds": 1, "evaluate": {"also_on": ["occluded_reid"]}}
    preset["train"] |= {"epochs": 1, "num_ids": 3}
    Path("real.yaml").write_text(yaml.safe_dump(preset))
    config = ["preset=real.yaml", f"data_root={DATA}", "cells=naive_triplet"]
    assert planned(snakemake("-n", config=config))["train"] == 7
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
    image = next((data / FOLDERS["dukemtmc"] / "query").iterdir())
    image.rename(image.with_name("0001.jpg"))
    refused = snakemake("-n", config=config)
    assert refused.returncode == 2
    assert "'0001.jpg' is not a DukeMTMC-reID name such as 0001_c2_f0046182.jpg" in refused.stderr
