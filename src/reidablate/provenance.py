"""Which code, packages and machine made a result.

A training is named by its configuration, its data, its initial weights and its seed. Which code computed it is
recorded beside that: as the hash of the modules that can change a weight or a feature, and as `SCIENCE_VERSION`.
"""

import ast
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from reidablate.places import in_checkout

PACKAGE = Path(__file__).parent

SCIENCE_VERSION = 1
"""Raised by a release that computes other weights or features for a configuration that existed before: a loss is
corrected, a default changes its meaning, another stream of random numbers is used. Every finished run of an earlier
version is then trained again. A release that leaves all of them alone, to the bit, keeps the number."""

SCIENCE = (
    "rng.py",
    "data/augment.py",
    "data/cache.py",
    "data/sampler.py",
    "models",
    "losses",
    "engine/batches.py",
    "engine/extract.py",
    "engine/state.py",
    "engine/forward.py",
    "engine/divergence.py",
    "engine/schedule.py",
    "engine/spec.py",
    "engine/step.py",
    "engine/train.py",
    "engine/training.py",
    "engine/resume.py",
    "engine/results.py",
)
"""What can change a weight or a feature. Not here: what draws or indexes images (the data fingerprint names them),
options and their defaults (the configuration names them), and what only shows or stores."""

RELEASED: dict[str, str] = {
    "0819df6720ca98cb": "0.1.0",
}
"""Code hashes of the released versions. Runs of releases with one `SCIENCE_VERSION` count as made by the same code."""

OPTIONS = ("config.py", "loss_options.py", "model_options.py", "part_options.py", "train_options.py")
"""The options of a run, kept beside the sources."""

PACKAGES = ("numpy", "pandas", "pillow", "safetensors", "scipy", "timm", "torch", "torchvision")


def _sources() -> Iterator[Path]:
    """Yields the files of `SCIENCE`, those of a folder by name."""
    for entry in SCIENCE:
        path = PACKAGE / entry
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


class _OwnImports(ast.NodeTransformer):
    """Takes the imports from this package out of a module and keeps what they name, but not from where."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        """Takes out one statement."""
        if node.module is None or node.module.partition(".")[0] != "reidablate":
            return node
        self.names += map(_text, node.names)
        return None


@cache
def code_hash() -> str:
    """Returns sixteen hexadecimal digits over the syntax of the modules that can change a weight or a feature.

    Comments, docstrings and layout do not count, nor does where a module lies: of imports from this package the names
    count and not the modules, and the order of the modules is that of their contents.
    """
    modules = []
    for source in _sources():
        imports = _OwnImports()
        rest = imports.visit(ast.parse(source.read_text(encoding="utf-8")))
        modules.append(hashlib.sha256(f"{sorted(imports.names)}{_text(rest)}".encode()).hexdigest())
    return hashlib.sha256("".join(sorted(modules)).encode()).hexdigest()[:16]


def syntax(source: str) -> str:
    """Returns the syntax tree of a module as text, without docstrings, comments, layout and empty fields.

    `ast.dump` would do, but what it prints of empty fields differs between versions of Python.
    """
    return _text(ast.parse(source))


def _text(node: object) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        fields["body"] = fields["body"][1:]
    shown = (f"{name}={_text(value)}" for name, value in fields.items() if value not in (None, []))
    return f"{type(node).__name__}({','.join(shown)})"


def keep_sources(folder: Path) -> Path | None:
    """Writes the sources behind `code_hash` to `sources-<hash>.zip` in a folder, once; released ones need no copy.

    Returns:
        The archive, None for a released version.
    """
    from reidablate.artifacts import atomic_path

    if code_hash() in RELEASED:
        return None
    path = folder / f"sources-{code_hash()}.zip"
    if not path.is_file():
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for source in [*_sources(), *(PACKAGE / name for name in OPTIONS)]:
                archive.write(source, Path(PACKAGE.name, source.relative_to(PACKAGE)))
    return path


def code_name(made_by: str | None, science_version: int) -> str | None:
    """Returns what two runs of the same code share: `science N` for a released version, else the code's hash.

    Args:
        made_by: The code hash of a run; several joined by "+" where it was edited while the run was interrupted.
        science_version: The `SCIENCE_VERSION` that the run records.
    """
    if made_by and all(code in RELEASED for code in made_by.split("+")):
        return f"science {science_version}"
    return made_by


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


CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time that a container may use, or `max`, and of which period."""


def usable_cores() -> int:
    """Returns how many cores this process may use: by its affinity, and by the quota of the container it is in."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores


def limit_blas() -> None:
    """Gives NumPy's BLAS, before it is loaded, as many threads as there are usable cores, unless the user says."""
    for name in ("OPENBLAS", "MKL"):
        os.environ.setdefault(f"{name}_NUM_THREADS", str(usable_cores()))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
