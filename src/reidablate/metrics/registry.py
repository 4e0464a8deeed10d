"""Metrics by name: what each is called, which way is better, and what a query's value is.

This is the one place that says so; tables, statistics, exports and report read it.

A metric of a study's own is a function of the ranks of a query's positives, named under `metrics` of the settings as
`FILE:NAME` and marked with `metric`. It becomes a column of the table `queries` and its mean a row of `metrics`, and
contrasts, claims, exports and report take it from there. What it is made of belongs to the scores and not to training:
an edit scores the kept features again.

Legend: V queries, R positives of a query.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from reidablate import plugins
from reidablate.config import Section
from reidablate.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_SHOWN = "_reidablate_metric"
LIMIT_S = 60.0


class Metric(Section):
    """A metric that takes part in contrasts.

    Attributes:
        name: In tables.
        title: In words.
        higher_is_better: Which way is better.
        delta_points: Largest difference that does not matter, in points, where a data set declares none.
        column: Column of the per-query table that holds its values, or that `rank` is compared with.
        rank: k of Rank-k: a query scores 1 if its first hit is at rank k or before.
        use: Of a study's own, its name in the settings.
        code: Of a study's own, what it is made of.
        time_limit_s: Of a study's own, seconds for the queries of a run, 8192 at a time.
    """

    name: str
    title: str
    higher_is_better: bool = True
    delta_points: float | None = None
    column: str
    rank: int | None = None
    use: str | None = None
    code: str | None = None
    time_limit_s: float = LIMIT_S

    def values(self, queries: Any) -> npt.NDArray[np.float64]:
        """Returns the value (V,) of each query of the per-query table, NaN where it has none."""
        found: npt.NDArray[np.float64] = queries[self.column].to_numpy(np.float64, na_value=np.nan)
        return found if self.rank is None else np.where(np.isnan(found), np.nan, found <= self.rank)


SHIPPED: tuple[Metric, ...] = (
    Metric(name="mAP", title="mAP (step sum)", column="average_precision"),
    Metric(name="mAP_trapezoid", title="mAP (trapezoid)", column="average_precision_trapezoid"),
    Metric(name="mINP", title="mINP", column="inverse_negative_penalty"),
    *(Metric(name=f"rank{k}", title=f"Rank-{k}", column="first_hit_rank", rank=k) for k in (1, 5, 10)),
)
_TAKEN = {
    "rank20",
    "mAP_optimistic",
    "mAP_pessimistic",
    "num_queries",
    "num_invalid",
    "side",
    "dataset",
    "cell",
    "seed",
}
_TAKEN |= {"query", "pid", "camid", "num_positives"} | {word for m in SHIPPED for word in (m.name, m.column)}


@dataclass(frozen=True)
class _Facts:
    title: str
    higher_is_better: bool
    delta_points: float | None
    time_limit_s: float


def metric(
    *,
    title: str,
    better: Literal["higher", "lower"] = "higher",
    delta: float | None = None,
    time_limit_s: float = LIMIT_S,
) -> Callable[[Function], Function]:
    """Returns a decorator that makes a metric of a function of the ranks (R,) of a query's positives.

    Ranks are from 1 and rising.

    Args:
        title: In words.
        better: Which way is better.
        delta: Largest difference that does not matter, in points: hundredths of the metric's unit.
        time_limit_s: Seconds that the queries of a run may take, 8192 at a time; a metric that is slower is left out.
    """

    def marked(function: Function) -> Function:
        setattr(function, _SHOWN, _Facts(title, better == "higher", delta, time_limit_s))
        return function

    return marked


def own_metric(use: str) -> Metric:
    """Returns a metric of the study's own by its name in the settings.

    Raises:
        UserError: It cannot be imported, is not marked, or has the name of another.
    """
    plugin = plugins.find("metrics", use)
    facts, name = getattr(plugin.made, _SHOWN, None), use.rpartition(":")[2]
    if not isinstance(facts, _Facts):
        raise UserError(f"{plugin.where}: '{use}' is not marked as a metric; write @metric(title=...) above it.")
    if name in _TAKEN or not _NAME.fullmatch(name):
        raise UserError(f"{plugin.where}: '{name}' is taken or no name for a metric; call the function otherwise.")
    return Metric(name=name, column=name, use=use, code=plugin.code, **vars(facts))


def own_metrics(uses: Iterable[str]) -> tuple[list[Metric], list[str]]:
    """Returns the metrics that settings name, and why others are left out, a line each."""
    found, lines = dict[str, Metric](), []
    for use in uses:
        try:
            one = own_metric(use)
        except UserError as error:
            lines.append(f"metric '{use}' is left out: {error}")
            continue
        if one.name in found:
            lines.append(f"metric '{use}' is left out: '{found[one.name].use}' has its name.")
        found.setdefault(one.name, one)
    return list(found.values()), lines


def known_metrics(study: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Returns the shipped metrics and those of a study's own that `study.json` describes."""
    return (*SHIPPED, *(Metric.model_validate(entry) for entry in study.get("metrics") or ()))
