"""Pages of diagnostics beside a report: where they are, and the thumbnail of each."""

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from reidablate.integrity import broken_files


@dataclass(frozen=True)
class Page:
    """The page of a cell on a data set: an address from the report, and a picture as the page can hold it."""

    dataset: str
    cell: str
    href: str
    picture: str


def find_pages(results: Path, folder: Path) -> list[Page]:
    """Returns the whole pages of `results/<preset>`, seen from the folder of a report, by data set and cell."""
    found = []
    for record in sorted((results / "report" / "diagnostics").glob("*/[!.]*.json")):
        page, picture = record.with_suffix(".html"), record.with_suffix(".jpg")
        if not page.is_file() or broken_files(record.parent, records=[record.name]):
            continue
        data = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else ""
        href = Path(os.path.relpath(page, folder)).as_posix()
        found.append(Page(record.parent.name, record.stem, href, f"data:image/jpeg;base64,{data}" if data else ""))
    return found
