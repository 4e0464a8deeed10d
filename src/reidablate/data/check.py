"""Checks a data set folder before any network sees it: `reidablate data check`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidablate.data.census import count
from reidablate.data.folder import read_folder
from reidablate.data.formats import Layout, flat_counts
from reidablate.data.index import build_index, check_pixels
from reidablate.data.locating import detect, settle
from reidablate.data.table import Table, layout_of
from reidablate.errors import UserError, plain


def choose_layout(root: Path, name: str | None, table: Table) -> tuple[Path, Layout]:
    """Returns the folder of the set in `root` and how it is read.

    Without a name it is the data set of the table whose folders, names and published counts fit; where several fit as
    well as each other, the first.

    Raises:
        UserError: No data set of the table has this name, or none fits; then the reason of the nearest one.
    """
    if name is not None:
        layout = layout_of(name, table)
        return settle(root, layout), layout
    problems = []
    fitting: list[tuple[Path, Layout, bool]] = []
    for candidate in detect(root, table):
        layout = layout_of(candidate, table)
        place = settle(root, layout)
        try:
            counts = count(read_folder(place, layout).records, layout)
        except UserError as error:
            problems.append(error)
            continue
        fitting.append((place, layout, layout.published is not None and counts == layout.published.model_dump()))
    if not fitting and problems:
        raise problems[0]
    if not fitting:
        known = ", ".join(table)
        raise UserError(f"{root} looks like none of {known}; name its layout with --format, or check the folder.")
    place, layout, _ = max(fitting, key=lambda found: found[2])
    return place, layout


def check_folder(root: Path, layout: Layout, *, strict: bool, decode: bool, workers: int) -> dict[str, Any]:
    """Returns what a data set folder holds: the summary of its index, and two more counts of the gallery.

    `gallery_without_junk` is the gallery that is searched, `gallery_of_ids` the part of it that shows a person of the
    set; `decoded` tells whether all pixels were read.

    Args:
        root: The data set's folder, or its manifest.
        layout: How the set is read.
        strict: Refuse what otherwise is a warning: counts other than the published ones, a query without a positive.
        decode: Decode every image.
        workers: Threads that read files.

    Raises:
        UserError: What `build_index` refuses; with `decode` an image that cannot be decoded; with `strict` as above.
    """
    index = build_index(root, layout, workers=workers)
    if decode:
        check_pixels(index, root, workers=workers)
    summary, counts = index.summary, index.summary["counts"]
    if strict:
        _refuse(root, summary, layout)
    without_junk = counts["gallery"]["images"] - counts["junk"]
    more = {"gallery_without_junk": without_junk, "gallery_of_ids": without_junk - counts["distractors"]}
    return {**summary, **more, "decoded": decode}


def _refuse(root: Path, summary: Mapping[str, Any], layout: Layout) -> None:
    problems = []
    if layout.published is not None and not summary["official_counts"]:
        both = (summary["counts"], layout.published.model_dump())
        found, wanted = (", ".join(f"{key} {value}" for key, value in flat_counts(c).items()) for c in both)
        problems.append(f"it holds {found}, the published set {wanted}")
    if summary["queries_without_positive"]:
        problems.append(f"{summary['queries_without_positive']} queries have no positive from another camera")
    if problems:
        raise UserError(f"{root}: {'; '.join(problems)}; unpack the published set again, or check without --strict.")


def print_check(found: Mapping[str, Any], layout: Layout) -> None:
    """Prints the counts of a checked folder beside the published ones, and every warning."""
    from rich import table as tables
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    columns = ["found"] if layout.published is None else ["found", escape(f"{plain(layout.title)}, published")]
    table = tables.Table("", *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    published = {} if layout.published is None else flat_counts(layout.published.model_dump())
    for name, number in flat_counts(found["counts"]).items():
        table.add_row(name, f"{number:,}", *([f"{published[name]:,}"] if published else []))
    console.print(table)
    console.print(
        f"gallery without junk {found['gallery_without_junk']:,}, of the set's identities {found['gallery_of_ids']:,}; "
        f"in query and gallery under one name {found['shared_query_gallery']:,}; "
        f"{'every image decoded' if found['decoded'] else 'headers and ends read, pixels not decoded'}"
        f"{'; synthetic' if found['synthetic'] else ''}; fingerprint {found['fingerprint']}",
        highlight=False,
        soft_wrap=True,
    )
    for warning in found["warnings"]:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True, markup=False)
