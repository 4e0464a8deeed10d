"""Weights & Biases when asked for, and never the cause of a failed training."""

import os
import sys
from pathlib import Path
from typing import Any, Literal

Mode = Literal["disabled", "offline", "online"]


class Tracker:
    """Sends one row an epoch to Weights & Biases; with mode `disabled` it does nothing and imports nothing."""

    def __init__(self, mode: Mode, *, folder: Path, run: str, group: str, config: dict[str, Any]) -> None:
        self._run: Any = None
        if mode == "disabled":
            return
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb

            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project="reidablate",
                name=run,
                id=run.replace("/", "-"),
                group=group,
                job_type="train",
                config=config,
                dir=folder,
                mode=mode,
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(init_timeout=20, console="off"),
            )
        except Exception as error:
            self._give_up(error)

    def log(self, row: dict[str, float], *, step: int) -> None:
        """Sends the values of one epoch."""
        if self._run is not None:
            try:
                self._run.log(row, step=step)
            except Exception as error:
                self._give_up(error)

    def finish(self) -> None:
        """Closes the run."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        print(f"Weights & Biases is off for this run: {error}", file=sys.stderr, flush=True)
