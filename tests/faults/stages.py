"""The stages of a study that had finished, each in a child of this process, which has imported everything.

A child starts at once, so hundreds can be killed or run out of disk in a minute. This process must not compute with
PyTorch itself: its threads would not be there in a child.
"""

import contextlib
import os
import resource
import select
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidablate import cli, places
from reidablate.artifacts import canonical_json
from reidablate.data import cache, index
from reidablate.diagnostics import floors
from reidablate.engine import from_plan, train
from reidablate.metrics import evaluate
from reidablate.planning import plan
from reidablate.report import render
from reidablate.report.digest import digest_lines
from reidablate.scope import write_scope
from reidablate.stats import pipeline
from reidablate.study import PRETRAIN
from reidablate.synthetic import synthesize
from reidablate.tables import aggregate
from reidablate.trees import merge
from support import snakemake

IMPORTED = (aggregate, cache, evaluate, floors, index, pipeline, render, from_plan, synthesize, train)
RESULTS = Path("results/tiny")
DATASET = "market1501"


@dataclass(frozen=True)
class Scenario:
    """What happens to a finished study before calls that are killed.

    Attributes:
        lost: Folders below `results/tiny` that are deleted.
        config: What the calls ask for.
        run: The run that is trained, a cell and a seed.
    """

    lost: tuple[str, ...]
    config: dict[str, Any]
    run: tuple[str, int]

    @property
    def words(self) -> list[str]:
        """The configuration as the command line has it."""
        return [f"{key}={value}" for key, value in self.config.items()]


BASE = {"preset": "tiny.yaml", "datasets": DATASET, "cells": "naive_triplet,p1"}
SCENARIOS = {
    "rebuilt": Scenario(("data", PRETRAIN, f"{DATASET}/p1/seed1", "report"), BASE, ("p1", 1)),
    "extended": Scenario((), {**BASE, "cells": "naive_triplet,p1,rpe", "seeds": 1}, ("rpe", 0)),
}


def commands(scenario: Scenario) -> dict[str, list[list[str]]]:
    """Returns the commands of each stage of a call in the current folder, which is planned here."""
    study = plan(merge(places.settings(Path()), scenario.config))
    plan_option = ["--plan", str(study.write())]
    write_scope(study)
    cell, seed = scenario.run
    run = ["--dataset", DATASET, "--cell", cell, "--seed", str(seed)]
    found: dict[str, list[list[str]]] = {}
    if scenario.lost:
        for name in (DATASET, PRETRAIN):
            recipe = canonical_json(study.synthetic_recipe(name))
            of = [*plan_option, "--dataset", name]
            images = str(study.dataset(name).root)
            found.setdefault("synthesize", []).append(["data", "synthesize", images, "--recipe", recipe])
            found.setdefault("index", []).append(["data", "index", *of])
            found.setdefault("cache", []).append(["data", "cache", *of])
        found["pretrain"] = [["pretrain", *plan_option]]
        found["diagnose"] = [["diagnose", *plan_option, "--dataset", DATASET]]
    return {
        **found,
        "train": [["train", *plan_option, *run]],
        "evaluate": [["evaluate", str(RESULTS / DATASET / cell / f"seed{seed}"), *plan_option]],
        "aggregate": [["aggregate", *plan_option]],
        "statistics": [["statistics", str(RESULTS), "--study", "."]],
        "report": [["report", str(RESULTS), "--study", "."]],
    }


def begin(finished: Path, scenario: Scenario, folder: Path) -> None:
    """Copies a project with a finished study to a new folder and takes away what the scenario loses."""
    shutil.copytree(finished, folder, symlinks=True)
    for name in scenario.lost:
        shutil.rmtree(folder / RESULTS / name)


def run_stage(arguments: list[str], *, seconds: float | None = None, file_bytes: int | None = None) -> int:
    """Runs a command in a child of this process and returns its status, minus the signal where it was killed.

    Args:
        arguments: What follows `reidablate`.
        seconds: When it is killed, if it lives so long.
        file_bytes: The largest file that it may write; more fails as on a full disk.
    """
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            sys.argv = ["reidablate", *arguments]
            try:
                cli.main()
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException:
                sys.excepthook(*sys.exc_info())
        os._exit(1)
    ending = os.pidfd_open(child)
    if seconds is not None and not select.select([ending], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    os.close(ending)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def all_tables(project: Path) -> list[str]:
    """Returns the digests of the tables of a study, and of all of them."""
    return list(digest_lines(project / RESULTS / "tables"))


def reference(finished: Path, scenario: Scenario, folder: Path) -> list[str]:
    """Returns the digests of the tables of a scenario that nothing disturbed; a lost part changes none of them."""
    if scenario.lost:
        return all_tables(finished)
    undisturbed = shutil.copytree(finished, folder, symlinks=True)
    with contextlib.chdir(undisturbed):
        done = snakemake(config=scenario.words)
    assert done.returncode == 0, done.stderr
    return all_tables(undisturbed)
