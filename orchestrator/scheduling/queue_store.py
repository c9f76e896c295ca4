"""The queue on disk: entries, the blocks that were lit for them, what happened; it survives ``kill -9``.

One SQLite file of the same making as a key store (:mod:`orchestrator.keystore.database`): a transaction is durable when
it returns, and the orchestrator is its only owner.  Two rules make that nothing is lost and nothing done twice:

* a lease is written down as *lit* before any party is told to light it, so that a block that comes in later, perhaps
to another process of the orchestrator, is known to be whose;
* a block is *counted* in the transaction that adds its bits to the entry.  However often its two nodes tell of it, it
is counted once.

A block whose end nobody told in time is *lost*, and made anew; should word of it come after all it is counted still.

What happened is kept for :data:`HISTORY_DAYS`, and :data:`HISTORY_LINES` of it at most; an entry that is closed goes with
the last of its lines, and its blocks with it.  Of open entries everything is kept, and how much went is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from orchestrator.decoding import from_json
from orchestrator.durable import create_file
from orchestrator.keystore.database import Database
from orchestrator.scheduling.entries import BlockState, Entry, HistoryLine
from orchestrator.scheduling.scheduler import Pair
from orchestrator.wire.queue_control import OPEN

QUEUE_FILE = "queue.db"
HISTORY_DAYS = 90
HISTORY_LINES = 20_000
DURATIONS_REMEMBERED = 4
"""A step's duration is the mean of about so many, the latest ones."""
Token: TypeAlias = tuple[int, int]
"""(epoch, number) of a lease."""

SCHEMA = """
CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, entry BLOB NOT NULL) STRICT;
CREATE INDEX entries_open ON entries (state) WHERE state IN ('waiting', 'running', 'held');
CREATE TABLE blocks (
    epoch INTEGER NOT NULL, number INTEGER NOT NULL, entry INTEGER NOT NULL REFERENCES entries,
    first TEXT NOT NULL, second TEXT NOT NULL, state TEXT NOT NULL, bits INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (epoch, number)) STRICT, WITHOUT ROWID;
CREATE INDEX blocks_lit ON blocks (state) WHERE state = 'lit';
CREATE TABLE history (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, entry INTEGER, who TEXT NOT NULL, what TEXT NOT NULL) STRICT;
CREATE INDEX history_of_entry ON history (entry, number);
CREATE TABLE holds (name TEXT PRIMARY KEY, who TEXT NOT NULL, at REAL NOT NULL) STRICT, WITHOUT ROWID;
"""

LEARNED = """
CREATE TABLE durations (
    step TEXT PRIMARY KEY, ring_s REAL NOT NULL, times INTEGER NOT NULL, at REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE forgotten (lines INTEGER NOT NULL, entries INTEGER NOT NULL, until REAL NOT NULL) STRICT;
"""

SUSPENSIONS = """
CREATE TABLE suspensions (
    first TEXT NOT NULL, second TEXT NOT NULL, suspension BLOB NOT NULL,
    PRIMARY KEY (first, second)) STRICT, WITHOUT ROWID;
"""

STEPS = """
UPDATE entries SET entry = CAST(json_remove(json_set(CAST(entry AS TEXT), '$.work.steps',
    CASE json_extract(CAST(entry AS TEXT), '$.work.step') WHEN '' THEN json_array()
    ELSE json_array(json_extract(CAST(entry AS TEXT), '$.work.step')) END), '$.work.step') AS BLOB)
"""
"""From format 1: a calibration was one step."""


class QueueDatabase(Database):
    """The file of a queue."""

    kind = "queue"
    application_id = 0x514E_5155  # "QNQU"
    schema_version = 4
    schema = SCHEMA + SUSPENSIONS + LEARNED
    migrations = {1: STEPS, 2: SUSPENSIONS, 3: LEARNED}  # noqa: RUF012 - never changed
    kept = "Nothing was changed"

    def _format(self) -> int:
        """Also makes what a process that was killed at its very first start left undone."""
        if not self._db.execute("SELECT 1 FROM sqlite_master").fetchall():
            self._create_schema()
        return super()._format()


class LitBlock(msgspec.Struct, frozen=True):
    """A lease that was lit for an entry."""

    token: Token
    entry: int
    pair: Pair
    state: BlockState


class Suspension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pair that makes no key until ``steps`` are calibrated, or that did not make any since it was (``suspended`` False).

    ``entry`` of the queue calibrates, None where nothing does by itself; ``to_do`` is what has to happen.  ``times`` in a row
    without key it was suspended, the last time ``at`` on the wall clock.
    """

    pair: Pair
    reason: str
    steps: tuple[str, ...]
    at: float
    times: int = 1
    suspended: bool = True
    entry: int | None = None
    to_do: str = ""


class Duration(msgspec.Struct, frozen=True):
    """Ring time that a calibration step takes: learned from those done ``times``, the latest ``at`` (wall clock)."""

    ring_s: float
    times: int
    at: float


class Forgotten(msgspec.Struct, frozen=True):
    """What is not kept any more: so many lines, none later than ``until`` (wall clock), and entries."""

    lines: int = 0
    entries: int = 0
    until: float | None = None


class Hold(msgspec.Struct, frozen=True):
    """Who holds the whole queue, since when on the wall clock."""

    who: str
    at: float


class QueueStore:
    """The opened file.  Every method raises StoreError when the disk does not play along; nothing is changed then."""

    database_class = QueueDatabase

    def __init__(self, path: Path) -> None:
        if not path.exists():
            create_file(path, b"", 0o600)
        self._db = self.database_class(path, create=False)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside, or nothing."""
        with self._db.transaction():
            yield

    # -- entries -------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """A number that no entry ever had; inside a transaction that puts the entry."""
        rows = self._db.query("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")
        return int(rows[0][0]) + 1 if rows else 1

    def put(self, entry: Entry) -> None:
        """Keep an entry as it is from here on."""
        self._db.write(
            "INSERT INTO entries (number, state, entry) VALUES (?, ?, ?) "
            "ON CONFLICT (number) DO UPDATE SET state = excluded.state, entry = excluded.entry",
            entry.number,
            entry.state,
            msgspec.json.encode(entry),
        )

    def entry(self, number: int) -> Entry | None:
        """One entry, open or not."""
        rows = self._db.query("SELECT entry FROM entries WHERE number = ?", number)
        return from_json(rows[0][0], Entry) if rows else None

    def open_entries(self) -> list[Entry]:
        """Everything that is still in the queue."""
        marks = ", ".join("?" * len(OPEN))
        rows = self._db.query(f"SELECT entry FROM entries WHERE state IN ({marks}) ORDER BY number", *OPEN)
        return [from_json(blob, Entry) for (blob,) in rows]

    def closed_entries(self, limit: int) -> list[Entry]:
        """The latest of those that are not, newest first."""
        marks = ", ".join("?" * len(OPEN))
        rows = self._db.query(
            f"SELECT entry FROM entries WHERE state NOT IN ({marks}) ORDER BY number DESC LIMIT ?",
            *OPEN,
            limit,
        )
        return [from_json(blob, Entry) for (blob,) in rows]

    # -- blocks --------------------------------------------------------------------------------------

    def lit(self, token: Token, entry: int, pair: Pair) -> None:
        """A lease is about to be lit for ``entry``."""
        self._db.write(
            "INSERT INTO blocks (epoch, number, entry, first, second, state) VALUES (?, ?, ?, ?, ?, 'lit')",
            *token,
            entry,
            *pair,
        )

    def block(self, token: Token) -> LitBlock | None:
        """The block of a lease, None if it was lit for no entry."""
        rows = self._db.query(
            "SELECT entry, first, second, state FROM blocks WHERE epoch = ? AND number = ?", *token
        )
        return LitBlock(token, rows[0][0], (rows[0][1], rows[0][2]), rows[0][3]) if rows else None

    def lit_blocks(self) -> list[LitBlock]:
        """Blocks whose end was not told yet."""
        rows = self._db.query("SELECT epoch, number, entry, first, second FROM blocks WHERE state = 'lit'")
        return [LitBlock((e, n), entry, (first, second), "lit") for e, n, entry, first, second in rows]

    def end_block(self, token: Token, state: BlockState, bits: int = 0) -> None:
        """What became of a block."""
        self._db.write(
            "UPDATE blocks SET state = ?, bits = ? WHERE epoch = ? AND number = ?", state, bits, *token
        )

    # -- what happened -------------------------------------------------------------------------------

    def note(self, line: HistoryLine) -> None:
        """Add to the history."""
        self._db.write(
            "INSERT INTO history (at, entry, who, what) VALUES (?, ?, ?, ?)",
            line.at,
            line.entry,
            line.who,
            line.what,
        )

    def history(self, entry: int | None, limit: int) -> list[HistoryLine]:
        """The latest ``limit`` lines, of one entry or of all, oldest first."""
        where, values = ("WHERE entry = ?", [entry]) if entry is not None else ("", [])
        rows = self._db.query(
            f"SELECT at, entry, who, what FROM history {where} ORDER BY number DESC LIMIT ?", *values, limit
        )
        return [HistoryLine(*row) for row in reversed(rows)]

    # -- pairs that are suspended --------------------------------------------------------------------

    def suspensions(self) -> list[Suspension]:
        """All that is kept of them."""
        rows = self._db.query("SELECT suspension FROM suspensions ORDER BY first, second")
        return [from_json(blob, Suspension) for (blob,) in rows]

    def keep_suspension(self, pair: Pair, suspension: Suspension | None) -> None:
        """What is kept of a pair from here on; None for nothing."""
        self._db.write("DELETE FROM suspensions WHERE first = ? AND second = ?", *pair)
        if suspension is not None:
            blob = msgspec.json.encode(suspension)
            self._db.write(
                "INSERT INTO suspensions (first, second, suspension) VALUES (?, ?, ?)", *pair, blob
            )

    def forget(self, now: float) -> int:
        """Let go of what is not kept any longer; the number of lines.  ``now`` is of the wall clock."""
        marks = ", ".join("?" * len(OPEN))
        is_old = (
            "number IN (SELECT h.number FROM history h LEFT JOIN entries e ON e.number = h.entry"
            f" WHERE (h.at < ? OR h.number <= (SELECT MAX(number) FROM history) - ?)"
            f" AND (e.number IS NULL OR e.state NOT IN ({marks})))"
        )
        which = (now - HISTORY_DAYS * 86400.0, HISTORY_LINES, *OPEN)
        with self._db.transaction():
            ((lines, until),) = self._db.query(
                f"SELECT COUNT(*), MAX(at) FROM history WHERE {is_old}", *which
            )
            if not lines:
                return 0
            self._db.write(f"DELETE FROM history WHERE {is_old}", *which)
            gone = (
                f"SELECT number FROM entries WHERE state NOT IN ({marks})"
                " AND number NOT IN (SELECT entry FROM history WHERE entry IS NOT NULL)"
                " AND number NOT IN (SELECT entry FROM blocks WHERE state = 'lit')"
            )
            self._db.write(f"DELETE FROM blocks WHERE entry IN ({gone})", *OPEN)
            entries = self._db.write(f"DELETE FROM entries WHERE number IN ({gone})", *OPEN)
            before = self.forgotten()
            self._db.write("DELETE FROM forgotten")
            self._db.write(
                "INSERT INTO forgotten (lines, entries, until) VALUES (?, ?, ?)",
                before.lines + lines,
                before.entries + entries,
                max(until, before.until or until),
            )
        return int(lines)

    def forgotten(self) -> Forgotten:
        """All that was let go of so far."""
        rows = self._db.query("SELECT lines, entries, until FROM forgotten")
        return Forgotten(*rows[0]) if rows else Forgotten()

    # -- what was learned ----------------------------------------------------------------------------

    def durations(self) -> dict[str, Duration]:
        """By calibration step, of those that were ever done."""
        rows = self._db.query("SELECT step, ring_s, times, at FROM durations")
        return {step: Duration(*rest) for step, *rest in rows}

    def learn(self, step: str, duration: Duration) -> None:
        """A step's duration from here on."""
        self._db.write("DELETE FROM durations WHERE step = ?", step)
        self._db.write(
            "INSERT INTO durations (step, ring_s, times, at) VALUES (?, ?, ?, ?)",
            step,
            duration.ring_s,
            duration.times,
            duration.at,
        )

    # -- the whole queue -----------------------------------------------------------------------------

    def hold(self) -> Hold | None:
        """Who holds the whole queue."""
        rows = self._db.query("SELECT who, at FROM holds WHERE name = 'queue'")
        return Hold(*rows[0]) if rows else None

    def set_hold(self, hold: Hold | None) -> None:
        """Hold the whole queue, or let it go on."""
        self._db.write("DELETE FROM holds WHERE name = 'queue'")
        if hold is not None:
            self._db.write("INSERT INTO holds (name, who, at) VALUES ('queue', ?, ?)", hold.who, hold.at)
