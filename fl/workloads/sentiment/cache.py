"""Arrays that take minutes to compute, kept in the data folder and never trusted blindly.

A cached array is one ``.npy`` file called ``NAME.KEY.DIGEST.npy``.  KEY says what went in (checksums of
texts, tokeniser, weights; settings), DIGEST is the start of the file's own SHA-256.  Because a file carries
its checksum in its name, writing it is one atomic rename, and a file that was damaged later is recognised,
removed and computed again.

While an array is being computed its pieces are kept in the same way in a folder ``NAME.KEY.parts``, so that
an interrupted computation goes on where it stopped.  A lock file lets the clients of one machine compute it
once and share it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.keys.budget import duration
from fl.workloads.data import DataError, Progress
from orchestrator.durable import move_file

Array = npt.NDArray[Any]

_DIGEST_DIGITS = 32


def quiet(text: str) -> None:
    """The progress callback that says nothing."""


def cached_array(
    folder: Path,
    name: str,
    key: str,
    pieces: Sequence[Callable[[], Array]],
    join: Callable[[list[Array]], Array],
    *,
    progress: Progress = quiet,
    clock: Callable[[], float] = time.monotonic,
) -> Array:
    """The array ``join([piece() for piece in pieces])``, read-only and memory-mapped, from ``folder``; any shape, any numeric type.

    ``key`` is 8 or more hexadecimal digits.  What is computed, and how long it still takes, is told to
    ``progress``.  Raises DataError when the folder cannot be written.
    """
    if not re.fullmatch(r"[0-9a-f]{8,}", key):
        raise ValueError(f"{key!r} is not a hexadecimal key")
    stem = f"{name}.{key}"
    if (found := _find(folder, stem, progress)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{stem}.lock", progress):
            if (found := _find(folder, stem, progress)) is not None:
                return found
            parts = folder / f"{stem}.parts"
            parts.mkdir(exist_ok=True)
            _store(folder, stem, join(list(_parts(parts, pieces, name, progress, clock))))
            shutil.rmtree(parts)
    except OSError as error:
        raise DataError(
            f"cannot keep {name} in {folder}: {error}; choose a folder with $QUNETLAB_DATA"
        ) from error
    found = _find(folder, stem, progress)
    if found is None:
        raise DataError(f"{name} was written to {folder} and cannot be read back; check the disk")
    return found


def _parts(
    folder: Path,
    pieces: Sequence[Callable[[], Array]],
    name: str,
    progress: Progress,
    clock: Callable[[], float],
) -> Iterator[Array]:
    kept = [_find(folder, f"{number:05d}", progress) for number in range(len(pieces))]
    missing = sum(part is None for part in kept)
    before = f" of {len(pieces)}, the others are there already" if missing < len(pieces) else ""
    progress(
        f"{name}: to be computed once, {missing} parts{before}, each less than a minute of a free core; "
        f"kept in {folder.parent}; stop whenever you like, the next run goes on"
    )
    started, computed = clock(), 0
    for number, (compute, part) in enumerate(zip(pieces, kept, strict=True)):
        if part is None:
            part = compute()
            _store(folder, f"{number:05d}", part)
            computed += 1
            left = (clock() - started) / computed * (missing - computed)
            progress(f"{name}: part {number + 1} of {len(pieces)} done, about {duration(left)} left")
        yield part


def _store(folder: Path, stem: str, array: Array) -> None:
    """Write ``array`` under its name and digest: it is there whole or not at all."""
    handle, scratch = tempfile.mkstemp(prefix=".writing-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        move_file(Path(scratch), folder / f"{stem}.{_digest(Path(scratch))}.npy")
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _find(folder: Path, stem: str, progress: Progress) -> Array | None:
    """The stored array of this stem; removes files whose content is not what their name says."""
    for path in sorted(folder.glob(f"{stem}.*.npy")):
        if path.name == f"{stem}.{_digest(path)}.npy":
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        progress(f"{path} is damaged; computing it again")
        path.unlink()
    return None


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGEST_DIGITS]


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold ``path`` alone among all processes of this machine; the lock ends with the process."""
    with open(path, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that computes {path.stem}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
