"""Kills stages and whole calls of a study that had finished at random moments, and compares the digest of all tables.

    PYTHONPATH=tests python tests/faults/kills.py --seed 0 --number 200 --folder FOLDER

The last line counts the kills by the stage that they met; exit status 1 when a study ended with other tables.

A chain copies a finished study, takes a part of it away or asks for one run more, and goes through the stages. Each is
killed a few times (SIGKILL, at any moment from its start on) and then left to end, up to the last one, which is only
killed. Then the call of the README is killed twice: Snakemake with all its jobs, Snakemake alone, or a job alone. At
last the same call is left in peace, and its tables must be those of an undisturbed study.
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
import time
from collections import Counter
from pathlib import Path

from faults.stages import SCENARIOS, Scenario, all_tables, begin, commands, reference, run_stage
from support import copy_project, snakemake, start_snakemake


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
    if process.poll() is not None:
        return ""
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
            most = self.seconds.get(name, 0.1)  # longer with every kill
            status = run_stage(arguments, seconds=self.rng.uniform(0, most))
            assert status in {0, -signal.SIGKILL}, arguments
            self.killed[name] += status != 0
            self.seconds[name] = 1.5 * most if status else max(0.02, most / 2)

    def chain(self, finished: Path, scenario: Scenario, folder: Path, *, times: int | None = None) -> None:
        """Takes a finished study through one chain; the study in `folder` has ended undisturbed afterwards.

        Args:
            finished: A project whose study has finished; it is copied.
            scenario: What happens to the copy.
            folder: A new folder.
            times: How often each stage is killed, every one of them; drawn by chance, up to any stage, without it.
        """
        begin(finished, scenario, folder)
        with contextlib.chdir(folder):
            todo = commands(scenario)
            last = self.rng.choice(list(todo)) if times is None else "report"
            for name, each in todo.items():
                for arguments in each:
                    self.stage(name, arguments, times or self.rng.randint(3, 6))
                    if name != last:
                        assert run_stage(arguments) == 0, arguments
                if name == last:
                    break
            for kind in self.rng.choices(("all", "Snakemake", "job"), (2, 1, 1), k=2):
                if found := kill_call(scenario, kind, self.rng):
                    self.killed[f"{found} ({kind} of a call)"] += 1
            done = snakemake(config=scenario.words)
        assert done.returncode == 0, done.stderr


def main() -> int:
    """Prints the kills; exit status 1 when a study ended with other tables."""
    parser = argparse.ArgumentParser(description="Kill stages and calls of a finished study.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=200, help="kills, at least")
    parser.add_argument("--folder", type=Path, required=True, help="a new one; what ends with other tables stays there")
    parser.add_argument("--finished", type=Path, help="a project with a finished tiny study; made if left out")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--times", type=int, help="kill every stage so often, in place of some by chance")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    finished = (asked.finished or folder / "finished").resolve()
    if asked.finished is None:
        copy_project(finished)
        with contextlib.chdir(finished):
            done = snakemake(config=SCENARIOS["rebuilt"].words)
        assert done.returncode == 0, done.stderr
    scenarios = {name: SCENARIOS[name] for name in asked.scenarios.split(",")}
    expected = {name: reference(finished, scenario, folder / name) for name, scenario in scenarios.items()}
    killer, wrong, chains = Killer(random.Random(asked.seed)), 0, 0
    while killer.killed.total() < asked.number:
        name = list(scenarios)[chains % len(scenarios)]
        place = folder / f"chain{chains}"
        killer.chain(finished, scenarios[name], place, times=asked.times)
        same = all_tables(place) == expected[name]
        print(
            f"chain {chains}, {name}: {killer.killed.total()} kills, {'same' if same else 'OTHER'} tables", flush=True
        )
        if same:
            shutil.rmtree(place)
        wrong += not same
        chains += 1
    counts = ", ".join(f"{count} {stage}" for stage, count in sorted(killer.killed.items()))
    print(f"{killer.killed.total()} kills in {chains} chains, {wrong} with other tables: {counts}")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
