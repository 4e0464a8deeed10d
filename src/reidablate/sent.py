"""A job that Snakemake sends to another machine: what it is told of its call, and what it asks of the scheduler there.

Such a job starts Snakemake again, perhaps hours later. It takes the plan that the call wrote, not what the files of the
study say by then, and leaves it to the call to know what is needed.
"""

import math
import signal
from collections.abc import Iterable
from pathlib import Path

from reidablate.artifacts import read_record
from reidablate.errors import UserError
from reidablate.needs import Needs
from reidablate.runs import Provenance
from reidablate.study import PRETRAIN, Study, load_study

_PLAN = "plan="  # a word behind --config, for jobs alone
_SPREAD = 2  # a training may take so many times the longest that was measured
_START_MIN = 30  # and this long to start


def with_plan(arguments: Iterable[str], study: Study) -> list[str]:
    """Returns the words behind `--config` for the jobs of a call: its own and the plan that it wrote."""
    return [*arguments, f"{_PLAN}{study.path}"]


def sent_study(arguments: Iterable[str]) -> Study:
    """Returns the plan of the call that sent this job, by the words behind `--config`.

    Raises:
        UserError: The words name no plan, or it is not there.
    """
    plans = [word.removeprefix(_PLAN) for word in arguments if word.startswith(_PLAN)]
    if not plans:
        raise UserError("this job was started without the plan of its call; start the study itself with snakemake.")
    return load_study(Path(plans[-1]))


def anything(study: Study) -> Needs:
    """Returns that everything of a plan may be asked for: what is needed was decided by the call that sent the job."""
    sets = [dataset.name for dataset in [*study.datasets, *study.test_only]] + [PRETRAIN] * study.pretrains
    return Needs(
        datasets=[name for name in sets if study.dataset(name).generated],
        indexes=sets,
        caches=sets,
        pretrain=study.pretrains,
        train=study.runs,
        extract=[],
        unsure=[],
        transfer=study.transfers,
        evaluate=[*study.runs, *study.transfers],
        stands=set(),
        floors=[dataset.name for dataset in study.datasets],
        tables=True,
        statistics=True,
        report=True,
        damaged=[],
    )


def hear_of_the_end() -> None:
    """Lets this process survive SIGUSR1, by which a scheduler announces the end, so that its training can be saved."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)  # not ignored: that would be inherited


class RunMinutes:
    """How long a training may take: the preset's hours, or less once runs of the same results were measured."""

    def __init__(self, study: Study) -> None:
        self._root = study.root
        self._most = math.ceil(60 * study.preset.execution.hours)
        self._measured: dict[str, float | None] = {}

    def on(self, dataset: str) -> int:
        """Returns the minutes for a run on a data set.

        The longest measured run counts twice, because nodes differ; a run that needs longer is saved, started again and
        goes on.
        """
        if dataset not in self._measured:
            self._measured[dataset] = _longest_s(self._root / dataset)
        longest_s = self._measured[dataset]
        return self._most if longest_s is None else min(self._most, _START_MIN + math.ceil(_SPREAD * longest_s / 60))


def _longest_s(runs: Path) -> float | None:
    """Returns the seconds of the longest finished run in a folder, None where there is none."""
    found = []
    for path in runs.glob("*/seed*/provenance.json"):
        try:
            made = read_record(path, Provenance)
        except (UserError, OSError):
            continue
        if made.status == "finished" and made.wall_s is not None:
            found.append(made.wall_s)
    return max(found, default=None)
