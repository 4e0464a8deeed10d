"""A real Chromium and a rendered report. Without Chromium these tests are skipped, in CI they fail."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from reidablate.report.render import render_report
from report_fixture import write_results

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "report_templates"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed; CI needs it for the report's browser tests")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with two groups, two data sets, three seeds, one diverged and one missing run."""
    results = write_results(tmp_path_factory.mktemp("browser") / "quickstart", queries=60, epochs=4)
    out = results / "report" / "index.html"
    render_report(results, TEMPLATES, out)
    return out


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the fixed tables of a real quickstart, by the templates of today."""
    results = tmp_path_factory.mktemp("example")
    shutil.copytree(ROOT / "docs" / "example" / "tables", results / "tables")
    out = results / "report" / "index.html"
    render_report(results, TEMPLATES, out)
    return out


@pytest.fixture(scope="session")
def made(finished: Path) -> Path:
    """The report that a whole study made, from drawing its data sets on."""
    return finished / "results" / "tiny" / "report" / "index.html"
