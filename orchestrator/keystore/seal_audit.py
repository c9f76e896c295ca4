"""Opening every seal of a store once: whether the bits that its books promise can still be had.

A node opens a seal when it uses what is inside, which may be weeks later; a disk that turned bits, or a file that was altered,
is found then, in the middle of a round.  The audit unseals every piece of every lane, every reusable key and every secret
that waits, a mebibyte at a time so that a running node goes on meanwhile, and holds the books against what is stored.  What
was unsealed is wiped at once; the findings name places and lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.keystore.core import Core
from orchestrator.keystore.errors import LedgerError, RefusedError, SealError
from orchestrator.keystore.generations import Generations
from orchestrator.keystore.mac_keys import MacKeys

PIECES_AT_ONCE = 16


@dataclass(frozen=True)
class Unopened:
    """A seal that does not open: of ``n_bits`` of a lane (from ``start`` on, None while a block is pending), or of ``what``."""

    peer: str
    what: str
    start: int | None
    n_bits: int
    block_id: str
    why: str


@dataclass(frozen=True)
class SealAudit:
    """How many seals were opened, of how many bits of the lanes, which were not, and what is wrong with the books."""

    opened: int
    opened_bits: int
    unopened: tuple[Unopened, ...]
    books: str


def audit(core: Core, mac_keys: MacKeys, generations: Generations) -> SealAudit:
    """Open every seal that is there from beginning to end; StoreError where the file cannot be read at all."""
    opened = bits = 0
    unopened: list[Unopened] = []
    for found in (*_pieces(core), *_apart(core, mac_keys, generations)):
        if found.why:
            unopened.append(found)
        else:
            opened += 1
            bits += found.n_bits
    return SealAudit(opened, bits, tuple(unopened), _books(core))


def _pieces(core: Core) -> Iterator[Unopened]:
    """Every piece; ``why`` is empty of those that opened.  One that is used meanwhile is gone, and left out."""
    with core.lock:
        ids = [int(row[0]) for row in core.db.query("SELECT id FROM pieces ORDER BY id")]
    for begin in range(0, len(ids), PIECES_AT_ONCE):
        with core.lock:
            for each in ids[begin : begin + PIECES_AT_ONCE]:
                rows = core.db.query(
                    "SELECT pieces.peer, lane, start, pieces.n_bits, block_id FROM pieces JOIN blocks"
                    " ON blocks.id = pieces.block WHERE pieces.id = ?",
                    each,
                )
                for peer, lane, start, n_bits, block_id in rows:
                    why = core.pieces.objection(each)
                    yield Unopened(str(peer), f"lane {lane}", start, int(n_bits), str(block_id), why)


def _apart(core: Core, mac_keys: MacKeys, generations: Generations) -> Iterator[Unopened]:
    """Reusable keys and kept secrets, which are sealed outside the lanes."""
    for peer in core.peers():
        for generation in mac_keys.generations(peer):
            why = ""
            try:
                mac_keys.get(peer, generation)
            except SealError as error:
                why = str(error)
            yield Unopened(peer, f"reusable keys of generation {generation}", None, 0, "", why)
        for name in generations.kept(peer):
            why = ""
            try:
                generations.secret(peer, name).wipe()
            except SealError as error:
                why = str(error)
            except RefusedError:  # it was begun with meanwhile
                continue
            yield Unopened(peer, "a new secret that waits", None, 0, "", why)


def _books(core: Core) -> str:
    try:
        with core.lock:
            core.check_books()
    except LedgerError as error:
        return str(error)
    return ""
