"""Which code, packages and machine made a result."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from reidablate.places import in_checkout

PACKAGE = Path(__file__).parent
SCIENCE = ("config.py", "rng.py", "data", "models", "losses", "engine")  # what can change a trained weight
PACKAGES = ("numpy", "pandas", "pillow", "safetensors", "scipy", "timm", "torch", "torchvision")


@cache
def code_hash() -> str:
    """Returns sixteen hexadecimal digits over the source files that can change a trained weight."""
    digest = hashlib.sha256()
    for entry in SCIENCE:
        path = PACKAGE / entry
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{source.relative_to(PACKAGE).as_posix()}\0".encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def git_state() -> dict[str, Any]:
    """Returns `git_commit` and `git_dirty` of the checkout that the package runs from; None for an installed wheel."""
    if not in_checkout():  # a virtual environment may lie in a repository of the user's
        return {"git_commit": None, "git_dirty": None}

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True, check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of those that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("reidablate", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Returns host-independent facts of this machine: system, processor and its usable cores, memory in bytes."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def usable_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
