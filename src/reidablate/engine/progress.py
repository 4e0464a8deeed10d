"""Progress bars of trainings and extractions on a terminal, and lines in their place in a log file."""

import sys
import threading
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reidablate.errors import plain

LINE_EVERY_S = 30.0
PATIENCE_S = 2.0
"""After which a command that works in silence shows that it does."""


class ProgressBar:
    """A progress bar on a terminal; elsewhere (in a log file) a line an epoch, and one at least every half minute."""

    def __init__(self, name: str, num_epochs: int) -> None:
        self.name, self.num_epochs = name, num_epochs
        self.live = sys.stderr.isatty()
        self.last_line = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}/{task.total} {task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self.live,
        )
        self.task = self.progress.add_task(name, total=num_epochs, epoch=0, speed="")

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def step(self, epoch: int, step: int, num_steps: int) -> None:
        """Moves the bar to a step of an epoch (both from 0)."""
        self.progress.update(self.task, completed=epoch + (step + 1) / num_steps, epoch=epoch + 1)
        if not self.live and time.monotonic() - self.last_line > LINE_EVERY_S:
            self._line(f"epoch {epoch + 1}/{self.num_epochs} step {step + 1}/{num_steps}")

    def epoch(self, epoch: int, loss: float, rate: float, held_out: float | None = None) -> None:
        """Shows an epoch's mean loss, images a second and, where it was scored, the mAP of held-out identities."""
        line = f"loss {loss:.3f} {rate:.0f} images/s"
        if held_out is not None:
            line += f" held-out mAP {100 * held_out:.1f}"
        self.progress.update(self.task, completed=epoch + 1, speed=line)
        if not self.live:
            self._line(f"epoch {epoch + 1}/{self.num_epochs} {line}")

    def _line(self, text: str) -> None:
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)
        self.last_line = time.monotonic()


class CountBar:
    """A progress bar of images or the like on a terminal; elsewhere a line when done, and one every half minute."""

    def __init__(self, name: str, what: str = "images") -> None:
        self.name, self.what = name, what
        self.live = sys.stderr.isatty()
        self.last_line = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not self.live)
        self.task = self.progress.add_task(name, total=None)

    def __enter__(self) -> "CountBar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, done: int, total: int) -> None:
        """Moves the bar."""
        self.progress.update(self.task, completed=done, total=total)
        if not self.live and (done == total or time.monotonic() - self.last_line > LINE_EVERY_S):
            print(f"{self.name}: {done} of {total} {self.what}", file=sys.stderr, flush=True)
            self.last_line = time.monotonic()


class Waiting:
    """A bar on a terminal for work that takes longer than two seconds; elsewhere nothing.

    It shows how far the work is where `show` is told, and otherwise only that it goes on.
    """

    def __init__(self, name: str) -> None:
        title = TextColumn("{task.description}", markup=False)
        columns = (title, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task(plain(name), total=None)
        self._timer = threading.Timer(PATIENCE_S, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> "Waiting":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        self._progress.stop()

    def show(self, done: int, total: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=done, total=total)
