"""From the tables to `report/index.html`: one file without network, with figures and exports beside it."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError

from reidablate import integrity
from reidablate.artifacts import only_writer, read_json, write_record, write_text
from reidablate.errors import UserError
from reidablate.places import TEMPLATES, packaged
from reidablate.report.answer import answers, describe
from reidablate.report.collect import collect
from reidablate.report.curves import Curves
from reidablate.report.drawing import Plot, draw
from reidablate.report.exports import best_cells, export_filters, write_exports
from reidablate.report.figures import marker, paint
from reidablate.report.pages import Page, find_pages
from reidablate.report.parts import first_contrasts, parts_of
from reidablate.report.records import (
    VERDICTS,
    Cell,
    Contrast,
    Number,
    camera_note,
    changes,
    fixed,
    main_baseline,
    over_rows,
)
from reidablate.report.relations import RelationLog
from reidablate.report.sections import own_sections
from reidablate.report.slices import KINDS
from reidablate.report.study_tables import HEADLINE, StudyTables

RECORD = "report.json"


def render_report(results: Path, templates: Path, out: Path, *, files: Sequence[str] = ()) -> None:
    """Writes the report of `results/<preset>` to `out` and its exports to `exports/` beside it.

    `report.json`, written last, names their checksums and those of the records of the tables.

    The output depends on the tables and the templates alone: the same input gives the same bytes.

    Args:
        results: The folder that holds `tables/`.
        templates: A folder of Jinja templates that replace the package's one by one; it need not exist.
        out: The HTML file.
        files: `pdf`, `png`: also write every figure to `figures/` beside it in these formats.

    Raises:
        UserError: A required table is missing, or a template is broken.
    """
    read_json(results / "tables" / "study.json")  # a folder that holds no tables gets no lock
    environment = make_environment(templates)
    try:
        with only_writer(results / "tables", "report"):
            study = collect(results / "tables")
            record = out.parent / RECORD
            record.unlink(missing_ok=True)  # it vouches for the others, so it comes last
            plots = draw(study, out.parent / "figures", files)
            pages = find_pages(results, out.parent)
            write_text(out, render_html(study, plots, environment, pages))
            exports = write_exports(study, environment, out.parent)
            figures = [f"figures/{plot.name}.{suffix}" for plot in plots for suffix in plot.files]
            made_of = integrity.digests_of(results / "tables" / name for name in ("study.json", "statistics.json"))
            write_record(record, {"made_of": made_of}, [out.name, *exports, *figures])
    except TemplateError as error:
        wrong = f"a template of {templates}"
        if isinstance(error, TemplateSyntaxError):
            wrong = f"{error.filename or error.name}, line {error.lineno},"
        raise UserError(f"{wrong} is wrong: {error}; correct it.") from error


def make_environment(templates: Path) -> Environment:
    """Returns the Jinja environment: everything is escaped in HTML, an unknown name is an error.

    A template is taken from the folder `templates`, or from the package where that has none of its name.
    """
    environment = Environment(
        loader=FileSystemLoader([templates, packaged(TEMPLATES)]),
        autoescape=lambda name: name is None or ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "span": span, **export_filters()}
    environment.globals |= {
        "paint": paint,
        "marker": marker,
        "changes": changes,
        "SLICES": KINDS,
        "camera_note": camera_note,
    }
    return environment


def render_html(study: StudyTables, plots: list[Plot], environment: Environment, pages: Sequence[Page] = ()) -> str:
    """Returns the page; its own script is allowed by hash, every other script and every request is refused."""
    everywhere = [*study.datasets, *study.about.get("test_only", [])]
    overall = {dataset["name"]: study.to_baseline(dataset["name"]) for dataset in study.datasets}
    script = environment.get_template("script.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    context: dict[str, Any] = {
        "study": study,
        "plots": plots,
        "overall": overall,
        "titles": {d["name"]: str(d.get("title") or d["name"])[:60] for d in everywhere},
        "baseline": main_baseline(study.cells),
        "spans": {name: span(contrasts.values()) for name, contrasts in overall.items()},
        "answers": answers(study),
        "relations": RelationLog(study.history),
        "curves": Curves(study.history),
        "pages": [page for page in pages if page.dataset in {d["name"] for d in study.datasets}],
        "counts": verdict_counts([c for contrasts in overall.values() for c in contrasts.values()]),
        "ranks": {name: best_cells(study, name, contrasts) for name, contrasts in overall.items()},
        "parts": {group: _parts(study, cells) for group, cells in study.groups.items()},
        "other_side": "after neck" if study.headline == HEADLINE else "before neck",
        "script": script,
        "script_hash": f"sha256-{digest}",
        "synthetic_names": study.synthetic_names,
        "samples": {
            name: f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
            for name, path in study.samples.items()
        },
    }
    own = own_sections(environment, study, context)
    sections = _sections(study, [(section.anchor, section.title) for section in own], pages=bool(context["pages"]))
    return environment.get_template("report.html.j2").render({**context, "own_sections": own, "sections": sections})


def verdict_counts(contrasts: Sequence[Contrast]) -> dict[str, Number]:
    """Returns how many comparisons have each verdict, `none` of them, are tested, and are there at all.

    Tested are those that all their runs and an interval allow to judge.
    """
    groups = {word: [c for c in contrasts if c.word == word] for word in VERDICTS}
    groups["none"] = [c for c in contrasts if not c.word]
    groups["tested"] = [c for c in contrasts if c.p_adjusted and c.p_adjusted.value is not None]
    groups["all"] = list(contrasts)
    return {name: over_rows(chosen, "cell", "count") for name, chosen in groups.items()}


def _parts(study: StudyTables, cells: list[Cell]) -> list[dict[str, Any]]:
    """Returns the tables of a group with their comparisons, the ends of their bars and what they say."""
    found = []
    for part in parts_of(study, cells):
        against = {d["name"]: first_contrasts(study, d["name"], part) for d in study.datasets}
        found.append(
            {
                "part": part,
                "against": against,
                "spans": {name: span(contrasts.values()) for name, contrasts in against.items()},
                "outcome": {
                    name: describe(list(contrasts.values())) if study.contrasts is not None else []
                    for name, contrasts in against.items()
                },
            }
        )
    return found


def _sections(study: StudyTables, own: list[tuple[str, str]], *, pages: bool) -> list[tuple[str, str]]:
    """Returns (anchor, title) of every section in the order of the page, those that a study brings among them."""
    groups = [
        (f"group-{number}", f"Group: {group.replace('_', ' ')}") for number, group in enumerate(study.groups, start=1)
    ]
    others = study.beside
    extra = [
        ("cross-domain", "Other data sets", others.cross_domain),
        ("cameras", "Camera pairs", others.camera_pairs),
        ("imported", "Imported runs", others.imported),
    ]
    return [
        ("summary", "Summary"),
        ("claims", "Published claims"),
        *groups,
        ("joint", "Families and joint conclusions"),
        *([("slices", "Parts of the test set")] if study.slices is not None else []),
        *((anchor, title) for anchor, title, table in extra if table is not None),
        *own,
        *([("diagnostics", "Diagnostics")] if pages else []),
        ("cost", "Cost"),
        ("data", "Data sets"),
        ("calibration", "Calibration"),
        ("failures", "Failures"),
        ("provenance", "Provenance"),
        ("definitions", "Definitions"),
    ]


def span(contrasts: Iterable[Contrast]) -> tuple[float, float]:
    """Returns the least and the largest value that estimates and intervals reach, zero included."""
    values = [end for c in contrasts for end in (c.estimate.value, *(c.interval or ())) if end is not None]
    return min([0.0, *values]), max([0.0, *values])
