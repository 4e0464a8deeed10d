"""Two files of features on one test set, paired query by query.

Shapes: M metrics, Q queries, G query identities.

One run each shows how much the difference depends on which identities stand in the test set, and nothing of how much it
would change if either network were trained again. The interval is labelled accordingly.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reidablate.data.formats import image_key
from reidablate.errors import UserError
from reidablate.metrics.checks import Labels
from reidablate.metrics.distances import DistanceName
from reidablate.metrics.files import Options, Retrieval, read_file, score_retrieval
from reidablate.metrics.protocol import JUNK_PID, Scores
from reidablate.metrics.ranking import IntArray
from reidablate.runs import SIDES
from reidablate.stats.intervals import t_interval
from reidablate.stats.paired import effective_identities, identity_sums, paired_components, probability_better
from reidablate.stats.scores import METRICS, metric_values

WARNING = (
    "the verdicts are of these two runs; trained again, either may turn out otherwise. A verdict on a method takes "
    "three seeds or more of both, in a study or with `reidablate import`"
)
LABEL = "interval of query sampling alone; one run each says nothing about training noise"


@dataclass(frozen=True)
class Comparison:
    """The difference between two retrievals, in fractions.

    Attributes:
        metrics: {metric: first, second, difference (second - first), low and high of its 95 % interval, p_value of no
            difference, p_better (probability that the second scores a query better, ties one half)}. Without an
            interval low, high and p_value are None.
        num_queries: Valid queries.
        num_identities: Identities of these queries, the units of the interval.
        label: What the interval speaks of, or why there is none.
    """

    metrics: dict[str, dict[str, float | None]]
    num_queries: int
    num_identities: int
    label: str

    @property
    def warning(self) -> str:
        """What the verdicts do not say; empty where there is no interval, and so no verdict."""
        return WARNING if self.label == LABEL else ""

    @property
    def verdicts(self) -> dict[str, str]:
        """What the interval of each metric says of the second: improves, worsens or undecided."""
        return {metric: _verdict(row["low"], row["high"]) for metric, row in self.metrics.items()}


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "undecided"
    return "improves" if low > 0 else "worsens" if high < 0 else "undecided"


def compare_files(
    first: Path, second: Path, *, side: str | None = None, distance: DistanceName = "cosine"
) -> Comparison:
    """Returns the paired comparison of two files.

    Args:
        first: The reference, a file as `files.read_file` reads it.
        second: The one under test.
        side: Of files with both sides of the neck the one to compare; None takes `before_neck`.
        distance: How the features of both are compared; see `files.Options`.

    Raises:
        UserError: A file cannot be scored, a side is not there, or query or gallery are not the same.
    """
    if side is not None and side not in SIDES:
        raise UserError(f"'{side}' is no side of the neck; choose {' or '.join(SIDES)}.")
    problems = [_one(path, side, distance) for path in (first, second)]
    _check_same_gallery(*(problem.labels for problem in problems))
    problems = _with_keys(problems)
    by_name = _check_same_queries(*(problem.labels for problem in problems))
    scores = [score_retrieval(problem, Options(distance=distance)) for problem in problems]
    return compare_scores(*(_ordered(found, by_name) for found in scores))


def compare_scores(first: Scores, second: Scores) -> Comparison:
    """Returns the comparison of two retrievals whose queries stand in one order.

    The interval is `estimate +- t sqrt(V)` with the variance V clustered by identity and the effective number of
    identities minus one as degrees of freedom (see `stats.paired`).
    """
    values = [metric_values(scores.queries) for scores in (first, second)]  # (M, Q)
    sums, counts = identity_sums(values[1] - values[0], first.columns["pid"])
    parts = paired_components(sums[:, None], counts)
    label = LABEL
    interval = t_interval(parts.estimate, parts.identity, np.full(len(METRICS), parts.identity_df))
    if effective_identities(counts) < 2:
        label = "no interval, the queries show hardly more than one identity"
    metrics: dict[str, dict[str, float | None]] = {}
    for m, name in enumerate(METRICS):
        # A difference that is the same for every identity tells nothing of others, unless no query differs at all.
        unknown = label != LABEL or (
            interval.standard_error[m] < 1e-12 and not np.array_equal(values[0][m], values[1][m])
        )
        metrics[name] = {
            "first": float(values[0][m].mean()),
            "second": float(values[1][m].mean()),
            "difference": float(parts.estimate[m]),
            "low": None if unknown else max(float(interval.low[m]), -1.0),
            "high": None if unknown else min(float(interval.high[m]), 1.0),
            "p_value": None if unknown else float(interval.p_value[m]),
            "p_better": float(probability_better(values[1][m : m + 1], values[0][m : m + 1])),
        }
    return Comparison(metrics, num_queries=values[0].shape[1], num_identities=len(counts), label=label)


def _one(path: Path, side: str | None, distance: DistanceName) -> Retrieval:
    problems = read_file(path, distance)
    if len(problems) == 1 and side is None:
        return next(iter(problems.values()))
    wanted = side or SIDES[0]
    if wanted not in problems:
        raise UserError(f"{path} holds {', '.join(problems)} and no {wanted}; choose another side or leave it out.")
    return problems[wanted]


def _check_same_gallery(first: Labels, second: Labels) -> None:
    """Raises a `UserError` unless both search the same images, as far as their pids and camids tell."""
    found = [_counted(labels) for labels in (first, second)]
    if not np.array_equal(found[0], found[1]):
        sizes = " and ".join(str(len(gallery)) for gallery in found)
        raise UserError(
            f"the galleries differ in pids or camids ({sizes} images without junk); score both on one gallery."
        )


def _with_keys(problems: list[Retrieval]) -> list[Retrieval]:
    """Returns the problems with queries named alike where only folders or endings of their names differ."""
    names = [[str(name) for name in problem.labels.query_names] for problem in problems]
    keys = [[image_key(name) for name in own] for own in names]
    unique = all(len(set(own)) == len(own) for own in keys)
    if sorted(names[0]) == sorted(names[1]) or not unique or sorted(keys[0]) != sorted(keys[1]):
        return problems
    return [
        replace(problem, labels=replace(problem.labels, query_names=np.array(own)))
        for problem, own in zip(problems, keys, strict=True)
    ]


def _counted(labels: Labels) -> IntArray:
    """Returns (pid, camid) of the gallery images that are not junk, sorted."""
    counted = labels.gallery_pids != JUNK_PID
    pids, camids = labels.gallery_pids[counted], labels.gallery_camids[counted]
    order = np.lexsort((camids, pids))
    return np.stack([pids[order], camids[order]], axis=1)


def _check_same_queries(first: Labels, second: Labels) -> bool:
    """Returns whether the queries can be paired by name; otherwise they are paired by position.

    Raises:
        UserError: The queries are not the same.
    """
    sizes = len(first.query_pids), len(second.query_pids)
    if sizes[0] != sizes[1]:
        raise UserError(f"the files hold {sizes[0]} and {sizes[1]} queries; score both on the same queries.")
    numbers = np.arange(sizes[0]).astype(str)
    by_name = not any(np.array_equal(labels.query_names, numbers) for labels in (first, second))
    orders = [_order(x.query_names, x.query_pids, x.query_camids, by_name=by_name) for x in (first, second)]
    keys = ("query_names", "query_pids", "query_camids") if by_name else ("query_pids", "query_camids")
    for key in keys:
        own, other = (getattr(labels, key)[order] for labels, order in zip((first, second), orders, strict=True))
        differing = np.flatnonzero(own != other)
        if differing.size:
            i = differing[0]
            raise UserError(
                f"the queries differ, {key} {own[i]} against {other[i]} for query {first.query_names[orders[0][i]]}; "
                "give both files the same queries" + (" by name." if by_name else " in the same order, or names.")
            )
    return by_name


def _order(names: Any, pids: IntArray, camids: IntArray, *, by_name: bool) -> IntArray:
    return np.lexsort((camids, pids, names)) if by_name else np.arange(len(pids))


def _ordered(scores: Scores, by_name: bool) -> Scores:
    columns = scores.columns
    order = _order(columns["query"], columns["pid"], columns["camid"], by_name=by_name)
    return Scores({name: column[order] for name, column in columns.items()}, scores.num_invalid)
