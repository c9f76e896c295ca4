"""What a key store tells without the key that seals it: positions, lengths and names, never a bit.

Which range of which lane belongs to which block, what was released for which context, what was burnt and what is stored
stands in the file unsealed; only the bits themselves are sealed.  The file is opened for reading alone, and only while no node
has it.  That a sealed piece opens, and what is in it, takes the owner's store key, and is checked by the node whenever it
uses the piece.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from orchestrator.keystore.database import APPLICATION_ID, SCHEMA_VERSION
from orchestrator.keystore.deposits import is_seed
from orchestrator.keystore.errors import StoreError
from orchestrator.keystore.lanes import SplitRule
from orchestrator.records.kinds import LaneBook, Span


class StoredBlock(msgspec.Struct, frozen=True):
    """A block, or a seed, as the store has it; ``lanes`` are empty unless it is confirmed."""

    peer: str
    block_id: str
    state: str
    n_bits: int
    lanes: dict[str, Span]


class StoredRange(msgspec.Struct, frozen=True):
    """A range of a lane: a sealed piece, or a reservation with its ``state`` and the digest of its ``context``."""

    peer: str
    lane: str
    span: Span
    state: str = "stored"
    context: str = ""


class StoredEpsilons(msgspec.Struct, frozen=True):
    """What the owner relied on with a peer, added up."""

    peer: str
    sec: float
    cor: float
    auth: float
    blocks: int
    tags: int


class ApplicationUse(msgspec.Struct, frozen=True):
    """Keys that left a lane for an application, added up; ``side`` is master, slave, or relay where it was handed on."""

    sae: str
    peer: str
    lane: str
    side: str
    keys: int
    bits: int


class PublicBooks(msgspec.Struct, frozen=True):
    """Everything of one store that is no secret."""

    owner: str
    store_id: str
    lanes: tuple[LaneBook, ...]
    blocks: tuple[StoredBlock, ...]
    pieces: tuple[StoredRange, ...]
    reservations: tuple[StoredRange, ...]
    epsilons: tuple[StoredEpsilons, ...]
    uses: tuple[ApplicationUse, ...] = ()


def read_books(path: Path) -> PublicBooks:
    """The books of the store at ``path``, which no process has open.

    Raises StoreError for a file that is none, is in use, or cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{_how(path)}", uri=True)) as db:
            return _read(db, path)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (sqlite3.Error, ValueError, KeyError) as error:
        raise StoreError(f"{path} cannot be read as a key store: {error}; does its node run?") from error


def _how(path: Path) -> str:
    """Without a log no process has the file, and SQLite is to write nothing beside it; with one it must lock."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"


def _read(db: sqlite3.Connection, told: Path) -> PublicBooks:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise StoreError(
            f"{told} is no key store of this version (format {version}, this program knows {SCHEMA_VERSION})"
        )
    meta = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('owner', 'store_id', 'split')"))
    split = SplitRule.of_text(bytes(meta["split"]).decode())
    pieces = db.execute(
        "SELECT peer, lane, COALESCE(start, -1), n_bits FROM pieces ORDER BY peer, lane, start"
    ).fetchall()
    reservations = db.execute(
        "SELECT peer, lane, start, n_bits, state, context FROM reservations ORDER BY peer, lane, start"
    ).fetchall()
    return PublicBooks(
        owner=bytes(meta["owner"]).decode(),
        store_id=bytes(meta["store_id"]).decode(),
        lanes=tuple(_lane_books(db)),
        blocks=tuple(_blocks(db, split)),
        pieces=tuple(StoredRange(p, lane, Span(start, n)) for p, lane, start, n in pieces if start >= 0),
        reservations=tuple(
            StoredRange(p, lane, Span(start, n), state, bytes(context).hex())
            for p, lane, start, n, state, context in reservations
        ),
        epsilons=tuple(
            StoredEpsilons(*row)
            for row in db.execute("SELECT peer, sec, cor, auth, blocks, tags FROM epsilons ORDER BY peer")
        ),
        uses=tuple(
            ApplicationUse(*row)
            for row in db.execute(
                "SELECT sae, peer, lane, side, SUM(keys), SUM(bits) FROM sae_use GROUP BY sae, peer, lane, side"
            )
        ),
    )


def _lane_books(db: sqlite3.Connection) -> list[LaneBook]:
    rows = db.execute(
        "SELECT peer, lane, head, tail, produced,"
        " (SELECT COALESCE(SUM(n_bits), 0) FROM pieces WHERE pieces.peer = lanes.peer AND pieces.lane = lanes.lane),"
        " delivered, authentication, burnt FROM lanes ORDER BY peer, lane"
    )
    return [LaneBook(*row) for row in rows]


def _blocks(db: sqlite3.Connection, split: SplitRule) -> list[StoredBlock]:
    found = []
    for peer, block_id, state, n_bits, starts, rule in db.execute(
        "SELECT peer, block_id, state, n_bits, starts, split FROM blocks ORDER BY id"
    ):
        at: dict[str, int] = json.loads(starts) if starts else {}
        if is_seed(block_id):
            lanes = {lane: Span(start, n_bits) for lane, start in at.items()}
        else:
            parts = (SplitRule.of_text(rule) if rule else split).parts(n_bits)
            sizes = {str(part.lane): part.n_bits for part in parts}
            lanes = {lane: Span(start, sizes[lane]) for lane, start in at.items()}
        found.append(StoredBlock(peer, block_id, state, n_bits, lanes))
    return found
