"""One call at a time on a study: a second `snakemake` waits for the first, then plans.

Snakemake's own lock outlives a killed call and refuses the next one; this one is freed by the kernel. A call that will
run jobs takes the lock before it plans, so it never plans on files that another call is about to change. A call that
only looks (a dry run) waits for nobody; it shares the lock, if it can, while it plans.
"""

import fcntl
import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from reidablate.errors import UserError

_LOOKS = {
    "--archive", "--containerize", "--d3dag", "--dag", "--detailed-summary", "--dry-run", "--dryrun", "--filegraph",
    "--generate-unit-tests", "--help", "--lint", "--list", "--list-changes", "--list-rules", "--list-target-rules",
    "--report", "--rulegraph", "--summary", "--unlock", "-D", "-S", "-h", "-l",
}  # fmt: skip


def only_looks(arguments: Sequence[str]) -> bool:
    """Returns whether a Snakemake command line runs no job, as far as it shows."""
    return any(word.split("=")[0] in _LOOKS or re.fullmatch("-[kpqr]*n[kpqr]*", word) for word in arguments)


def start_over() -> NoReturn:
    """Starts this call again from its command line, in place of this process; the lock of the study is freed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(started_in(sys.argv, Path.cwd(), os.environ.get("PWD")))
    os.execv(sys.executable, sys.orig_argv)


def started_in(arguments: Sequence[str], here: Path, shell: str | None) -> Path:
    """Returns the folder that a Snakemake command line is meant from: `here`, unless `--directory` led away from there.

    Args:
        arguments: The command line.
        here: The present folder.
        shell: The folder of the shell that gave the command, as far as the environment says.
    """
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for option, given in pairwise(words):
        if option in ("-d", "--directory"):
            above = Path(*here.parts[: len(here.parts) - len(Path(given).parts)])
            for folder in (Path(shell or above), above):
                if os.path.realpath(folder / given) == os.path.realpath(here):
                    return folder
    return here


class CallLock:
    """The lock of a study's results, shared from here on and held until this process ends.

    Attributes:
        undisturbed: No other call is running while this one plans.
        waited: Another call was running, so what was planned before this object was made may be out of date.
    """

    def __init__(self, root: Path, *, wait: bool = False) -> None:
        """Shares the lock, or takes it alone if `wait`, after every call that has it.

        Raises:
            UserError: The folder cannot be written.
        """
        path = root / ".lock"
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # no job inherits it
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; free the disk or fix the folder's rights."
            ) from error
        self._root = root
        self.undisturbed = self._try(fcntl.LOCK_EX if wait else fcntl.LOCK_SH)
        self.waited = wait and not self.undisturbed
        self._alone = wait
        if self.waited:
            self._wait()
            self.undisturbed = True

    def take(self) -> None:
        """Takes the lock alone; if another call had it since this object was made, waits and starts this call again."""
        if self._alone or (self.undisturbed and self._try(fcntl.LOCK_EX)):
            return
        self._wait()
        start_over()

    def _wait(self) -> None:
        print(
            f"reidablate: another call is using the study in {self._root}; waiting for it",
            file=sys.stderr,
            flush=True,
        )
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
