"""Adds up how much of the disk a study takes, and for what."""

import os
from pathlib import Path

KINDS = ("images", "caches", "models", "features", "states", "tables", "reports", "other")
_BY_NAME = {"model.safetensors": "models", "features.npz": "features"}
_BY_FOLDER = {"tables": "tables", "report": "reports"}


def disk_use(root: Path) -> dict[str, int]:
    """Returns the bytes of the files below `results/<preset>` by kind; every kind is there, some with 0."""
    found = dict.fromkeys(KINDS, 0)
    for path, size in _files(root):
        found[_kind(path.relative_to(root))] += size
    return found


def size_bytes(path: Path) -> int:
    """Returns the bytes of a file, or of all files below a folder; 0 if it is not there."""
    if path.is_dir() and not path.is_symlink():
        return sum(size for _, size in _files(path))
    return path.lstat().st_size if os.path.lexists(path) else 0


def _files(root: Path) -> list[tuple[Path, int]]:
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                found.append((path, path.lstat().st_size))
            except FileNotFoundError:  # a call that runs beside us removes its temporary files
                continue
    return found


def _kind(path: Path) -> str:
    parts = path.parts
    if parts[0] == "data" and len(parts) > 3:
        return {"images": "images", "cache": "caches"}.get(parts[2], "other")
    if "state" in parts:
        return "states"
    return _BY_FOLDER.get(parts[0]) or _BY_NAME.get(path.name, "other")
