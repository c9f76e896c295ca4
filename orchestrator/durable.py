"""Files that survive a power loss: whole or as they were, and on the disk when the call returns.

Content is durable after ``fsync`` of the file, its name after ``fsync`` of the folder it stands in (fsync(2):
"calling fsync() does not necessarily ensure that the entry in the directory containing the file has also
reached disk").  So the order is: file, then name, then folder.

A secret file is destroyed by :func:`destroy_file`: it first gets the name ``NAME.spent``, so that whatever
interrupts the overwriting, nobody takes a half-erased file for the secret it was; :func:`destroy_spent` at the
next start goes on from there.

Every OSError raised here names the place: a full disk says which.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator.decoding import from_json

T = TypeVar("T")

SPENT = ".spent"
"""What a secret file is called while it is being destroyed."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace ``path`` by ``content``, durable when this returns: file, then rename, then folder.

    ``mode`` is that of the new file, less the umask.  Raises OSError, and then the old file stands, unless it
    was the folder that could not be synced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    _write(temporary, content, os.O_TRUNC, mode)
    os.replace(temporary, path)
    sync_path(path.parent)


def write_kept(path: Path, value: msgspec.Struct | Sequence[msgspec.Struct], mode: int = 0o666) -> None:
    """Replace ``path`` by ``value`` as indented JSON, for :func:`read_kept`; see :func:`replace_file`."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1), mode)


class _Format(msgspec.Struct, frozen=True):
    """A file without a number is of the first format."""

    format: int = 1


def read_kept(path: Path, kind: type[T], readable: int) -> T:
    """The struct that ``path`` holds as JSON, if its ``format`` is ``readable``.

    Raises OSError, or ValueError that says what is wrong with the content; a file of another format is told by its
    number, whatever its fields.
    """
    content = path.read_bytes()
    try:
        found = from_json(content, _Format).format
        if found != readable:
            raise ValueError(
                f"it has format {found}, this version reads {readable}: use the version of qunetlab that wrote it, "
                "or begin a new run"
            )
        return from_json(content, kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def create_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write ``content`` to a file that did not exist, durable when this returns: file, then folder.

    ``mode`` is that of the file, less the umask.  Raises FileExistsError rather than touch a file, or another
    OSError, and then no part of it stands there.
    """
    _write(path, content, os.O_EXCL, mode)
    try:
        sync_path(path.parent)
    except OSError:
        os.unlink(path)
        raise


def move_file(old: Path, new: Path) -> None:
    """Give a finished and synced file its name, durable when this returns; what had the name is replaced."""
    os.replace(old, new)
    sync_path(new.parent)


def destroy_file(path: Path) -> None:
    """Rename to ``NAME.spent``, overwrite, sync, remove; raises OSError, and then one of the two stands.

    Overwriting reaches the blocks of a file system that writes in place; on others it is best effort, and
    only an encrypted disk helps.
    """
    if path.suffix != SPENT:
        spent = path.with_name(path.name + SPENT)
        move_file(path, spent)
        path = spent
    _overwrite(path)
    os.unlink(path)
    sync_path(path.parent)


def destroy_spent(folder: Path) -> None:
    """Finish what an interrupted :func:`destroy_file` left in ``folder``."""
    for path in sorted(folder.glob(f"*{SPENT}")):
        destroy_file(path)


def destroy_folder(folder: Path) -> None:
    """Overwrite and remove every file below ``folder``, and ``folder``; links are removed, not followed.

    Raises OSError, and then what is left of it can be destroyed by another call.
    """
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        if path.is_dir() and not path.is_symlink():
            os.rmdir(path)
            continue
        if path.is_file() and not path.is_symlink():
            _overwrite(path)
        os.unlink(path)
    os.rmdir(folder)
    sync_path(folder.parent)


def make_folder(folder: Path) -> None:
    """Create ``folder`` (for its owner only) and what is missing above it; the names are durable on return."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_path(folder.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among threads and processes that lock ``path``, which is created and stays.  Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_path(path: Path) -> None:
    """Make durable what stands at ``path``: the content of a file or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _placed(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes, how: int, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, mode)
    try:
        with _placed(path), os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.unlink(path)  # a part of it must not pass for the whole, nor take up a full disk
        raise


def _overwrite(path: Path) -> None:
    with _placed(path), path.open("r+b") as file:
        file.write(b"\0" * os.fstat(file.fileno()).st_size)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _placed(path: Path) -> Iterator[None]:
    """Name ``path`` in an OSError that names no place: writing to a descriptor knows none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def is_full(error: BaseException | None) -> bool:
    """Whether ``error``, or one that it came from, says that a disk is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return True
        if any(os.strerror(number) in str(error) for number in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
