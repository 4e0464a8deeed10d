"""Sections of the report that a study brings itself: a template and the table that it shows.

A file `report_templates/section_NAME.html.j2` whose first line is `{# section: TITLE; table: TABLE #}` is a section of
the page and of its contents. It is rendered like the package's own, with `rows`, the rows of `tables/TABLE.parquet`:
numbers know where they come from and are printed with the macro `num`. One that fails says so in its place and leaves
the page alone; one that renders nothing is left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, TemplateError, TemplateSyntaxError

from reidablate.artifacts import read_table
from reidablate.errors import UserError, shortened
from reidablate.report.records import Number, Where, plain, printable, text
from reidablate.report.study_tables import StudyTables

_NAME = re.compile(r"section_([a-z0-9_]+)\.html\.j2")
_FIRST = re.compile(r"\{#-?\s*section:\s*(?P<title>[^;#]+?)\s*;\s*table:\s*(?P<table>[a-z0-9_]+)\s*-?#\}")


@dataclass(frozen=True)
class OwnSection:
    """A section, rendered.

    Attributes:
        anchor: Its place in the page.
        title: Its title.
        html: What its template made, empty where it failed.
        problem: Why it failed, empty where it did not.
    """

    anchor: str
    title: str
    html: str
    problem: str = ""


def own_sections(environment: Environment, study: StudyTables, context: Mapping[str, Any]) -> list[OwnSection]:
    """Returns the sections whose templates the environment has, by name.

    Args:
        environment: That of the report.
        study: Its tables.
        context: What every template of the report is given.
    """
    names = [match for name in environment.list_templates() if (match := _NAME.fullmatch(name))]
    sections = [_section(environment, study, context, match[0], match[1]) for match in names]
    return [section for section in sections if section.problem or section.html.strip()]


def _section(
    environment: Environment, study: StudyTables, context: Mapping[str, Any], name: str, word: str
) -> OwnSection:
    assert environment.loader is not None
    anchor, title = f"section-{word.replace('_', '-')}", word.replace("_", " ").capitalize()
    first = _FIRST.match(environment.loader.get_source(environment, name)[0])
    if first is None:
        wanted = "{# section: TITLE; table: TABLE #}"
        return OwnSection(anchor, title, "", f"{name} does not begin with {wanted}; write such a line.")
    try:
        rows = _rows(study, first["table"])
        html = environment.get_template(name).render({**context, "rows": rows})
    except (UserError, TemplateError, TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        return OwnSection(anchor, first["title"], "", f"{name}{line} cannot be shown: {shortened(error)}")
    return OwnSection(anchor, first["title"], html)


def _rows(study: StudyTables, table: str) -> list[dict[str, Number | str]]:
    """Returns a table row by row: numbers as `Number`, everything else as text."""
    frame = read_table(study.tables_folder / f"{table}.parquet")
    kinds = {column: frame[column].dtype for column in frame.columns}
    types = pd.api.types
    numeric = {c for c, kind in kinds.items() if types.is_numeric_dtype(kind) and not types.is_bool_dtype(kind)}
    return [
        {
            str(column): Number(plain(value), table, Where.at(index), str(column))
            if column in numeric
            else printable(text(value))
            for column, value in record.items()
        }
        for index, record in enumerate(frame.to_dict("records"))
    ]
