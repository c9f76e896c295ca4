"""The private temporary folder of a run: removed at the end, however the run ends.

It holds secrets, so it must not outlive its run: what lies in its secrets folders is overwritten before it is
removed, and what cannot be removed is told.  What its roles put on record is copied first to where the run keeps it.  Beside the run waits a *sweeper*, a process that holds the read end
of a pipe whose write end only the run has: when the run is killed, the pipe closes, and the sweeper removes the
folder.  Where the sweeper is killed with it (a container, a unit), the next run does.  Neither takes the folder from
under a process that may still write to it, and so make it again: a run holds a lock on a file in its folder, which
its processes inherit and the operating system releases when the last of them has ended, however it did.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.runs.supervising.signals import handled
from lab.runs.testbeds.folder import SECRETS
from orchestrator.durable import destroy_folder

logger = logging.getLogger(__name__)

PREFIX = "qunetlab-"
LOCK = ".running"
SWEEP_PATIENCE_S = 60.0
"""Processes of a killed run end by themselves; one that has not after this time is waited for no longer."""


@contextmanager
def private_folder() -> Iterator[tuple[Path, int]]:
    """A fresh folder of mode 0700, gone on leaving; and its lock, for the processes of the run to inherit.

    It lies where ``$TMPDIR`` says: Python would quietly take another place for one that is full or missing.
    Raises OSError with the place.
    """
    parent = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder / f"{LOCK}.new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(folder / f"{LOCK}.new", folder / LOCK)  # nobody can meet it unlocked
        with _swept(folder):
            yield folder, lock
    finally:
        _remove(folder)
        os.close(lock)


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """A sweeper for ``folder`` beside the block, which ends with it."""
    sweeper = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # what is typed at the terminal is for the run alone
    )
    try:
        yield
    finally:
        sweeper.terminate()
        sweeper.communicate()


def sweep(folder: Path) -> None:
    """Wait until the run that owns the pipe on standard input is gone, and its processes; then remove its folder."""
    sys.stdin.buffer.read()
    deadline_s = time.monotonic() + SWEEP_PATIENCE_S
    with suppress(FileNotFoundError), (folder / LOCK).open() as lock:  # the next run may have been quicker
        while not _is_free(lock.fileno()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        if folder.exists():
            _remove(folder)


def _is_free(lock: int) -> bool:
    """Take ``lock``, unless a process of the folder's run is left."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_abandoned(parent: Path) -> list[Path]:
    """Remove the folders of killed runs of this user; returns them."""
    removed = []
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # not ours to judge: no lock file, or it vanished meanwhile
        try:
            if _is_free(lock) and _remove(folder):
                removed.append(folder)
        finally:
            os.close(lock)
    return removed


def _remove(folder: Path) -> bool:
    """Gather the records in ``folder``, destroy its secrets, then all of it; False, and a warning, if something is left."""
    _gather(folder)
    try:
        _destroy(folder)
    except OSError as error:
        logger.warning(
            "%s holds secrets of a run and cannot be removed (%s); remove it by hand", folder, error
        )
        return False
    return True


def _gather(folder: Path) -> None:
    from lab.runs.records.gathering import gather_noted  # a sweeper that waits needs none of it

    try:
        gather_noted(folder)
    except (OSError, ValueError) as error:
        logger.error("the records of a run are lost with its folder %s: %s", folder, error)


def _destroy(folder: Path) -> None:
    for secrets in sorted(folder.rglob(SECRETS)):
        destroy_folder(secrets)
    shutil.rmtree(folder)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block by SystemExit, so that it cleans up; only the first one counts."""
    numbers = (signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    with handled(numbers, end):
        yield


if __name__ == "__main__":
    sweep(Path(sys.argv[1]))
