"""Checking a packed study: the bytes against their checksums, and every number against the rows of the queries."""

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.version import Version

from reidablate import __version__
from reidablate.archive.derive import differences
from reidablate.archive.layout import CHECKSUMS, METADATA, RESULTS, files_below, unpack, write_zip
from reidablate.artifacts import read_json, sha256_file
from reidablate.errors import UserError, shortened


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: The file, or what else was looked at.
        wrong: What does not match, in words; empty if all does.
    """

    name: str
    wrong: str

    def __str__(self) -> str:
        return f"differs  {self.name}: {self.wrong}" if self.wrong else f"matches  {self.name}"


def verify_study(path: Path) -> Iterator[Finding]:
    """Yields what each check of a packed study found: damaged and changed files first, then every derived table.

    Args:
        path: A zip that `pack` wrote, or the folder that it was unpacked to.

    Raises:
        UserError: It is no packed study, or one of a newer version.
    """
    with TemporaryDirectory() as scratch:
        folder, work = Path(scratch, "study"), Path(scratch, "work")
        folder.mkdir()
        work.mkdir()
        if path.is_dir():
            folder = path
            whole = yield from _bytes(folder)
        else:
            damaged = [Finding(name, f"is damaged ({words})") for name, words in unpack(path, folder)]
            yield from damaged
            whole = yield from _bytes(folder, known={one.name for one in damaged})
            if whole and not damaged:
                yield Finding("the zip itself", _structure(path, folder, Path(scratch, "again.zip")))
        results = _results(path, folder)
        _check_version(path, results)
        try:
            for name, wrong in differences(results, folder, work):
                yield Finding(f"{RESULTS}/{results.name}/{name}", wrong)
        except UserError as error:
            words = str(error).replace(f"{folder}/", "").replace(f"{work}/", "")
            yield Finding("what follows from the rows", f"cannot be worked out: {words}")


def _bytes(folder: Path, known: Collection[str] = ()) -> Generator[Finding, None, bool]:
    """Compares every file but those `known` to be damaged with its checksum and returns whether all match.

    It yields one finding for all of them or one for each that differs.
    """
    named = _checksums(folder)
    present = files_below(folder)
    wrong = [Finding(name, "is in no line of " + CHECKSUMS) for name in present if name not in named | {CHECKSUMS: ""}]
    for name, digest in named.items():
        if name not in present:
            wrong.append(Finding(name, "is missing"))
        elif name not in known and sha256_file(present[name]) != digest:
            wrong.append(Finding(name, f"is not the file whose checksum {CHECKSUMS} names"))
    yield from wrong or [Finding(f"the bytes of {len(named)} files", "")]
    return not wrong


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    if not path.is_file() or not (folder / METADATA).is_file():
        raise UserError(f"it holds no {CHECKSUMS} or no {METADATA}, so it is no study that `reidablate pack` wrote.")
    named = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, gap, name = line.partition("  ")
        if len(digest) != 64 or not gap or not name:
            named[f"{CHECKSUMS}, line {number}, '{shortened(line, 60)}'"] = ""
        else:
            named[name] = digest
    return named


def _structure(path: Path, folder: Path, again: Path) -> str:
    write_zip(files_below(folder).items(), again)
    if sha256_file(path) == sha256_file(again):
        return ""
    return (
        "has bytes outside of its files that `reidablate pack` does not write; if another program zipped the files, "
        "verify the folder that they unpack to"
    )


def _results(path: Path, folder: Path) -> Path:
    found = [place.parents[1] for place in folder.glob(f"{RESULTS}/*/tables/study.json")]
    if len(found) != 1:
        raise UserError(f"{path} holds {len(found)} studies below {RESULTS}/; give one that `reidablate pack` wrote.")
    return found[0]


def _check_version(path: Path, results: Path) -> None:
    made_by = str((read_json(results / "tables" / "study.json").get("code") or {}).get("version") or "0")
    if Version(made_by) > Version(__version__):
        raise UserError(f"{path} was made by reidablate {made_by} and this is {__version__}; upgrade to check it.")
