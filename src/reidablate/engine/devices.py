"""Which GPU a job runs on: a lease by file lock, freed by the kernel when its holder dies.

Snakemake counts GPUs but does not name them. Every device of the pool has one lock file on the local disk; whoever
holds it owns the device. Under a scheduler that assigns devices itself we stand aside.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from reidablate.errors import UserError

SCHEDULERS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "KUBERNETES_SERVICE_HOST")
POLL_S = 0.5


def visible_gpus() -> list[str]:
    """Returns the names of the GPUs this process may use: `CUDA_VISIBLE_DEVICES` if set, else all by UUID."""
    pool = os.environ.get("CUDA_VISIBLE_DEVICES")
    if pool is not None:
        return [name.strip() for name in pool.split(",") if name.strip() not in {"", "-1", "NoDevFiles"}]
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def lock_folder() -> Path:
    """Returns the folder of the device locks, shared by all studies of this user on this host."""
    return Path(tempfile.gettempdir()) / f"reidablate-devices-{os.getuid()}"


@contextmanager
def lease(count: int, *, device: Literal["auto", "cpu", "cuda"]) -> Iterator[tuple[str, ...]]:
    """Yields the names of `count` GPUs that this process owns until the block ends; empty means the CPU.

    Sets `CUDA_VISIBLE_DEVICES`, so it must be entered before CUDA is initialised. Waits until all `count` devices
    are free at once; never holds some while waiting for others.

    Raises:
        UserError: `device` is `cuda` and none is visible, or the pool is smaller than `count`.
    """
    pool = visible_gpus()
    if device == "cpu" or count == 0 or not pool:
        if device == "cuda":
            raise UserError(
                "device=cuda was asked for but no GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES."
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        yield ()
        return
    if any(name in os.environ for name in SCHEDULERS):
        yield tuple(pool)
        return
    if count > len(pool):
        raise UserError(f"the run needs {count} GPUs but only {len(pool)} are visible; ask for fewer or free some.")
    with ExitStack() as held:
        names = _wait(count, pool, held)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        yield names


def _wait(count: int, pool: list[str], held: ExitStack) -> tuple[str, ...]:
    """Returns the first `count` free devices of the pool once there are so many; `held` keeps their locks."""
    folder = lock_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    announced = False
    while True:
        with FileLock(folder / "allocator.lock"), ExitStack() as attempt:
            taken: list[str] = []
            for name in pool:
                if len(taken) < count and _try(folder / f"{name}.lock", attempt):
                    taken.append(name)
            if len(taken) == count:
                held.enter_context(attempt.pop_all())
                return tuple(taken)
        if not announced:
            print(f"waiting for {count} free GPU(s) of {len(pool)}", file=sys.stderr, flush=True)
            announced = True
        time.sleep(POLL_S)


def _try(path: Path, stack: ExitStack) -> bool:
    try:
        stack.enter_context(FileLock(path, timeout=0))
    except Timeout:
        return False
    return True
