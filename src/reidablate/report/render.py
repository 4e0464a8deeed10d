"""From the tables to `report/index.html`: one file without network, with figures and exports beside it."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError

from reidablate import integrity
from reidablate.artifacts import only_writer, read_json, write_record, write_text
from reidablate.errors import UserError
from reidablate.places import TEMPLATES, packaged
from reidablate.report.collect import StudyTables, collect
from reidablate.report.exports import export_filters, write_exports
from reidablate.report.figures import Plot, colour, draw, marker
from reidablate.report.records import Contrast, changes
from reidablate.report.sections import own_sections

RECORD = "report.json"


def render_report(results: Path, templates: Path, out: Path) -> None:
    """Writes the report of `results/<preset>` to `out`, its figures to `figures/` and exports to `exports/` beside it.

    `report.json`, written last, names their checksums and those of the records of the tables.

    The output depends on the tables and the templates alone: the same input gives the same bytes.

    Args:
        results: The folder that holds `tables/`.
        templates: A folder of Jinja templates that replace the package's one by one; it need not exist.
        out: The HTML file.

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
            plots = draw(study, out.parent / "figures")
            write_text(out, render_html(study, plots, environment))
            exports = write_exports(study, environment, out.parent)
            figures = [f"figures/{plot.name}.{suffix}" for plot in plots for suffix in ("pdf", "png")]
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
    environment.globals |= {"colour": colour, "marker": marker, "changes": changes}
    return environment


def render_html(study: StudyTables, plots: list[Plot], environment: Environment) -> str:
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
        "spans": {name: span(contrasts.values()) for name, contrasts in overall.items()},
        "script": script,
        "script_hash": f"sha256-{digest}",
        "synthetic_names": study.synthetic_names,
        "samples": {
            name: f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
            for name, path in study.samples.items()
        },
    }
    own = own_sections(environment, study, context)
    sections = _sections(study, [(section.anchor, section.title) for section in own])
    return environment.get_template("report.html.j2").render({**context, "own_sections": own, "sections": sections})


def _sections(study: StudyTables, own: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns (anchor, title) of every section in the order of the page, those that a study brings among them."""
    groups = [
        (f"group-{number}", f"Group: {group.replace('_', ' ')}") for number, group in enumerate(study.groups, start=1)
    ]
    beside = study.beside
    extra = [
        ("cross-domain", "Other data sets", beside.cross_domain),
        ("cameras", "Camera pairs", beside.camera_pairs),
        ("imported", "Imported runs", beside.imported),
    ]
    return [
        ("summary", "Summary"),
        ("claims", "Published claims"),
        *groups,
        ("joint", "Families and joint conclusions"),
        *((anchor, title) for anchor, title, table in extra if table is not None),
        *own,
        ("cost", "Cost"),
        ("data", "Data sets"),
        ("calibration", "Calibration"),
        ("failures", "Failures"),
        ("provenance", "Provenance"),
        ("definitions", "Definitions"),
    ]


def fixed(value: float, digits: int = 0, sign: bool = False) -> str:
    """Returns a number with a fixed number of decimals, thousands separated, with a real minus and no -0."""
    shown = f"{value:{'+' if sign else ''},.{digits}f}"
    if not any(digit in "123456789" for digit in shown):
        shown = shown.lstrip("+-")
    return shown.replace("-", "\N{MINUS SIGN}")


def span(contrasts: Iterable[Contrast]) -> tuple[float, float]:
    """Returns the least and the largest value that estimates and intervals reach, zero included."""
    values = [end for c in contrasts for end in (c.estimate.value, *(c.interval or ())) if end is not None]
    return min([0.0, *values]), max([0.0, *values])
