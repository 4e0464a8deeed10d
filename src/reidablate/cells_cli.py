"""The subcommands of `reidablate cells`: argument parsing only."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reidablate.errors import UserError
from reidablate.options import INTERNAL, StudyOption

app = typer.Typer(no_args_is_help=True, help="List, show, compare and make ablation cells.")

AblationsOption = Annotated[Path | None, typer.Option(help="Folder of the ablation cells; default: the study's.")]
PresetOption = Annotated[str, typer.Option(help="Preset that gives the cells their scale.")]


@app.command("list")
def cells_list(
    tier: Annotated[str, typer.Option(help="core, extended, optional or all.")] = "all",
    ablations: AblationsOption = None,
    preset: PresetOption = "quickstart",
    study: StudyOption = None,
) -> None:
    """Lists the cells by group."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from reidablate.cell_files import TIERS
    from reidablate.cells import select

    if tier not in {*TIERS, "all"}:
        raise UserError(f"--tier is '{tier}' but should be {', '.join(TIERS)} or all.")
    cells, _ = _cells(ablations, preset, study)
    chosen = select(cells, names=None, tier="optional" if tier == "all" else tier)  # type: ignore[arg-type]
    for group in sorted({cell.group for cell in chosen}, key=lambda group: (group != "main", group)):
        table = Table(Column("cell", no_wrap=True), "tier", "title", title=Text(group), title_justify="left")
        for cell in chosen:
            if cell.group == group:
                table.add_row(cell.name, cell.tier, Text(cell.title))
        Console().print(table)


@app.command("show")
def cells_show(
    name: str,
    ablations: AblationsOption = None,
    preset: PresetOption = "quickstart",
    study: StudyOption = None,
) -> None:
    """Prints a cell with everything inherited filled in, as YAML for a cell of your own."""
    from reidablate.cell_views import as_cell_file
    from reidablate.cells import select

    cells, scale = _cells(ablations, preset, study)
    (cell,) = select(cells, names=[name], tier="optional")
    typer.echo(as_cell_file(cell, scale), nl=False)


@app.command("diff")
def cells_diff(
    first: str,
    second: str,
    ablations: AblationsOption = None,
    preset: PresetOption = "quickstart",
    study: StudyOption = None,
) -> None:
    """Prints every option in which two cells differ, and again for each data set on which that is otherwise."""
    from reidablate.cells import select
    from reidablate.external import differences
    from reidablate.trees import difference

    cells, scale = _cells(ablations, preset, study)
    left, right = (select(cells, names=[name], tier="optional")[0] for name in (first, second))
    sets = (None, *sorted({*left.by_dataset, *right.by_dataset}))
    found = {on: difference(left.resolve(scale, on).dump(), right.resolve(scale, on).dump()) for on in sets}
    if left.external or right.external:
        found = {None: differences(right.external, left.external) if left.external != right.external else {}}
    for dataset, options in found.items():
        if dataset is not None and options == found[None]:
            continue
        if dataset is not None:
            typer.echo(f"on {dataset}:")
        for key, (before, after) in options.items():
            typer.echo(f"{'' if dataset is None else '  '}{key}: {json.dumps(before)} -> {json.dumps(after)}")
        if not options:
            typer.echo(f"{'' if dataset is None else '  '}{first} and {second} are the same.")


@app.command("new")
def cells_new(
    name: str,
    parent: Annotated[str, typer.Option("--from", help="The cell that it extends.")] = "naive_triplet",
    ablations: AblationsOption = None,
    study: StudyOption = None,
) -> None:
    """Writes ablations/NAME.yaml, a cell that extends another."""
    from reidablate.cell_views import new_cell
    from reidablate.cells import select

    cells, _ = _cells(ablations, "quickstart", study)
    path = new_cell(_folder(ablations, study), name, select(cells, names=[parent], tier="optional")[0])
    typer.echo(f"{path} written; add what differs from {parent}, then run snakemake.")


@app.command("recorded", rich_help_panel=INTERNAL)
def cells_recorded(ablations: AblationsOption = None, study: StudyOption = None) -> None:
    """Prints how each cell as run differs from the recorded configuration of the author's code."""
    from reidablate.published import recorded_table

    cells, scale = _cells(ablations, "paper", study)
    typer.echo("\n".join(recorded_table(cells, scale)))


@app.command("schema")
def cells_schema() -> None:
    """Prints the JSON Schema of a cell file, for editors."""
    from reidablate.cell_schema import cell_schema

    schema, refused = cell_schema()
    for line in refused:
        print(f"reidablate: {line} The schema does not know its losses.", file=sys.stderr)
    typer.echo(json.dumps(schema, indent=2))


def _cells(ablations: Path | None, preset: str, study: Path | None) -> tuple[Any, Any]:
    from reidablate.cells import load_cells
    from reidablate.config import nearest
    from reidablate.places import find_study, study_of
    from reidablate.planning import load_presets

    home = study_of(ablations, study) if ablations else find_study(study)
    presets = load_presets(home)
    if preset not in presets:
        raise UserError(f"there is no preset '{preset}'; {nearest(preset, list(presets))}")
    cells = load_cells(_folder(ablations, study), presets.values(), home)
    for line in cells.notices:
        print(f"reidablate: {line}", file=sys.stderr)
    return cells, presets[preset]


def _folder(ablations: Path | None, study: Path | None) -> Path:
    from reidablate.places import find_study, settings

    if ablations is not None:
        return ablations
    found = find_study(study)
    return found / str(settings(found)["ablations"])
