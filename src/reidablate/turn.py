"""One call at a time on a study: a second `snakemake` waits for the first, then plans anew.

Snakemake's own lock outlives a killed call and refuses the next one; this one is freed by the kernel. Whether a call
will run jobs or only plan is known to the Snakefile when the plan stands, so planning shares the lock, and a call that
turns out to run takes it alone. If it cannot at once, files may have come since it planned, and it starts over.
"""

import fcntl
import os
import sys
from pathlib import Path

from reidablate.errors import UserError


class Turn:
    """The lock of a study's results, shared from here on and held until this process ends.

    Attributes:
        undisturbed: No other call was running when this one began to plan.
    """

    def __init__(self, root: Path) -> None:
        path = root / ".lock"
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # no job inherits it
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; free the disk or fix the folder's rights."
            ) from error
        self._root = root
        self.undisturbed = self._try(fcntl.LOCK_SH)

    def take(self) -> None:
        """Takes the lock alone; if another call had it since this object was made, waits and starts this call again."""
        if self.undisturbed and self._try(fcntl.LOCK_EX):
            return
        print(
            f"reidablate: another call is using the study in {self._root}; waiting for it",
            file=sys.stderr,
            flush=True,
        )
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
