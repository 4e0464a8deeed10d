"""What a training takes of a card, and what a study will take, against arithmetic by hand."""

import datetime
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reidablate.artifacts import read_json
from reidablate.cli import app
from reidablate.config import RunConfig
from reidablate.engine.cost import dense_share
from reidablate.engine.from_plan import train_spec
from reidablate.engine.train import train_run
from reidablate.estimate import Estimate, cost_class
from reidablate.study import Study
from reidablate.trees import merge
from support import run_cli

NOW = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("card", "precision", "share"),
    [
        ("NVIDIA A100-SXM4-80GB", "fp16", 3 * 10e9 * 1040 / 312e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 3 * 10e9 * 1040 / 989.5e12),
        ("NVIDIA H100 PCIe", "fp32", 3 * 10e9 * 1040 / 51e12),
        ("Tesla V100-PCIE-16GB", "fp16", 3 * 10e9 * 1040 / 112e12),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("NVIDIA GeForce RTX 3090 Ti", "fp16", None),  # another card
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "fp16", None),  # a part of one
        ("cpu", "fp32", None),
    ],
)
def test_the_share_of_a_card_is_that_of_its_published_dense_rate(
    card: str, precision: str, share: float | None
) -> None:
    assert dense_share(card, precision, flops_per_image=10e9, images_per_s=1040) == pytest.approx(share)


@pytest.fixture(scope="module")
def estimated(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    """A study of two cells and seeds, of which one run of one cell is trained, after its probe."""
    results = tmp_path_factory.mktemp("estimated")
    shutil.copytree(tiny_study.root, results / tiny_study.preset.name)
    asked = {"market1501": {"naive_triplet": [0, 1], "p1": [0, 1]}}
    settings = tiny_study.settings.model_copy(update={"results": results})
    study = tiny_study.model_copy(update={"settings": settings, "asked": asked, "planned": asked})
    train_run(train_spec(study, dataset="market1501", cell="naive_triplet", seed=0))
    estimate = Estimate(study)
    estimate.probe(lambda done, total: None)
    return estimate


def test_what_was_measured_beats_what_was_probed(estimated: Estimate) -> None:
    made = read_json(estimated.study.root / "market1501" / "naive_triplet" / "seed0" / "provenance.json")
    seconds = {job.run.cell: estimated.seconds(job) for job in estimated.jobs}
    probed = cost_class(estimated.study.cell("p1").config)
    assert set(estimated.speeds) == {probed}
    speed = estimated.speeds[probed]
    assert speed.steps == 20
    # Two epochs of batches of 4 identities with 2 of their 8 images: 8 x 8 / 8 batches, of which the last few may
    # find fewer than 4 identities with images left.
    steps = {job.steps for job in estimated.jobs}
    assert steps <= {2 * n for n in range(5, 9)}
    assert len(steps) == 1
    images = 12 + 30 + 4 + 4
    assert seconds["p1"] == pytest.approx(speed.start_s + steps.pop() * speed.step_s + images * speed.image_s)
    assert seconds["naive_triplet"] == made["wall_s"]


def test_the_sums_are_those_of_the_runs(estimated: Estimate) -> None:
    lines = list(estimated.lines(NOW))
    assert lines[0] == "tiny: 4 runs are asked for, 1 are trained, 3 are left."
    assert [line.split(":")[0].strip() for line in lines[1:5]] == [
        "measured", "probed", "market1501/naive_triplet", "market1501/p1",
    ]  # fmt: skip
    assert lines[3].endswith("measured")
    assert "2 trainings of" in lines[4]
    assert "until Mon 02 Mar 12:00" in lines[5]
    width, images = 32, 50
    sizes = estimated.disk_bytes()
    assert sizes["features"] == 3 * 2 * 4 * width * images
    assert sizes["caches"] == 0
    model = estimated.study.root / "market1501" / "naive_triplet" / "seed0" / "model.safetensors"
    assert sizes["weights"] == pytest.approx(3 * model.stat().st_size, rel=0.1)


def test_the_schedule_alone_makes_no_other_kind(estimated: Estimate) -> None:
    config = estimated.study.cell("p1").config

    def with_train(**train: object) -> RunConfig:
        return RunConfig.model_validate(merge(config.dump(), {"train": train}))

    assert cost_class(with_train(lr_factor=0.5, epochs_factor=2.0)) == cost_class(config)
    assert cost_class(with_train(precision="bf16")) != cost_class(config)


def test_a_plan_counts_without_a_probe(tmp_path: Path) -> None:
    places = (f"results={tmp_path / 'results'}", f"data_root={tmp_path / 'data'}")
    lines = run_cli("plan", "preset=tests/tiny.yaml", "cells=p1", *places, "--no-probe").splitlines()
    assert lines[0] == "tiny: 8 runs are asked for, 0 are trained, 8 are left."
    assert all(line.endswith("not estimated") for line in lines[1:-1])
    assert "caches" in lines[-1]
    assert not (tmp_path / "results" / "tiny" / "plans").exists()


def test_a_plan_takes_what_snakemake_takes_and_names_weights_that_are_not_there(tmp_path: Path) -> None:
    asked = ["preset=tests/tiny.yaml", f"results={tmp_path}", "cells=[p1, p1_rpe]", "seeds=3"]
    asked += ["weights={vit_quickstart: nowhere.pth}", "--no-probe"]
    done = CliRunner().invoke(app, ["plan", *asked])
    assert done.stdout.startswith("tiny: 18 runs are asked for, 0 are trained, 18 are left.\n")
    assert done.stderr == "reidablate: there are no weights at nowhere.pth; correct --config weights=PATH.\n"
