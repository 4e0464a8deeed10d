"""The material of a diagnostics page: what its figures are drawn from, and what a section consists of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from reidablate.diagnostics.faces import Pixels, blur_face
from reidablate.diagnostics.subject import Amount, Subject


@dataclass(frozen=True)
class Section:
    """A part of the page: `how` is the sentence on how to read it, `parts` are elements in order."""

    anchor: str
    title: str
    how: str
    parts: Sequence[str]


@dataclass(frozen=True)
class Look:
    """A subject, what it is compared with, how much is looked at, whether faces are blurred, and queries by name."""

    subject: Subject
    reference: Subject | None
    amount: Amount
    blur: bool
    others: Sequence[Subject] = field(default=())  # of other kinds of network, for comparisons of representations
    queries: Sequence[str] = field(default=())  # whose rank lists are asked for by name

    def pixels(self, split: str, row: Any) -> Pixels:
        """Returns an image of the data set as it may be shown."""
        found = self.subject.pixels(split)[int(row)]
        return blur_face(found) if self.blur else found


def aside(sentence: str) -> str:
    """Returns a paragraph that says why something is not there, or what to keep in mind."""
    return f'<p class="aside">{escape(sentence)}</p>'
