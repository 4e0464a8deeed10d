"""A finished study as one file for others: its tables, report, configuration and provenance, and no images."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reidablate import __version__, integrity, places
from reidablate.archive.crate import metadata
from reidablate.archive.layout import CHECKSUMS, METADATA, RESULTS, files_below, write_zip
from reidablate.artifacts import atomic_path, read_json, sha256_file, write_json, write_text
from reidablate.errors import UserError
from reidablate.freezing import FILE as FROZEN
from reidablate.report.render import render_report

_STUDY_FILES = (
    places.SETTINGS,
    places.PRESETS,
    places.CLAIMS,
    places.TEMPLATES,
    places.CALIBRATION,
    "ablations",
    "methods",
)
_README = """# A study of reidablate

`{page}` is the report. Whether its numbers follow from the scores of every query is checked, without the data sets, by

    pip install reidablate=={version}
    reidablate verify FILE

and whether the files are as they were packed by `sha256sum -c {checksums}` in this folder. The configuration of the
study is in `workflow/` and `ablations/`, what made each run in its `provenance.json`. It holds no images{weights}.
"""


def pack_study(
    results: Path,
    study: Path,
    out: Path,
    *,
    weights: bool = False,
    title: str | None = None,
    author: str | None = None,
    license_: str | None = None,
) -> str:
    """Writes a study to an RO-Crate zip and returns the line that says so; the same study gives the same bytes.

    The report is rendered again without the sample sheets of the data sets, which show people.

    Args:
        results: `results/<preset>`, with tables.
        study: The study folder.
        out: The zip.
        weights: Also take the trained weights that are kept.
        title: What the study is called in catalogues; its preset's name without.
        author: Whose it is.
        license_: Address of its license.

    Raises:
        UserError: The tables are missing, damaged, or older than what they are made of; or `out` is there.
    """
    if out.exists():
        raise UserError(f"{out} is there already; give another file with --out, or move it.")
    tables = results / "tables"
    about = read_json(tables / "study.json")
    integrity.refuse_broken(tables)
    if not integrity.is_made_of(tables / "statistics.json", [tables / "study.json"]):
        raise UserError(f"the statistics in {tables} are not of its tables; run snakemake again, which makes them.")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _stage(results, study, folder, about)
        page = f"{RESULTS}/{results.name}/report/index.html"
        words = _README.format(
            page=page, version=__version__, checksums=CHECKSUMS, weights="" if weights else " or weights"
        )
        write_text(folder / "README.md", words)
        write_text(folder / "environment.txt", "".join(f"{line}\n" for line in _environment()))
        files = files_below(folder) | (dict(_weights(results, about)) if weights else {})
        digests = {name: (path, sha256_file(path)) for name, path in files.items()}
        crate = {
            "name": title or f"{about['preset']}: a person re-identification study",
            "description": about["description"] or "An ablation study of person re-identification.",
            "published": about["created"],
            "version": __version__,
        }
        write_json(folder / METADATA, metadata(digests, crate | {"author": author, "license": license_}))
        lines = [f"{digest}  {name}" for name, (_, digest) in digests.items()]
        lines.append(f"{sha256_file(folder / METADATA)}  {METADATA}")
        write_text(folder / CHECKSUMS, "\n".join(sorted(lines, key=lambda line: line[66:])) + "\n")
        with atomic_path(out) as temporary:
            write_zip({**files, **files_below(folder)}.items(), temporary)
    size = out.stat().st_size / 1e6
    return f"packed {len(digests) + 2} files, {size:.1f} MB, to {out}; `reidablate verify {out}` checks it"


def _stage(results: Path, study: Path, folder: Path, about: dict[str, Any]) -> None:
    """Copies what belongs to a study into a folder of the same layout and renders its report there."""
    for name in _STUDY_FILES:
        for path in _texts(study / name):
            if name != places.TEMPLATES or not _is_packaged(path):
                _copy(path, folder / path.relative_to(study))
    target = folder / RESULTS / results.name
    for path in (results / "tables").glob("[!.]*"):
        if not path.name.startswith("samples_"):
            _copy(path, target / "tables" / path.name)
    if (results / FROZEN).is_file():
        _copy(results / FROZEN, target / FROZEN)
    for dataset, cell, seed in about["runs"]:
        run = Path(dataset, cell, f"seed{seed}", "provenance.json")
        if (results / run).is_file():
            _copy(results / run, target / run)
    render_report(target, study / places.TEMPLATES, target / "report" / "index.html")
    for lock in target.rglob(".lock"):
        lock.unlink()


def _texts(place: Path) -> Iterable[Path]:
    """Returns a file or the files below a folder that are part of a study: not hidden, not compiled, no links."""
    found = place.rglob("*") if place.is_dir() else [place]
    kept = (path for path in found if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")
    return [path for path in kept if not any(part.startswith(".") for part in path.relative_to(place).parts)]


def _is_packaged(template: Path) -> bool:
    own = places.packaged(places.TEMPLATES) / template.name
    return own.is_file() and own.read_bytes() == template.read_bytes()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _weights(results: Path, about: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    for dataset, cell, seed in about["runs"]:
        path = results / dataset / cell / f"seed{seed}" / "model.safetensors"
        if path.is_file():
            yield f"{RESULTS}/{path.relative_to(results.parent).as_posix()}", path


def _environment() -> list[str]:
    found = {f"{dist.name}=={dist.version}" for dist in distributions() if dist.name}
    return [f"# Python {sys.version.split()[0]} on {sys.platform}", *sorted(found, key=str.casefold)]
