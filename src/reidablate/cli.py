"""The command line: argument parsing only."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reidablate import cells_cli, data_cli, diagnose_cli, methods_cli, publish_cli, scores_cli, wandb_cli, weights_cli
from reidablate.errors import UserError, plain, refusal
from reidablate.options import FEATURES, INTERNAL, STUDY, ResultsArgument, StudyOption, chosen_results
from reidablate.stages_cli import STAGES

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Is this gain real? Benchmark and ablation harness for person re-identification.",
)
stats_app = typer.Typer(no_args_is_help=True, help="Check the statistics against simulated experiments.")
app.add_typer(cells_cli.app, name="cells", rich_help_panel=STUDY)
app.add_typer(methods_cli.app, name="methods", rich_help_panel=STUDY)
app.add_typer(data_cli.app, name="data", rich_help_panel=FEATURES)
app.add_typer(weights_cli.app, name="weights", rich_help_panel=FEATURES)
app.add_typer(wandb_cli.app, name="wandb", rich_help_panel=STUDY)
app.add_typer(stats_app, name="stats", rich_help_panel=INTERNAL)


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
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's errors of usage have it, and no public class in common
            _print_usage_error(error)
        elif (words := refusal(error)) is not None:
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


@app.command(rich_help_panel=STUDY)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    tier: Annotated[str, typer.Option(help="Cells to begin with: core, extended or optional.")] = "core",
    empty: Annotated[bool, typer.Option("--empty", help="Begin with the baseline alone.")] = False,
) -> None:
    """Writes a study folder: cells, settings, a profile, and a Snakefile that includes the installed rules."""
    from reidablate.init import write_study

    typer.echo(write_study(folder, tier=None if empty else tier))


@app.command(rich_help_panel=STUDY)
def reproduce(run: Annotated[Path, typer.Argument(help="A run's folder.")], study: StudyOption = None) -> None:
    """Trains a finished run again from its provenance; exit status 1 when the outcome differs in a bit."""
    from reidablate.engine.reproduce import reproduce_run
    from reidablate.places import in_study, study_of

    run = in_study(run, study).resolve()
    os.chdir(study_of(run, study))  # a recorded path of weights is meant from there
    outcome = reproduce_run(run)
    typer.echo("\n".join(outcome.lines))
    raise typer.Exit(0 if outcome.identical else 1)


@app.command(rich_help_panel=STUDY)
def watch(
    results: ResultsArgument = None,
    once: Annotated[bool, typer.Option("--once", help="Print where the study stands now, and end.")] = False,
    study: StudyOption = None,
) -> None:
    """Follows the call that is at work on a study, from another terminal; ends when it does."""
    from reidablate.watch import Watch, follow

    follow(Watch(chosen_results(results, study)), once=once)


@app.command(rich_help_panel=STUDY)
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    results: ResultsArgument = None,
    study: StudyOption = None,
) -> None:
    """Lists what a study no longer needs, with sizes; removes it with --yes, when no call is using the study."""
    from reidablate.engine.progress import Waiting
    from reidablate.places import study_of
    from reidablate.tidying import clean_study

    results = chosen_results(results, study).absolute()
    os.chdir(study_of(results, study))  # the paths in its plans are meant from there
    with Waiting("looking through the study"):
        lines = list(clean_study(Path(os.path.relpath(results)), remove=yes))
    typer.echo("\n".join(lines))


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


@app.command(rich_help_panel=STUDY)
def report(
    results: ResultsArgument = None,
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
    study: StudyOption = None,
) -> None:
    """Renders the tables as one self-contained HTML file."""
    from reidablate.places import TEMPLATES, study_of

    if templates is not None and not any(templates.glob("*.j2")):
        raise UserError(f"{templates} is not a folder with templates (*.j2); correct --templates or leave it out.")
    results = chosen_results(results, study)
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
    from reidablate.engine.progress import Waiting
    from reidablate.report.drawing import formats
    from reidablate.report.render import render_report

    page = results / "report" / "index.html"
    with Waiting("drawing the report"):
        render_report(results, templates, page, files=formats(figures))
    typer.echo(f"report: {page}")


app.command("diagnose", rich_help_panel=STUDY)(diagnose_cli.diagnose)
app.command("plan", rich_help_panel=STUDY)(publish_cli.plan)
app.command("freeze", rich_help_panel=STUDY)(publish_cli.freeze)
app.command("pack", rich_help_panel=STUDY)(publish_cli.pack)
app.command("verify", rich_help_panel=STUDY)(publish_cli.verify)
app.command("diff", rich_help_panel=STUDY)(publish_cli.diff)
# Behind the commands of a study: help shows panels in the order in which they come.
app.command("score", rich_help_panel=FEATURES)(scores_cli.score)
app.command("compare", rich_help_panel=FEATURES)(scores_cli.compare)
app.command("import", rich_help_panel=FEATURES)(scores_cli.import_runs)
app.command("test", rich_help_panel=FEATURES)(weights_cli.trial)
for stage in STAGES:
    app.command(rich_help_panel=INTERNAL)(stage)
