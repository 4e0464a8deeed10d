"""Makes the example report `docs/example/index.html` and the picture of the README from the fixed tables beside it.

    python scripts/example.py                            # from docs/example/tables
    python scripts/example.py --take results/quickstart  # replaces the tables first, by those of a finished study

Needs the extra `dev` and Chromium. The tables are those of a real quickstart, without what the report does not read.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from reidablate.artifacts import read_json, read_table, write_table
from reidablate.report.collect import QUERY_COLUMNS
from reidablate.report.render import render_report

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "example"
PICTURE = ROOT / "docs" / "report.png"
WIDTH_PX, HEIGHT_PX = 1440, 1250


def take(results: Path) -> None:
    """Copies the tables of a study, of `queries` only the rows and columns that the report reads."""
    tables = EXAMPLE / "tables"
    if tables.exists():
        shutil.rmtree(tables)
    tables.mkdir(parents=True)
    for path in sorted((results / "tables").iterdir()):
        if path.suffix in (".json", ".jpg", ".parquet"):
            shutil.copy(path, tables / path.name)
    headline = read_json(tables / "study.json")["headline"]
    queries = read_table(tables / "queries.parquet")
    write_table(queries.loc[queries["side"] == headline, QUERY_COLUMNS], tables / "queries.parquet")


def picture(page: Path) -> None:
    """Writes the first screen of a report as PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, color_scheme="light")
        tab.goto(page.as_uri())
        tab.screenshot(path=PICTURE)
        browser.close()


def main() -> None:
    """Takes the tables if asked for, and makes page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, metavar="RESULTS", help="replace the tables by those of a study")
    options = parser.parse_args()
    if options.take is not None:
        take(options.take)
    render_report(EXAMPLE, ROOT / "report_templates", EXAMPLE / "index.html")
    for left in (EXAMPLE / "tables" / ".lock", EXAMPLE / "report.json"):
        left.unlink(missing_ok=True)
    picture(EXAMPLE / "index.html")


if __name__ == "__main__":
    main()
