"""Pages of the site that are no files of `docs/`: those that lie elsewhere in the repository, and the reference.

A hook of MkDocs, named in `mkdocs.yml`.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "config/README.md": "configuration.md",
    "results/README.md": "tables.md",
}
"""Files of the repository and the pages that show them."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; MkDocs calls it before it reads any."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=with_links_of_site(text, Path(source).parent)))
    for name, modules in packages().items():
        title = "reidablate" if name == "reidablate" else name.removeprefix("reidablate.")
        page = f"# {title}\n\n" + "".join(f"::: {module}\n\n" for module in modules)
        files.append(File.generated(config, f"reference/{title}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the text of a page of `docs/` without links to what is not on the site; MkDocs calls it for each page."""
    return markdown if page.file.generated_by else with_links_of_site(markdown, Path("docs"))


def with_links_of_site(text: str, folder: Path) -> str:
    """Returns a Markdown text whose relative links name pages of the site, or are plain text where there is none.

    Args:
        text: Of a file of the repository.
        folder: Where the file lies, relative to the repository.
    """

    def replaced(link: re.Match[str]) -> str:
        words, target, anchor = link.groups(default="")
        path = (ROOT / folder / target).resolve().relative_to(ROOT).as_posix()
        if path in ELSEWHERE:
            return f"[{words}]({ELSEWHERE[path]}{anchor})"
        return f"[{words}]({path.removeprefix('docs/')}{anchor})" if path.startswith("docs/") else words

    return re.sub(r"\[([^]]*)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)", lambda link: replaced(link), text)


def packages() -> dict[str, list[str]]:
    """Returns the modules of every package, in order, by the package's name."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src" / "reidablate").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        if not parts[-1].startswith("_"):
            found.setdefault(".".join(parts[:-1]), []).append(".".join(parts))
    return found
