"""The command line: one subcommand a stage, argument parsing only."""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reidablate import cells_cli, methods_cli, weights_cli
from reidablate.errors import Damaged, UserError, knob, plain, reason, sentence

if TYPE_CHECKING:
    from reidablate.study import PlannedDataset, Study

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Is this gain real? Benchmark and ablation harness for person re-identification.",
)
data_app = typer.Typer(no_args_is_help=True, help="Index, cache, check and synthesize data sets.")
stats_app = typer.Typer(no_args_is_help=True, help="Check the statistics against simulated experiments.")
app.add_typer(cells_cli.app, name="cells")
app.add_typer(methods_cli.app, name="methods")
app.add_typer(data_app, name="data")
app.add_typer(weights_cli.app, name="weights")
app.add_typer(stats_app, name="stats")

PlanOption = Annotated[Path, typer.Option("--plan", help="The plan of the study, results/<preset>/plans/<hash>.json.")]
DatasetOption = Annotated[str, typer.Option("--dataset", help="A data set of the plan.")]
DistanceOption = Annotated[
    str, typer.Option("--distance", help="cosine, or euclidean: of features as they are, not normalised.")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that read images.")]


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


def _open(plan: Path) -> "Study":
    """Returns a plan, having gone to its study folder, from which the paths in it are meant."""
    from reidablate.places import base_of
    from reidablate.study import load_study

    study = load_study(plan)
    os.chdir(base_of(plan, study.root / "plans" / plan.name))
    return study


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    tier: Annotated[str, typer.Option(help="Cells to begin with: core, extended or optional.")] = "core",
    empty: Annotated[bool, typer.Option("--empty", help="Begin with the baseline alone.")] = False,
) -> None:
    """Writes a study folder: cells, settings, a profile, and a Snakefile that includes the installed rules."""
    from reidablate.init import write_study

    typer.echo(write_study(folder, tier=None if empty else tier))


@data_app.command("synthesize")
def data_synthesize(
    out: Path,
    style: Annotated[str, typer.Option(help="Layout and names: an entry of dataset_table.")] = "market1501",
    counts: Annotated[str, typer.Option(help="official, or JSON such as '{\"train_images\": 400, ...}'.")] = "official",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    image_size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels.")] = "128x64",
    occluded_share: Annotated[float, typer.Option(min=0, max=1, help="Share of occluded queries.")] = 0.5,
    recipe: Annotated[str | None, typer.Option(help="All of the above as one JSON.")] = None,
    workers: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Writes procedural pedestrians in the folder layout and file grammar of a real data set."""
    from reidablate.config import SyntheticRecipe, validate
    from reidablate.data.synthetic import official_counts, synthesize_recipe

    if recipe is None:
        given: Any = {
            "style": style,
            "counts": official_counts(style) if counts == "official" else _json(counts, "--counts"),
            "seed": seed,
            "image_size": image_size.split("x"),
            "occluded_share": occluded_share,
        }
    else:
        given = _json(recipe, "--recipe")
    synthesize_recipe(out, validate(SyntheticRecipe, given, where="data synthesize"), workers=workers)


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{option} is not valid JSON ({reason(error)}); quote it like '{{\"key\": 1}}'.") from None


@contextmanager
def _drawn_again(dataset: "PlannedDataset") -> Iterator[None]:
    """Marks a generated set whose images are damaged as not drawn, so that the next call draws it."""
    try:
        yield
    except Damaged as error:
        if not dataset.generated:
            raise
        from reidablate.data.formats import SYNTHETIC_FILE

        (dataset.root / SYNTHETIC_FILE).unlink(missing_ok=True)
        cause = str(error).partition(";")[0]
        raise UserError(f"{cause}; run the same command again, which draws the generated set again.") from None


@data_app.command("index")
def data_index(plan: PlanOption, dataset: DatasetOption, workers: WorkersOption = 2) -> None:
    """Checks a data set folder and writes its index, a row an image."""
    from reidablate.data.index import index_dataset

    study = _open(plan)
    chosen = study.dataset(dataset)
    folder, sample = study.data_folder(dataset) / "index", study.preset.sample
    with _drawn_again(chosen):
        index = index_dataset(chosen.root, chosen.layout, folder, workers=workers, sample=sample)
    for warning in index.summary["warnings"]:
        for stream in (sys.stdout, sys.stderr):  # Snakemake shows the first and logs the second
            print(f"{chosen.title} in {chosen.root}: {warning}.", file=stream)


@data_app.command("cache")
def data_cache(plan: PlanOption, dataset: DatasetOption, workers: WorkersOption = 2) -> None:
    """Decodes and resizes every image once, to memory-mapped uint8 arrays."""
    from reidablate.data.cache import build_cache
    from reidablate.data.index import read_index

    study = _open(plan)
    folder = study.data_folder(dataset)
    height, width = study.preset.model["image_size"]
    index = read_index(folder / "index")
    chosen = study.dataset(dataset)
    with _drawn_again(chosen):
        build_cache(index, chosen.root, folder / "cache", height=height, width=width, workers=workers)


@data_app.command("check")
def data_check(
    root: Annotated[Path, typer.Argument(help="The data set's folder, or its manifest.")],
    format: Annotated[
        str | None, typer.Option("--format", help="A data set of dataset_table, or manifest; found out if left out.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Other counts than the published ones are an error.")
    ] = False,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    workers: WorkersOption = 2,
) -> None:
    """Checks names, counts, identities, files and, if asked, every pixel of a data set folder."""
    from reidablate.data.check import check_folder, choose_layout, print_check
    from reidablate.data.table import shipped_table

    root, layout = choose_layout(root, format, shipped_table())
    found = check_folder(root, layout, strict=strict, decode=decode, workers=workers)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_check(found, layout)


@app.command()
def pretrain(plan: PlanOption) -> None:
    """Trains the one backbone that every run of the quickstart starts from."""
    from reidablate.engine.stages import pretrain_spec
    from reidablate.engine.train import train_run
    from reidablate.provenance import keep_sources

    study = _open(plan)
    keep_sources(study.path.parent)  # they may have been edited since the call began
    typer.echo(train_run(pretrain_spec(study)))


@app.command()
def train(
    plan: PlanOption,
    dataset: DatasetOption,
    cell: Annotated[str, typer.Option()],
    seed: Annotated[int, typer.Option(min=0)],
    gpus: Annotated[int | None, typer.Option(help="GPUs granted by the scheduler; must be what the plan asks.")] = None,
) -> None:
    """Trains one run and extracts its features; goes on where an interrupted one stopped."""
    from reidablate.engine.stages import train_spec
    from reidablate.engine.train import train_run
    from reidablate.provenance import keep_sources

    study = _open(plan)
    keep_sources(study.path.parent)  # they may have been edited since the call began
    typer.echo(train_run(train_spec(study, dataset=dataset, cell=cell, seed=seed, gpus=gpus)))


@app.command()
def external(
    plan: PlanOption,
    dataset: DatasetOption,
    cell: Annotated[str, typer.Option()],
    seed: Annotated[int, typer.Option(min=0)],
    gpus: Annotated[int | None, typer.Option(help="GPUs granted by the scheduler; must be what the plan asks.")] = None,
) -> None:
    """Runs the command of another code base for one run and takes its features."""
    from reidablate.engine.external import run_external

    typer.echo(run_external(_open(plan), dataset=dataset, cell=cell, seed=seed, gpus=gpus))


@app.command()
def transfer(
    plan: PlanOption,
    dataset: DatasetOption,
    cell: Annotated[str, typer.Option()],
    seed: Annotated[int, typer.Option(min=0)],
    on: Annotated[str, typer.Option("--on", help="Another data set of the plan.")],
    gpus: Annotated[int | None, typer.Option(help="GPUs granted by the scheduler; must be what the plan asks.")] = None,
) -> None:
    """Extracts the features of a trained run on another data set, to be scored there too."""
    from reidablate.engine.stages import train_spec
    from reidablate.engine.transfer import transfer_run

    study = _open(plan)
    spec = train_spec(study, dataset=dataset, cell=cell, seed=seed, gpus=gpus)
    typer.echo(transfer_run(spec, on=study.dataset(on).name, data=study.data_folder(on)))


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
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    plan: Annotated[Path | None, typer.Option(help="Remove what the preset of this plan does not keep.")] = None,
) -> None:
    """Scores the features of one run on both sides of the neck."""
    from reidablate.metrics.evaluate import evaluate_run

    study = None if plan is None else _open(plan)
    typer.echo(evaluate_run(run, study.metrics if study else ()))
    if study is not None:
        from reidablate.keeping import release

        release(study, run)


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

    results = (in_study(results, study) if results else _results(study)).absolute()
    os.chdir(study_of(results, study))  # the paths in its plans are meant from there
    for line in clean_study(Path(os.path.relpath(results)), remove=yes):
        typer.echo(line)


@app.command("score")
def score_command(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="An .npz or .mat of features or distances, pids and camids.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, fractions under the keys of metrics.json.")
    ] = False,
    per_query: Annotated[Path | None, typer.Option(help="Write a row a query to this .parquet or .csv.")] = None,
    slices: Annotated[
        Path | None, typer.Option(help="Write the scores by camera pair and number of positives to this file.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(help="K1,K2,LAMBDA[,POWER] of k-reciprocal re-ranking, such as 20,6,0.3.")
    ] = None,
    keep_junk: Annotated[bool, typer.Option("--keep-junk", help="Count pid -1 as wrong answers.")] = False,
    single_gallery_shot: Annotated[
        int | None, typer.Option(min=0, metavar="SEED", help="Draw one gallery image of each identity.")
    ] = None,
    multi_query: Annotated[
        bool, typer.Option("--multi-query", help="Pool the query images of one pid and camid.")
    ] = False,
    distance: DistanceOption = "cosine",
    device: Annotated[
        str, typer.Option(help="Where features are multiplied, cpu or cuda; the scores are the same.")
    ] = "cpu",
) -> None:
    """Scores the features or distances of any code base under one exact protocol."""
    from reidablate.metrics.distances import Product, distance_name, numpy_product
    from reidablate.metrics.files import Options, check_table_path, score_file, write_queries
    from reidablate.metrics.tables import print_scores

    product: Product = numpy_product
    if device != "cpu":
        from reidablate.engine.product import on_device

        product = on_device(device)
    options = Options(keep_junk, rerank, single_gallery_shot, multi_query, product, distance_name(distance))
    if per_query is not None:
        check_table_path(per_query)
    if slices is not None:
        from reidablate.metrics.slices import check_slices, write_slices

        check_slices(slices, options)
        if per_query is not None and per_query.resolve() == slices.resolve():
            raise UserError(f"--per-query and --slices both name {slices}; give each a file of its own.")
    scores, protocol = score_file(path, options)
    if as_json:
        found = {side: result.summary() for side, result in scores.items()}
        typer.echo(json.dumps({"protocol": protocol, **found}, indent=2))
    else:
        print_scores(scores, protocol)
    if per_query is not None:
        write_queries(scores, per_query)
    if slices is not None:
        write_slices(path, options, scores, slices)


app.command("test")(weights_cli.trial)


@app.command("import")
def import_command(
    name: Annotated[str, typer.Argument(help="What tables and report call it.")],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Features or distances, as for `score`, or weights; one file a seed."),
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="The data set of the study that was searched.")],
    reference: Annotated[
        str | None, typer.Option(help="Cell that three or more files are judged against; the baseline without.")
    ] = None,
    distance: DistanceOption = "cosine",
    cell: Annotated[str | None, typer.Option(help="Cell whose network weights are of; the preset's without.")] = None,
    device: Annotated[str, typer.Option(help="Where features of weights are made: auto, cpu or cuda.")] = "auto",
    results: Annotated[
        Path | None, typer.Option(help="results/<preset> of the study; not needed where there is only one.")
    ] = None,
    study: cells_cli.StudyOption = None,
) -> None:
    """Puts outside runs into a study's tables and report, three or more with a verdict; delete their folder to undo."""
    from tempfile import TemporaryDirectory

    from reidablate.metrics.distances import distance_name
    from reidablate.places import in_study
    from reidablate.report.imported import Origin, import_runs

    results = in_study(results, study) if results else _results(study)
    compared = distance_name(distance)
    with TemporaryDirectory() as scratch:
        runs = []
        for number, path in enumerate(files):
            features = path
            if path.suffix.lower() not in {".npz", ".mat"}:
                features = Path(scratch) / f"{number}.npz"
                weights_cli.extract(path, features, results, dataset=dataset, cell=cell, device=device)
            runs.append(Origin(features, path))
        typer.echo(import_runs(name, runs, dataset=dataset, results=results, reference=reference, distance=compared))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The reference.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The one under test.")],
    side: Annotated[str | None, typer.Option(help="before_neck or after_neck, where a file has both.")] = None,
    distance: DistanceOption = "cosine",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in fractions.")] = False,
) -> None:
    """Compares two files of features query by query; one run each, so training noise stays unknown."""
    from dataclasses import asdict

    from reidablate.metrics.compare import compare_files
    from reidablate.metrics.distances import distance_name
    from reidablate.metrics.tables import print_comparison

    found = compare_files(first, second, side=side, distance=distance_name(distance))
    if as_json:
        typer.echo(json.dumps({"files": [str(first), str(second)], **asdict(found)}, indent=2))
    else:
        print_comparison(found, str(first), str(second))


@app.command()
def diagnose(plan: PlanOption, dataset: DatasetOption) -> None:
    """Draws a sample sheet of a data set and scores what any model has to beat on it."""
    from reidablate.diagnostics.floors import diagnose_dataset

    typer.echo(diagnose_dataset(_open(plan), dataset))


@app.command()
def aggregate(plan: PlanOption) -> None:
    """Gathers the runs of a study into tidy tables; what is missing is named, not invented."""
    from reidablate.report.aggregate import aggregate_study

    typer.echo(aggregate_study(_open(plan)))


@app.command()
def statistics(
    results: Annotated[Path, typer.Argument(help="results/<preset>")], study: cells_cli.StudyOption = None
) -> None:
    """Compares every cell with its references, seed by seed and query by query."""
    from reidablate.places import in_study, study_of
    from reidablate.stats.pipeline import write_statistics

    results = in_study(results, study)
    typer.echo(write_statistics(results, study_of(results, study)))


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
    results = in_study(results, study) if results else _results(study)
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


def _results(study: Path | None) -> Path:
    """Returns the one `results/<preset>` of a study."""
    from reidablate.places import find_study, settings
    from reidablate.report.imported import find_results

    folder = find_study(study)
    return find_results(folder / str(settings(folder)["results"]))
