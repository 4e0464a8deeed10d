"""Several processes that share every batch do what one does, stop and go on like one, and leave nothing behind."""

import dataclasses
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from reidablate.artifacts import read_json, sha256_file
from reidablate.config import RunConfig
from reidablate.data import augment
from reidablate.engine import parallel
from reidablate.engine.from_plan import train_spec
from reidablate.engine.stopping import StopSignal
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.models.global_batch import see_global_batch
from reidablate.planning import plan
from reidablate.study import Study
from reidablate.trees import merge
from support import ROOT, present

EPOCHS = 60  # so many that no training ends before the test has acted on it


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lists three GPUs, which PyTorch cannot use."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {n}: none (UUID: GPU-{n})'\n" for n in range(3)))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def study_of(tiny_study: Study, folder: Path, *, gpus: int, epochs: int, **change: str) -> Study:
    """Returns the tiny study with so many GPUs a training, results of its own, and other settings if wanted."""
    preset = folder / "tiny.yaml"
    folder.mkdir()
    text = (ROOT / "tests" / "tiny.yaml").read_text()
    preset.write_text(text.replace("gpu: 1", f"gpu: {gpus}").replace("  epochs: 2", f"  epochs: {epochs}"))
    places = {"preset": str(preset), "results": str(folder / "results")}
    study = plan({**tiny_study.settings.model_dump(mode="json"), **places, **change})
    study.root.mkdir(parents=True)
    for name in ("data", "pretrain"):
        (study.root / name).symlink_to(tiny_study.root / name)
    return study


def command(study: Study, cell: str) -> list[str]:
    run = ["--plan", str(study.write()), "--dataset", "market1501", "--cell", cell, "--seed", "0"]
    return [str(Path(sys.executable).with_name("reidablate")), "train", *run]


def run_of(study: Study, cell: str) -> Path:
    return study.root / "market1501" / cell / "seed0"


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_study: Study, tmp_path: Path, gpus: None) -> None:
    """The tolerances are those of docs/operations.md; 21 steps."""
    studies = [study_of(tiny_study, tmp_path / str(number), gpus=number, epochs=3) for number in (1, 2)]
    for cell in ("naive_triplet", "p1_rpe_jsd"):
        for study in studies:
            subprocess.run(command(study, cell), check=True)
        one, two = (run_of(study, cell) for study in studies)
        assert read_json(one / "provenance.json")["processes"] == 1
        made = read_json(two / "provenance.json")
        assert (made["gpus"], made["processes"]) == (["GPU-0", "GPU-1"], 2)
        assert not (two / ".meeting").exists()
        expected, found = (pd.read_parquet(run / "history.parquet") for run in (one, two))
        assert len(expected) == 21
        assert list(found) == list(expected)
        np.testing.assert_allclose(found["total"], expected["total"], rtol=1e-4)
        np.testing.assert_allclose(found["gradient_norm"][:1], expected["gradient_norm"][:1], rtol=1e-5)
        theirs = load_file(one / "model.safetensors")
        for name, values in load_file(two / "model.safetensors").items():
            torch.testing.assert_close(values, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_parameters_that_no_loss_reads_are_no_obstacle(tiny_study: Study, tmp_path: Path, gpus: None) -> None:
    cells = tmp_path / "cells"
    cells.mkdir()
    (cells / "metric.yaml").write_text("name: metric\nlosses: {identity: none}\n")  # nothing reads the classifier
    study = study_of(tiny_study, tmp_path / "study", gpus=2, epochs=1, ablations=str(cells), cells="metric")
    subprocess.run(command(study, "metric"), check=True)
    assert read_json(run_of(study, "metric") / "provenance.json")["processes"] == 2


@contextmanager
def training(command: list[str]) -> Iterator["tuple[subprocess.Popen[str], TextIO]"]:
    """A training that has finished an epoch since it was started, and what it says after that."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        with process.stderr:
            assert any(re.search(r"epoch \d+/\d+ loss", line) for line in process.stderr)
            yield process, cast(TextIO, process.stderr)
    finally:
        process.kill()
        process.communicate()


def ranks(process: "subprocess.Popen[str]") -> list[int]:
    """Returns the processes that a training has started to compute."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_it_stops_and_goes_on_like_one_process(tiny_study: Study, tmp_path: Path, gpus: None) -> None:
    undisturbed, study = (
        study_of(tiny_study, tmp_path / name, gpus=2, epochs=EPOCHS) for name in ("left", "disturbed")
    )
    subprocess.run(command(undisturbed, "p1_rpe_jsd"), check=True)
    again = command(study, "p1_rpe_jsd")
    with training(again) as (process, stderr):  # one of them is killed, as the kernel does where memory is short
        os.kill(ranks(process)[1], signal.SIGKILL)
        assert "one of the 2 processes of the training was ended by SIGKILL" in stderr.read()
        assert process.wait() == 2
    with training(again) as (process, stderr):
        process.terminate()
        assert re.search(r"was stopped by SIGTERM after epoch \d+, step \d+ of 7", stderr.read())
        assert process.wait() == 143
    with training(again) as (process, _):  # without a chance to tell the others
        left = [os.pidfd_open(pid) for pid in ranks(process)]
        process.kill()
        assert all(select.select([number], [], [], 60)[0] for number in left)  # readable when it has ended
    subprocess.run(again, check=True)
    for name in ("model.safetensors", "features.npz"):
        assert sha256_file(run_of(study, "p1_rpe_jsd") / name) == sha256_file(run_of(undisturbed, "p1_rpe_jsd") / name)


def interrupted() -> str:
    """Sends rank 0 a signal while the processes agree, behind its own word and before it has heard the others.

    It is sent twice, as by its parent and by a scheduler.
    """
    agree, heard = dist.all_reduce, []

    def then_signalled(*arguments: Any) -> None:
        agree(*arguments)
        for _ in range(2 if parallel.rank() == 0 else 0):
            signal.raise_signal(signal.SIGTERM)

    with StopSignal(only_note=True) as stop:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "all_reduce", then_signalled)
            heard.append(parallel.agree_to_stop(stop))
        heard.append(parallel.agree_to_stop(stop))
    return f"{heard} {stop.number}"


def one_is_killed() -> None:
    """Stops the parent, so that it does not look, and kills rank 1; rank 0 says who it is and fails for that."""
    if parallel.rank() == 1:
        os.kill(os.getppid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGKILL)
    print(os.getpid(), flush=True)
    dist.barrier()


def on_two(work: str, folder: Path) -> "subprocess.Popen[str]":
    """Starts a function of this module in two processes of one group."""
    code = (
        "from pathlib import Path\n"
        "import test_parallel\n"
        "from reidablate.engine.parallel import run_on_each\n"
        f"print(run_on_each(('0', '1'), Path({str(folder / 'meeting')!r}), test_parallel.{work}))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, **pipes)


def test_a_signal_that_comes_while_the_processes_agree_is_not_lost(tmp_path: Path) -> None:
    stdout, stderr = on_two("interrupted", tmp_path).communicate()
    assert stdout == f"[False, True] {int(signal.SIGTERM)}\n", stderr


def test_a_kill_is_named_though_the_other_process_has_failed_for_it(tmp_path: Path) -> None:
    with on_two("one_is_killed", tmp_path) as process:
        other = os.pidfd_open(int(present(process.stdout).readline()))
        select.select([other], [], [])  # readable when it has ended
        os.close(other)
        process.send_signal(signal.SIGCONT)
        assert "one of the 2 processes of the training was ended by SIGKILL" in process.communicate()[1]


def test_decisions_about_a_part_of_a_batch_are_those_about_the_whole() -> None:
    images = torch.randint(256, (6, 20, 12, 3), dtype=torch.uint8)
    decisions = augment.draw(torch.Generator().manual_seed(0), 6, height=20, width=12, pad=2, erase_probability=0.8)
    whole = augment.apply(images, decisions)
    parts = [augment.apply(images[part], decisions.of(part)) for part in (slice(0, 2), slice(2, 6))]
    assert torch.equal(torch.cat(parts), whole)


def test_a_norm_that_does_more_than_normalise_is_refused() -> None:
    class Activated(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="a Activated of the network normalises by the images of one process"):
        see_global_batch(nn.Sequential(nn.Conv2d(3, 4, 1), Activated(4)))


def test_a_batch_that_the_gpus_cannot_share_is_refused(tiny_study: Study, tmp_path: Path, gpus: None) -> None:
    spec = train_spec(tiny_study, dataset="market1501", cell="p1", seed=0)
    with pytest.raises(UserError, match=r"has 8 images, which 3 GPUs cannot share equally; set execution\.gpu to"):
        train_run(dataclasses.replace(spec, out=tmp_path / "run", gpus=3))


def test_a_drawn_batch_that_the_gpus_cannot_share_is_refused(tiny_study: Study, tmp_path: Path, gpus: None) -> None:
    spec = train_spec(tiny_study, dataset="market1501", cell="p1", seed=0)
    drawn = {"train": {"num_ids": 2, "num_instances": 3}, "jitter": {"train.num_ids": "choice(3)"}}
    config = RunConfig.model_validate(merge(spec.config.dump(), drawn))
    with pytest.raises(UserError, match=r"has 9 images, which 2 GPUs cannot share equally"):
        train_run(dataclasses.replace(spec, config=config, out=tmp_path / "run", gpus=2))
