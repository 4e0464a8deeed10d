"""The main table for papers and pull requests, and the summary for the terminal.

The main table has a row a data set and cell. CSV holds fractions at full precision; LaTeX, Markdown and the terminal
show points.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reidablate.artifacts import write_table, write_text
from reidablate.errors import plain
from reidablate.report.answer import answer_text
from reidablate.report.collect import collect
from reidablate.report.records import Contrast, camera_note, main_baseline
from reidablate.report.relations import RelationLog
from reidablate.report.study_tables import StudyTables
from reidablate.seeds import look_seeds

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "\N{DAGGER}": r"$^\dagger$",
}  # fmt: skip
SIGNS = {"improves": "\N{BLACK UP-POINTING TRIANGLE}", "worsens": "\N{BLACK DOWN-POINTING TRIANGLE}",
         "equivalent": "=", "undecided": "\N{WHITE CIRCLE}",
         "provisional": "\N{HORIZONTAL ELLIPSIS}"}  # fmt: skip


def main_table(study: StudyTables) -> pd.DataFrame:
    """Returns the main table in fractions: scores, and the difference in mAP to the baseline, a row a cell."""
    rows: list[dict[str, Any]] = []
    relations = RelationLog(study.history)
    for dataset in study.datasets:
        contrasts = study.to_baseline(dataset["name"])
        for cell in study.ran(dataset["name"]):
            row: dict[str, Any] = {
                "dataset": dataset["name"],
                "synthetic": dataset["name"] in study.synthetic_names,
                "mark": study.smoke,
                "cell": cell.name,
                "title": cell.title,
                "side": study.headline,
                "num_finished": int(study.num_runs("finished", dataset["name"], cell.name).value or 0),
                "num_planned": int(study.num_runs("", dataset["name"], cell.name).value or 0),
            }
            for metric in ("mAP", "rank1", "mINP", *(own["name"] for own in study.own_metrics)):
                for how in ("mean", "sd"):
                    row[f"{metric}_{how}"] = study.score(dataset["name"], cell.name, metric, how).value
            contrast = contrasts.get(cell.name)
            low, high = (contrast.interval if contrast else None) or (None, None)
            row |= {
                "baseline": cell.baseline,
                "difference": contrast.estimate.value if contrast else None,
                "low": low,
                "high": high,
                "verdict": contrast.verdict if contrast else None,
                "informative": contrast is None or relations.same_loss(contrast) is None,
            }
            if looks_of(study):
                row["after"] = contrast.after if contrast else None
            rows.append(row)
    return pd.DataFrame(rows)


def best_cells(study: StudyTables, dataset: str, contrasts: Mapping[str, Contrast]) -> dict[str, int]:
    """Returns {cell: 1 or 2} for the highest and second mAP, each only where its verdict is *improves*."""
    means = {cell.name: study.score(dataset, cell.name, "mAP").value for cell in study.ran(dataset)}
    ranked = sorted((name for name, mean in means.items() if mean is not None), key=lambda name: -(means[name] or 0.0))
    places = {name: place for place, name in enumerate(ranked[:2], start=1)}
    return {name: place for name, place in places.items() if name in contrasts and contrasts[name].word == "improves"}


def tex(value: object) -> str:
    """Returns text with LaTeX's special characters made harmless; letters of any script stay, control codes do not."""
    return "".join(_TEX.get(letter, letter) for letter in plain(str(value)))


def md(value: object) -> str:
    """Returns text that stays one cell of a Markdown table and holds no markup."""
    flat = " ".join(str(value).split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for letter in "|`*_[]":
        flat = flat.replace(letter, f"\\{letter}")
    return flat


def export_filters() -> dict[str, Callable[..., Any]]:
    """Returns the filters of the LaTeX and Markdown templates by name."""
    return {"tex": tex, "md": md}


def write_exports(study: StudyTables, environment: Environment, folder: Path) -> list[str]:
    """Writes `exports/main_table.{csv,parquet,tex,md}` and `summary.md` into a folder and returns their names."""
    table = main_table(study)
    for suffix in ("csv", "parquet"):
        write_table(table, folder / "exports" / f"main_table.{suffix}")
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for record in table.astype(object).where(table.notna(), None).to_dict("records"):
        rows.setdefault(record["cell"], {})[record["dataset"]] = {str(key): value for key, value in record.items()}
    ranks = {d["name"]: best_cells(study, d["name"], study.to_baseline(d["name"])) for d in study.datasets}
    usual = main_baseline(study.cells)
    context = {"study": study, "answer": answer_text(study), "rows": rows, "ranks": ranks, "baseline": usual}
    context |= {"protocol": protocol_line(study), "note": camera_note(study.cells)}
    rendered = ["exports/main_table.tex", "exports/main_table.md", "summary.md"]
    for name in rendered:
        template = environment.get_template(f"{Path(name).name}.j2")
        write_text(folder / name, template.render(context))
    return ["exports/main_table.csv", "exports/main_table.parquet", *rendered]


def protocol_line(study: StudyTables) -> str:
    """Returns how the scores of a study were made, as a sentence for captions."""
    side = study.headline.replace("_", " ")
    line = f"Single query, features {side}, cosine distance, the query's own camera and junk left out, AP as step sum."
    recipes = study.about.get("recipes")
    over = f"Each seed has a recipe of its own; differences are means over {len(recipes)} recipes." if recipes else ""
    return " ".join(part for part in (line, looks_of(study), over) if part)


def looks_of(study: StudyTables) -> str:
    """Returns how seeds were added, as a sentence; empty where their number was fixed."""
    if not (cap := study.about.get("looks")):
        return ""
    *first, last = map(str, look_seeds(cap))
    return f"Seeds were added until each comparison was decided, with looks at {', '.join(first)} and {last}."


def text_summary(tables: Path) -> str:
    """Returns the summary as text with terminal colours left out: the runs, and a table a data set.

    Args:
        tables: The folder `results/<preset>/tables`.

    Raises:
        UserError: A required table is missing or broken.
    """
    study = collect(tables)
    console = Console(file=io.StringIO(), width=110, force_terminal=False)
    counts = {word: int(study.num_runs(word).value or 0) for word in ("finished", "diverged", "missing")}
    lines = [
        f"{study.about.get('preset', '')}: {len(study.cells)} cells, {len(study.datasets)} data sets, "
        f"{len(study.seeds)} seed{'s' * (len(study.seeds) != 1)}; "
        + ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        + ".",
        *([f"{study.smoke.upper()}."] if study.smoke else []),
        *(["SYNTHETIC DATA: no published claim is judged on it."] if study.synthetic else []),
        *study.about.get("notices", []),
        *study.absent.values(),
    ]
    for line in [*lines, *answer_text(study)]:
        console.print(Text(str(line)))
    for dataset in study.datasets:
        console.print()
        console.print(_terminal_table(study, dataset))
        if note := camera_note(study.ran(dataset["name"])):
            console.print(Text(note))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def _terminal_table(study: StudyTables, dataset: dict[str, Any]) -> Table:
    name = dataset["name"]
    mark = " (synthetic)" if name in study.synthetic_names else ""
    table = Table(
        title=Text(f"{dataset.get('title') or name}{mark}, points, {study.headline.replace('_', ' ')}, AP step sum"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for header in ("cell", "seeds", "mAP", "Rank-1", "mAP difference", "verdict"):
        table.add_column(header, justify="left" if header in ("cell", "verdict") else "right")
    contrasts, usual = study.to_baseline(name), main_baseline(study.cells)
    relations = RelationLog(study.history)
    for cell in study.ran(name):
        finished, planned = (study.num_runs(word, name, cell.name).value or 0 for word in ("finished", ""))
        contrast = contrasts.get(cell.name)
        difference = _signed(contrast.estimate.value) if contrast else ""
        if contrast and contrast.interval:
            difference += " [{}, {}]".format(*map(_signed, contrast.interval))
        if contrast and contrast.reference.name != usual:
            difference += f" over {contrast.reference.name}"
        word = f"{SIGNS.get(contrast.word, '')} {contrast.verdict or 'no interval'}" if contrast else ""
        word += f", {contrast.after}" if contrast and contrast.after else ""
        if contrast and relations.same_loss(contrast):
            word += " *"
            table.caption, table.caption_justify = Text("* not informative: both sides were the same loss"), "left"
        scores = [
            _spread(study.score(name, cell.name, metric).value, study.score(name, cell.name, metric, "sd").value)
            for metric in ("mAP", "rank1")
        ]
        row = [cell.name + cell.mark, f"{finished:.0f} of {planned:.0f}", *scores, difference, word]
        table.add_row(*(Text(value) for value in row))
    return table


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}")
