"""The subcommands of `reidablate methods`: argument parsing only."""

from typing import Annotated

import typer

from reidablate.options import StudyOption

app = typer.Typer(no_args_is_help=True, help="Make losses, metrics and formats of a study's own.")


@app.callback()
def methods() -> None:
    """Make losses, metrics and formats of a study's own."""


@app.command("new")
def methods_new(
    kind: Annotated[str, typer.Argument(help="loss, metric or format.")], name: str, study: StudyOption = None
) -> None:
    """Writes methods/NAME.py, a commented example to start from, and a test of it."""
    from reidablate.places import find_study
    from reidablate.starters import write_starter

    file, test = write_starter(find_study(study), kind, name)
    typer.echo(f"{file} and {test} written; its first lines say how to use it, and `pytest {file.parent}` tests it.")
