"""Scores of features of any code base: argument parsing only."""

import json
from pathlib import Path
from typing import Annotated

import typer

from reidablate import weights_cli
from reidablate.errors import UserError
from reidablate.options import ResultsOption, StudyOption, chosen_results

DistanceOption = Annotated[
    str, typer.Option("--distance", help="cosine, or euclidean: of features as they are, not normalised.")
]


def score(
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
    from reidablate.engine.progress import Waiting
    from reidablate.metrics.distances import Product, distance_name, numpy_product
    from reidablate.metrics.files import Options, check_table_path, score_file, write_queries
    from reidablate.metrics.tables import print_scores

    product: Product = numpy_product
    if device != "cpu":
        from reidablate.engine.matrix_product import on_device

        product = on_device(device)
    chosen = (keep_junk, rerank, single_gallery_shot, multi_query, product, distance_name(distance))
    if per_query is not None:
        check_table_path(per_query)
    if slices is not None:
        from reidablate.metrics.breakdown import check_slices, write_slices

        check_slices(slices, Options(*chosen))
        if per_query is not None and per_query.resolve() == slices.resolve():
            raise UserError(f"--per-query and --slices both name {slices}; give each a file of its own.")
    with Waiting(f"scoring {path.name}") as bar:
        options = Options(*chosen, bar.show)
        scores, protocol = score_file(path, options)
    if as_json:
        found = {side: result.summary() for side, result in scores.items()}
        typer.echo(json.dumps({"protocol": protocol, **found}, indent=2))
    else:
        print_scores(scores, protocol)
    if per_query is not None:
        write_queries(scores, per_query)
    if slices is not None:
        with Waiting("scoring parts of the test set"):
            write_slices(path, options, scores, slices)


def import_runs(
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
    results: ResultsOption = None,
    study: StudyOption = None,
) -> None:
    """Puts outside runs into a study's tables and report, three or more with a verdict; delete their folder to undo."""
    from tempfile import TemporaryDirectory

    from reidablate.engine.progress import Waiting
    from reidablate.importing import Origin, import_runs
    from reidablate.metrics.distances import distance_name
    from reidablate.plugins import study_around

    results = chosen_results(results, study)
    compared = distance_name(distance)
    with study_around(results), TemporaryDirectory() as scratch:
        runs = []
        for number, path in enumerate(files):
            features = path
            if path.suffix.lower() not in {".npz", ".mat"}:
                features = Path(scratch) / f"{number}.npz"
                weights_cli.extract(path, features, results, dataset=dataset, cell=cell, device=device)
            runs.append(Origin(features, path))
        with Waiting(f"scoring {name}"):
            line = import_runs(name, runs, dataset=dataset, results=results, reference=reference, distance=compared)
    typer.echo(line)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The reference.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The one under test.")],
    side: Annotated[str | None, typer.Option(help="before_neck or after_neck, where a file has both.")] = None,
    distance: DistanceOption = "cosine",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in fractions.")] = False,
) -> None:
    """Says which of two files of features is better, query by query; one run each, so training noise stays unknown."""
    from dataclasses import asdict

    from reidablate.engine.progress import Waiting
    from reidablate.metrics.compare import compare_files
    from reidablate.metrics.distances import distance_name
    from reidablate.metrics.tables import print_comparison

    with Waiting("comparing"):
        found = compare_files(first, second, side=side, distance=distance_name(distance))
    if as_json:
        told = {"verdicts": found.verdicts, "warning": found.warning}
        typer.echo(json.dumps({"files": [str(first), str(second)], **asdict(found), **told}, indent=2))
    else:
        print_comparison(found, str(first), str(second))
