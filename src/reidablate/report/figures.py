"""The figures: drawn once, then inlined as SVG that follows the page's colours and written as PDF and PNG.

Shapes: C cells, S seeds, K ranks. Values are fractions; only tick labels are in points. A cell has the same colour,
marker and line everywhere. Text and lines that belong to the page use the three inks below, which the inlined SVG
replaces by CSS variables, so one drawing is legible on light and on dark ground.
"""

import base64
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reidablate.artifacts import atomic_path, content_hash
from reidablate.report.collect import StudyTables
from reidablate.report.records import Cell, Contrast

# At least 3:1 against white and against the dark page (tests/unit/test_report_figures.py); the markers differ too.
COLOURS = (
    "#6b7785", "#1f77c4", "#d0640a", "#128a6b", "#b5489a", "#7a63d2", "#a3731b", "#0e8a9c", "#d23f46", "#6f8420",
)  # fmt: skip
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p")
LINES = ("-", "--", ":", "-.")
INK, MUTED, GRID = "#1f2933", "#5b6774", "#d5dbe2"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}
WIDTH_IN = 5.2
MAX_SVG_BYTES = 400_000


class _Labels(dict[str, str]):
    """Labels of series; one that a study brings is called by its own words."""

    def __missing__(self, name: str) -> str:
        return name.replace("_", " ")


_NO_SERIES = {"total", "images_per_s"}  # a figure of its own, and a matter of the machine
TERMS = _Labels(
    {
        "identity": "identity loss",
        "triplet": "triplet loss",
        "weighted_triplet": "weighted triplet loss",
        "position_relation": "position-relation loss",
        "position_triplet": "position triplet loss",
        "lr": "learning rate",
        "ape_norm": "norm of the absolute positions",
        "rpe_norm": "norm of the relative positions",
        "feature_norm": "norm of the feature",
        "gradient_norm": "norm of the gradient",
    }
)
_STYLE = {
    **sns.axes_style("ticks"),
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.titlelocation": "left",
    "axes.titlesize": 11, "axes.labelsize": 10, "axes.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.7,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "xtick.major.size": 3, "ytick.major.size": 0,
    "text.color": INK, "text.parse_math": False, "font.size": 10, "font.family": "DejaVu Sans",
    "legend.frameon": False, "legend.fontsize": 9.5, "lines.linewidth": 1.6, "svg.fonttype": "none",
    "figure.constrained_layout.use": True, "svg.hashsalt": "reidablate", "pdf.fonttype": 42,
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """A finished figure: `image` is an SVG element, or an `img` with an inlined PNG if that would be too large."""

    kind: str
    name: str
    dataset: str
    group: str
    caption: str
    image: str


def colour(cell: Cell) -> str:
    """Returns the cell's colour."""
    return COLOURS[cell.index % len(COLOURS)]


def marker(cell: Cell) -> str:
    """Returns the cell's marker; a cell that shares a colour with another has another marker."""
    return MARKERS[(cell.index + cell.index // len(COLOURS)) % len(MARKERS)]


def _line(cell: Cell) -> str:
    return LINES[cell.index // len(COLOURS) % len(LINES)]


def _points(value: float, _: int | None = None) -> str:
    return f"{100 * value:.6g}".replace("-", "\N{MINUS SIGN}")


def _axes(height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height))
    axes = figure.add_subplot()
    axes.set_title(title)
    sns.despine(ax=axes)
    return figure, axes


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(_points))


def forest(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns every comparison in mAP as estimate and interval; filled marks are decided, hollow ones are not."""
    rows = [c for c in study.contrasts_of(dataset["name"], cells) if c.estimate.value is not None]
    if not rows:
        return None
    figure, axes = _axes(0.95 + 0.25 * len(rows), title)
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, row in enumerate(rows):
        if y and rows[y - 1].cell.name != row.cell.name:
            axes.axhline(y - 0.5, color=GRID, linewidth=0.6)
        _interval(axes, row, y)
    _rows(axes, [f"{row.cell.name}  vs  {row.reference.name}" for row in rows])
    axes.set_xlabel("difference in mAP, points" + (" (95 % interval)" if any(r.interval for r in rows) else ""))
    return figure


def _interval(axes: Axes, row: Contrast, y: float) -> None:
    shade, decided = colour(row.cell), row.word in ("improves", "worsens", "equivalent")
    if row.interval:
        axes.plot(row.interval, (y, y), color=shade, linewidth=2.2 if decided else 1.4, solid_capstyle="round")
    axes.plot(
        [row.value], [y], marker(row.cell), color=shade, markersize=6.5, markeredgewidth=1.4,
        markerfacecolor=shade if decided else "none",
    )  # fmt: skip


def scores(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the mAP of every seed (pale) and their mean (strong), a row a cell, the baseline's mean as a line."""
    values = {c.name: list(study.seed_scores(dataset["name"], c.name, study.headline, "mAP").values()) for c in cells}
    shown = [cell for cell in cells if values[cell.name]]
    if not shown:
        return None
    figure, axes = _axes(0.95 + 0.27 * len(shown), title)
    baseline = study.score(dataset["name"], shown[0].baseline or shown[0].name, "mAP").value
    if baseline is not None:
        axes.axvline(baseline, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for y, cell in enumerate(shown):
        own = values[cell.name]
        axes.plot(own, [y] * len(own), marker(cell), color=colour(cell), markersize=5, alpha=0.6, markeredgewidth=0)
        axes.plot([np.mean(own)] * 2, (y - 0.3, y + 0.3), color=colour(cell), linewidth=2.6)
    _rows(axes, [cell.name for cell in shown])
    axes.set_xlabel("mAP, points (a mark a seed, a bar their mean)")
    return figure


def cmc(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the CMC curves, means over seeds, and below them their distance to the baseline's curve."""
    if study.cmc is None:
        return None
    mine = study.cmc[study.cmc["dataset"] == dataset["name"]]
    curves = mine.groupby(["cell", "rank"], observed=True)["value"].mean().unstack("rank")
    shown = [cell for cell in cells if cell.name in curves.index]
    if not shown:
        return None
    base_names = dict.fromkeys(cell.baseline for cell in shown if cell.baseline in curves.index)
    shown = [study.by_name[name] for name in base_names if name and study.by_name[name] not in shown] + shown
    figure = Figure(figsize=(WIDTH_IN, 4.6 + 0.2 * -(-len(shown) // 3)))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.set_title(title)
    for cell in shown:
        curve = curves.loc[cell.name]
        look = {"color": colour(cell), "linestyle": _line(cell), "marker": marker(cell), "markersize": 4}
        above.plot(curve.index, curve, markevery=(cell.index % 3, 4), label=cell.name, **look)
        base = cell.baseline or cell.name
        if base in curves.index:
            below.plot(curve.index, curve - curves.loc[base], markevery=(cell.index % 3, 4), **look)
    for axes, label in ((above, "matched, %"), (below, "minus baseline")):
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(FuncFormatter(_points))
        sns.despine(ax=axes)
    below.set_xlabel("rank k")
    below.set_xticks([1, 5, 10, 15, 20])
    figure.align_ylabels()
    figure.legend(loc="outside lower left", ncols=3, handlelength=2.4, columnspacing=1.2)
    return figure


def learning(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the total loss of every seed, a panel a cell, over the seeds of its baseline in grey."""
    frame = _history(study, dataset, cells)
    if frame is None:
        return None
    totals = {key: part for key, part in frame[frame["name"] == "total"].groupby(["cell", "seed"], sort=False)}
    shown = [cell for cell in cells if any(name == cell.name for name, _ in totals)]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.75 + 1.25 * rows))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, cell in zip(panels, shown, strict=False):
        for (name, _), part in totals.items():
            if name == cell.name:
                axes.plot(part["epoch"] + 1, part["value"], color=colour(cell), linewidth=1.1, zorder=3)
            elif name == cell.baseline:
                axes.plot(part["epoch"] + 1, part["value"], color=GRID, linewidth=1.1, zorder=2)
        axes.set_title(cell.name, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        sns.despine(ax=axes)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("total loss", fontsize=10)
    return figure


def terms(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns every other recorded series, a panel a name: all seeds thin, a colour a cell."""
    frame = _history(study, dataset, cells)
    if frame is not None:
        frame = frame[frame["cell"].isin([cell.name for cell in cells])]
    found = set() if frame is None else set(frame["name"]) - _NO_SERIES
    names = [name for name in (*TERMS, *sorted(found - {*TERMS})) if name in found]
    if frame is None or not names:
        return None
    rows = -(-len(names) // 2)
    shown = [cell for cell in cells if (frame["cell"] == cell.name).any()]
    figure = Figure(figsize=(WIDTH_IN, 0.7 + 1.3 * rows + 0.2 * -(-len(shown) // 3)))
    panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        part = frame[frame["name"] == name]
        for cell in shown:
            wide = part[part["cell"] == cell.name].pivot(index="epoch", columns="seed", values="value")
            if not wide.empty:
                axes.plot(wide.index + 1, wide, color=colour(cell), linestyle=_line(cell), linewidth=0.9, alpha=0.85)
        axes.set_title(TERMS[name], fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        sns.despine(ax=axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for cell in shown:
        panels[0].plot([], [], color=colour(cell), linestyle=_line(cell), label=cell.name)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.legend(loc="outside lower left", ncols=3, handlelength=1.6, columnspacing=1.2)
    return figure


def _history(study: StudyTables, dataset: dict[str, Any], cells: list[Cell]) -> pd.DataFrame | None:
    if study.history is None:
        return None
    names = {name for cell in cells for name in (cell.name, cell.baseline) if name}
    mask = (study.history["dataset"] == dataset["name"]) & study.history["cell"].isin(names)
    chosen: pd.DataFrame = study.history[mask].sort_values(["cell", "seed", "epoch"])
    return chosen


def cost(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the gain in mAP over the baseline against the wall time relative to it."""
    points = []
    for cell in cells:
        base = study.by_name.get(cell.baseline or "")
        wall = study.cost(dataset["name"], cell.name, "wall_s").value
        base_wall = study.cost(dataset["name"], base.name, "wall_s").value if base else None
        if base and wall and base_wall:
            contrast = study.contrast(dataset["name"], cell, base)
            if contrast.estimate.value is not None:
                points.append((wall / base_wall, contrast))
    if not points:
        return None
    figure, axes = _axes(4.0 + 0.2 * -(-len(points) // 3), title)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for ratio, contrast in points:
        shade = colour(contrast.cell)
        if contrast.interval:
            axes.plot((ratio, ratio), contrast.interval, color=shade, linewidth=1.4)
        axes.plot(
            [ratio], [contrast.value], marker(contrast.cell), color=shade, markersize=7, markeredgewidth=1.4,
            markerfacecolor=shade if contrast.word in ("improves", "worsens") else "none", label=contrast.cell.name,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(FuncFormatter(_points))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}\N{MULTIPLICATION SIGN}"))
    axes.set_xlabel("training time, multiples of the baseline's")
    axes.set_ylabel("mAP over baseline, points")
    figure.legend(loc="outside lower left", ncols=3, handlelength=1, columnspacing=1.2)
    return figure


def power(study: StudyTables, title: str) -> Figure:
    """Returns how often a true gain is found, by its size and the number of seeds: a panel a simulated test set."""
    assert study.calibration is not None
    table = study.calibration[study.calibration["interval"] == "two_way"]
    found = table[table["gain_points"] > 0].groupby(["test_set", "shape", "seeds", "gain_points"])["rejection"].mean()
    sets = list(found.index.unique("test_set"))
    figure = Figure(figsize=(WIDTH_IN, 3.3))
    panels = figure.subplots(1, max(1, len(sets)), sharey=True, squeeze=False).ravel()
    looks = {seeds: number for number, seeds in enumerate(found.index.unique("seeds"), start=1)}
    for axes, name in zip(panels, sets, strict=False):
        for (shape, seeds), curve in found.loc[name].groupby(["shape", "seeds"]):
            look = {"color": COLOURS[looks[seeds]], "marker": MARKERS[looks[seeds]], "markersize": 4}
            label = f"{seeds} seeds, {shape} scores" if name == sets[0] else None
            gains = curve.index.get_level_values("gain_points")
            axes.plot(gains, curve, linestyle="-" if shape == "normal" else ":", label=label, **look)
        axes.axhline(0.8, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("true gain in mAP, points")
        axes.yaxis.set_major_formatter(FuncFormatter(_points))
        sns.despine(ax=axes)
    panels[0].set_ylabel("found, %")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.legend(loc="outside lower left", ncols=2, handlelength=2.4, columnspacing=1.2)
    return figure


def unique_slug(name: str) -> str:
    """Returns a name for a file and an anchor: the name itself where that is safe, else what is safe of it and a hash.

    Different names give different results, also where file names do not tell capitals from small letters.
    """
    safe = re.sub(r"[^a-z0-9_.-]+", "_", name.lower())[:80]
    return safe if safe == name else f"{safe}-{content_hash(name)[:8]}"


def draw(study: StudyTables, folder: Path) -> list[Plot]:
    """Draws every figure the tables allow, writes each to `folder` as PDF and PNG, and returns them for the page."""
    plots = []
    smoke = f"{study.smoke.capitalize()}. " if study.smoke else ""
    with mpl.rc_context(_STYLE):
        for kind, dataset, group, caption, make in _catalogue(study):
            label = str(dataset.get("title") or dataset["name"])[:60]
            mark = " (synthetic)" if dataset["name"] in study.synthetic_names else ""
            figure = make(label + mark)
            if figure is None:
                continue
            if smoke:
                figure.supxlabel(smoke, color=INK, fontsize=11, fontweight="bold")
            slug = unique_slug("_".join(filter(None, (kind, group, dataset["name"]))))
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout is found once, not at every save
            image = _inline(figure, slug, f"{smoke}{caption} Data set: {label}{mark}. The tables hold the same values.")
            plots.append(Plot(kind, slug, dataset["name"], group, caption, image))
            for suffix in ("pdf", "png"):
                metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
                with atomic_path(folder / f"{slug}.{suffix}") as path:
                    figure.savefig(path, format=suffix, dpi=150, metadata=metadata, facecolor="white")
    return plots


_POWER = "Share of experiments where the default interval finds a true gain. Effects: typical; dashed: 80 %."
_WHOLE = (
    ("forest", forest, "Differences in mAP of each cell to its references. Filled: decided; hollow: not."),
    ("cost", cost, "Gain in mAP over the baseline against training time."),
)
_BY_GROUP = (
    ("scores", scores, "mAP of every seed and mean of each cell; the dashed line is the baseline's mean."),
    ("cmc", cmc, "CMC curves (means over seeds) and their distance to the baseline's, in points."),
    ("learning", learning, "Total loss by epoch, a line a seed; the baseline's seeds in grey."),
    ("terms", terms, "Loss terms, learning rate and norms by epoch; a line a seed, a colour a cell."),
)


def _catalogue(study: StudyTables) -> Iterator[tuple[str, dict[str, Any], str, str, Callable[[str], Figure | None]]]:
    """Yields kind, data set, group, caption and a function from the title to the figure."""
    for dataset in study.datasets:
        for kind, make, caption in _WHOLE:
            yield kind, dataset, "", caption, partial(make, study, dataset, list(study.cells))
        for group, cells in study.groups.items():
            for kind, make, caption in _BY_GROUP:
                yield kind, dataset, group, caption, partial(make, study, dataset, cells)
    if study.calibration is not None:
        yield "power", {"name": "", "title": "Simulated experiments"}, "", _POWER, partial(power, study)


def _inline(figure: Figure, slug: str, alternative: str) -> str:
    """Returns the figure as an SVG element that takes its inks from the page, or as a PNG when that is large."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    if len(svg) > MAX_SVG_BYTES:
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=130, facecolor="white", metadata={"Software": None})
        encoded = base64.b64encode(image.getvalue()).decode()
        return f'<img class="paper" alt="{escape(alternative)}" src="data:image/png;base64,{encoded}">'
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _short, tag[0]), svg)  # never the labels
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{slug}-", svg)
    svg = re.sub(r"font: [^;\"]*?(\d[\d.]*px)[^;\"]*", r"font-size: \1", svg)
    for ink, variable in _VARIABLES.items():
        svg = svg.replace(ink, variable)
    head = f'<svg role="img" aria-label="{escape(alternative)}" '
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2).replace("<svg ", head, 1).strip()


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
