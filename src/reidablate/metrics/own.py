"""The values of a study's own metrics, query by query.

Legend: V queries, P positives of all of them, R positives of one.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reidablate import plugins
from reidablate.errors import UserError
from reidablate.metrics.registry import Metric


class OwnMetrics:
    """Metrics of a study's own, computed block by block.

    Attributes:
        failures: Why a metric has no values, by its name.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self.failures: dict[str, str] = {}

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
    for place, ranks in enumerate(queries):
        with plugins.running(plugin, f"metric {metric.name}"):
            values[place] = plugin.made(ranks.copy())
        if not np.isfinite(values[place]):
            raise UserError(
                f"{plugin.where}: '{metric.use}' is {values[place]} for ranks {ranks[:5]}; return a number."
            )
    return values
