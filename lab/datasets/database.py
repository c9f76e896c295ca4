"""Databases of data sets: opened to be written, where they are made if need be, and to be read.

Whatever is wrong with one is a :class:`DatabaseError` that names the file and says what to do.  Writing is in transactions
(:func:`whole`): a data set that a full disk or ``kill -9`` interrupts is there as it was before, or not at all.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestrator.durable import is_full, make_folder

if TYPE_CHECKING:
    from qcodes.dataset import AtomicConnection

SUFFIX = ".db"
LEAST_BYTES = 128 << 10
"""What the least of databases needs beside its journal."""


class DatabaseError(Exception):
    """A database that cannot be read or written; ``full``: there is no room for it."""

    def __init__(self, path: Path, what: str, check: str, *, full: bool = False) -> None:
        self.full = full
        super().__init__(f"{path}: {what}; {check}")


def column_name(text: str) -> str:
    """``text`` as the names of QCoDeS' parameters must be."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
    return name if name.isidentifier() else f"of_{name}"


@contextmanager
def writable(path: Path) -> Iterator[AtomicConnection]:
    """The database at ``path``, made for its owner only where there is none.  Raises DatabaseError, in the body too."""
    with _told(path):
        make_folder(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        if path.stat().st_size:
            _check(path)
        with closing(_connect(path)) as connection:
            # Readers then wait for no writer, and a writer for no reader; QCoDeS makes its own databases so.
            connection.execute("PRAGMA journal_mode=WAL")
            yield connection


@contextmanager
def readable(path: Path) -> Iterator[AtomicConnection]:
    """The database at ``path`` as it stands, which is not changed.  Raises DatabaseError, in the body too."""
    with _told(path):
        if not path.is_file():
            raise DatabaseError(path, "there is no such file", "is that the right folder")
        _check(path)
        with closing(_connect(path, read_only=True)) as connection:
            yield connection


@contextmanager
def whole(connection: AtomicConnection) -> Iterator[None]:
    """Everything that is written meanwhile, or nothing of it."""
    from qcodes.dataset.sqlite.connection import atomic

    with atomic(connection):
        yield


def _connect(path: Path, *, read_only: bool = False) -> AtomicConnection:
    from qcodes.dataset import connect

    # An error reaches the caller anyway, who tells it in one line.
    logging.getLogger("qcodes.dataset.sqlite").setLevel(logging.CRITICAL)
    return connect(quote(str(path)), read_only=read_only)  # it makes a URI of it


def _check(path: Path) -> None:
    """Raise DatabaseError for one of another version: QCoDeS would change an older one for good."""
    from qcodes.dataset.sqlite.db_upgrades import _latest_available_version

    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    known = _latest_available_version()
    if found == 0 and not tables:
        return  # made a moment before its maker was killed
    if "runs" not in tables:
        raise DatabaseError(path, "it holds no data sets of QCoDeS", "move it aside: a fresh one is made")
    if found != known:
        raise DatabaseError(
            path,
            f"its layout is version {found} of QCoDeS, the QCoDeS installed here has version {known}",
            "use the QCoDeS that wrote it"
            if found > known
            else "qcodes.dataset.connect(FILE) brings a copy of it to this version; move it aside for a fresh one",
        )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever the operating system, SQLite or QCoDeS raise about a database, as DatabaseError."""
    try:
        yield
    except DatabaseError:
        raise
    except (OSError, sqlite3.Error, RuntimeError) as error:
        cause = _cause(error)
        if cause is None:
            raise
        if is_full(cause) or _is_full(path.parent):
            raise DatabaseError(path, "its disk is full", "make room there", full=True) from error
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:  # the rest says where
            what = f"it is damaged ({cause})"
            raise DatabaseError(path, what, "keep a copy, move it aside: a fresh one is made") from error
        raise DatabaseError(path, str(cause), "look at its disk and at who may write there") from error


def _is_full(folder: Path) -> bool:
    """Whether there is no room; SQLite calls some of what fails then an input or output error."""
    return folder.is_dir() and shutil.disk_usage(folder).free < LEAST_BYTES


_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _cause(error: BaseException | None) -> OSError | sqlite3.Error | None:
    """What the operating system or SQLite said; QCoDeS raises RuntimeError from it."""
    while error is not None and not isinstance(error, OSError | sqlite3.Error):
        error = error.__cause__
    return error
