"""A whole code base as a cell: the command that trains it, and what makes two of its runs the same.

The command runs in the study folder. Of its run the study asks one thing, `features.npz` of its very images; how they
came about is the other code base's affair. The identity of such a run is the command as it is written, the content of
the code files, the images and the seed.
"""

import hashlib
import shlex
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from reidablate.artifacts import content_hash
from reidablate.config import Section
from reidablate.errors import UserError

PLACEHOLDERS = ("data", "seed", "out")
FEATURES = "features.npz"
ANOTHER = "another code base"
_DAY_S = 86_400.0
_LEFT_OUT = {"__pycache__", ".git", ".ipynb_checkpoints"}


class External(Section):
    """The section `external` of a cell.

    Attributes:
        command: A program and its arguments, without a shell, run in the study folder; `{data}` is the data set's
            folder, `{seed}` the seed and `{out}` an empty folder for `features.npz`. Each stays one argument.
        code: Files and folders, seen from the study folder; a change in them repeats the runs.
        seeds: Whether seed k means the same draws as in the study's own runs; rarely, so `unpaired`.
        time_limit_s: After so many seconds the command is stopped, and its run has failed.
    """

    command: str
    code: Annotated[list[str], Field(min_length=1)]
    seeds: Literal["unpaired", "paired"] = "unpaired"
    time_limit_s: Annotated[float, Field(gt=0)] = _DAY_S

    @field_validator("code", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("command")
    @classmethod
    def _understood(cls, value: str) -> str:
        try:
            words = shlex.split(value)
            given = {name for word in words for _, name, _, _ in string.Formatter().parse(word) if name is not None}
        except ValueError as error:
            raise ValueError(f"a command line ({error}); write a brace as {{{{ or }}}}") from None
        if not words or given != set(PLACEHOLDERS):
            raise ValueError("a program with {data}, {seed} and {out}, each at least once, and no other {name}")
        return value

    def arguments(self, *, data: Path, seed: int, out: Path) -> list[str]:
        """Returns the command as the list of its words."""
        return [word.format(data=data, seed=seed, out=out) for word in shlex.split(self.command)]

    def planned(self, study: Path, where: str) -> "PlannedExternal":
        """Returns the section with the hash of its code files.

        Args:
            study: The study folder.
            where: What the sentence begins with.

        Raises:
            UserError: There is no such file.
        """
        return PlannedExternal(**self.model_dump(), code_sha256=code_sha256(self.code, study, where))


class PlannedExternal(External):
    """A command and the code that it was planned with."""

    code_sha256: str

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that change with the command or the code."""
        return content_hash({"command": self.command, "code": self.code_sha256})


def code_sha256(code: Iterable[str], study: Path, where: str) -> str:
    """Returns one SHA-256 of the names and contents of files, those of folders included.

    Raises:
        UserError: A file or folder is not there, or a folder is empty; the sentence begins with `where`.
    """
    digest = hashlib.sha256()
    for name in code:
        path = study / name
        files = [path] if path.is_file() else _files(path)
        if not files:
            raise UserError(f"{where}: external.code '{name}' is no file and no folder with files; correct it.")
        for file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{Path(name, file.relative_to(path)).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Returns the files below a folder but those that Python, Git and editors leave there."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sorted(path for path in found if not _LEFT_OUT & set(path.relative_to(folder).parts))


def refuse_options(where: str, given: Mapping[str, Any]) -> None:
    """Checks that a cell with an `external` section has no options of a training of ours.

    Args:
        where: The file.
        given: The options by key; empty ones are not given.

    Raises:
        UserError: It has one.
    """
    for key, value in given.items():
        if value:
            raise UserError(
                f"{where}: '{key}' says how this package trains, and 'external' that another does; drop one."
            )


def differences(own: External | None, other: External | None) -> dict[str, list[Any]]:
    """Returns the declared difference of two cells, the first one's `own`, of which one or both are another's code."""
    shown = [f"{ANOTHER}: {one.command}" if one else None for one in (other, own)]
    return {"external": shown}
