"""Python imports this when a process starts with this folder on its path: it logs what each stage writes, and when.

One line an event, `nanoseconds pid path`, to the file that the environment variable WATCH_LOG names. A stage whose name
is in WATCH_STOP stops itself before it first writes something else than a lock, in whose path WATCH_AT is if that is
set, until somebody sends SIGCONT.
"""

import os
import signal
import sys
import time
from typing import Any

LOG = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
RESULTS = os.path.join(os.getcwd(), "results", "")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
to_stop, stop_at = os.environ.get("WATCH_STOP"), os.environ.get("WATCH_AT", "")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    global to_stop
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        written = isinstance(arguments[2], int) and arguments[2] & WRITING
    else:
        written = event in {"os.rename", "os.remove"}
    if not written or not sys.argv[0].endswith("reidablate"):
        return
    path = os.path.abspath(os.fspath(arguments[0]))
    if path.startswith(RESULTS):
        os.write(LOG, f"{time.monotonic_ns()} {os.getpid()} {path}\n".encode())
        if to_stop in sys.argv[1:3] and not path.endswith(".lock") and stop_at in path:
            to_stop = None
            os.kill(os.getpid(), signal.SIGSTOP)


sys.addaudithook(watch)
