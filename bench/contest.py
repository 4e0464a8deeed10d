"""Contestants in turns, each call in a process of its own: its time, its peak memory, and ratios within one run.

Every round calls every contestant once, so that other work on the machine falls on all of them. A ratio is the median
over rounds of the quotients within a round. CPU time adds up all threads; on a busy machine it says more than wall
time, best with one thread, since threads that wait for each other may count as busy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reidablate.artifacts import read_json, write_json
from reidablate.provenance import git_state, machine, versions

RESULTS = Path(__file__).parent / "results"
QUANTITIES = ("wall_s", "cpu_s", "peak_bytes")


def measure(work: Callable[[], Any]) -> dict[str, Any]:
    """Returns what one call of `work` costs, and its result; for a process that has done little else.

    `peak_bytes` is the largest resident memory of the whole process, inputs and imports included; `before_bytes` was
    resident already when the call began.
    """
    before = memory_bytes("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_bytes": memory_bytes("VmHWM"),
        "before_bytes": before,
        "found": found,
    }


def memory_bytes(kind: str) -> int:
    """Returns a line of /proc/self/status; unlike getrusage its peak is not inherited from the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def turns(
    script: str, contestants: Sequence[str], arguments: Sequence[str], *, rounds: int, threads: int
) -> dict[str, list[dict[str, Any]]]:
    """Returns the measurements of every contestant in every round."""
    limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in contestants:
            command = [sys.executable, script, "--child", name, *arguments]
            done = subprocess.run(command, env=os.environ | limits, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            spent = found[name][-1]
            print(
                f"  round {turn}, {name}: {spent['wall_s']:.2f} s, CPU {spent['cpu_s']:.2f} s, "
                f"{spent['peak_bytes'] / 1e9:.2f} GB, {spent['found']}",
                flush=True,
            )
    return found


def summary(found: Mapping[str, list[dict[str, Any]]], ours: str) -> dict[str, Any]:
    """Returns the medians of every contestant and ours relative to each of the others."""
    medians = {
        name: {key: statistics.median(entry[key] for entry in entries) for key in QUANTITIES}
        | {"found": entries[-1]["found"]}
        for name, entries in found.items()
    }
    ratios = {
        f"{ours} / {name}": {
            key: statistics.median(own[key] / other[key] for own, other in zip(found[ours], entries, strict=True))
            for key in QUANTITIES
        }
        for name, entries in found.items()
        if name != ours
    }
    for pair, ratio in ratios.items():
        print(f"{pair}: wall {ratio['wall_s']:.2f}, CPU {ratio['cpu_s']:.2f}, memory {ratio['peak_bytes']:.2f}")
    return {"median": medians, "ratios": ratios}


def record(path: Path, key: str, entry: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Writes one entry into a file of results, with the machine and the code behind it; others stay as they are."""
    results = read_json(path)["results"] if path.exists() else {}
    made = {"code": git_state(), "versions": versions(), "machine": machine() | {"load": os.getloadavg()}}
    write_json(path, {**about, "results": {**results, key: {**entry, **made}}})
    print(f"{key} written to {path}")


def commits(peers: Path | None) -> dict[str, str | None]:
    """Returns the commit of every checkout in a folder; None where it is no checkout."""
    if peers is None:
        return {}
    found = {}
    for folder in sorted(entry for entry in peers.iterdir() if entry.is_dir()):
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found[folder.name] = done.stdout.strip() or None
    return found


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the options that all contests share."""
    options = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    options.add_argument("--peers", type=Path, help="folder of the checkouts")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--only", help="contestants, separated by commas")
    options.add_argument("--child", help=argparse.SUPPRESS)
    return options
