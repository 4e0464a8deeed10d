"""The subcommands of `reidablate cells`: argument parsing only."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from reidablate.errors import UserError

app = typer.Typer(no_args_is_help=True, help="List, show, compare and make ablation cells.")

AblationsOption = Annotated[Path, typer.Option(help="Folder of the ablation cells.")]
PresetOption = Annotated[str, typer.Option(help="Preset that gives the cells their scale.")]


@app.command("list")
def cells_list(
    tier: Annotated[str, typer.Option(help="core, extended, optional or all.")] = "all",
    ablations: AblationsOption = Path("ablations"),
    preset: PresetOption = "quickstart",
) -> None:
    """Lists the cells by group."""
    from rich.console import Console
    from rich.table import Column, Table

    from reidablate.cells import TIERS, select

    if tier not in {*TIERS, "all"}:
        raise UserError(f"--tier is '{tier}' but should be {', '.join(TIERS)} or all.")
    cells, _ = _cells(ablations, preset)
    chosen = select(cells, names=None, tier="optional" if tier == "all" else tier)  # type: ignore[arg-type]
    for group in sorted({cell.group for cell in chosen}, key=lambda group: (group != "main", group)):
        table = Table(Column("cell", no_wrap=True), "tier", "title", title=group, title_justify="left")
        for cell in chosen:
            if cell.group == group:
                table.add_row(cell.name, cell.tier, cell.title)
        Console().print(table)


@app.command("show")
def cells_show(name: str, ablations: AblationsOption = Path("ablations"), preset: PresetOption = "quickstart") -> None:
    """Prints a cell with everything inherited filled in."""
    import yaml

    from reidablate.cells import describe, select

    cells, scale = _cells(ablations, preset)
    (cell,) = select(cells, names=[name], tier="optional")
    shown = json.loads(json.dumps(describe(cell, cells, scale)))  # copies, so that YAML needs no anchors
    typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)


@app.command("diff")
def cells_diff(
    first: str, second: str, ablations: AblationsOption = Path("ablations"), preset: PresetOption = "quickstart"
) -> None:
    """Prints every option in which two cells differ."""
    from reidablate.cells import select
    from reidablate.trees import difference

    cells, scale = _cells(ablations, preset)
    left, right = (select(cells, names=[name], tier="optional")[0].resolve(scale).dump() for name in (first, second))
    found = difference(left, right)
    for key, (before, after) in found.items():
        typer.echo(f"{key}: {json.dumps(before)} -> {json.dumps(after)}")
    if not found:
        typer.echo(f"{first} and {second} are the same.")


@app.command("new")
def cells_new(
    name: str,
    parent: Annotated[str, typer.Option("--from", help="The cell that it extends.")] = "naive_triplet",
    ablations: AblationsOption = Path("ablations"),
) -> None:
    """Writes ablations/NAME.yaml, a cell that extends another."""
    from reidablate.cells import new_cell, select

    cells, _ = _cells(ablations, "quickstart")
    path = new_cell(ablations, name, select(cells, names=[parent], tier="optional")[0])
    typer.echo(f"{path} written; add what differs from {parent}, then run snakemake.")


@app.command("recorded")
def cells_recorded(ablations: AblationsOption = Path("ablations")) -> None:
    """Prints how each cell as run differs from the recorded configuration of the author's code."""
    from reidablate.published import recorded_table

    cells, scale = _cells(ablations, "paper")
    typer.echo("\n".join(recorded_table(cells, scale)))


@app.command("schema")
def cells_schema() -> None:
    """Prints the JSON Schema of a cell file, for editors."""
    from reidablate.cells import cell_schema

    typer.echo(json.dumps(cell_schema(), indent=2))


def _cells(ablations: Path, preset: str) -> tuple[Any, Any]:
    from reidablate.cells import load_cells
    from reidablate.config import nearest
    from reidablate.planning import load_presets

    presets = load_presets()
    if preset not in presets:
        raise UserError(f"there is no preset '{preset}'; {nearest(preset, list(presets))}")
    return load_cells(ablations, presets.values()), presets[preset]
