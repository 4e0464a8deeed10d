"""Kills stages and whole calls of a study that had finished at random moments, and compares the digest of all tables.

    python tests/faults/kills.py --seed 0 --number 200 --folder FOLDER

A chain copies a finished study, takes a part of it away or asks for one run more, and goes through the stages. Each is
killed a few times (SIGKILL, at any moment from its start on) and then left to end, up to the last one, which is only
killed. Then the call of the README is killed in a stage of its own choice: Snakemake with all its jobs, Snakemake
alone, or a job alone. At last the same call is left in peace, and its tables must be those of an undisturbed study.
"""

import argparse
import contextlib
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidablate import cli, places
from reidablate.artifacts import canonical_json
from reidablate.data import cache, index, synthetic
from reidablate.diagnostics import floors
from reidablate.engine import stages, train
from reidablate.metrics import evaluate
from reidablate.planning import plan
from reidablate.report import aggregate, render
from reidablate.report.digest import digest_lines
from reidablate.scope import write_scope
from reidablate.stats import pipeline
from reidablate.study import PRETRAIN
from reidablate.trees import merge
from support import copy_project, snakemake, start_snakemake

# A stage is forked from this process, so that it starts at once: everything that it imports is here before.
IMPORTED = (aggregate, cache, evaluate, floors, index, pipeline, render, stages, synthetic, train)
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


def run_stage(arguments: list[str], seconds: float | None = None) -> bool:
    """Runs a command in a child of this process; returns whether it was killed after some seconds, if it lived so long.

    Raises:
        AssertionError: It ended by itself, and not with status 0.
    """
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        sys.argv = ["reidablate", *arguments]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        os._exit(1)
    ending = os.pidfd_open(child)
    if seconds is not None and not select.select([ending], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(ending)
    assert status in {0, -signal.SIGKILL}, arguments
    return status != 0


def at_work(folder: Path) -> dict[int, str]:
    """Returns the processes that run a stage of the study in a folder, and the stage's name."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if words[1].endswith("reidablate") and (entry / "cwd").resolve() == folder:
                found[int(entry.name)] = words[3] if words[2] == "data" else words[2]
        except (OSError, UnicodeDecodeError, IndexError):  # it has just ended, or is another program
            continue
    return found


def kill_call(scenario: Scenario, kind: str, rng: random.Random) -> str:
    """Starts the call of the README in the current folder and kills it at a random moment.

    Args:
        scenario: What it asks for.
        kind: `all`, `Snakemake` or `job`.
        rng: Draws the moment.

    Returns:
        The stage at work when the signal was sent, `plan` where it was none, empty if the call ended before.
    """
    folder = Path.cwd().resolve()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start_snakemake(config=scenario.words, start_new_session=True, **quiet)
    begun = time.monotonic()
    if rng.random() < 0.8:  # else while it plans
        while process.poll() is None and not at_work(folder):
            select.select([], [], [], 0.02)
    ending = os.pidfd_open(process.pid)
    select.select([ending], [], [], rng.choice((0.5, 2.0, 8.0)) * rng.random())
    os.close(ending)
    running = at_work(folder)
    if process.poll() is not None:
        return ""
    with contextlib.suppress(ProcessLookupError):
        if kind == "job" and running:
            os.kill(rng.choice(list(running)), signal.SIGKILL)
        elif kind == "Snakemake":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=600 + time.monotonic() - begun)
    return next(iter(running.values()), "plan")


class Killer:
    """Kills stages at moments that fit how long they take on this machine, and counts the kills by stage."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.killed: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, arguments: list[str], times: int) -> None:
        """Kills a command of a stage some times, or as often as it can be met alive."""
        for _ in range(times):
            most = self.seconds.get(name, 1.0)
            if run_stage(arguments, self.rng.uniform(0, most)):
                self.killed[name] += 1
            else:
                self.seconds[name] = max(0.02, most / 2)

    def chain(self, finished: Path, scenario: Scenario, folder: Path, *, times: int | None = None) -> None:
        """Takes a finished study through one chain; the study in `folder` has ended undisturbed afterwards.

        Args:
            finished: A project whose study has finished; it is copied.
            scenario: What happens to the copy.
            folder: A new folder.
            times: How often each stage is killed, every one of them; drawn by chance, up to any stage, without it.
        """
        shutil.copytree(finished, folder, symlinks=True)
        for name in scenario.lost:
            shutil.rmtree(folder / RESULTS / name)
        with contextlib.chdir(folder):
            todo = commands(scenario)
            last = self.rng.choice(list(todo)) if times is None else "report"
            for name, each in todo.items():
                for arguments in each:
                    self.stage(name, arguments, times or self.rng.randint(1, 4))
                    if name != last:
                        run_stage(arguments)
                if name == last:
                    break
            kind = self.rng.choice(("all", "all", "Snakemake", "job"))
            if found := kill_call(scenario, kind, self.rng):
                self.killed[f"{found} ({kind} of a call)"] += 1
            done = snakemake(config=scenario.words)
        assert done.returncode == 0, done.stderr


def all_tables(project: Path) -> list[str]:
    """Returns the digests of the tables of a study, and of all of them."""
    return list(digest_lines(project / RESULTS / "tables"))


def many(folder: Path, number: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Returns at least `number` kills in chains of both scenarios, and the chains that ended with other tables.

    Args:
        folder: Where to work; what ends with other tables stays there.
        number: Of kills, at least.
        seed: Of every choice.
    """
    finished = folder / "finished"
    copy_project(finished)
    expected = {}
    for name, scenario in SCENARIOS.items():
        place = finished if name == "rebuilt" else shutil.copytree(finished, folder / name)
        with contextlib.chdir(place):
            done = snakemake(config=scenario.words)
        assert done.returncode == 0, done.stderr
        expected[name] = all_tables(place)
    killer, wrong, chains = Killer(random.Random(seed)), [], 0
    while killer.killed.total() < number:
        name = list(SCENARIOS)[chains % 2]
        place = folder / f"chain{chains}"
        killer.chain(finished, SCENARIOS[name], place)
        same = all_tables(place) == expected[name]
        print(f"chain {chains}, {name}: {killer.killed.total()} kills, {'same' if same else 'OTHER'} tables", flush=True)
        if same:
            shutil.rmtree(place)
        else:
            wrong.append(place.name)
        chains += 1
    return killer.killed, wrong


def main() -> int:
    """Prints the kills by stage; exit status 1 when a study ended with other tables."""
    parser = argparse.ArgumentParser(description="Kill stages and calls of a finished study.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=200, help="kills, at least")
    parser.add_argument("--folder", type=Path, help="where to work; what ends with other tables is left there")
    asked = parser.parse_args()
    folder = (asked.folder or Path(tempfile.mkdtemp())).resolve()
    killed, wrong = many(folder, asked.number, asked.seed)
    print(f"{killed.total()} kills: " + ", ".join(f"{count} {what}" for what, count in sorted(killed.items())))
    print(f"{len(wrong)} studies with other tables: {', '.join(wrong) or 'none'}")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
