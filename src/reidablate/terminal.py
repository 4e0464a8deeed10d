"""What the terminal says while Snakemake works on a study: a line when a training starts and when its scores are there.

Snakemake's events come in, lines go out; `snakemake_logger_plugin_reidablate` is the logger that connects both.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reidablate.artifacts import read_json
from reidablate.errors import UserError, how_it_ended
from reidablate.outcome import earlier_pace, left_in_words, read_outcome, time_left

TRAININGS = {"train": "run", "external": "foreign"}  # rule -> the wildcard that names the run
_PREPARING = ("synthesize", "index", "cache", "pretrain", "diagnose")
_OF = {"synthesize": "drawing", "index": "indexing", "cache": "decoding", "pretrain": "pre-training"}


@dataclass(frozen=True)
class _Job:
    rule: str
    name: str  # of its run or data set
    log: str
    started: float

    @property
    def title(self) -> str:
        return self.name if self.rule in TRAININGS else f"{_OF.get(self.rule, self.rule)} {self.name}".rstrip()

    @property
    def root(self) -> Path:
        """The folder `results/<preset>`, above that of the logs."""
        return next(folder.parent for folder in Path(self.log).parents if folder.name == "logs")


class Terminal:
    """The state of a call, as far as its events tell it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[int, _Job] = {}  # under way
        self._planned: Mapping[str, int] = {}
        self._unscored: set[str] = set()  # runs trained by this call that wait for their scores
        self._first: float | None = None
        self._earlier_s: float | None = None
        self._trained = self._scored = 0
        self._failed: set[int] = set()  # but for those that were started again

    @property
    def _trainings(self) -> int:
        return sum(self._planned.get(rule, 0) for rule in TRAININGS)

    def plan(self, jobs: Mapping[str, int]) -> list[str]:
        """Takes the number of jobs of each rule and returns the line that a call opens with."""
        self._planned = jobs
        what = [f"{self._trainings} run{'s' * (self._trainings != 1)} to train"] * bool(self._trainings)
        scores = jobs.get("evaluate", 0)
        what += [f"{scores} to score"] * (scores > 0 and scores != self._trainings)
        before = sum(jobs.get(rule, 0) for rule in _PREPARING)
        what += [f"{before} job{' that prepares' if before == 1 else 's that prepare'} data sets and weights"] * bool(
            before
        )
        return [f"{', '.join(what) or 'tables and report to make'}; Snakemake's own log is in .snakemake/log"]

    def start(self, job: int, rule: str, wildcards: Mapping[str, str], log: Sequence[str]) -> list[str]:
        """Takes the start of a job and returns what to print of it."""
        name = next(iter(wildcards.values()), "")
        self._failed.discard(job)
        started = self._jobs[job] = _Job(rule, name, log[0] if log else "", self._clock())
        if rule not in TRAININGS:
            return []
        if self._first is None:
            self._first = started.started
            self._earlier_s = earlier_pace(started.root)
        return [f"started {name}"]

    def finish(self, job: int) -> list[str]:
        """Takes the end of a job and returns what to print of it."""
        ended = self._jobs.pop(job, None)
        if ended is None:
            return []
        if ended.rule in TRAININGS:
            self._trained += 1
            self._unscored.add(ended.name)
        if ended.rule == "index":
            return _warnings(ended.root / "data" / ended.name / "index" / "index.json")
        if ended.rule != "evaluate":
            return []
        outcome = read_outcome(ended.root / ended.name)
        words = outcome.words if outcome else "scored"
        if ended.name not in self._unscored:
            return [f"scored {ended.name}: {words}"]
        self._unscored.remove(ended.name)
        self._scored += 1
        return [f"finished {self._scored}/{self._trainings} {ended.name}: {words}{self.left()}"]

    def fail(self, job: int, log: Sequence[str]) -> list[str]:
        """Takes the failure of a job and returns its last words and where they are, in its own log if it began."""
        failed = self._jobs.pop(job, None)
        if failed is None:
            return []
        self._failed.add(job)
        own = next((place for place in log if Path(place).is_file()), log[0] if log else "")
        words = f": {how_it_ended(Path(own))} [{own}]" if own else ""
        return [f"FAILED {failed.title}{words}"]

    def fail_group(self, logs: Mapping[int, Sequence[str]], cluster: Sequence[str]) -> list[str]:
        """Takes the failure of jobs that a cluster ran as one, and returns the last words of the one under way.

        Args:
            logs: The logs of each of them, by job.
            cluster: Where the cluster's own log is, if it has one.
        """
        last = latest([place for log in logs.values() for place in log])
        words = [line for job, log in logs.items() if last in log for line in self.fail(job, log)]
        for job in logs:  # those behind it did not begin
            self._jobs.pop(job, None)
        return [*words, *(f"the cluster's own log of it: {place}" for place in cluster)]

    def left(self) -> str:
        """Returns how long the trainings of this call will take, as the end of a list; empty where it is not known."""
        if self._first is None:
            return ""
        running = len(self._unscored) + sum(job.rule in TRAININGS for job in list(self._jobs.values()))
        waiting = self._trainings - self._scored - len(self._failed) - running
        if waiting + running <= 0:
            return ""
        elapsed_s = self._clock() - self._first
        left_s = time_left(
            elapsed_s=elapsed_s, done=self._scored, running=running, waiting=max(0, waiting), earlier_s=self._earlier_s
        )
        return left_in_words(left_s)

    def status(self) -> str:
        """Returns the one line that stays at the end of a terminal."""
        jobs = list(self._jobs.values())
        trainings = [job for job in jobs if job.rule in TRAININGS]
        current = (trainings or jobs)[-1:]
        also = len(trainings or jobs) - 1
        doing = f"{current[0].title}{f' and {also} more' * (also > 0)}" if current else "tables and report"
        if not self._trainings:
            return f"{doing}, {len(self._failed)} failed"
        return f"train {self._trained}/{self._trainings}, {doing}, {len(self._failed)} failed{self.left()}"


def latest(logs: Sequence[str]) -> str:
    """Returns the log that was written last, the first one where none was; empty where there are no logs."""
    written = [log for log in logs if Path(log).is_file()]
    return max(written, key=lambda log: Path(log).stat().st_mtime, default=logs[0] if logs else "")


def _warnings(index: Path) -> list[str]:
    """Returns what the index of a data set has to say of its files."""
    try:
        summary = read_json(index)
    except (UserError, OSError):
        return []
    return [f"{index.parents[1].name}: {warning}." for warning in summary.get("warnings", [])]
