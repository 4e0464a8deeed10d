"""Sections about single queries: the hardest, and those that a cell helps and hurts."""

from typing import Any

import pandas as pd

from reidablate.diagnostics.look import Look, Section, aside
from reidablate.diagnostics.pictures import captioned, element, person, strip
from reidablate.diagnostics.ranklists import hardest, helped_and_hurt, margins, rank_list
from reidablate.diagnostics.subject import Subject
from reidablate.errors import UserError
from reidablate.report.records import fixed


def rank_strip(look: Look, subject: Subject, row: int, label: str) -> str:
    """Returns a query and its first ten images, each with its rank and in a frame of its kind."""
    query = element(person(look.pixels("query", row)), "query")
    tiles = [captioned(query, "query", "query")]
    for shown in rank_list(subject.retrieval, row):
        picture = element(person(look.pixels("gallery", shown.image)), f"{shown.kind}, rank {shown.rank or 'none'}")
        words = "junk" if shown.rank is None else f"{shown.rank} {shown.kind}"
        tiles.append(captioned(picture, words, shown.kind))
    return strip(tiles, label)


def chosen_queries(look: Look) -> Section | None:
    """Returns the rank lists of the queries that were asked for by name, the reference's below each; None without any.

    Raises:
        UserError: The data set has no such query.
    """
    if not look.queries:
        return None
    places = look.subject.queries.set_index("query")
    parts = []
    for name in look.queries:
        if name not in places.index:
            known = f"{places.index[0]}, ..., {places.index[-1]}"
            raise UserError(f"--query: {look.subject.run.dataset} scores no query '{name}'; its queries are {known}.")
        for subject in (look.subject, *([look.reference] if look.reference else [])):
            scores = subject.queries.set_index("query")["average_precision"]
            label = f"{name} by {subject.run.cell}: AP {100 * scores[name]:.1f} %"
            parts.append(rank_strip(look, subject, int(places["row"][name]), label))
    how = (
        "The queries that were asked for, each by this cell and by its reference: green is right, red wrong, grey junk."
    )
    return Section("chosen", "Chosen queries", how, parts)


def hardest_queries(look: Look) -> Section:
    """Returns the rank lists of the hardest queries, found in three ways; a query that two ways find stands once."""
    subject = look.subject
    frame = subject.queries
    margin = margins(subject.retrieval)[frame["row"].to_numpy(int)]
    found: dict[str, list[str]] = {}
    for way, names in hardest(frame, margin, look.amount.queries).items():
        for name in names:
            found.setdefault(name, []).append(way)
    by_name = frame.assign(margin=margin).set_index("query")
    parts = []
    for name, ways in found.items():
        query: Any = by_name.loc[name]
        label = (
            f"Hardest by {', '.join(ways)}: AP {100 * query['average_precision']:.1f} %, "
            f"INP {100 * query['inverse_negative_penalty']:.1f} %, margin {fixed(query['margin'], 3, sign=True)}"
        )
        parts.append(rank_strip(look, subject, int(query["row"]), label))
    how = (
        "Each row is a query and the gallery in the order of the cell: green frames are right, red ones wrong, grey "
        "ones junk that does not count. INP is the share of right images down to the last right one; the margin is "
        "the distance to the nearest right image minus that to the nearest wrong one: above 0 the first is wrong."
    )
    return Section("hardest", "Hardest queries", how, parts)


def helped_and_hurt_queries(look: Look) -> Section | None:
    """Returns the queries that gain and lose most against the reference, its rank list below the cell's."""
    if look.reference is None:
        return None
    name = look.reference.run.cell
    helped, hurt = helped_and_hurt(look.subject.queries, look.reference.queries, look.amount.queries)
    rows = look.subject.queries.set_index("query")["row"]
    parts = [aside(f"No query's average precision differs from {name}.")] if helped.empty and hurt.empty else []
    for words, frame in (("Helped", helped), ("Hurt", hurt)):
        parts += [_pair(look, words, query, int(rows[query["query"]])) for _, query in frame.iterrows()]
    how = (
        f"The same query by this cell and by {name}, seed {look.subject.run.seed} against the same seed: where the "
        f"upper row has more green frames at its left end, the cell helps this query."
    )
    return Section("helped", f"Most helped and most hurt against {name}", how, parts)


def _pair(look: Look, words: str, query: "pd.Series[float]", row: int) -> str:
    assert look.reference is not None
    own = f"{words}: {look.subject.run.cell}, AP {100 * query['cell']:.1f} %"
    other = f"{look.reference.run.cell}, AP {100 * query['reference']:.1f} %"
    strips = rank_strip(look, look.subject, row, own), rank_strip(look, look.reference, row, other)
    return f'<div class="pair">{"".join(strips)}</div>'
