"""Which GPU a job runs on: a lease by file lock, freed by the kernel when its holder dies.

Snakemake counts GPUs but does not name them. Every device of the pool has one lock file on the local disk, named by
the device's UUID; whoever holds it owns the device. So it is within the allocation of a scheduler, too: jobs of one
allocation share it, and where only indices are known, those of another one do not meet them.
"""

import os
import platform
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from reidablate.errors import UserError, reason

SCHEDULERS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "KUBERNETES_SERVICE_HOST")
DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg")
"""There is a driver for GPUs where one of these is, also in a container without nvidia-smi."""
_ASK_TORCH = """
import torch
for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    uuid = str(torch.cuda.get_device_properties(i).uuid).removeprefix("GPU-")
    print(f"GPU {i}: (UUID: GPU-{uuid})")
"""
POLL_S = 0.5
PATIENCE_S = 60.0
"""How long somebody waits for all devices at once before keeping those that come free."""


def visible_gpus() -> list[str]:
    """Returns the names of the GPUs this process may use: those of `CUDA_VISIBLE_DEVICES` if set, else all.

    A name is the UUID of a GPU or of a MIG instance where nvidia-smi or else PyTorch can tell it, so that every way to
    name a device comes to the same lock; an index counts as nvidia-smi counts. Else names stay as they are.
    As in CUDA, the first name that means no device ends the list.
    """
    gpus = _listed_gpus()
    pool = os.environ.get("CUDA_VISIBLE_DEVICES")
    if pool is None:
        return [uuid for instances in gpus for uuid in instances]
    names: dict[str, None] = {}  # one device named twice is one device
    for given in pool.split(","):
        name = _resolve(given.strip(), gpus)
        if name is None:
            break
        names[name] = None
    return list(names)


def _resolve(name: str, gpus: list[list[str]]) -> str | None:
    """Returns the UUID that an entry of `CUDA_VISIBLE_DEVICES` means, itself if nobody can tell, None if no device."""
    if name in {"", "NoDevFiles"} or name.startswith("-"):
        return None
    if not gpus:
        return name
    if name.isdecimal():
        return gpus[int(name)][0] if int(name) < len(gpus) else None
    unlisted = None if name.startswith("GPU-") else name
    return next((uuid for instances in gpus for uuid in instances if uuid.startswith(name)), unlisted)


def _listed_gpus() -> list[list[str]]:
    """Returns for every GPU of this machine its own UUID, or those of its MIG instances if it has any."""
    listing = _output(["nvidia-smi", "-L"])
    if not listing and any(Path(path).exists() for path in DRIVER_FILES):
        # In a process of its own: CUDA reads the devices that it may see once, and the lease is yet to choose them.
        unlimited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        listing = _output([sys.executable, "-c", _ASK_TORCH], {**unlimited, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    found: list[list[str]] = []
    for line in listing.splitlines():
        if uuid := re.search(r"UUID: ([^\s)]+)", line):
            if line.startswith("GPU "):
                found.append([])
            found[-1].append(uuid[1])
    return [uuids[1:] or uuids for uuids in found]


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Returns what a command prints, nothing where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def usable_gpus() -> int:
    """Returns how many of the visible GPUs PyTorch can use; none where its build has no CUDA or the driver is too old.

    PyTorch is imported only where a GPU is visible.
    """
    visible = len(visible_gpus())
    if not visible:
        return 0
    import torch

    return min(visible, torch.cuda.device_count()) if torch.cuda.is_available() else 0


def in_allocation() -> bool:
    """Returns whether a scheduler started this process on a machine that nobody looked at before."""
    return any(name in os.environ for name in SCHEDULERS)


def lock_folder() -> Path:
    """Returns the folder of the device locks, shared by all studies of this user on this host."""
    return Path(tempfile.gettempdir()) / f"reidablate-devices-{os.getuid()}"


def _own_folder(folder: Path) -> None:
    """Makes the folder of the device locks, where anybody may have put something else before.

    Raises:
        UserError: It is a link or a file, belongs to another user or can be written by one, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise UserError(
            f"the device locks cannot be kept in {folder}: {error.strerror}; set TMPDIR to a folder that you may write."
        ) from None
    if not stat.S_ISDIR(state.st_mode):
        problem = "is a link or a file"
    elif state.st_uid != os.getuid():
        problem = "belongs to another user"
    elif state.st_mode & 0o022:
        problem = "can be written by other users"
    else:
        return
    raise UserError(
        f"the device locks cannot be trusted: {folder} {problem}; remove it, or set TMPDIR to a folder of your own."
    )


@contextmanager
def lease(count: int, *, device: Literal["auto", "cpu", "cuda"]) -> Iterator[tuple[str, ...]]:
    """Yields the names of `count` GPUs that this process owns until the block ends; empty means the CPU.

    Sets `CUDA_VISIBLE_DEVICES`, so it must be entered before CUDA is initialised. Waits until `count` devices are
    free at once, so that nothing is idle meanwhile. Who has waited `PATIENCE_S` keeps what comes free, one asker at a
    time, so that a run that needs several devices is not starved by those that need one.

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
    if count > len(pool):
        raise UserError(f"the run needs {count} GPUs but only {len(pool)} are visible; ask for fewer or free some.")
    with ExitStack() as held:
        names = _wait(count, pool, held)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        yield names


def _wait(count: int, pool: list[str], held: ExitStack) -> tuple[str, ...]:
    """Returns the first `count` devices of the pool that it gets; `held` keeps their locks."""
    folder = lock_folder()
    _own_folder(folder)
    started = time.monotonic()
    announced = keeping = False
    with ExitStack() as turn, ExitStack() as taken:
        names: list[str] = []
        while True:
            with _allocator(folder):
                for name in pool:
                    lock = folder / f"{_lock_name(name)}.lock"
                    if len(names) < count and name not in names and _try(lock, taken):
                        names.append(name)
                if len(names) == count:
                    held.enter_context(taken.pop_all())
                    return tuple(sorted(names, key=pool.index))
                if not keeping:
                    taken.close()
                    names = []
            if not announced:
                print(f"waiting for {count} free GPU(s) of {len(pool)}", file=sys.stderr, flush=True)
                announced = True
            if not keeping and time.monotonic() - started >= PATIENCE_S:
                keeping = _try(folder / "keeping.lock", turn)
            time.sleep(POLL_S)


def _lock_name(device: str) -> str:
    """Returns a name for the lock of a device that no other device of this host has.

    A scheduler may show each of its jobs a device of its own as index 0; what such jobs have in common is the index.
    """
    name = device.replace("/", "_")
    if name.startswith(("GPU-", "MIG-")):
        return name
    job = next((os.environ[key] for key in SCHEDULERS if key in os.environ), "")
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        job = platform.node()  # the pod; that variable is the same in all
    return f"{job}-{name}".replace("/", "_") if job else name


@contextmanager
def _allocator(folder: Path) -> Iterator[None]:
    """Holds the lock under which devices are chosen; its holders are quick, so nothing is said meanwhile."""
    with ExitStack() as held:
        while not _try(folder / "allocator.lock", held):
            time.sleep(0.05)
        yield


def _try(path: Path, stack: ExitStack) -> bool:
    try:
        stack.enter_context(FileLock(path, timeout=0))
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"the device lock {path} cannot be taken ({reason(error)}); remove it, or set TMPDIR to a local folder."
        ) from None
    return True
