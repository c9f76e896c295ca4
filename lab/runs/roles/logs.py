"""The log of a process: one JSON object a line on standard error, or words for people on a terminal.

``{"time": "2026-11-30T03:16:00.123Z", "level": "info", "role": "alice", "version": "...", "logger": "orchestrator.processes.node",
"message": "...", "pair": "alice-bob", "session": "3/17", "block": "block/3/17"}``: pair, session, block and round stand where they are
known (:mod:`orchestrator.log_context`); ``event`` is an event of :mod:`orchestrator.events` as it was told, and ``trace`` that of
an exception.  No line holds key (:mod:`lab.runs.roles.redaction`).  Every line is valid JSON: warnings, threads that fail, what fails while
an object is cleaned up, and log calls that cannot be written are lines like any other; a role whose work failed says so in one as well
(:func:`told_at_the_end`).  What the interpreter writes of a fault of the machine is words, as there is nobody left to write JSON.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import sys
import threading
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any, TextIO

import msgspec

from lab.runs.roles.redaction import Redacting, trace_of
from lab.runs.shown import echo
from orchestrator.events.status import pair_name
from orchestrator.log_context import known

NOISY = ("qcodes", "pyvisa", "matplotlib", "numba")


class JsonFormatter(logging.Formatter):
    """One object a line; a record about an event carries it as ``event``, its kind in ``type``."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role, self._version = role, version("qunetlab")
        self._redacting = Redacting()

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        self._redacting.filter(record)
        event = getattr(record, "event", None)
        entry: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "version": self._version,
            "logger": record.name,
            "message": _message_of(record),
            **known(),
            **known_of(event),
        }
        if event is not None:
            entry["event"] = json.loads(msgspec.json.encode(event))  # which has no NaN, as JSON has none
        if record.exc_info and record.exc_info[1] is not None:
            entry["trace"] = trace_of(*record.exc_info)
        return json.dumps(entry)


def _message_of(record: logging.LogRecord) -> str:
    """A call that does not fit its own text is told, and does not end whoever logs."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError) as error:
        return f"{record.msg} (its arguments do not fit: {type(error).__name__})"


def known_of(event: object) -> dict[str, str | int]:
    """Pair, session, block and round, as far as an event names them."""
    told: dict[str, str | int] = {}
    first, second = getattr(event, "first", None), getattr(event, "second", None)
    if first and second:
        told["pair"] = pair_name((first, second))
    epoch, number = getattr(event, "epoch", None), getattr(event, "lease_number", None)
    if epoch is not None and number is not None:
        told["session"] = f"{epoch}/{number}"
    record = getattr(event, "record", event)
    if isinstance(number := getattr(record, "round", None), int):
        told["round"] = number
    return told


class _JsonLines(logging.StreamHandler[TextIO]):
    """Lines for programs; one that cannot be made is told by its place, as a line."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):  # nobody reads: there is no place to tell it
            return
        where = f"{record.pathname}:{record.lineno}"
        words = "a line of %s cannot be written: %s"
        told = logging.LogRecord(__name__, logging.ERROR, "", 0, words, (where, type(error).__name__), None)
        with suppress(OSError):
            self.stream.write(self.format(told) + self.terminator)


class _ForPeople(logging.Handler):
    """Warnings and errors in a line each, above whatever is drawn on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """As a line like any other."""
    if failed.exc_type is SystemExit or failed.exc_value is None:
        return
    name = failed.thread.name if failed.thread else "?"
    told = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    logging.getLogger(__name__).critical("the thread %s has failed", name, exc_info=told)


def _clean_up_failed(failed: sys.UnraisableHookArgs) -> None:
    """As a line like any other: nobody could catch it."""
    if failed.exc_value is None:
        return
    told = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    what = failed.err_msg or "an exception that nobody could catch"
    logging.getLogger(__name__).error("%s in %s", what, type(failed.object).__name__, exc_info=told)


def told_at_the_end(text: str, error: BaseException | None = None) -> bool:
    """Whether the log of this process is for programs; then what ended its work is a line of it, with the trace of ``error``."""
    if not any(isinstance(each, _JsonLines) for each in logging.getLogger().handlers):
        return False
    logging.getLogger(__name__).critical("%s", text, exc_info=error)
    return True


def set_up_logging(role: str, *, for_people: bool = False) -> None:
    """JSON lines on standard error; for people on a terminal what goes wrong, in words."""
    faulthandler.enable(sys.__stderr__ or sys.stderr)
    handler: logging.Handler = _JsonLines(sys.stderr)
    handler.setFormatter(JsonFormatter(role))
    if for_people and (sys.__stderr__ or sys.stderr).isatty():  # a drawn line stands in for sys.stderr
        handler = _ForPeople(logging.WARNING)
    handler.addFilter(Redacting())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _clean_up_failed
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
