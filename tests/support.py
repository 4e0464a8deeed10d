"""What tests need besides fixtures."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from typer.testing import CliRunner

from reidablate.cells import Cell, load_cells
from reidablate.cli import app
from reidablate.config import Preset
from reidablate.planning import plan
from reidablate.scope import write_scope
from reidablate.study import Study

ROOT = Path(__file__).parents[1]
T = TypeVar("T")
Settings = dict[str, object]
# The files that the project ships in ablations/. Tests read these alone: a checkout may hold a user's cells as well.
_SHIPPED = """
abs_x ape_off ape_sinusoidal cls_no_ape cls_per_patch cls_per_patch_as_run cls_term cls_untie cls_untie_as_run
cls_untie_beit cls_untie_shared conditional_position cross_attention_triplet element_weighted fraction_10 fraction_50
gap jpm jsd_layer jsd_permutations l2_softmax longer_demo naive_triplet naive_triplet_as_run
naive_triplet_as_run_faster naive_triplet_as_run_longer p1 p1_as_run p1_both p1_classifier p1_classifier_as_run
p1_common p1_common_and_different p1_detach p1_four_weight p1_four_weight_exchanged p1_hinge p1_mean_negative p1_mixed
p1_rpe p1_rpe_as_run p1_rpe_curve p1_rpe_jsd p1_rpe_jsd_as_run p1_rpe_jsd_as_run_0513 p1_shrinking p2 p2_as_run
p2_classifier p2_divergence p2_grouping p2_identity_mean p2_pairs p2_patches p2_rpe_detached p2_scaled_ape
p2_shifted_ape p2_token_order p2_weight p2_without_rpe patch_triplet pcb pcb_vit pos_pull pos_triplet
pos_triplet_as_run pos_triplet_curve pos_triplet_lr pos_triplet_mean resnet50 rpe rpe_double_lr rpe_only rpe_zero_init
shaw_key shorter_demo sie transreid tupe_reset vertical_windows weighted_branch x_only y_only
"""
SHIPPED = _SHIPPED.split()
_OUR_STEM = {
    "conv.0": "conv1",
    "conv.1.IN": "norm1.instance",
    "conv.1.BN": "norm1.batch",
    "conv.3": "conv2",
    "conv.4.IN": "norm2.instance",
    "conv.4.BN": "norm2.batch",
    "conv.6": "conv3",
    "conv.7": "norm3",
    "proj": "projection",
}
TERMINAL = "terminal.txt"  # what the call of the fixture `finished` printed
BASE = ["preset=tiny.yaml", "datasets=market1501", "cells=naive_triplet,p1"]


def present(value: T | None) -> T:
    """Returns a value that may not be None."""
    assert value is not None
    return value


def gradient(tensor: Tensor | None) -> Tensor:
    """Returns the gradient that a backward pass left."""
    return present(present(tensor).grad)


def our_name(theirs: str) -> str:
    """Returns the name in our model of a tensor that timm and TransReID-SSL name so."""
    if theirs == "pos_embed":
        return "backbone.ape.table"
    name = theirs.removeprefix("patch_embed.")
    if name == theirs:
        return f"backbone.{theirs}"
    layer, leaf = name.rsplit(".", 1)
    return f"backbone.stem.{_OUR_STEM[layer]}.{leaf}"


def copy_cells(folder: Path) -> Path:
    """Copies the shipped cells into a new folder and returns it."""
    folder.mkdir(parents=True)
    for name in SHIPPED:
        shutil.copy(ROOT / "ablations" / f"{name}.yaml", folder)
    return folder


def shipped_cells(presets: Iterable[Preset]) -> dict[str, Cell]:
    """Returns the shipped cells, resolved under some presets, by name."""
    cells = load_cells(ROOT / "ablations", presets)
    return {name: cell for name, cell in cells.items() if cell.path.stem in SHIPPED}


def copy_project(folder: Path) -> None:
    """Copies what a checkout holds besides the package, with the shipped cells and the tiny preset, into a folder."""
    for name in ("workflow", "profiles", "report_templates"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Snakefile", "tests/tiny.yaml"):
        shutil.copy(ROOT / name, folder)
    copy_cells(folder / "ablations")


def run_cli(*arguments: str) -> str:
    """Runs `reidablate` in this process and returns what it printed."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def start_snakemake(*arguments: str, config: list[str] = BASE, gpu: int = 4, **options: Any) -> "subprocess.Popen[str]":
    """Starts the command of the README in the current folder; `options` are those of `Popen`."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--cores", "all", *arguments]
    command += ["--resources", f"gpu={gpu}", "--config", *config]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(command, text=True, **{"env": environment, **options})


def snakemake(*arguments: str, config: list[str] = BASE, gpu: int = 4) -> "subprocess.CompletedProcess[str]":
    """Runs the command of the README in the current folder."""
    process = start_snakemake(*arguments, config=config, gpu=gpu, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=600)
    assert "Traceback" not in stdout + stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def planned(done: "subprocess.CompletedProcess[str]") -> dict[str, int]:
    """Returns how many jobs of each rule a dry run lists."""
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule not in {"total", "all"}}


def nothing_to_do(done: "subprocess.CompletedProcess[str]") -> bool:
    return done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def called(settings: Settings, **change: object) -> Study:
    """Returns the plan of a call that begins to run jobs."""
    study = plan({**settings, **change})
    study.write()
    write_scope(study)
    return study
