"""The stages that the workflow runs, each a subcommand with a plan: argument parsing only."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reidablate.options import StudyOption

if TYPE_CHECKING:
    from reidablate.study import Study

PlanOption = Annotated[Path, typer.Option("--plan", help="The plan of the study, results/<preset>/plans/<hash>.json.")]
DatasetOption = Annotated[str, typer.Option("--dataset", help="A data set of the plan.")]


def open_plan(plan: Path) -> "Study":
    """Returns a plan, having gone to its study folder, from which the paths in it are meant."""
    from reidablate.places import base_of
    from reidablate.study import load_study

    study = load_study(plan)
    os.chdir(base_of(plan, study.root / "plans" / plan.name))
    return study


def pretrain(plan: PlanOption) -> None:
    """Trains the one backbone that every run of the quickstart starts from."""
    from reidablate.engine.from_plan import pretrain_spec
    from reidablate.engine.train import train_run
    from reidablate.provenance import keep_sources

    study = open_plan(plan)
    keep_sources(study.path.parent)  # they may have been edited since the call began
    typer.echo(train_run(pretrain_spec(study)))


def train(
    plan: PlanOption,
    dataset: DatasetOption,
    cell: Annotated[str, typer.Option()],
    seed: Annotated[int, typer.Option(min=0)],
    gpus: Annotated[int | None, typer.Option(help="GPUs granted by the scheduler; must be what the plan asks.")] = None,
) -> None:
    """Trains one run and extracts its features; goes on where an interrupted one stopped."""
    from reidablate.engine.from_plan import train_spec
    from reidablate.engine.train import train_run
    from reidablate.provenance import keep_sources

    study = open_plan(plan)
    keep_sources(study.path.parent)  # they may have been edited since the call began
    typer.echo(train_run(train_spec(study, dataset=dataset, cell=cell, seed=seed, gpus=gpus)))


def external(
    plan: PlanOption,
    dataset: DatasetOption,
    cell: Annotated[str, typer.Option()],
    seed: Annotated[int, typer.Option(min=0)],
    gpus: Annotated[int | None, typer.Option(help="GPUs granted by the scheduler; must be what the plan asks.")] = None,
) -> None:
    """Runs the command of another code base for one run and takes its features."""
    from reidablate.engine.external import run_external

    typer.echo(run_external(open_plan(plan), dataset=dataset, cell=cell, seed=seed, gpus=gpus))


def transfer(
    plan: PlanOption,
    dataset: DatasetOption,
    cell: Annotated[str, typer.Option()],
    seed: Annotated[int, typer.Option(min=0)],
    on: Annotated[str, typer.Option("--on", help="Another data set of the plan.")],
    gpus: Annotated[int | None, typer.Option(help="GPUs granted by the scheduler; one is used.", max=1)] = None,
) -> None:
    """Extracts the features of a trained run on another data set, to be scored there too."""
    from reidablate.engine.from_plan import train_spec
    from reidablate.engine.transfer import transfer_run

    study = open_plan(plan)
    spec = replace(train_spec(study, dataset=dataset, cell=cell, seed=seed), gpus=min(1, study.gpus_per_run))
    typer.echo(transfer_run(spec, on=study.dataset(on).name, data=study.data_folder(on)))


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    plan: Annotated[Path | None, typer.Option(help="Remove what the preset of this plan does not keep.")] = None,
) -> None:
    """Scores the features of one run on both sides of the neck."""
    from reidablate.metrics.evaluate import evaluate_run

    study = None if plan is None else open_plan(plan)
    typer.echo(evaluate_run(run, study.metrics if study else ()))
    if study is not None:
        from reidablate.keeping import release

        release(study, run)
        if study.settings.wandb != "disabled":
            from reidablate.engine.pushing import push_scored

            push_scored(study.root, run, study.settings.wandb)


def aggregate(plan: PlanOption) -> None:
    """Gathers the runs of a study into tidy tables; what is missing is named, not invented."""
    from reidablate.tables.aggregate import aggregate_study

    typer.echo(aggregate_study(open_plan(plan)))


def statistics(results: Annotated[Path, typer.Argument(help="results/<preset>")], study: StudyOption = None) -> None:
    """Compares every cell with its references, seed by seed and query by query."""
    from reidablate.places import in_study, study_of
    from reidablate.stats.pipeline import write_statistics

    results = in_study(results, study)
    typer.echo(write_statistics(results, study_of(results, study)))


STAGES = (pretrain, train, external, transfer, evaluate, aggregate, statistics)
