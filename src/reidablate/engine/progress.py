"""What a person sees of a training while it runs."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A progress bar on a terminal, a line an epoch elsewhere (in a log file)."""

    def __init__(self, name: str, num_epochs: int) -> None:
        self.name, self.num_epochs = name, num_epochs
        self.live = sys.stderr.isatty()
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

    def epoch(self, epoch: int, loss: float, rate: float) -> None:
        """Shows an epoch's mean loss and images a second."""
        line = f"loss {loss:.3f} {rate:.0f} images/s"
        self.progress.update(self.task, completed=epoch + 1, speed=line)
        if not self.live:
            print(f"{self.name}: epoch {epoch + 1}/{self.num_epochs} {line}", file=sys.stderr, flush=True)
