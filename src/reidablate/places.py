"""Where things are: what comes with the package, and the study folder whose files are laid over it.

Both have the layout of this project's repository, whose top level is a study folder itself. A file of the study counts
before the package's at the same relative place: settings key by key, claims by name, templates file by file. Presets
only add to the package's, because results are kept by a preset's name.
"""

from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from reidablate import __version__
from reidablate.errors import UserError
from reidablate.trees import load_yaml, merge

SETTINGS = "workflow/config/default.yaml"
PRESETS = "workflow/config/presets"
CLAIMS = "workflow/config/claims.yaml"
TEMPLATES = "report_templates"
CALIBRATION = "results/reference/calibration.parquet"
VERSION_FILE = ".reidablate-version"  # the release that made a study folder
_SHARE = Path(__file__).parent / "share"  # what a wheel holds beside the code


def packaged(name: str) -> Path:
    """Returns a file or folder that comes with the package: of an installed wheel, or of the checkout around `src/`."""
    return (_SHARE if _SHARE.is_dir() else Path(__file__).parents[2]) / name


def in_checkout() -> bool:
    """Returns whether the package runs from its repository rather than from an installed wheel."""
    return not _SHARE.is_dir()


def layers(name: str, study: Path) -> list[Path]:
    """Returns the package's and then the study's file or folder of a relative name, as far as they exist."""
    base, own = packaged(name), study / name
    if own.exists() and base.exists() and own.samefile(base):
        return [own]
    return [path for path in (base, own) if path.exists()]


def settings(study: Path) -> dict[str, Any]:
    """Returns the package's settings with those of the study laid over them.

    Raises:
        UserError: The study was made by a newer version, or a file of settings is malformed.
    """
    check_version(study)
    merged: dict[str, Any] = {}
    for path in layers(SETTINGS, study):
        merged = merge(merged, load_yaml(path, may_be_empty=True))
    return merged


def templates(study: Path) -> list[Path]:
    """Returns the files that the report is rendered from."""
    files = {path.name: path for folder in layers(TEMPLATES, study) for path in sorted(folder.glob("[!.]*"))}
    return list(files.values())


def calibration(study: Path) -> list[Path]:
    """Returns the one table of calibration to show, or nothing."""
    return layers(CALIBRATION, study)[-1:]


def is_study(folder: Path) -> bool:
    """Returns whether a folder holds a study."""
    made_here = (folder / VERSION_FILE).is_file()
    return made_here or ((folder / "Snakefile").is_file() and (folder / "ablations").is_dir())


def find_study(given: Path | None = None) -> Path:
    """Returns the folder of a study: the one given, or else the nearest one from the working directory upwards.

    Raises:
        UserError: There is none, or a newer version made it.
    """
    if given is not None and not given.is_dir():
        raise UserError(f"there is no folder {given}; make a study there with `reidablate init {given}`.")
    found = given or _nearest(Path().absolute())
    if found is None:
        raise UserError(
            f"neither {Path().absolute()} nor a folder above it holds a study; name one with --study DIR, "
            "or make one with `reidablate init DIR`."
        )
    check_version(found)
    return found


def study_of(path: Path, given: Path | None = None) -> Path:
    """Returns the folder of the study that a path belongs to, or else the working directory.

    Args:
        path: A file or folder, in most cases below the study's results.
        given: The folder, where the user named it.

    Raises:
        UserError: A newer version made the study.
    """
    found = find_study(given) if given else _nearest(path.absolute()) or _nearest(Path().absolute()) or Path()
    check_version(found)
    return found


def in_study(path: Path, given: Path | None) -> Path:
    """Returns a path as it stands, or from the study that the user named if nothing is there from here."""
    return given / path if given and not path.exists() else path


def base_of(path: Path, relative: Path) -> Path:
    """Returns the folder from which `relative` names `path`, or the working directory where there is no such folder."""
    parts, tail = path.absolute().parts, relative.parts
    fits = not relative.is_absolute() and parts[-len(tail) :] == tail
    return Path(*parts[: -len(tail)]) if fits else Path()


def check_version(study: Path) -> None:
    """Checks that no newer version of the package made the study.

    Raises:
        UserError: A newer one did, or its file does not hold a version.
    """
    path = study / VERSION_FILE
    if not path.is_file():
        return
    made_by = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        newer = Version(made_by) > Version(__version__)
    except InvalidVersion:
        raise UserError(f"{path} should hold a version such as {__version__} but holds {made_by[:40]!r}.") from None
    if newer:
        raise UserError(
            f"the study in {study.absolute()} was made by reidablate {made_by} and this is {__version__}, which may "
            "not understand it; upgrade with `pip install --upgrade reidablate`."
        )


def _nearest(start: Path) -> Path | None:
    """Returns the nearest study from an absolute path upwards; the working directory itself is `Path()`."""
    for folder in (start, *start.parents):
        if is_study(folder):
            return Path() if folder == Path().absolute() else folder
    return None
