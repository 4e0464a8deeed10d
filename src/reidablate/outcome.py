"""Reads what became of a run, and estimates how long the remaining runs will take."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reidablate.artifacts import read_record
from reidablate.errors import UserError
from reidablate.runs import Metrics, Provenance


@dataclass(frozen=True)
class Outcome:
    """A run that is trained and scored.

    Attributes:
        words: What came out: scores in points on the declared side of the neck, or where it diverged.
        wall_s: Seconds from its images and initial weights to its features; None where it is not known.
        identity: Hash of its configuration.
    """

    words: str
    wall_s: float | None
    identity: str


def read_outcome(run: Path) -> Outcome | None:
    """Returns what became of a run, None while its folder holds no readable record and scores."""
    try:
        made = read_record(run / "provenance.json", Provenance)
        metrics = read_record(run / "metrics.json", Metrics)
    except (UserError, OSError):
        return None
    identity = made.external.identity if made.external else made.config_hash
    if metrics.status == "diverged":
        epoch = "" if made.epoch is None else f" in epoch {made.epoch + 1}"
        return Outcome(f"DIVERGED{epoch}: {made.reason}", made.wall_s, identity)
    scores = getattr(metrics, metrics.headline)
    took = "" if made.wall_s is None or made.transfer else f", trained in {duration(made.wall_s)}"
    held_out = " on held-out identities" * (made.config.get("scored_on") == "holdout")
    words = f"mAP {100 * scores['mAP']:.1f}, Rank-1 {100 * scores['rank1']:.1f}{held_out}{took}"
    return Outcome(words, made.wall_s, identity)


def earlier_pace(root: Path) -> float | None:
    """Returns the mean seconds of the runs that stand below `results/<preset>`, None where there is none."""
    found = (read_outcome(path.parent) for path in root.glob("*/*/seed*/metrics.json"))
    return mean(outcome.wall_s for outcome in found if outcome and outcome.wall_s is not None)


def time_left(*, elapsed_s: float, done: int, running: int, waiting: int, earlier_s: float | None) -> float | None:
    """Returns the seconds until the last run is finished, from the pace so far; None while nothing tells it.

    A run that is under way counts as half done. Before the first one is finished, the mean of earlier calls stands for
    the pace, with as many at once as there are now.

    Args:
        elapsed_s: Since the first training of this call began.
        done: Runs that were finished since then.
        running: Runs under way.
        waiting: Runs that have not begun.
        earlier_s: Mean seconds of a run of earlier calls, None where there is none.
    """
    left = waiting + running / 2
    if done:
        return elapsed_s / (done + running / 2) * left
    return None if earlier_s is None or not running else earlier_s / running * left


def duration(seconds: float) -> str:
    """Returns a time in words, with no more digits than matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def left_in_words(seconds: float | None) -> str:
    """Returns how long is left, as the end of a list; empty where it is not known."""
    if seconds is None:
        return ""
    return f", about {duration(seconds)} left" if seconds >= 60 else ", less than a minute left"


def mean(values: Iterable[float]) -> float | None:
    """Returns the mean, None of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else None
