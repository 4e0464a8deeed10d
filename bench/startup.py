"""What starting costs: the imports of a training, and a job by itself and by the host of a Snakemake call.

    python bench/startup.py [--rounds 5]

Contestants take turns, each in a new process. `torch` and `timm` (with torchvision, as the training scripts of the
field have it) import these and end; `training` imports what ours needs. `job` is `reidablate statistics` of a folder
without tables, refused after its imports: what starting a stage costs, whatever the stage does. `job by host` is the
same command beside a host, as under Snakemake. CPU seconds are those of the command, and of host and forks where
there is one.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import contest

from reidablate import warm

OUT = contest.RESULTS / "startup.json"
JOB = ["-m", "reidablate", "statistics", "no-such-results"]
CONTESTANTS = {
    "torch": ["-c", "import torch"],
    "timm": ["-c", "import torch, torchvision, timm"],
    "training": ["-c", "import reidablate.engine.train"],
    "job": JOB,
    "job by host": JOB,
}


def measure(name: str, host: int) -> dict[str, float]:
    """Returns what one command costs; `host` is the process that forks the jobs."""
    hosted = name == "job by host"
    environment = {**os.environ, **({} if hosted else {warm.VARIABLE: "off"})}
    before, started = children_s() + host_s(host), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *CONTESTANTS[name]], env=environment, capture_output=True, text=True, check=False
    )
    wall_s = time.perf_counter() - started
    assert done.returncode == (2 if name.startswith("job") else 0), done.stderr
    return {"wall_s": wall_s, "cpu_s": children_s() + host_s(host) - before}


def children_s() -> float:
    """Returns the processor seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def host_s(pid: int) -> float:
    """Returns the processor seconds of a host and of its forks that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = contest.parser(__doc__)
    options.set_defaults(threads=1)
    arguments = options.parse_args()
    os.environ |= {f"{name}_NUM_THREADS": str(arguments.threads) for name in ("OMP", "OPENBLAS", "MKL")}
    print(f"CPU, {arguments.threads} threads, load {os.getloadavg()}", flush=True)
    names = arguments.only.split(",") if arguments.only else [*CONTESTANTS]
    warm.start_host()
    try:
        host = warm._HOSTS[-1].pid
        measure("job by host", host)  # waits until it has imported everything
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _round in range(arguments.rounds):
            for name in names:
                found[name].append(measure(name, host))
    finally:
        warm.release_hosts()
    entry: dict[str, Any] = {
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "median": {},
        "job by host / job": {},
    }
    for name, entries in found.items():
        entry["median"][name] = {key: statistics.median(one[key] for one in entries) for key in ("wall_s", "cpu_s")}
        print(f"{name}: wall {entry['median'][name]['wall_s']:.2f} s, CPU {entry['median'][name]['cpu_s']:.2f} s")
    if {"job", "job by host"} <= {*names}:
        pairs = list(zip(found["job by host"], found["job"], strict=True))
        entry["job by host / job"] = {
            key: statistics.median(a[key] / b[key] for a, b in pairs) for key in ("wall_s", "cpu_s")
        }
        print(f"job by host / job: {entry['job by host / job']}")
    contest.record(OUT, "CPU", entry, {"about": "Seconds until a command has started; see bench/startup.py."})


if __name__ == "__main__":
    main()
