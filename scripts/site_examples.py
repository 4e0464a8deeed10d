"""Shows the examples of docstrings as code on the site. An extension of Griffe, named in `mkdocs.yml`."""

import re
import textwrap
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Puts examples, which stand behind the text of a docstring without a heading, into a section of their own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of one module, class or function."""
        if obj.docstring is not None:
            obj.docstring.value = with_headings(obj.docstring.value)


def with_headings(text: str) -> str:
    """Returns a docstring with each run of lines from `>>>` to the next empty line under `Examples:`."""
    return re.sub(r"(?m)^>>> (?:.+\n?)+", lambda found: f"Examples:\n{textwrap.indent(found[0], '    ')}", text)
