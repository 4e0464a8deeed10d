"""Line charts and histograms of a page, as SVG in the page's own colours.

Legend: K points of a line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reidablate.report.drawing import inline_svg
from reidablate.report.figures import COLOURS, LINES, MUTED, STYLE

Line = Sequence[float]
DASHED: Any = (0, (4, 3))  # of matplotlib's styles


def lines(
    slug: str,
    title: str,
    curves: Mapping[str, Line],
    *,
    x: Sequence[float] | None = None,
    x_label: str,
    y_label: str,
    ticks: Sequence[str] | None = None,
    zero: bool = False,
    level: float | None = None,
) -> str:
    """Returns an SVG of lines by name over common places `x` (0, 1, ... if not given) with optional tick labels.

    `level` is drawn as a dashed line; `zero` makes the axis start there.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.9))
        axes = figure.subplots()
        places = range(max(map(len, curves.values()), default=0)) if x is None else x
        for number, (name, values) in enumerate(curves.items()):
            axes.plot(
                places[: len(values)],
                values,
                marker="o",
                markersize=4,
                color=COLOURS[(number + 1) % len(COLOURS)],
                linestyle=LINES[number % len(LINES)],  # lines that coincide are both seen
                label=name,
            )
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), ticks)
        elif all(isinstance(place, int) for place in places):  # blocks are counted
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1, linestyle=DASHED)
        if zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(curves) > 1:
            figure.legend(loc="outside lower left", ncols=3, handlelength=1.6)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        return _laid_out(figure, slug, title)


def heads(slug: str, title: str, values: npt.NDArray[np.float64], *, y_label: str, level: float, words: str) -> str:
    """Returns an SVG with a dot for each block and head, (L, h), and a dashed level that `words` name."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.9))
        axes = figure.subplots()
        for block, row in enumerate(values, start=1):
            beside = block + 0.08 * (np.arange(len(row)) - (len(row) - 1) / 2) / max(1, len(row) / 5)
            axes.plot(beside, np.sort(row), "o", markersize=5, color=COLOURS[1], alpha=0.8)
        axes.axhline(level, color=MUTED, linewidth=1, linestyle=DASHED, label=words)
        axes.set_xticks(range(1, len(values) + 1))
        axes.set_xlim(0.5, len(values) + 0.5)
        axes.set_ylim(0, 1.1 * max(level, float(values.max())))
        axes.set_xlabel("block")
        axes.set_ylabel(y_label)
        figure.legend(loc="outside lower left")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        return _laid_out(figure, slug, title)


def histograms(slug: str, title: str, groups: Mapping[str, npt.NDArray[np.float64]], *, x_label: str) -> str:
    """Returns an SVG of histograms over equal bins, each in shares of its own values."""
    everything = np.concatenate(list(groups.values()))
    bins = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-12), 41)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.9))
        axes = figure.subplots()
        for number, (name, values) in enumerate(groups.items(), start=1):
            shares = np.histogram(values, bins)[0] / len(values)
            axes.stairs(shares, bins, fill=True, alpha=0.35, color=COLOURS[number], label=name)
            axes.stairs(shares, bins, color=COLOURS[number], linewidth=1.4)
        axes.set_xlabel(x_label)
        axes.set_ylabel("share of pairs")
        figure.legend(loc="outside lower left", ncols=2)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        return _laid_out(figure, slug, title)


def scatter(slug: str, title: str, places: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> str:
    """Returns an SVG of points (N, 2); points of one label share colour and sign."""
    signs = ("o", "s", "^", "D")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.2))
        axes = figure.subplots()
        for number, label in enumerate(np.unique(labels)):
            own = places[labels == label]
            sign = signs[number // len(COLOURS) % len(signs)]
            axes.plot(own[:, 0], own[:, 1], sign, markersize=5, alpha=0.8, color=COLOURS[number % len(COLOURS)])
        axes.set_xticks([])
        axes.set_yticks([])
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        return _laid_out(figure, slug, title)


def _laid_out(figure: Figure, slug: str, title: str) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(not len(axes.get_xticks()))  # a plane without units has a frame
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")  # found once, not at every save
    return inline_svg(figure, slug, title)
