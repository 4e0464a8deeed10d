"""What Weights & Biases is sent of a study, read back from the files of offline runs."""

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from reidablate.artifacts import read_json
from support import BASE, nothing_to_do, planned, run_cli, snakemake

pytestmark = pytest.mark.slow

RESULTS = Path("results/tiny")
RUN = RESULTS / "market1501" / "p1" / "seed1"
BLOCK, HEADER = 32768, 7  # of the format of LevelDB's log, behind seven bytes of wandb's own


def records(path: Path) -> Iterator[Record]:
    data, place, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place < len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_back(folder: Path) -> dict[str, Any]:
    """Returns id, config, tags, rows by step and summary of the run in a folder of wandb."""
    (path,) = folder.glob("run-*.wandb")
    found: dict[str, Any] = {"rows": {}, "summary": {}}
    for record in records(path):
        if record.WhichOneof("record_type") == "run":
            found |= {"id": record.run.run_id, "tags": list(record.run.tags), "name": record.run.display_name}
            found["config"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            found["rows"].setdefault(record.history.step.num, {})[name] = json.loads(item.value_json)
        for item in record.summary.update:
            found["summary"]["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def push() -> str:
    """Pushes the study offline as a command does, at whose end W&B's own process has written all files."""
    said = run_cli("wandb", "push", "--offline")
    wandb.teardown()
    return said


def explained(study: Path) -> None:
    """Asks for pages of diagnostics, which a study has not without, and makes them."""
    pages, preset = RESULTS / "report" / "diagnostics", study / "tiny.yaml"
    assert "diagnose:" not in preset.read_text()
    assert not pages.exists()
    assert 'id="diagnostics"' not in (RESULTS / "report" / "index.html").read_text()
    before = preset.read_text()
    preset.write_text(before + "diagnose: brief\n")
    assert planned(snakemake("-n")) == {"explain": 2, "report": 1}
    done = snakemake()
    assert done.returncode == 0, done.stderr
    html = (RESULTS / "report" / "index.html").read_text()
    for cell in ("naive_triplet", "p1"):
        assert (pages / "market1501" / f"{cell}.html").is_file()
        assert f'href="diagnostics/market1501/{cell}.html"' in html
    thumbnails = re.findall(r'<img alt="" loading="lazy" src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(thumbnails) == 2
    assert all(len(picture) <= 60_000 * 4 / 3 for picture in thumbnails)
    assert nothing_to_do(snakemake("-n"))
    preset.write_text(before + "diagnose: none\n")
    assert nothing_to_do(snakemake("-n"))


def test_a_pushed_study_is_read_back_and_another_study_does_not_collide(study: Path) -> None:
    explained(study)
    said = push()
    assert said.splitlines()[-1].startswith("4 runs and the verdicts written; send them with: wandb sync results/tiny")
    runs = [read_back(folder) for folder in sorted((RESULTS / "wandb").glob("offline-run-*"))]
    assert len({run["id"] for run in runs}) == 5
    (run,) = (found for found in runs if found["name"] == "market1501/p1/seed1")
    made, history = read_json(RUN / "provenance.json"), pd.read_parquet(RUN / "history.parquet")
    name = read_json(RESULTS / "wandb.json")["study"]
    assert run["id"].startswith(f"{name}-market1501-p1-seed1-{made['config_hash']}-")
    facts = {"dataset": "market1501", "cell": "p1", "seed": 1, "preset": "tiny", "config_hash": made["config_hash"]}
    assert run["config"].items() >= {**made["config"], **facts, "data_fingerprint": made["data_fingerprint"]}.items()
    assert set(run["tags"]) == {"tiny", "market1501", "p1", "synthetic"}
    assert len(run["rows"]) == len(history) > 2
    for step, row in enumerate(history.to_dict("records")):
        assert {key: run["rows"][step][key] for key in row} == row
    ends = [step for step, row in run["rows"].items() if "epoch_mean/total" in row]
    assert ends == list(history.groupby("epoch").tail(1).index)
    means = history.groupby("epoch")["total"].mean()
    assert [run["rows"][step]["epoch_mean/total"] for step in ends] == pytest.approx(list(means))
    metrics = read_json(RUN / "metrics.json")
    for side in ("before_neck", "after_neck"):
        sent = run["summary"][side]
        assert {key: sent[key] for key in ("mAP", "mINP", "rank1", "rank20")}.items() <= metrics[side].items()
    (whole,) = (found for found in runs if found["id"] == f"{name}-verdicts")
    contrasts = pd.read_parquet(RESULTS / "tables" / "contrasts.parquet").query("headline and metric == 'mAP'")
    told = whole["summary"]["verdicts"]["market1501"]["p1"]["naive_triplet"]
    assert told["verdict"] == contrasts.set_index("cell")["verdict"]["p1"]
    sent = {name: value for row in whole["rows"].values() for name, value in row.items()}
    for cell in ("naive_triplet", "p1"):
        assert sent[f"diagnostics/market1501/{cell}/format"] == "jpg"
        assert sent[f"pages/market1501/{cell}/_type"] == "html-file"

    (RESULTS / "wandb.json").unlink()  # a study that a colleague made
    shutil.rmtree(RESULTS / "wandb")
    push()
    others = {read_back(folder)["id"] for folder in (RESULTS / "wandb").glob("offline-run-*")}
    assert others.isdisjoint(run["id"] for run in runs)


def test_a_log_in_that_fails_is_said_once_and_the_study_goes_on(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(study / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(study))
    shutil.rmtree(RUN)
    done = snakemake(config=[*BASE, "wandb=online"])
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("Weights & Biases") == 1
    assert "there is no API key" in done.stderr
    assert "Weights & Biases" not in (RESULTS / "logs" / "train" / "market1501" / "p1" / "seed1.log").read_text()
    assert not (RESULTS / "wandb").exists()
