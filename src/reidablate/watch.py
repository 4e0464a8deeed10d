"""Following a study from another terminal, by its files alone: the plan, states, logs and scores."""

import fcntl
import os
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from reidablate.artifacts import read_json
from reidablate.errors import UserError, how_it_ended, last_words, plain
from reidablate.outcome import Outcome, left_in_words, mean, read_outcome, time_left
from reidablate.scope import FILE
from reidablate.study import Run, Study, load_study

EVERY_S = 2.0
_TAIL_BYTES = 4096
_LATEST = 3  # finished runs that are shown


@dataclass
class Watch:
    """The state of the last call on a study, read again with every look.

    Attributes:
        results: The folder `results/<preset>`.
    """

    results: Path
    _known: dict[str, tuple[int, Outcome | None]] = field(default_factory=dict)

    def lines(self) -> tuple[list[str], bool]:
        """Returns what there is to say now, the line of the whole study first, and whether a call is at work.

        Raises:
            UserError: There is no plan.
        """
        path = _last_plan(self.results)
        study, began = load_study(path), path.stat().st_mtime
        at_work = _is_locked(self.results / ".lock")
        finished = {run: at for run in study.asked_runs if (at := self._finished(study, run))}
        here = {run: at for run, at in finished.items() if at >= began}
        left = [run for run in study.asked_runs if run not in finished]
        running = [run for run in left if at_work and _is_locked(self.results / run.id / ".lock")]
        failed = [run for run in left if run not in running and self._failure(run, began)]
        waiting = len(left) - len(running) - len(failed)
        head = f"{study.preset.name}: train {len(here)}/{len(here) + len(left)}"
        head += f" ({len(finished) - len(here)} finished before)" * (len(finished) > len(here))
        head += f", {running[-1].id}" if running else ""
        head += f", {len(failed)} failed"
        if at_work and left:
            head += self._left(here, running=len(running), waiting=waiting)
        lines = [head if at_work else f"{head}; no call is at work on it"]
        lines += [f"  running  {self._last_line(run)}" for run in running]
        lines += [f"  failed   {run.id}: {self._failure(run, began)} [{self._log(run)}]" for run in failed]
        newest = sorted(here, key=lambda run: here[run])[-_LATEST:]
        lines += [f"  finished {run.id}: {self._outcome(run).words}" for run in newest]
        page = self.results / "report" / "index.html"
        lines += [f"  report   {page}"] * (not left and page.is_file())
        return lines, at_work

    def _outcome(self, run: Run) -> Outcome:
        outcome = self._known[run.id][1]
        assert outcome is not None
        return outcome

    def _finished(self, study: Study, run: Run) -> float:
        """Returns when the planned run was scored, 0 if it is not; its files are read again only when they change."""
        folder = self.results / run.id
        try:
            changed = max((folder / name).stat().st_mtime_ns for name in ("provenance.json", "metrics.json"))
        except OSError:
            return 0
        if self._known.get(run.id, (0, None))[0] != changed:
            self._known[run.id] = (changed, read_outcome(folder))
        outcome = self._known[run.id][1]
        planned = outcome and outcome.identity == study.cell(run.cell).identity_on(run.dataset)
        return changed / 1e9 if planned else 0

    def _left(self, here: dict[Run, float], *, running: int, waiting: int) -> str:
        """Returns how long is left. The first of the runs that were finished since began as long before as it took."""
        known = [(at, wall_s) for run, at in here.items() if (wall_s := self._outcome(run).wall_s) is not None]
        walls = [outcome.wall_s for _, outcome in self._known.values() if outcome and outcome.wall_s is not None]
        left_s = time_left(
            elapsed_s=time.time() - min((at - wall_s for at, wall_s in known), default=0),
            done=len(known),
            running=running,
            waiting=waiting,
            earlier_s=mean(walls),
        )
        return left_in_words(left_s)

    def _log(self, run: Run) -> Path:
        return self.results / "logs" / "train" / f"{run.id}.log"

    def _failure(self, run: Run, began: float) -> str:
        """Returns the last words of a run that failed in this call, empty if it did not."""
        log = self._log(run)
        with suppress(OSError):
            if log.stat().st_mtime >= began and last_words(log):
                return how_it_ended(log)
        return ""

    def _last_line(self, run: Run) -> str:
        """Returns the last line of a run's log, which begins with its name."""
        with suppress(OSError), self._log(run).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            said = [line for line in stream.read().decode(errors="replace").splitlines() if line.startswith(run.id)]
            return plain(said[-1]) if said else run.id
        return run.id


def _last_plan(results: Path) -> Path:
    """Returns the plan of the last call that ran.

    Raises:
        UserError: There is none.
    """
    with suppress(UserError, AttributeError):
        path = results / "plans" / f"{read_json(results / FILE).get('last_plan')}.json"
        if path.is_file():
            return path
    raise UserError(f"{results} holds no plan of a study; run snakemake first.")


def _is_locked(path: Path) -> bool:
    """Returns whether another process holds a lock; it is shared for a moment, as by a dry run, and nothing is made."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks
        return False
    finally:
        os.close(descriptor)
    return False


def follow(watch: Watch, *, once: bool = False) -> None:
    """Shows where a study stands until no call is at work on it: in place on a terminal, elsewhere what changes.

    Raises:
        UserError: There is no plan.
    """
    lines, at_work = watch.lines()
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            if live:
                live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
            else:
                print("\n".join(lines), flush=True)
            if once or not at_work:
                return
            before = lines
            while at_work and lines == before:
                time.sleep(EVERY_S)
                lines, at_work = watch.lines()
