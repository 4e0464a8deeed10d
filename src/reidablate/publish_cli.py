"""Studies for others: argument parsing only."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reidablate.errors import UserError
from reidablate.options import ResultsOption, StudyOption, chosen_results

if TYPE_CHECKING:
    from reidablate.study import Study


def plan(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="What snakemake will be given after --config.", show_default=False
        ),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Take 20 steps of each kind of training to tell its time.")
    ] = True,
    detect: Annotated[
        float | None,
        typer.Option(min=0.01, max=50.0, metavar="POINTS", help="Say instead what finds a difference in mAP."),
    ] = None,
    comparisons: Annotated[
        int, typer.Option(min=1, max=1000, help="Comparisons that share the 5 %; of published variances only.")
    ] = 1,
    priors: Annotated[bool, typer.Option("--priors", help="Use published variances even if there is a study.")] = False,
    results: ResultsOption = None,
    study: StudyOption = None,
) -> None:
    """Prints what is left of a study and what it takes in hours and disk, or how many seeds find a difference."""
    if detect is None:
        if priors or results is not None:
            raise UserError(f"{'--priors' if priors else '--results'} belongs to --detect POINTS; give both or none.")
        lines = _estimate(config or [], study, probe=probe)
    elif config:
        raise UserError("KEY=VALUE belongs to a plan without --detect, which reads a study that has run.")
    else:
        from reidablate.stats.design import prior_lines, study_lines

        lines = prior_lines(detect, comparisons) if priors else study_lines(chosen_results(results, study), detect)
    typer.echo("\n".join(lines))


def _estimate(config: list[str], study: Path | None, *, probe: bool) -> Iterator[str]:
    import datetime
    import os

    from reidablate.engine.progress import Waiting
    from reidablate.estimate import Estimate
    from reidablate.initial_weights import weight_refusals
    from reidablate.places import find_study

    os.chdir(find_study(study))  # the paths in its settings are meant from there
    asked = _asked(config)
    for line in weight_refusals(asked):
        typer.echo(f"reidablate: {line}", err=True)
    estimate = Estimate(asked)
    if probe:
        with Waiting("probing") as bar:
            estimate.probe(bar.show)
    return estimate.lines(datetime.datetime.now().astimezone())


def freeze(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="What snakemake will be given after --config.", show_default=False
        ),
    ] = None,
    study: StudyOption = None,
) -> None:
    """Declares a study before its runs: comparisons, seeds and deltas that come later are marked exploratory."""
    import os

    from reidablate.freezing import freeze as freeze_study
    from reidablate.places import find_study

    os.chdir(find_study(study))  # the paths in its settings are meant from there
    typer.echo(freeze_study(_asked(config or [])))


def _asked(pairs: list[str]) -> "Study":
    """Returns the plan of the study in this folder with what snakemake would be given after `--config`."""
    import yaml

    from reidablate.places import settings
    from reidablate.planning import plan
    from reidablate.selecting import as_written
    from reidablate.trees import merge

    config = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"'{pair}' is no KEY=VALUE; write it as after snakemake's --config.")
        try:
            config[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            config[key] = value
    return plan(merge(settings(Path()), as_written(config, pairs)))


def pack(
    out: Annotated[Path, typer.Option(help="The zip to write.")] = Path("study.crate.zip"),
    weights: Annotated[bool, typer.Option("--weights", help="Also pack the trained weights that are kept.")] = False,
    title: Annotated[str | None, typer.Option(help="What catalogues call it.")] = None,
    author: Annotated[str | None, typer.Option(help="Whose study it is.")] = None,
    license_: Annotated[str | None, typer.Option("--license", metavar="URL", help="Address of its license.")] = None,
    results: ResultsOption = None,
    study: StudyOption = None,
) -> None:
    """Writes a study to one RO-Crate zip: tables, report, configuration, provenance, checksums; never images."""
    from reidablate.archive.pack import pack_study
    from reidablate.places import study_of

    results = chosen_results(results, study)
    options = {"weights": weights, "title": title, "author": author, "license_": license_}
    typer.echo(pack_study(results, study_of(results, study), out, **options))  # type: ignore[arg-type]


def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A packed study, or the folder that it unpacks to.")],
) -> None:
    """Works every table and verdict of a packed study out again from its per-query rows; status 1 if one differs."""
    from reidablate.archive.derive import NOT_DERIVED
    from reidablate.archive.verify import verify_study

    wrong = 0
    for finding in verify_study(path):
        typer.echo(str(finding))
        wrong += bool(finding.wrong)
    typer.echo(f"{wrong} of these differ" if wrong else f"everything matches; {NOT_DERIVED}")
    raise typer.Exit(1 if wrong else 0)


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="results/<preset> of a study.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same of another one.")],
) -> None:
    """Lists what differs between two studies: data, code, cells, runs, numbers, verdicts; status 1 if anything does."""
    from reidablate.archive.diff import diff_studies

    lines = list(diff_studies(first, second))
    typer.echo("\n".join(lines) if lines else "the studies do not differ")
    raise typer.Exit(1 if lines else 0)
