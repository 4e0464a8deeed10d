"""`reidablate data`: argument parsing only."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reidablate.errors import Damaged, UserError, reason
from reidablate.options import INTERNAL
from reidablate.stages_cli import DatasetOption, PlanOption, open_plan

if TYPE_CHECKING:
    from reidablate.planned import PlannedDataset

app = typer.Typer(no_args_is_help=True, help="Index, cache, check and synthesize data sets.")
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that read images.")]


@app.command("synthesize")
def data_synthesize(
    out: Path,
    style: Annotated[str, typer.Option(help="Layout and names: an entry of dataset_table.")] = "market1501",
    counts: Annotated[
        str,
        typer.Option(
            help="official, or JSON with train_images, train_ids, query_images, query_ids, gallery_images and "
            "gallery_ids, and if wanted distractors, junk and shared_queries."
        ),
    ] = "official",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    image_size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels.")] = "128x64",
    occluded_share: Annotated[float, typer.Option(min=0, max=1, help="Share of occluded queries.")] = 0.5,
    recipe: Annotated[str | None, typer.Option(help="All of the above as one JSON.")] = None,
    workers: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Writes procedural pedestrians in the folder layout and file grammar of a real data set."""
    from reidablate.config import SyntheticRecipe, validate
    from reidablate.synthetic.plan import official_counts
    from reidablate.synthetic.synthesize import synthesize_recipe

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


@app.command("index", rich_help_panel=INTERNAL)
def data_index(plan: PlanOption, dataset: DatasetOption, workers: WorkersOption = 2) -> None:
    """Checks a data set folder and writes its index, a row an image."""
    from reidablate.data.index import index_dataset

    study = open_plan(plan)
    chosen = study.dataset(dataset)
    folder, sample = study.data_folder(dataset) / "index", study.preset.sample
    with _drawn_again(chosen):
        index = index_dataset(chosen.root, chosen.layout, folder, workers=workers, sample=sample)
    for warning in index.summary["warnings"]:
        print(f"{chosen.title} in {chosen.root}: {warning}.", file=sys.stderr)


@app.command("cache", rich_help_panel=INTERNAL)
def data_cache(plan: PlanOption, dataset: DatasetOption, workers: WorkersOption = 2) -> None:
    """Decodes and resizes every image once, to memory-mapped uint8 arrays."""
    from reidablate.data.cache import build_cache
    from reidablate.data.index import read_index

    study = open_plan(plan)
    folder = study.data_folder(dataset)
    height, width = study.preset.model["image_size"]
    index = read_index(folder / "index")
    chosen = study.dataset(dataset)
    with _drawn_again(chosen):
        build_cache(index, chosen.root, folder / "cache", height=height, width=width, workers=workers)


@app.command("check")
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
    from reidablate.engine.progress import Waiting

    root, layout = choose_layout(root, format, shipped_table())
    with Waiting(f"reading {root}"):
        found = check_folder(root, layout, strict=strict, decode=decode, workers=workers)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_check(found, layout)
