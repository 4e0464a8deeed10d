"""The command line: argument parsing only."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reidablate import cells_cli, data_cli, diagnose_cli, methods_cli, scores_cli, weights_cli
from reidablate.errors import UserError, knob, plain, sentence
from reidablate.scores_cli import results_of
from reidablate.stages_cli import STAGES

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Is this gain real? Benchmark and ablation harness for person re-identification.",
)
stats_app = typer.Typer(no_args_is_help=True, help="Check the statistics against simulated experiments.")
app.add_typer(cells_cli.app, name="cells")
app.add_typer(methods_cli.app, name="methods")
app.add_typer(data_cli.app, name="data")
app.add_typer(weights_cli.app, name="weights")
app.add_typer(stats_app, name="stats")
for stage in STAGES:
    app.command(rich_help_panel="Stages that the workflow runs")(stage)
app.command("score")(scores_cli.score)
app.command("compare")(scores_cli.compare)
app.command("import")(scores_cli.import_runs)
app.command("test")(weights_cli.trial)
app.command("diagnose")(diagnose_cli.diagnose)


def main() -> None:
    """Runs the command line; whatever the user can solve becomes one sentence and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a letter or a sign; what is around it matters
            stream.reconfigure(errors="replace")
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (UserError, OSError) as error:
        print(f"reidablate: {sentence(error)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's errors of usage have it, and no public class in common
            _print_usage_error(error)
        elif (words := knob(error)) is not None:
            print(f"reidablate: {words}", file=sys.stderr)
        else:
            raise
        status = 2
    sys.exit(status)


def _print_usage_error(error: Any) -> None:
    problem = plain(error.format_message())
    if problem:  # empty where the help was printed because nothing was asked
        command = error.ctx.command_path if getattr(error, "ctx", None) else "reidablate"
        print(f"reidablate: {problem[0].lower()}{problem[1:].rstrip('.')}; see {command} --help.", file=sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"reidablate {version('reidablate')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    tier: Annotated[str, typer.Option(help="Cells to begin with: core, extended or optional.")] = "core",
    empty: Annotated[bool, typer.Option("--empty", help="Begin with the baseline alone.")] = False,
) -> None:
    """Writes a study folder: cells, settings, a profile, and a Snakefile that includes the installed rules."""
    from reidablate.init import write_study

    typer.echo(write_study(folder, tier=None if empty else tier))


@app.command()
def reproduce(
    run: Annotated[Path, typer.Argument(help="A run's folder.")], study: cells_cli.StudyOption = None
) -> None:
    """Trains a finished run again from its provenance; exit status 1 when the outcome differs in a bit."""
    from reidablate.engine.reproduce import reproduce_run
    from reidablate.places import in_study, study_of

    run = in_study(run, study).resolve()
    os.chdir(study_of(run, study))  # a recorded path of weights is meant from there
    outcome = reproduce_run(run)
    typer.echo("\n".join(outcome.lines))
    raise typer.Exit(0 if outcome.identical else 1)


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    results: Annotated[
        Path | None, typer.Option(help="results/<preset> of the study; not needed where there is only one.")
    ] = None,
    study: cells_cli.StudyOption = None,
) -> None:
    """Lists what a study no longer needs, with sizes; removes it with --yes, when no call is using the study."""
    from reidablate.places import in_study, study_of
    from reidablate.tidying import clean_study

    results = (in_study(results, study) if results else results_of(study)).absolute()
    os.chdir(study_of(results, study))  # the paths in its plans are meant from there
    for line in clean_study(Path(os.path.relpath(results)), remove=yes):
        typer.echo(line)


@stats_app.command("calibrate")
def stats_calibrate(
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("results/reference"),
    experiments: Annotated[int, typer.Option(min=100, help="Simulated experiments a setting.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
) -> None:
    """Measures by simulation how often each interval errs and what it can find; minutes on two cores."""
    from rich.console import Console
    from rich.progress import Progress

    from reidablate.stats.calibration import write_calibration

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("calibration", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        typer.echo(write_calibration(out, experiments=experiments, seed=seed, progress=progress))


@app.command()
def report(
    results: Annotated[
        Path | None, typer.Argument(help="results/<preset>; not needed where there is only one.", show_default=False)
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of Jinja2 templates that replace the package's; default: the study's.")
    ] = None,
    as_text: Annotated[bool, typer.Option("--text", help="Print a summary here and render nothing.")] = False,
    digest: Annotated[
        bool, typer.Option("--digest", help="Print SHA-256 of all tables, without times and machines.")
    ] = False,
    cells: Annotated[str, typer.Option(help="Only these cells and their references, separated by commas.")] = "",
    datasets: Annotated[str, typer.Option(help="Only these data sets, separated by commas.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of a report of some cells or data sets.")] = None,
    figures: Annotated[str, typer.Option(help="Also write every figure to report/figures: pdf, png or pdf,png.")] = "",
    study: cells_cli.StudyOption = None,
) -> None:
    """Renders the tables as one self-contained HTML file."""
    from reidablate.places import TEMPLATES, in_study, study_of

    if templates is not None and not any(templates.glob("*.j2")):
        raise UserError(f"{templates} is not a folder with templates (*.j2); correct --templates or leave it out.")
    results = in_study(results, study) if results else results_of(study)
    templates = templates or study_of(results, study) / TEMPLATES
    if (cells or datasets) and out is None:
        raise UserError("a report of some cells or data sets needs a folder of its own; give it with --out.")
    if out is not None:
        from reidablate.report.narrow import narrow_tables

        chosen = ([word.strip() for word in text.split(",") if word.strip()] for text in (cells, datasets))
        narrow_tables(results / "tables", out / "tables", cells=next(chosen), datasets=next(chosen))
        results = out
    if digest:
        from reidablate.report.digest import digest_lines

        typer.echo("\n".join(digest_lines(results / "tables")))
        return
    if as_text:
        from reidablate.report.exports import text_summary

        typer.echo(text_summary(results / "tables"), nl=False)
        return
    from reidablate.report.drawing import formats
    from reidablate.report.render import render_report

    page = results / "report" / "index.html"
    render_report(results, templates, page, files=formats(figures))
    typer.echo(f"report: {page}")
