"""The folder of a training run: never one that holds another run, and one process in it at a time."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fl.experiments.base import PLAN_FILE
from fl.experiments.options import OptionsError, TrainOptions
from fl.experiments.results import RESULTS_FILE, Results, ResultsError, read_results
from fl.experiments.runner import CELLS
from lab.runs.own_folder import own_folder
from lab.runs.training.record import RECORD_FILE, SERVER_STATE

LOCK_FILE = ".lock"
TRACES = (PLAN_FILE, RESULTS_FILE, CELLS, RECORD_FILE, SERVER_STATE)
"""What a run leaves in its folder; a new run must not take any of it for its own."""
NEARLY_FULL_BYTES = 1 << 20


def folder_for(options: TrainOptions, out: Path | None, resume: Path | None) -> Path:
    """Where the run lives: what was named, or a folder of its own."""
    if resume is not None and out is not None:
        raise OptionsError(
            f"--resume {resume} goes on in the run's own folder: leave --out away, or copy the folder first"
        )
    return resume or out or own_folder(options.task.split(":")[0])


@contextmanager
def held(folder: Path, *, new: bool) -> Iterator[None]:
    """The folder of a run, this process's alone until the end of the block; a new run's is made.

    Raises OptionsError where it cannot be made or written, holds another run, or is in use.
    """
    try:
        if new:
            folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OptionsError(
            f"{folder} cannot be the folder of a run: {error.strerror} ({error.filename}); "
            f"name one that can be made and written"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(lock, 20, 0).decode(errors="replace").strip() or "?"
            raise OptionsError(
                f"process {other} is training in {folder}; wait for it, stop it, or choose another --out"
            ) from None
        if new and any((folder / name).exists() for name in TRACES):
            raise OptionsError(
                f"{folder} already holds a run; go on with it (--resume {shlex.quote(str(folder))}) or choose "
                "another --out"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        if new and not any((folder / name).exists() for name in TRACES):
            _leave_nothing(folder)
        os.close(lock)


def _leave_nothing(folder: Path) -> None:
    """Remove the folder of a run without any result, unless there is something else in it."""
    with suppress(OSError):
        (folder / LOCK_FILE).unlink()
        folder.rmdir()


def earlier(folder: Path) -> Results | None:
    """What earlier attempts at this run came to; None where nothing (readable) is there."""
    try:
        return read_results(folder)
    except ResultsError:
        return None


def resume_hint(folder: Path, task: str, data: Path | None = None) -> str:
    """How to go on with a run."""
    more = "" if data is None else f" --data {shlex.quote(str(data))}"
    return f"Go on with: qunetlab train {task} --resume {shlex.quote(str(folder))}{more}"


def told(error: Exception, folder: Path) -> str:
    """An error as the notes of the run tell it; a full disk is named."""
    if not isinstance(error, OSError):
        return str(error)
    try:
        full = shutil.disk_usage(folder).free < NEARLY_FULL_BYTES
    except OSError:
        full = False
    return f"the disk of {folder} is full ({error})" if full else f"{error} (working in {folder})"
