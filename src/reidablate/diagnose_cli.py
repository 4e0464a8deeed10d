"""The command that looks into a data set or a trained cell: argument parsing only."""

import os
from pathlib import Path
from typing import Annotated

import typer

from reidablate.errors import UserError
from reidablate.options import ResultsOption, StudyOption, chosen_results
from reidablate.stages_cli import open_plan


def diagnose(
    dataset: Annotated[str, typer.Option("--dataset", help="A data set of the study.")],
    cell: Annotated[str, typer.Option(help="A trained cell; without one, the data set itself is looked at.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the cell's first.")] = None,
    detail: Annotated[str, typer.Option(help="brief or full; by default what the preset says, or full.")] = "",
    query: Annotated[list[str] | None, typer.Option(help="Also the rank list of this query; may be repeated.")] = None,
    plan: Annotated[Path | None, typer.Option(help="The plan of the study; by default the latest.")] = None,
    results: ResultsOption = None,
    study: StudyOption = None,
) -> None:
    """Shows why a cell scores as it does: rank lists, attention, positions, representations, on a page of its own."""
    from reidablate.places import study_of
    from reidablate.study import latest_study

    if plan is not None:
        planned = open_plan(plan)
    else:
        folder = chosen_results(results, study).absolute()
        os.chdir(study_of(folder, study))  # the paths in its plans are meant from there
        planned = latest_study(Path(os.path.relpath(folder)))
    if not cell:
        if seed is not None or detail or query:
            raise UserError("--seed, --detail and --query are of a cell; name one with --cell.")
        from reidablate.diagnostics.floors import diagnose_dataset

        typer.echo(diagnose_dataset(planned, dataset))
        return
    from reidablate.diagnostics.cell import diagnose_cell

    first = min(planned.planned.get(dataset, {}).get(cell, [0])) if seed is None else seed
    run = planned.planned_run(dataset=dataset, cell=cell, seed=first)
    chosen = detail or (planned.preset.diagnose if planned.preset.diagnose != "none" else "full")
    typer.echo(diagnose_cell(planned, run, detail=chosen, queries=query or ()))
