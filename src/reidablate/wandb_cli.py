"""The subcommands of `reidablate wandb`: argument parsing only."""

from typing import TYPE_CHECKING, Annotated

import typer

from reidablate.errors import UserError
from reidablate.options import ResultsArgument, StudyOption, chosen_results

if TYPE_CHECKING:
    from reidablate.engine.tracking import Mode

app = typer.Typer(no_args_is_help=True, help="Send a study to Weights & Biases.")


@app.command("push")
def wandb_push(
    results: ResultsArgument = None,
    offline: Annotated[bool, typer.Option("--offline", help="Write files for `wandb sync` instead.")] = False,
    verdicts: Annotated[bool, typer.Option("--verdicts", help="The study's verdicts alone, without its runs.")] = False,
    study: StudyOption = None,
) -> None:
    """Sends the finished runs of a study and its verdicts from their files; what was sent before is not repeated."""
    from reidablate.engine.progress import CountBar
    from reidablate.engine.pushing import push_study, push_verdicts
    from reidablate.engine.tracking import FOLDER, login_problem

    results = chosen_results(results, study)
    if not offline and (problem := login_problem()):
        raise UserError(problem)
    mode: Mode = "offline" if offline else "online"
    if verdicts:
        push_verdicts(results, mode)
        return
    with CountBar("runs", "runs") as bar:
        line = push_study(results, mode, bar.show)
    typer.echo(f"{line}; send them with: wandb sync {results / FOLDER}/offline-run-*" if offline else line)


@app.command("check")
def wandb_check() -> None:
    """Says whether this machine can send; status 2 and the reason if not."""
    from reidablate.engine.tracking import login_problem

    if problem := login_problem():
        raise UserError(problem)
    typer.echo("Weights & Biases takes the key of this machine.")
