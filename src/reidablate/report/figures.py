"""What the figures show; `drawing` turns them into parts of the page and into files.

Shapes: C cells, S seeds, K ranks. Values are fractions; only tick labels are in points. A cell has the same colour,
marker and line everywhere. Text and lines that belong to the page use the three inks below.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reidablate.report.records import Cell, Contrast, main_baseline
from reidablate.report.study_tables import StudyTables
from reidablate.runs import HOLDOUT

# At least 3:1 against white; style.css.j2 has a lighter set for the dark page, in this order. The markers differ too.
COLOURS = (
    "#6b7785", "#1f77c4", "#d0640a", "#128a6b", "#b5489a", "#7a63d2", "#a3731b", "#0e8a9c", "#d23f46", "#6f8420",
)  # fmt: skip
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p")
LINES = ("-", "--", ":", "-.")
INK, MUTED, GRID = "#1f2933", "#5b6774", "#d5dbe2"
WIDTH_IN = 5.2


class _Labels(dict[str, str]):
    """Labels of series; one that a study brings is called by its own words."""

    def __missing__(self, name: str) -> str:
        return name.replace("_", " ")


# Figures of their own, matters of the machine, and numbers that stand in a table.
_NO_SERIES = re.compile(rf"total|{HOLDOUT}|images_per_s|loss_scale|skipped|position_relation_block_\d+")
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
        "position_relation_rpe_share": "share of the relative tables",
        "position_triplet_rpe_share": "share of the relative tables, position triplet",
        "position_relation_max_probability": "largest probability of relations",
        "position_relation_entropy": "entropy of relations, nats",
    }
)
STYLE = {
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


def colour(cell: Cell) -> str:
    """Returns the cell's colour."""
    return COLOURS[cell.index % len(COLOURS)]


def paint(cell: Cell) -> str:
    """Returns the cell's colour as the page's CSS names it, light or dark."""
    return f"var(--c{cell.index % len(COLOURS)})"


def marker(cell: Cell) -> str:
    """Returns the cell's marker; a cell that shares a colour with another has another marker."""
    return MARKERS[(cell.index + cell.index // len(COLOURS)) % len(MARKERS)]


def _line(cell: Cell) -> Any:  # one of matplotlib's names
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
    """Returns every comparison in mAP as estimate, adjusted interval and verdict; hollow marks are not decided."""
    rows = [c for c in study.contrasts_of(dataset["name"], cells) if c.estimate.value is not None]
    if not rows:
        return None
    figure, axes = _axes(0.95 + 0.25 * len(rows), title)
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, row in enumerate(rows):
        if y and rows[y - 1].cell.name != row.cell.name:
            axes.axhline(y - 0.5, color=GRID, linewidth=0.6)
        _interval(axes, row, y)
        axes.text(1.02, y, row.word, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    _rows(axes, [f"{row.cell.name}  vs  {row.reference.name}" for row in rows])
    axes.set_xlabel("difference in mAP, points" + (", adjusted interval" if any(r.interval for r in rows) else ""))
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
    """Returns the mAP of every seed (pale) and their mean (strong), a row a cell, and what they start from as lines.

    Those are the means of the references outside the group, or of its own cells that have none.
    """
    values = {c.name: list(study.seed_scores(dataset["name"], c.name, study.headline, "mAP").values()) for c in cells}
    shown = [cell for cell in cells if values[cell.name]]
    if not shown:
        return None
    figure, axes = _axes(0.95 + 0.27 * len(shown), title)
    own_names = {cell.name for cell in cells}
    outside = [cell.start for cell in shown if cell.start and cell.start not in own_names]
    for name in dict.fromkeys(outside or [cell.name for cell in shown if not cell.start]):
        mean = study.score(dataset["name"], name, "mAP").value
        if mean is not None:
            axes.axvline(mean, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for y, cell in enumerate(shown):
        own = values[cell.name]
        axes.plot(own, [y] * len(own), marker(cell), color=colour(cell), markersize=5, alpha=0.6, markeredgewidth=0)
        axes.plot([np.mean(own)] * 2, (y - 0.3, y + 0.3), color=colour(cell), linewidth=2.6)
    _rows(axes, [cell.name for cell in shown])
    axes.set_xlabel("mAP, points; one mark per seed, bars show means")
    return figure


def cmc(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the CMC of each cell minus its reference's, a panel a cell, behind the curves of the references.

    Lines are means over paired seeds, bands reach from the lowest to the highest seed.
    """
    if study.cmc is None:
        return None
    mine = study.cmc[study.cmc["dataset"] == dataset["name"]]
    curves = {name: part.pivot(index="rank", columns="seed", values="value") for name, part in mine.groupby("cell")}
    shown = [cell for cell in cells if cell.name in curves]
    if not shown:
        return None
    bases = list(dict.fromkeys(str(cell.start) if cell.start in curves else cell.name for cell in shown))
    compared = [cell for cell in shown if cell.start in curves]
    figure, panels = _panels(len(bases) + len(compared), title, "rank k", 1.45)
    for axes, name in zip(panels, bases, strict=False):
        _band(axes, curves[name], study.by_name[name])
        axes.set_title(name, fontsize=9)
        axes.set_ylabel("matched, %", fontsize=9)
    below = panels[len(bases) : len(bases) + len(compared)]
    for axes, cell in zip(below, compared, strict=True):
        axes.axhline(0, color=MUTED, linewidth=1)
        _band(axes, curves[cell.name] - curves[str(cell.start)], cell)
        axes.set_title(cell.name, fontsize=9)
        axes.sharey(below[0])
    for axes in panels:
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.yaxis.set_major_formatter(FuncFormatter(_points))
    if compared:
        below[0].set_ylabel("minus reference", fontsize=9)
    return figure


def _panels(number: int, title: str, label: str, height: float) -> tuple[Figure, list[Axes]]:
    """Returns a figure of small panels, three in a row, with one label below them all."""
    columns = min(3, max(number, 1))
    rows = -(-number // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.75 + height * rows))
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes in grid[number:]:
        axes.set_visible(False)
    for axes in grid[:number]:
        sns.despine(ax=axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supxlabel(label, fontsize=10)
    return figure, list(grid[:number])


def _band(axes: Axes, wide: pd.DataFrame, cell: Cell) -> None:
    """Draws the mean over the columns (seeds) against the index, and a band from the least to the largest."""
    wide = wide.dropna(axis=1, how="all")
    if wide.empty:
        return
    look: dict[str, Any] = {"color": colour(cell), "linewidth": 0}
    axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), alpha=0.25, **look)
    axes.plot(wide.index, wide.mean(axis=1), color=colour(cell), linestyle=_line(cell), label=cell.name)


def learning(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the total loss of every seed, a panel a cell, over the seeds of its reference in grey."""
    return _seeds(study, dataset, cells, title, "total", "total loss")


def holdout(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the mAP on held-out training identities of every seed, panels as in `learning`."""
    figure = _seeds(study, dataset, cells, title, HOLDOUT, "mAP, points")
    for axes in figure.axes if figure else ():
        axes.yaxis.set_major_formatter(FuncFormatter(_points))
        for line in axes.lines:
            line.set(marker="o", markersize=2.5, color=MUTED if line.get_color() == GRID else line.get_color())
    return figure


def _seeds(
    study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str, series: str, label: str
) -> Figure | None:
    """Returns a recorded series of every seed, a panel a cell, over the seeds of its reference in grey."""
    frame = _history(study, dataset, cells)
    if frame is None:
        return None
    own = frame[frame["name"] == series].dropna(subset="value") if series == HOLDOUT else frame[frame["name"] == series]
    curves = {key: part for key, part in own.groupby(["cell", "seed"], sort=False)}
    shown = [cell for cell in cells if any(name == cell.name for name, _ in curves)]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.75 + 1.25 * rows))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, cell in zip(panels, shown, strict=False):
        for (name, _), part in curves.items():
            if name == cell.name:
                axes.plot(part["epoch"] + 1, part["value"], color=colour(cell), linewidth=1.1, zorder=3)
            elif name == cell.start:
                axes.plot(part["epoch"] + 1, part["value"], color=GRID, linewidth=1.1, zorder=2)
        axes.set_title(cell.name, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        sns.despine(ax=axes)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel(label, fontsize=10)
    return figure


def terms(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns every other recorded series, a panel a name, as means over seeds with bands.

    What the reference of a cell records too is shown as the difference to it, seed by seed; what is the same in all
    cells, once.
    """
    frame = _history(study, dataset, cells)
    own = None if frame is None else frame[frame["cell"].isin([cell.name for cell in cells])]
    found = set() if own is None else {name for name in own["name"].unique() if not _NO_SERIES.fullmatch(name)}
    names = [name for name in (*TERMS, *sorted(found - {*TERMS})) if name in found]
    if frame is None or not names:
        return None
    wide = {
        (cell, name): part.pivot(index="epoch", columns="seed", values="value")
        for (cell, name), part in frame[frame["name"].isin(names)].groupby(["cell", "name"], sort=False)
    }
    shown = [cell for cell in cells if any((cell.name, name) in wide for name in names)]
    drawn = [(name, *_against(wide, shown, name)) for name in names]
    drawn = [(name, minus, curves) for name, minus, curves in drawn if curves]
    if not drawn:
        return None
    figure, panels = _panels(len(drawn), title, "epoch", 1.4)
    for axes, (name, minus, curves) in zip(panels, drawn, strict=True):
        for cell, values in curves:
            _band(axes, values.set_axis(values.index + 1), cell)
        if minus:
            axes.axhline(0, color=MUTED, linewidth=1)
        axes.set_title(TERMS[name] + (",\nminus reference" if minus else ""), fontsize=8.5)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)
    labels = {cell.name: cell for _, _, curves in drawn for cell, _ in curves}
    handles = [Line2D([], [], color=colour(cell), linestyle=_line(cell), label=name) for name, cell in labels.items()]
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // 3))
    figure.legend(handles=handles, loc="outside lower left", ncols=3, handlelength=1.6, columnspacing=1.2)
    return figure


def _against(
    wide: dict[tuple[Any, Any], pd.DataFrame], cells: list[Cell], name: str
) -> tuple[bool, list[tuple[Cell, pd.DataFrame]]]:
    """Returns whether a series is shown minus the reference's, and the curves (epoch x seed) of the cells to draw."""
    own = [(cell, wide[cell.name, name]) for cell in cells if (cell.name, name) in wide]
    known = [(cell, values, wide.get((cell.start, name))) for cell, values in own if cell.start]
    if not known or any(base is None for _, _, base in known):
        return False, own
    differences = [(cell, values - base) for cell, values, base in known if base is not None]
    same = all(np.nanmax(np.abs(values.to_numpy()), initial=0.0) == 0 for _, values in differences)
    return (False, own[:1]) if same else (True, differences)


def _history(study: StudyTables, dataset: dict[str, Any], cells: list[Cell]) -> pd.DataFrame | None:
    if study.history is None:
        return None
    names = {name for cell in cells for name in (cell.name, cell.start) if name}
    mask = (study.history["dataset"] == dataset["name"]) & study.history["cell"].isin(names)
    chosen: pd.DataFrame = study.history[mask].sort_values(["cell", "seed", "epoch"])
    return chosen


def cost(study: StudyTables, dataset: dict[str, Any], cells: list[Cell], title: str) -> Figure | None:
    """Returns the gain in mAP over the baseline against the time of a training step relative to it.

    A cell with another baseline than most names it. None where no cell's step takes a time that differs from the
    baseline's by more than it varies between seeds.
    """
    points, usual = [], main_baseline(study.cells)
    for contrast in study.to_baseline(dataset["name"]).values():
        ratio = study.step_ratio(dataset["name"], contrast.cell, contrast.reference)
        if contrast.cell in cells and ratio is not None and contrast.estimate.value is not None:
            points.append((ratio, contrast))
    if not any(low > 1 or high < 1 for (_, low, high), _ in points):
        return None
    figure, axes = _axes(4.0 + 0.2 * -(-len(points) // 3), title)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for (middle, low, high), contrast in points:
        shade, other = colour(contrast.cell), contrast.reference.name
        label = contrast.cell.name if other == usual else f"{contrast.cell.name} over {other}"
        if contrast.interval:
            axes.plot((middle, middle), contrast.interval, color=shade, linewidth=1.4)
        axes.plot((low, high), [contrast.value] * 2, color=shade, linewidth=1.4)
        axes.plot(
            [middle], [contrast.value], marker(contrast.cell), color=shade, markersize=7, markeredgewidth=1.4,
            markerfacecolor=shade if contrast.word in ("improves", "worsens") else "none", label=label,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(FuncFormatter(_points))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}\N{MULTIPLICATION SIGN}"))
    axes.set_xlabel("time of a training step, multiples of the baseline's")
    axes.set_ylabel("difference in mAP, points")
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
