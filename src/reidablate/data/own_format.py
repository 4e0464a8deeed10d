"""Folders that a study reads itself: a function from the folder to one row (path, pid, camid, split) for each image.

The function is named as the `format` of an entry of `dataset_table`, `FILE:NAME`. Everything after it (checks, counts,
index, fingerprint) is that of every other set.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reidablate import plugins
from reidablate.data.formats import Layout
from reidablate.errors import UserError, shortened

Rows = list[tuple[str, str, str, str]]


def own_rows(root: Path, layout: Layout) -> Rows:
    """Returns what the function of a layout makes of a folder, as text; paths are relative to the folder.

    Raises:
        UserError: The function cannot be imported, fails, or returns no such rows.
    """
    plugin = plugins.find("formats", layout.format)
    with plugins.running(f"format {layout.format}", plugin):
        found: Iterable[Any] = plugin.made(root)
        rows = list(found)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, tuple | list) or len(row) != 4:
            raise UserError(
                f"{plugin.where}: row {number} that '{plugin.name}' returned is {shortened(repr(row), 80)}; "
                "return (path, pid, camid, split) for each image."
            )
    return [(str(path), str(pid), str(camid), str(split)) for path, pid, camid, split in rows]


def code_of(format: str) -> str:
    """Returns a format with what its function is made of, so that an edit indexes the set again."""
    return f"{format} {plugins.find('formats', format).code}"
