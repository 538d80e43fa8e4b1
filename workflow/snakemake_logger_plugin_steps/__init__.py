"""What Snakemake says while `make demo` runs: a line per step with its time, errors, no internals.

Snakemake finds this module by its name: ``PYTHONPATH=workflow snakemake --logger steps``.
"""

import logging
import signal
import sys

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# What Snakemake adds when a step has failed, which has said why itself.
REPEATED = ("CalledProcessError", "Exiting because a job", "At least one job did not complete")


class LogHandler(LogHandlerBase):
    """Turns Snakemake's events into lines on the terminal."""

    def __post_init__(self) -> None:
        self.started: dict[int, tuple[str, float]] = {}  # by job: what it does, and since when
        self.done, self.total, self.interrupted = 0, 0, False
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        """Say it once, whatever the steps and Snakemake say about it, and end as usual."""
        if not self.interrupted:
            self.interrupted = True
            print("\nInterrupted; start again to continue.", file=sys.stderr, flush=True)
        raise KeyboardInterrupt

    def emit(self, record: logging.LogRecord) -> None:
        """Say what one event means to a reader, if anything."""
        if line := self._line(record):
            print(line, file=sys.stderr, flush=True)

    def _line(self, record: logging.LogRecord) -> str | None:
        if self.interrupted:
            return None
        message = record.getMessage()
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                self.total = record.stats["total"] - record.stats.get("all", 0)
                return f"{self.total} steps to do"
            case LogEvent.JOB_INFO if record.rule_name != "all":
                self.started[record.jobid] = record.rule_msg or record.rule_name, record.created
            case LogEvent.JOB_FINISHED if record.job_id in self.started:
                self.done += 1
                return f"[{self.done} of {self.total}] {self._what(record.job_id, record)}"
            case LogEvent.JOB_ERROR if record.jobid in self.started:
                return f"[failed] {self._what(record.jobid, record)}"
            case None if message.startswith("Nothing to be done"):
                return "Nothing to do: everything is up to date."
            case None | LogEvent.ERROR if record.levelno >= logging.WARNING:
                return None if any(text in message for text in REPEATED) else message
        return None

    def _what(self, job: int, record: logging.LogRecord) -> str:
        message, since = self.started[job]
        minutes, seconds = divmod(round(record.created - since), 60)
        return f"{message} … " + f"{minutes} min " * bool(minutes) + f"{seconds} s"

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False
