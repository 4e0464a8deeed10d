"""From the figures to parts of the page: SVG that follows the page's colours, and PDF or PNG files where asked for.

The inks and colours of a drawing become CSS variables, so one drawing is legible on light and on dark ground.
"""

import base64
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from html import escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from reidablate.artifacts import atomic_path, content_hash
from reidablate.errors import UserError
from reidablate.provenance import usable_cores
from reidablate.report.figures import (
    COLOURS,
    GRID,
    INK,
    MUTED,
    STYLE,
    cmc,
    cost,
    forest,
    holdout,
    learning,
    power,
    scores,
    terms,
)
from reidablate.report.study_tables import StudyTables

MAX_SVG_BYTES = 400_000
FIGURES_A_PROCESS = 16  # below this, starting another process costs more than it saves
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"} | {
    shade: f"var(--c{place})" for place, shade in enumerate(COLOURS)
}


@dataclass(frozen=True)
class Plot:
    """A finished figure: `image` is an SVG element, or an `img` with an inlined PNG if that would be too large."""

    kind: str
    name: str
    dataset: str
    group: str
    caption: str
    image: str
    files: tuple[str, ...] = ()


def unique_slug(name: str) -> str:
    """Returns a name for a file and an anchor: the name itself where that is safe, else what is safe of it and a hash.

    Different names give different results, also where file names do not tell capitals from small letters.
    """
    safe = re.sub(r"[^a-z0-9_.-]+", "_", name.lower())[:80]
    return safe if safe == name else f"{safe}-{content_hash(name)[:8]}"


def formats(text: str) -> list[str]:
    """Returns the formats of files that an option names, separated by commas.

    Raises:
        UserError: One is neither `pdf` nor `png`.
    """
    named = [word.strip() for word in text.split(",") if word.strip()]
    for word in named:
        if word not in ("pdf", "png"):
            raise UserError(f"--figures: figures are written as pdf or png, not as '{word}'; correct the option.")
    return named


@dataclass(frozen=True)
class _Job:
    """One figure to draw: `make` is a function of `figures`."""

    kind: str
    make: Callable[..., Figure | None]
    dataset: dict[str, Any]
    group: str
    caption: str


def draw(study: StudyTables, folder: Path, files: Sequence[str] = ()) -> list[Plot]:
    """Draws every figure the tables allow, in several processes if there are many, and returns them for the page.

    Args:
        study: The study.
        folder: Where files go; figures of an earlier call are removed from it.
        files: `pdf`, `png`: also write each figure in these formats.
    """
    for left in (*folder.glob("*.pdf"), *folder.glob("*.png")):
        left.unlink()
    jobs = list(_catalogue(study))
    workers = min(usable_cores(), len(jobs) // FIGURES_A_PROCESS) if sys.platform == "linux" else 1
    if workers < 2:
        found = [_drawn(study, job, folder, files) for job in jobs]
    else:  # forked, so that no process imports or reads anything again
        _shared[:] = (study, folder, tuple(files))
        with ProcessPoolExecutor(workers, get_context("fork")) as pool:
            found = list(pool.map(_draw_shared, jobs))
    return [plot for plot in found if plot is not None]


_shared: list[Any] = []  # what all figures of a process need; inherited by the processes that draw


def _draw_shared(job: _Job) -> Plot | None:
    study, folder, files = _shared
    return _drawn(study, job, folder, files)


def _drawn(study: StudyTables, job: _Job, folder: Path, files: Sequence[str]) -> Plot | None:
    """Returns one figure for the page and writes its files; None where the tables hold nothing for it."""
    label = str(job.dataset.get("title") or job.dataset["name"])[:60]
    mark = " (synthetic)" if job.dataset["name"] in study.synthetic_names else ""
    smoke = f"{study.smoke.capitalize()}. " if study.smoke else ""
    title = label + mark + (f"\n{smoke}" if smoke else "")
    with mpl.rc_context(STYLE):
        cells = study.groups[job.group] if job.group else list(study.cells)
        figure = job.make(study, title) if job.kind == "power" else job.make(study, job.dataset, cells, title)
        if figure is None:
            return None
        slug = unique_slug("_".join(filter(None, (job.kind, job.group, job.dataset["name"]))))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is found once, not at every save
        image = inline_svg(
            figure, slug, f"{smoke}{job.caption} Data set: {label}{mark}. The tables hold the same values."
        )
        for suffix in files:
            metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
            with atomic_path(folder / f"{slug}.{suffix}") as path:
                figure.savefig(path, format=suffix, dpi=150, metadata=metadata, facecolor="white")
    return Plot(job.kind, slug, job.dataset["name"], job.group, job.caption, image, tuple(files))


_POWER = "Share of experiments where the default interval finds a true gain. Effects: typical; dashed: 80 %."
_WHOLE = (
    ("forest", forest, "Differences in mAP of each cell to its references, with adjusted intervals and verdicts."),
    ("cost", cost, "Gain in mAP over the baseline against the time of a training step, both with their intervals."),
)
_BY_GROUP = (
    ("scores", scores, "mAP of each seed and mean of each cell; the dashed line is the mean of what they start from."),
    (
        "cmc",
        cmc,
        "CMC of what the cells start from, and of each cell minus that, in points: mean, lowest and highest seed.",
    ),
    (
        "learning",
        learning,
        "Total loss by epoch, one line per seed; in grey those of the cell that it starts from.",
    ),
    (
        "holdout",
        holdout,
        "mAP on held-out training identities by epoch, one line per seed; in grey the cell that it starts from.",
    ),
    ("terms", terms, "Loss terms, learning rate and norms by epoch: mean, lowest and highest seed."),
)


def _catalogue(study: StudyTables) -> Iterator[_Job]:
    """Yields every figure to draw, in the order of the page."""
    for dataset in study.datasets:
        for kind, make, caption in _WHOLE:
            yield _Job(kind, make, dataset, "", caption)
        for group in study.groups:
            for kind, make, caption in _BY_GROUP:
                yield _Job(kind, make, dataset, group, caption)
    if study.calibration is not None:
        yield _Job("power", power, {"name": "", "title": "Simulated experiments"}, "", _POWER)


def inline_svg(figure: Figure, slug: str, alternative: str) -> str:
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
    for ink, variable in VARIABLES.items():
        svg = svg.replace(ink, variable)
    head = f'<svg role="img" aria-label="{escape(alternative)}" '
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2).replace("<svg ", head, 1).strip()


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
