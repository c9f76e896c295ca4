"""That a run began, and how it ended, on record in its folder: done, failed, or interrupted.

The first word is written before anything is started, the last one however the run ends: by itself, by an exception, by
Ctrl-C or SIGTERM.  A beginning without an end is a run that was killed, or one that goes on: a run holds a lock while it
does, which the operating system releases with its process.

The folder is that of the run, or of a testbed on which commands work that leave their results there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.runs.records.gathering import RUN_ROLE, digests
from lab.runs.shown import shown
from lab.runs.software import commit, versions
from orchestrator.durable import locked, make_folder
from orchestrator.records.chain import ChainError
from orchestrator.records.keeping import CHAIN_FILE, RECORDS, Records
from orchestrator.records.kinds import Record, ResultsKept, RoleStarted, RunBegan, RunEnded, RunEnding
from orchestrator.wire.fields import REASON_LIMIT

logger = logging.getLogger(__name__)

RUNNING = ".running"
WRITING = ".lock"


@dataclass
class Ending:
    """How a run ends, unless an exception says otherwise."""

    how: RunEnding = "done"
    reason: str = ""

    def failed(self, reason: str) -> None:
        """It came to its end, and that is none to be glad of."""
        self.how, self.reason = "failed", reason

    def interrupted(self, reason: str) -> None:
        """Somebody ended it."""
        self.how, self.reason = "interrupted", reason


@contextmanager
def on_record(
    folder: Path, kind: str, about: str, left: Callable[[Path], dict[str, str]] = digests
) -> Iterator[Ending]:
    """Put the run in this block on record; at its end, the digests of the files that it ``left``, by default of all."""
    home = folder / RECORDS / RUN_ROLE
    make_folder(home)
    running = os.open(home / RUNNING, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(running, fcntl.LOCK_SH)
        began_s, ending = time.monotonic(), Ending()
        _keep(home, RunBegan(kind=kind, about=about))
        try:
            yield ending
        except BaseException as error:
            ending = _ended_by(error)
            raise
        finally:
            _keep(home, *_last_words(folder, left, ending, time.monotonic() - began_s))
    finally:
        os.close(running)


def is_running(folder: Path) -> bool:
    """Whether a run works in this folder at the moment."""
    try:
        running = os.open(folder / RECORDS / RUN_ROLE / RUNNING, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(running)
    return False


def _last_words(
    folder: Path, left: Callable[[Path], dict[str, str]], ending: Ending, seconds: float
) -> Iterator[Record]:
    try:
        yield ResultsKept(files=left(folder))
    except OSError as error:
        logger.error("the files of this run are not on record: %s", error)
    yield RunEnded(how=ending.how, reason=shown(ending.reason, REASON_LIMIT), seconds=seconds)


def _ended_by(error: BaseException) -> Ending:
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", "by Ctrl-C")
    if isinstance(error, SystemExit):
        number = error.code - 128 if isinstance(error.code, int) else 0
        if number in {each.value for each in signal.Signals}:
            return Ending("interrupted", f"by {signal.Signals(number).name}")
    return Ending("failed", f"{type(error).__name__}: {error}")


def _keep(home: Path, *records: Record) -> None:
    """Write records at the end of the chain; one that cannot be gone on with is told, and the run goes on without."""
    with locked(home / WRITING):
        is_new = not (home / CHAIN_FILE).exists()
        try:
            chain = Records(home)
        except ChainError as error:
            logger.error("how this run ends is not on record: %s", error)
            return
        if is_new:
            version = versions(["qunetlab"]).get("qunetlab", "")
            chain.keep(RoleStarted(role=RUN_ROLE, version=version, commit=commit()))
        for record in records:
            chain.keep(record)
