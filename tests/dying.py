"""Trains one run in as many folders and as often as it is told, each time in a child that dies at a given point.

    python dying.py PLAN '[["out/a", "SIGKILL", 7], ["out/a", "SIGTERM", 3], ["out/a", null, 0]]' [LOADER PROCESSES]

A point is the n-th time that the child begins a training step, passes a batch through the extraction, or flushes a
file to the disk (before it is renamed, and after), counted together. Without a signal the child lives; "SIGTERM group"
reaches its loader processes too. Batches of the extraction are made small, so that there are many. Prints one JSON line
a child: its exit status and the names of all points it passed. The parent imports everything once and computes nothing,
so a child is ready at once.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reidablate import artifacts
from reidablate.data import augment
from reidablate.engine import extract, train
from reidablate.engine.from_plan import train_spec
from reidablate.engine.spec import RunSpec
from reidablate.study import load_study

extract.BATCH, extract.BATCHES_IN_PART = 4, 2


def arm(name: str | None, point: int, log: int) -> None:
    """Makes this process die of the named signal at a point and write the name of every point to a pipe."""
    passed, alone = 0, threading.Lock()  # a checkpoint is written on a thread beside the training

    def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            with alone:
                passed += 1
                os.write(log, f"{kind}\n".encode())
                if name and passed == point:
                    number = signal.Signals[name.removesuffix(" group")]
                    os.killpg(0, number) if name.endswith(" group") else os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        return wrapper

    augment.draw = counted("step", augment.draw)
    extract.to_float = counted("batch", extract.to_float)  # type: ignore[attr-defined]
    artifacts.flush = counted("flush", artifacts.flush)


def live(spec: RunSpec, name: str | None, point: int) -> dict[str, Any]:
    """Returns how a child that trains the run ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            arm(name, point, writing)
            train.train_run(spec)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as stream:
        points = stream.read().split()
    return {"exit": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "points": points}


if __name__ == "__main__":
    spec = train_spec(load_study(Path(sys.argv[1])), dataset="market1501", cell="p1_rpe_jsd", seed=0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a shell, where it is ignored
    spec = dataclasses.replace(spec, workers=int((*sys.argv, "0")[3]))
    for out, name, point in json.loads(sys.argv[2]):
        print(json.dumps(live(dataclasses.replace(spec, out=Path(out)), name, point)), flush=True)
