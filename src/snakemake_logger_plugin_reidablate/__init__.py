"""The logger `reidablate` of Snakemake, which finds it by this package's name; `reidablate.terminal` has the words.

Snakemake's own lines go to its log file; errors, warnings and what is not known here are passed on.
"""

import logging
import re
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

# What Snakemake says at info level whatever it does. Said here in other words, or of no use on a terminal.
_NOISE = re.compile(
    "Building DAG|Using shell:|Select jobs|Assuming unrestricted|host: |Complete log|Elapsed time|Shutting down|"
    "Removing output files|This was a dry-run|Reasons:|Some jobs were triggered|Rules with|Updating |None$|"
    r"\d+ jobs have (missing|outdated)"
)
# What follows the failure of a job, which is printed with its last words.
_REPEATED = re.compile(
    "Exiting because a job execution failed|RuleException:\nCalledProcessError|"
    "WorkflowError:\nAt least one job did not|Cannot restore .*: no backup found"
)
_LOGGED = {  # events that only Snakemake's log needs
    LogEvent.DEBUG_DAG, LogEvent.GROUP_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS, LogEvent.RESOURCES_INFO,
    LogEvent.RULEGRAPH, LogEvent.SHELLCMD, LogEvent.WORKFLOW_STARTED,
}  # fmt: skip


class LogHandler(LogHandlerBase):  # type: ignore[misc]  # the interface has no types
    """Prints the lines of a study, with one that changes below them on a terminal."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Opens the stream that Snakemake would write to."""
        from rich.console import Console  # at every start of Snakemake, of any study, this module is imported

        from reidablate.terminal import Terminal

        settings = self.common_settings
        quiet = {what.name for what in settings.quiet or ()}
        self._silent, self._brief = "ALL" in quiet, bool({"ALL", "PROGRESS"} & quiet)
        self._console = Console(stderr=not settings.stdout, no_color=settings.nocolor or None, highlight=False)
        self._terminal = Terminal()
        self._live: Live | None = None
        self._planned = False

    def emit(self, record: logging.LogRecord) -> None:
        """Prints what a record says to a user, if anything."""
        try:
            for line in self._lines(record):
                self._console.print(line, markup=False, emoji=False, soft_wrap=True)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Takes the changing line away."""
        if self._live is not None:
            self._live.stop()
        super().close()

    def _lines(self, record: Any) -> list[str]:
        settings, event = self.common_settings, getattr(record, "event", None)
        if event == LogEvent.SHELLCMD and settings.printshellcmds and record.shellcmd:
            return [record.shellcmd]
        if event == LogEvent.DEBUG_DAG and settings.debug_dag:
            return [f"{getattr(record, 'status', '')} {getattr(record, 'job', '')}"]
        if event in _LOGGED:
            return []
        if event == LogEvent.RUN_INFO:
            return self._plan(record)
        if event == LogEvent.GROUP_ERROR:
            return self._group(record)
        if event in (LogEvent.JOB_INFO, LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR):
            return [] if settings.dryrun else self._job(record, event)
        return self._others(record)

    def _plan(self, record: Any) -> list[str]:
        if self._planned:  # a dry run says it twice
            return []
        self._planned = True
        if self.common_settings.dryrun:
            return [record.getMessage()]
        opening = self._terminal.plan(record.stats)
        return [] if self._brief else opening

    def _job(self, record: Any, event: LogEvent) -> list[str]:
        if event == LogEvent.JOB_ERROR:
            return self._terminal.fail(record.jobid, _named(record.log, getattr(record, "aux", None)))
        if event == LogEvent.JOB_FINISHED:
            lines = self._terminal.finish(record.job_id)
        else:
            lines = self._terminal.start(record.jobid, record.rule_name, record.wildcards, record.log)
            self._go_live()
        return [] if self._brief else lines

    def _group(self, record: Any) -> list[str]:
        """Returns the lines of a failed group of jobs, which a cluster ran as one job with a log of its own."""
        logs = {job["jobid"]: list(job["log"]) for job in record.job_error_info}
        cluster = _named(record.aux_logs or [], {"external_jobid": getattr(record, "external_jobid", "")})
        return self._terminal.fail_group(logs, cluster)

    def _others(self, record: logging.LogRecord) -> list[str]:
        message = record.getMessage()
        if self.common_settings.verbose:
            return [message]
        if record.levelno >= logging.WARNING:
            return [] if _REPEATED.match(message) else [message]
        return [] if self._silent or _NOISE.match(message) else [message]

    def _go_live(self) -> None:
        if self._live is None and self._console.is_terminal and not self._brief:
            from rich.live import Live

            self._live = Live(get_renderable=self._status, console=self._console, transient=True, refresh_per_second=2)
            self._live.start()
            self._console.show_cursor(True)  # a kill would leave it hidden

    def _status(self) -> "Text":
        from rich.text import Text

        return Text(self._terminal.status(), no_wrap=True, overflow="ellipsis")


def _named(logs: list[str], facts: Any) -> list[str]:
    """Returns the places of logs, in which Slurm puts the number of the job where `%j` stands."""
    return [str(log).replace("%j", str((facts or {}).get("external_jobid", "%j"))) for log in logs]
