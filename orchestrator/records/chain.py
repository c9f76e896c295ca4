"""A file of records in which each line holds the hash of the one before it.

A line is ``{"before": ..., "hash": ..., "record": {...}}`` with ``hash = SHA-256(domain, before, record)``, hexadecimal,
over the very bytes of the record; the first line's ``before`` is empty.  A line that is taken out, put elsewhere or edited
no longer fits its neighbours.  Whoever can write the file can also compute all hashes anew: what a chain proves by itself
is that nothing was changed by accident, or by somebody who cannot write to the place where the last hash was noted.  What
makes records evidence is that several roles, which do not trust each other, keep chains of the same facts.

A line is written by one call and synced before :meth:`Chain.append` returns.  ``kill -9`` or a power loss may leave a part of
the last line: it is no record, and the next start of the role cuts it off and says how long it was.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orchestrator import runtime
from orchestrator.decoding import from_json
from orchestrator.durable import sync_path

_DOMAIN = b"qunetlab record 1"
_LONGEST_LINE = 1 << 24


class ChainError(Exception):
    """A file of records that cannot be gone on with."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line; ``record`` is JSON as it was written."""

    before: str
    hash: str
    record: msgspec.Raw

    @classmethod
    def after(cls, before: str, record: bytes) -> Line:
        """The line of ``record`` behind the one whose hash is ``before``."""
        return cls(before, hash_of(before, record), msgspec.Raw(record))

    @property
    def fits(self) -> bool:
        """Whether its hash is that of its content."""
        return self.hash == hash_of(self.before, bytes(self.record))


def hash_of(before: str, record: bytes) -> str:
    """The hash of a line, hexadecimal."""
    return hashlib.sha256(b"|".join((_DOMAIN, before.encode(), record))).hexdigest()


@dataclass(frozen=True)
class ReadChain:
    """A file of records as it was found.

    ``lines`` are None where they are no lines of a chain; ``rest_bytes`` of an unfinished line stand behind the last.
    ``end_byte`` of the file is the first behind whole lines.
    """

    lines: tuple[Line | None, ...]
    rest_bytes: int
    end_byte: int

    @property
    def breaks(self) -> tuple[int, ...]:
        """Numbers of the lines, from 1, that are no lines, do not fit their own hash, or not the line before."""
        found, before = [], ""
        for number, line in enumerate(self.lines, start=1):
            if line is None or not line.fits or line.before != before:
                found.append(number)
            before = before if line is None else line.hash
        return tuple(found)


def read_chain(path: Path, start: int = 0) -> ReadChain:
    """All lines of a file from byte ``start`` on, which is the first of a line; raises OSError."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    *lines, rest = data.split(b"\n")
    return ReadChain(tuple(_line(each) for each in lines), len(rest), start + len(data) - len(rest))


def _line(data: bytes) -> Line | None:
    try:
        return from_json(data, Line)
    except (ValueError, RecursionError):
        return None


class Chain:
    """The end of one file of records, to which one process appends.  Methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Go on with ``path``, or begin it.  Raises OSError, or ChainError for a last line that is no record."""
        self._path = path
        self._lock = runtime.lock()
        self.cut_bytes = 0
        """Length of the unfinished line that was cut off."""
        self._head = self._find_head()

    def _find_head(self) -> str:
        """The hash of the last line; cuts off what stands behind its end."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return ""
        with self._path.open("rb") as file:
            file.seek(max(0, size - 2 * _LONGEST_LINE))
            whole, newline, rest = file.read().rpartition(b"\n")
        self.cut_bytes = len(rest)
        if rest:
            self._shorten(size - len(rest))
        if not newline:
            return ""
        line = _line(whole.rpartition(b"\n")[2])
        if line is None or not line.fits:
            raise ChainError(
                f"the last record in {self._path} was changed or damaged: keep that file for `qunetlab audit`, move it"
                " aside, and start again with a fresh one"
            )
        return line.hash

    def append(self, record: bytes) -> None:
        """Write a record (JSON without line ends); durable on return.  Raises OSError, and then nothing of it stands there."""
        with self._lock:
            line = Line.after(self._head, record)
            is_new = not self._path.exists()
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                self._write(descriptor, msgspec.json.encode(line) + b"\n", size)
            finally:
                os.close(descriptor)
            if is_new:
                sync_path(self._path.parent)
            self._head = line.hash

    def _write(self, descriptor: int, data: bytes, size: int) -> None:
        try:
            written = os.write(descriptor, data)
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            error.filename = error.filename or str(self._path)
            raise

    def _shorten(self, size: int) -> None:
        os.truncate(self._path, size)
        sync_path(self._path)
