"""Scores and comparisons on the terminal; fractions become points (0-100) here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from reidablate.errors import plain
from reidablate.metrics.protocol import Scores
from reidablate.metrics.registry import SHIPPED

if TYPE_CHECKING:
    from reidablate.metrics.compare import Comparison

_SHIPPED = {metric.name: metric.title for metric in SHIPPED}
_BOUNDS = {"mAP_optimistic": "mAP, ties for the query", "mAP_pessimistic": "mAP, ties against it"}
_ORDER = ("mAP", "mAP_trapezoid", *_BOUNDS, "mINP", "rank1", "rank5", "rank10", "rank20")
_TITLES = {name: {**_SHIPPED, **_BOUNDS, "rank20": "Rank-20"}[name] for name in _ORDER}
_NAMES = {"average_precision": "average precision", "rerank": "re-ranked", "num_junk": "junk images"}


def print_scores(scores: Mapping[str, Scores], protocol: Mapping[str, Any]) -> None:
    """Prints the scores of each side in points and the protocol behind them. Bounds of ties stand only where any."""
    console, table = Console(), Table("points")
    summaries = {side: result.summary() for side, result in scores.items()}
    for side in summaries:
        table.add_column(side, justify="right")
    tied = any(found["mAP_optimistic"] != found["mAP_pessimistic"] for found in summaries.values())
    for key, title in _TITLES.items():
        if tied or key not in {"mAP_optimistic", "mAP_pessimistic"}:
            table.add_row(title, *(f"{100 * found[key]:.2f}" for found in summaries.values()))
    table.add_section()
    table.add_row("queries", *(str(found["num_queries"]) for found in summaries.values()))
    table.add_row("without a positive", *(str(found["num_invalid"]) for found in summaries.values()))
    console.print(table)
    for key, value in protocol.items():
        if value is not None:
            console.print(f"{_NAMES.get(key, key)}: {value}", highlight=False, soft_wrap=True, markup=False)


def print_comparison(found: "Comparison", first: str, second: str) -> None:
    """Prints both retrievals and their difference in points, with what the interval does and does not say."""
    console = Console()
    headers = ("points", "first", "second", "difference", "95 % interval", "p", "P(better)", "verdict")
    table = Table(*headers, box=None, pad_edge=False, padding=(0, 1, 0, 0))  # whole within 80 letters
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    table.columns[-1].justify = "left"
    for metric, row in found.metrics.items():
        low, high, p_value = row["low"], row["high"], row["p_value"]
        known = low is not None and high is not None and p_value is not None
        table.add_row(
            _TITLES[metric],
            *(f"{100 * (row[key] or 0):.2f}" for key in ("first", "second")),
            f"{100 * (row['difference'] or 0):+.2f}",
            f"{100 * (low or 0):+.2f} to {100 * (high or 0):+.2f}" if known else "none",
            f"{p_value:.3g}" if known else "",
            f"{row['p_better']:.3f}",
            found.verdicts[metric],
        )
    console.print(table)
    console.print(f"first: {plain(first)}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"second: {plain(second)}", highlight=False, soft_wrap=True, markup=False)
    units = f"{found.num_queries} queries of {found.num_identities} identities, paired"
    console.print(f"{units}; {found.label}.", highlight=False, soft_wrap=True, markup=False)
    if found.warning:
        console.print(f"{found.warning}.", highlight=False, soft_wrap=True)
