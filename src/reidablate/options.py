"""Options that several commands share, and what they mean: one convention for the study and for its results."""

from pathlib import Path
from typing import Annotated

import typer

# Panels of the help: what a user types, and what the workflow calls.
STUDY = "A study"
FEATURES = "Data sets, weights and features"
INTERNAL = "Stages that the workflow runs, and checks of this project"

_RESULTS = "results/<preset> of a study; not needed where there is only one."
StudyOption = Annotated[
    Path | None, typer.Option("--study", help="The study folder; default: the nearest one from here upwards.")
]
ResultsArgument = Annotated[Path | None, typer.Argument(metavar="[RESULTS]", help=_RESULTS, show_default=False)]
ResultsOption = Annotated[Path | None, typer.Option("--results", help=_RESULTS, show_default=False)]


def chosen_results(results: Path | None, study: Path | None) -> Path:
    """Returns the `results/<preset>` that was given, from here or from the study, or else the only one of the study.

    Raises:
        UserError: None was given, and the study has none or several.
    """
    from reidablate.places import find_study, in_study, settings
    from reidablate.study import find_results

    if results is not None:
        return in_study(results, study)
    folder = find_study(study)
    return find_results(folder / str(settings(folder)["results"]))
