"""Everything that can be known of a data set folder before a network sees it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidablate.data.formats import OFFICIAL_COUNTS, SPLITS
from reidablate.data.index import build_index, check_pixels
from reidablate.errors import UserError


def check_folder(root: Path, format: str, *, strict: bool, decode: bool, workers: int) -> dict[str, Any]:
    """Returns what a data set folder holds: the summary of its index, and two more counts of the gallery.

    `gallery_without_junk` is the gallery that is searched, `gallery_of_ids` the part of it that shows a person of the
    set; `decoded` tells whether all pixels were read.

    Args:
        root: The data set's folder, or its manifest.
        format: One of `formats.FORMATS`.
        strict: Refuse what otherwise is a warning: counts other than the published ones, a query without a positive.
        decode: Decode every image.
        workers: Threads that read files.

    Raises:
        UserError: What `build_index` refuses; with `decode` an image that cannot be decoded; with `strict` as above.
    """
    index = build_index(root, format, workers=workers)
    if decode:
        check_pixels(index, root, workers=workers)
    summary, counts = index.summary, index.summary["counts"]
    if strict:
        _refuse(root, summary)
    without_junk = counts["gallery"]["images"] - counts["junk"]
    more = {"gallery_without_junk": without_junk, "gallery_of_ids": without_junk - counts["distractors"]}
    return {**summary, **more, "decoded": decode}


def _refuse(root: Path, summary: Mapping[str, Any]) -> None:
    problems = []
    official = OFFICIAL_COUNTS.get(summary["format"])
    if official is not None and not summary["official_counts"]:
        found, wanted = (", ".join(f"{key} {value}" for key, value in _rows(c)) for c in (summary["counts"], official))
        problems.append(f"it holds {found}, the published set {wanted}")
    if summary["queries_without_positive"]:
        problems.append(f"{summary['queries_without_positive']} queries have no positive from another camera")
    if problems:
        raise UserError(f"{root}: {'; '.join(problems)}; unpack the published set again, or check without --strict.")


def print_check(found: Mapping[str, Any]) -> None:
    """Prints the counts of a checked folder beside the published ones, and every warning."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("", "found", *(["published"] if found["format"] in OFFICIAL_COUNTS else []))
    for column in table.columns[1:]:
        column.justify = "right"
    published = dict(_rows(OFFICIAL_COUNTS.get(found["format"], found["counts"])))
    for name, number in _rows(found["counts"]):
        table.add_row(name, f"{number:,}", *([f"{published[name]:,}"] if len(table.columns) == 3 else []))
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


def _rows(counts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Returns the counts under plain names: "train images", ..., "junk", "distractors", "cameras"."""
    parts = [(f"{split} {part}", counts[split][part]) for split in SPLITS for part in ("images", "ids")]
    return [*parts, *((name, counts[name]) for name in ("junk", "distractors", "cameras"))]
