"""The values of a study's own metrics, query by query.

Legend: V queries, P positives of all of them, R positives of one.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from reidablate import plugins
from reidablate.errors import UserError, shortened
from reidablate.metrics.registry import Metric


class OwnMetrics:
    """Metrics of a study's own, computed block by block.

    Attributes:
        failures: Why a metric has no values, by its name.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self.failures: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """The metrics that have not failed."""
        return [metric.name for metric in self.metrics if metric.name not in self.failures]

    def columns(
        self, ranks: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Returns the values (V,) of every metric; NaN from a failure on.

        Args:
            ranks: (P,) ranks of the positives, query after query, from 1 and rising.
            starts: (V,) place of each query's first one.
        """
        queries = np.split(ranks, starts[1:])
        found = {metric.name: np.full(len(queries), np.nan) for metric in self.metrics}
        for metric in self.metrics:
            try:
                if metric.name not in self.failures:
                    found[metric.name] = _values(metric, queries)
            except UserError as error:
                self.failures[metric.name] = f"metric '{metric.use}' is left out: {error}"
        return found


def _values(metric: Metric, queries: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
    assert metric.use is not None
    plugin = plugins.find("metrics", metric.use)
    plugins.check_unchanged(plugin, metric.code)
    values = np.empty(len(queries))
    with plugins.running(f"metric {metric.name}", plugin), _at_most(metric.time_limit_s):
        for place, ranks in enumerate(queries):
            found = plugin.made(ranks.copy())
            values[place] = _number(found)
            if not np.isfinite(values[place]):
                raise UserError(
                    f"{plugin.where}: '{metric.use}' is {shortened(repr(found), 80)} for ranks {ranks[:5]}; return a "
                    "number."
                )
    return values


def _number(found: Any) -> float:
    """Returns a number or a tensor of one number, NaN for anything else."""
    try:
        return float("nan") if isinstance(found, str | bytes) else float(found)
    except (TypeError, ValueError, RuntimeError):
        return float("nan")


@contextmanager
def _at_most(limit_s: float) -> Iterator[None]:
    """Raises in a block that takes too long; outside the main thread, which alone hears signals, it may take longer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than {limit_s:g} s; make it faster, or write @metric(..., time_limit_s=)")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
