"""The subcommands of `reidablate weights`, and `reidablate test`: argument parsing only."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from reidablate.errors import UserError
from reidablate.options import ResultsOption, StudyOption

app = typer.Typer(no_args_is_help=True, help="Check and convert weight files.")

RatioOption = Annotated[
    float | None, typer.Option("--hw-ratio", min=0.1, help="Height/width of the images the file was trained on.")
]


@app.command("check")
def weights_check(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A weight file.")],
    preset: Annotated[
        str | None, typer.Option(help="A preset, by name or file, whose network is to take it; all without one.")
    ] = None,
    hw_ratio: RatioOption = None,
) -> None:
    """Says what a training would take of a weight file: loaded, resized, ignored, missing. Status 2 if nothing."""
    from reidablate.config import PATCH_PX
    from reidablate.models.checkpoints import read_weights
    from reidablate.models.weight_check import describe_file, describe_fit, fit_to, own_preset, plain_fit_to
    from reidablate.planning import base_models

    models = base_models(preset)
    if preset is not None and models[preset].backbone not in PATCH_PX:
        typer.echo("\n".join([f"{path}:", *describe_fit(plain_fit_to(path, models[preset]))]))
        return
    file = read_weights(path)
    typer.echo("\n".join(describe_file(file)))
    if preset is not None:
        typer.echo("\n".join(describe_fit(fit_to(file, models[preset], hw_ratio=hw_ratio))))
        return
    refusals = []
    for name, model in models.items():
        try:
            typer.echo("\n".join([f"preset {name}:", *describe_fit(fit_to(file, model, hw_ratio=hw_ratio))]))
        except UserError as error:
            typer.echo(f"preset {name}: refused, its network is {model.backbone} with stem {model.stem}")
            refusals.append(str(error))
    if len(refusals) == len(models):
        wanted = own_preset(file)
        remedy = f"write one of your own with `{wanted}`, or " if wanted else ""
        several = f"{path} fits no preset; {remedy}see why with --preset NAME of {', '.join(models)}."
        raise UserError(refusals[0] if len(set(refusals)) == 1 else several)


@app.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of TransReID, TransReID-SSL, timm, DINO, MAE or DeiT.")],
    destination: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    hw_ratio: RatioOption = None,
) -> None:
    """Writes the network of a checkpoint as safetensors, which hold no code and load faster."""
    from reidablate.models.checkpoints import convert

    if destination.suffix != ".safetensors":
        raise UserError(f"{destination} should end in .safetensors; loading tells the formats apart by it.")
    convert(source, destination, hw_ratio=hw_ratio)
    typer.echo(f"{destination} written")


def trial(
    weights: Annotated[Path, typer.Argument(help="A fine-tuned weight file.")],
    dataset: Annotated[str, typer.Option("--dataset", help="The data set to search, by its name in dataset_table.")],
    preset: Annotated[str | None, typer.Option(help="Preset by name or file; as snakemake chooses it without.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the data sets.")] = None,
    into: Annotated[Path | None, typer.Option(help="Folder for the index and the cache of the images.")] = None,
    results: ResultsOption = None,
    cell: Annotated[str | None, typer.Option(help="Cell whose network it is; the preset's own without.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the features; features.npz without.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    hw_ratio: RatioOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in fractions.")] = False,
    study: StudyOption = None,
) -> None:
    """Scores a fine-tuned weight file on a data set without training, and writes its features for `import`."""
    from reidablate.engine.trial import try_weights
    from reidablate.metrics.files import Options, score_file
    from reidablate.metrics.tables import print_scores
    from reidablate.places import find_study, in_study, study_of
    from reidablate.planning import trial_study

    target = out or Path("features.npz")
    if out is None and target.exists():
        raise UserError("features.npz is there already; name another file, or this one, with --out.")
    if target.suffix != ".npz":
        raise UserError(f"{target} should end in .npz; the suffix names the format.")
    _check_device(device)
    home = study_of(results, study) if results else find_study(study)
    results = results and in_study(results, study).absolute()
    weights, target = weights.absolute(), target.absolute()
    paths = {"preset": Path(preset) if preset else None, "data_root": data_root, "results": into}
    given = {key: str(path.absolute()) for key, path in paths.items() if path}
    if preset and not Path(preset).is_file():
        given["preset"] = preset
    os.chdir(home)  # the paths of its settings and plans are meant from there
    plan = trial_study(dataset, results, given)
    lines = try_weights(
        plan,
        weights,
        target,
        dataset=dataset,
        cell=cell,
        device=device,  # type: ignore[arg-type]  # checked above
        hw_ratio=hw_ratio,
    )
    scores, protocol = score_file(target, Options())
    if as_json:
        found = {side: result.summary() for side, result in scores.items()}
        typer.echo(json.dumps({"protocol": protocol, "notes": lines, **found}, indent=2))
    else:
        print_scores(scores, protocol)
        typer.echo("\n".join(lines))


def extract(weights: Path, out: Path, results: Path, *, dataset: str, cell: str | None, device: str) -> None:
    """Writes the features of a weight file on a data set of the study in `results/<preset>`."""
    from reidablate.engine.trial import try_weights
    from reidablate.planning import trial_study

    _check_device(device)
    plan = trial_study(dataset, results, {})
    lines = try_weights(
        plan,
        weights,
        out,
        dataset=dataset,
        cell=cell,
        device=device,  # type: ignore[arg-type]  # checked above
    )
    typer.echo("\n".join(f"{weights.name}: {line}" for line in lines[:-1]))


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device is '{device}' but should be auto, cpu or cuda.")
