"""Kills calls of a finished study at random moments of every stage and compares the digest of all tables afterwards.

    python tests/faults/kills.py --seed 0 --number 200 --folder FOLDER

A chain copies a study that had finished, takes a part of it away or asks for one run more, and starts the same call
again and again. Each time something is killed while a certain stage is at work: Snakemake with all its jobs, Snakemake
alone, or the job alone. The last call is left in peace; its tables must be those of a study that was never disturbed.
"""

import argparse
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reidablate.report.digest import digest_lines
from support import BASE, copy_project, snakemake, start_snakemake

STAGES = (
    "plan", "synthesize", "index", "cache", "pretrain", "diagnose", "train", "evaluate", "aggregate", "statistics",
    "report",
)  # fmt: skip
TABLES = Path("results/tiny/tables")


@dataclass(frozen=True)
class Scenario:
    """What happens to a finished study before the calls that are killed.

    Attributes:
        lost: Folders below `results/tiny` that are deleted.
        config: What the calls ask for.
        stages: The stages that they go through, in this order.
    """

    lost: tuple[str, ...]
    config: tuple[str, ...]
    stages: tuple[str, ...]


REBUILT = Scenario(("data", "pretrain", "market1501/p1/seed1", "report"), tuple(BASE), STAGES)
EXTENDED = Scenario(
    (), (*BASE[:2], "cells=naive_triplet,p1,rpe", "seeds=1"), ("plan", *STAGES[STAGES.index("train") :])
)


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


def pause(seconds: float) -> None:
    """Waits for nothing but the clock: the moment of a kill is to be any."""
    select.select([], [], [], seconds)


def kill_at(stage: str, kind: str, config: tuple[str, ...], rng: random.Random) -> str:
    """Starts the call in the current folder and kills it within a stage; returns the stage that was at work.

    Args:
        stage: When to kill; `plan` is before any job has started.
        kind: `all`, `snakemake` or `job`.
        config: What the call asks for.
        rng: Draws how far into the stage.

    Returns:
        The stage at work when the signal was sent, `plan` where it was none, empty if the call ended before.
    """
    folder = Path.cwd().resolve()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start_snakemake(config=list(config), start_new_session=True, **streams)
    begun = time.monotonic()
    while process.poll() is None and stage != "plan" and stage not in at_work(folder).values():
        pause(0.02)
    pause(rng.uniform(0, 2.5) if stage == "plan" else rng.choice((0.3, 3.0)) * rng.random())
    running = at_work(folder)
    if process.poll() is not None:
        return ""
    chosen = [pid for pid, name in running.items() if name == stage]
    with suppress(ProcessLookupError):
        if kind == "job" and chosen:
            os.kill(rng.choice(chosen), signal.SIGKILL)
        elif kind == "snakemake":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=600 + time.monotonic() - begun)
    return stage if chosen else next(iter(running.values()), "plan")


def chain(finished: Path, scenario: Scenario, stages: list[str], rng: random.Random, folder: Path) -> Counter[str]:
    """Returns how often a call was killed, by stage and kind; the study in `folder` has ended undisturbed afterwards.

    Args:
        finished: A project whose study has finished; it is copied.
        scenario: What happens to the copy.
        stages: When to kill, one call each.
        rng: Draws moments and kinds.
        folder: A new folder.
    """
    shutil.copytree(finished, folder, symlinks=True)
    for name in scenario.lost:
        shutil.rmtree(folder / "results" / "tiny" / name)
    killed: Counter[str] = Counter()
    before = Path.cwd()
    os.chdir(folder)
    try:
        for stage in stages:
            kind = rng.choice(("all", "all", "all", "snakemake", "job"))
            if found := kill_at(stage, kind, scenario.config, rng):
                killed[f"{found} ({kind})"] += 1
        done = snakemake(config=list(scenario.config))
    finally:
        os.chdir(before)
    assert done.returncode == 0, done.stderr
    return killed


def all_tables(project: Path) -> list[str]:
    """Returns the digests of the tables of a study, and of all of them."""
    return list(digest_lines(project / TABLES))


def main() -> int:
    """Prints the kills by stage and kind; exit status 1 when a study ended with other tables."""
    parser = argparse.ArgumentParser(description="Kill calls of a finished study.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=200, help="kills, at least")
    parser.add_argument("--folder", type=Path, help="where to work; what ends wrong is left there")
    asked = parser.parse_args()
    folder = (asked.folder or Path(tempfile.mkdtemp())).resolve()
    killed, wrong = many(folder, asked.number, asked.seed, told=True)
    print(f"{killed.total()} kills: " + ", ".join(f"{count} {what}" for what, count in sorted(killed.items())))
    print(f"{len(wrong)} studies with other tables: {wrong}")
    return min(len(wrong), 1)


def many(folder: Path, number: int, seed: int, *, told: bool = False) -> tuple[Counter[str], list[str]]:
    """Returns at least `number` kills in chains of both scenarios, and the chains that ended with other tables."""
    finished = folder / "finished"
    expected = {}
    for name, scenario in (("rebuilt", REBUILT), ("extended", EXTENDED)):
        place = folder / name
        if name == "rebuilt":
            copy_project(finished)
        os.chdir(shutil.copytree(finished, place, dirs_exist_ok=True) if name == "extended" else finished)
        done = snakemake(config=list(scenario.config))
        assert done.returncode == 0, done.stderr
        expected[name] = all_tables(Path.cwd())
    os.chdir(folder)
    killed: Counter[str] = Counter()
    wrong = []
    rounds = 0
    while killed.total() < number:
        name, scenario = (("rebuilt", REBUILT), ("extended", EXTENDED))[rounds % 2]
        rng = random.Random(f"{seed} {rounds}")
        stages = [stage for stage in scenario.stages for _ in range(rng.choice((1, 1, 2)))]
        place = folder / f"chain{rounds}"
        killed += (found := chain(finished, scenario, stages, rng, place))
        same = all_tables(place) == expected[name]
        if told:
            print(f"chain {rounds}, {name}: {dict(found)}, {'same' if same else 'OTHER'} tables", flush=True)
        if same:
            shutil.rmtree(place)
        else:
            wrong.append(place.name)
        rounds += 1
    return killed, wrong


if __name__ == "__main__":
    sys.exit(main())
