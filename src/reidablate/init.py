"""What `reidablate init` writes: a study folder that uses the rules of the installed package."""

from pathlib import Path

from reidablate import __version__
from reidablate.artifacts import write_text
from reidablate.cell_files import TIERS
from reidablate.cells import Cell, load_cells, select
from reidablate.errors import UserError
from reidablate.places import SETTINGS, VERSION_FILE, packaged

BASELINE = "naive_triplet"
COMMAND = "snakemake --cores all --resources gpu=4"

_SNAKEFILE = f"""\
# A study: every cell of ablations/ on every data set with every seed, from the images to the report.
#
#   {COMMAND}
#
# The rules come with the installed package; rules of your own can be added below.
from reidablate.places import packaged


include: str(packaged("Snakefile"))


rule study:
    default_target: True
    input:
        rules.all.input,
"""
_README = f"""\
# A study made with reidablate

Run it, or go on with it, in this folder:

    {COMMAND}

| place | what it holds |
|---|---|
| `ablations/` | one YAML file per cell; `reidablate cells new NAME --from PARENT` adds one |
| `{SETTINGS}` | settings, each of which `--config key=value` changes for one call |
| `methods/` | losses, backbones, metrics and formats of your own; `reidablate methods new loss NAME` starts one |
| `workflow/config/presets/NAME.yaml` | presets of your own, beside those of the package |
| `workflow/config/claims.yaml` | published gains of your own; one with the name of a packaged claim replaces it |
| `report_templates/` | templates of the report that replace the package's of the same name |
| `profiles/` | how Snakemake runs it |
| `results/<preset>/report/index.html` | the report |
"""
_IGNORED = "/results/\n/data/\n/wandb/\n.snakemake/\n"


def write_study(folder: Path, *, tier: str | None = "core") -> str:
    """Writes a study folder and returns the line that says how to run it.

    Args:
        folder: Made if it is not there; files that are in it stay as they are.
        tier: Which of the package's cells to begin with, each with its parents and references; None: the baseline.

    Raises:
        UserError: A file that would be written exists, or `tier` is not a tier. Nothing is written then.
    """
    files = study_files(tier)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the study.")
    if taken := [name for name in files if (folder / name).exists()]:
        raise UserError(f"{folder} already holds {taken[0]}, and init replaces nothing; give another folder.")
    for name, text in files.items():
        write_text(folder / name, text)
    count = sum(name.startswith("ablations/") for name in files)
    return f"{folder} holds a study of {count} cell{'s' if count > 1 else ''}; run it there with: {COMMAND}"


def study_files(tier: str | None) -> dict[str, str]:
    """Returns the text of every file of a new study folder by its relative name.

    Raises:
        UserError: `tier` is not a tier.
    """
    profiles = packaged("profiles")
    return {
        VERSION_FILE: f"{__version__}\n",
        "Snakefile": _SNAKEFILE,
        "README.md": _README,
        ".gitignore": _IGNORED,
        SETTINGS: _commented_settings(),
        **{f"ablations/{path.name}": path.read_text(encoding="utf-8") for path in _cell_files(tier)},
        **{
            f"profiles/{path.relative_to(profiles).as_posix()}": path.read_text(encoding="utf-8")
            for path in sorted(profiles.glob("*/[!.]*"))
        },
    }


def _cell_files(tier: str | None) -> list[Path]:
    """Returns the files of the cells of a tier and of all that these extend or are compared with."""
    if tier not in {*TIERS, None}:
        raise UserError(f"--tier is '{tier}' but should be {', '.join(TIERS)}.")
    cells = load_cells(packaged("ablations"), [])
    waiting = select(cells, names=[BASELINE] if tier is None else None, tier=tier or "core")
    needed: dict[str, Cell] = {}
    while waiting:
        cell = waiting.pop()
        if cell.name not in needed:
            needed[cell.name] = cell
            waiting += [cells[name] for name in (*cell.references, *([cell.extends] if cell.extends else []))]
    return sorted({cell.path for cell in needed.values()})


def _commented_settings() -> str:
    """Returns the package's settings with every key commented out, so that an upgrade reaches what stays so."""
    title, *lines = packaged(SETTINGS).read_text(encoding="utf-8").splitlines()
    note = "# A line that is commented out shows the package's value; remove its '# ' to change it."
    return "\n".join([title, note, *(f"# {line}" if line else "" for line in lines), ""])
