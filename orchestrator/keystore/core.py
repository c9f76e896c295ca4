"""What every part of a key store shares: the file, the sealed pieces, the lane books, one lock.

:class:`Core` is the only place where heads move and totals change.  Its methods run under the lock and,
where they write, inside :meth:`Core.transaction`; leaving that block means the change is durable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator import runtime
from orchestrator.keystore.database import Database
from orchestrator.keystore.errors import LedgerError, RefusedError, StoreError
from orchestrator.keystore.lanes import EMPTY_LEDGER, Lane, Ledger, PairEnd, Range
from orchestrator.keystore.letters import Letters, Session
from orchestrator.keystore.pieces import Pieces
from orchestrator.keystore.skipped import SkippedBits
from orchestrator.secret import SecretBits

logger = logging.getLogger(__name__)

FARTHEST_BITS = 1 << 40
"""How far beyond the own end of a lane a peer may go at once: more key than a pair makes in years, and yet 2^21 such
steps, each under a tag, before the positions of a lane are used up."""


@dataclass(frozen=True)
class LaneState:
    """Where a lane stands: allocated below ``head``, filled up to ``tail``."""

    head: int
    tail: int


class Core:
    """The state of one store; see the module text for who may call what."""

    def __init__(self, db: Database, pieces: Pieces) -> None:
        self.db = db
        self.pieces = pieces
        self.lock = runtime.rlock()
        self.letters: dict[str, Letters] = {}
        """What this process remembers of its correspondence, by peer."""
        self.skipped: dict[tuple[str, Lane], SkippedBits] = {}
        self._destroyed = 0
        self.uncut = ""
        """Why destroyed bits may still be readable in the log; empty where they are not."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Take the lock and write all or nothing; durable on leaving."""
        with self.lock, self.db.transaction():
            yield

    def shred(self, patience: int = 0) -> None:
        """Cut the log, in which deleted data keys still lie, once more than ``patience`` deletions did.

        A full disk may not allow it.  The deletions themselves are durable already and bits may have been
        released, so that is not the caller's failure: it is logged, kept in :attr:`uncut`, and tried again by
        every further call and at closing.
        """
        with self.lock:
            self._destroyed += 1
            if self._destroyed <= patience:
                return
            try:
                self.db.checkpoint()
            except StoreError as error:
                if not self.uncut:
                    logger.warning("destroyed bits stay readable in the log of the store: %s", error)
                self.uncut = str(error)
            else:
                self._destroyed, self.uncut = 0, ""

    def pair_end(self, peer: str) -> PairEnd:
        with self.lock:
            rows = self.db.query("SELECT role FROM peers WHERE peer = ?", peer)
        if not rows:
            raise RefusedError(f"no initial secret is shared with {peer}; install one first")
        return "first" if rows[0][0] == "first" else "second"

    def generation(self, peer: str) -> int:
        """Which out-of-band secret the pair works with, counted from 0; every tag is bound to it."""
        with self.lock:
            rows = self.db.query("SELECT generation FROM peers WHERE peer = ?", peer)
        if not rows:
            raise RefusedError(f"no initial secret is shared with {peer}; install one first")
        return int(rows[0][0])

    def session(self, peer: str) -> Session | None:
        """The session with ``peer``; None before the first meeting."""
        letters = self.letters.get(peer)
        return None if letters is None else letters.session

    def lane(self, peer: str, lane: Lane) -> LaneState:
        rows = self.db.query("SELECT head, tail FROM lanes WHERE peer = ? AND lane = ?", peer, lane)
        if not rows:
            raise RefusedError(f"no initial secret is shared with {peer}; install one first")
        return LaneState(int(rows[0][0]), int(rows[0][1]))

    def set_head(self, peer: str, lane: Lane, head: int) -> None:
        """Move the head up (I1); a step back changes nothing and is an error of the caller."""
        changed = self.db.write(
            "UPDATE lanes SET head = ?, tail = MAX(tail, ?) WHERE peer = ? AND lane = ? AND head <= ?",
            head,
            head,
            peer,
            lane,
            head,
        )
        if changed != 1:
            raise RefusedError(f"the head of lane {lane} with {peer} only grows; {head} lies below it")

    def check_reach(self, peer: str, lane: Lane, position: int) -> None:
        """Refuse a position that the peer names far beyond all that lies here, before anything durable follows it."""
        tail = self.lane(peer, lane).tail
        if position > tail + FARTHEST_BITS:
            raise RefusedError(
                f"{peer} names position {position} of lane {lane}, which ends at {tail} here; nothing was changed"
            )

    def set_tail(self, peer: str, lane: Lane, tail: int) -> None:
        self.db.write("UPDATE lanes SET tail = MAX(tail, ?) WHERE peer = ? AND lane = ?", tail, peer, lane)

    def advance(self, peer: str, lane: Lane, head: int) -> int:
        """Move the head to ``head`` and burn the free bits it passes; returns how many were burnt."""
        old = self.lane(peer, lane).head
        burnt = self.burn(peer, lane, Range(old, head - old))
        self.set_head(peer, lane, head)
        return burnt

    def burn(self, peer: str, lane: Lane, unwanted: Range) -> int:
        """Destroy what is stored of ``unwanted`` and book it."""
        burnt = self.pieces.burn(peer, lane, unwanted)
        self.count(peer, lane, burnt=burnt)
        return burnt

    def take(self, peer: str, lane: Lane, wanted: Range, *, purpose: str) -> SecretBits:
        """Cut ``wanted`` out and book it as ``"delivered"`` or ``"authentication"``."""
        bits = self.pieces.cut(peer, lane, wanted)
        self.count(peer, lane, **{purpose: wanted.n_bits})
        return bits

    def count(
        self,
        peer: str,
        lane: Lane,
        *,
        produced: int = 0,
        delivered: int = 0,
        authentication: int = 0,
        burnt: int = 0,
    ) -> None:
        """Add to the running totals of a lane."""
        self.db.write(
            "UPDATE lanes SET produced = produced + ?, delivered = delivered + ?,"
            " authentication = authentication + ?, burnt = burnt + ? WHERE peer = ? AND lane = ?",
            produced,
            delivered,
            authentication,
            burnt,
            peer,
            lane,
        )

    def lane_ledger(self, peer: str, lane: Lane) -> Ledger:
        rows = self.db.query(
            "SELECT produced, delivered, authentication, burnt FROM lanes WHERE peer = ? AND lane = ?",
            peer,
            lane,
        )
        if not rows:
            raise RefusedError(f"no initial secret is shared with {peer}; install one first")
        produced, delivered, authentication, burnt = rows[0]
        return Ledger(produced, self.pieces.stored_bits(peer, lane), delivered, authentication, burnt)

    def ledger(self, peer: str) -> Ledger:
        with self.lock:
            return sum((self.lane_ledger(peer, lane) for lane in Lane), EMPTY_LEDGER)

    def peers(self) -> tuple[str, ...]:
        with self.lock:
            return tuple(str(row[0]) for row in self.db.query("SELECT peer FROM peers ORDER BY peer"))

    def check_books(self) -> None:
        """I9 for every lane, and that stored pieces neither overlap nor lie outside head and reservations."""
        for peer in self.peers():
            for lane in Lane:
                ledger = self.lane_ledger(peer, lane)
                if not ledger.balanced or min(ledger.delivered, ledger.authentication, ledger.burnt) < 0:
                    raise LedgerError(
                        f"{self.db.path}: the books of lane {lane} with {peer} do not balance ({ledger});"
                        " do not use this store: seed the pair again with a fresh one"
                    )
                self._check_places(peer, lane)

    def _check_places(self, peer: str, lane: Lane) -> None:
        state = self.lane(peer, lane)
        reserved = [
            Range(int(start), int(n_bits))
            for start, n_bits in self.db.query(
                "SELECT start, n_bits FROM reservations WHERE peer = ? AND lane = ?"
                " AND state IN ('proposed', 'committed', 'skipped', 'waiting') ORDER BY start",
                peer,
                lane,
            )
        ]
        reached, next_reserved = 0, 0
        for piece in self.pieces.stored(peer, lane):
            below = piece.start
            while next_reserved < len(reserved) and below < min(piece.end, state.head):
                room = reserved[next_reserved]
                if room.start > below:
                    break
                below = max(below, room.end)
                if room.end <= piece.end:
                    next_reserved += 1
                else:
                    break
            if piece.start < reached or piece.end > state.tail or below < min(piece.end, state.head):
                raise LedgerError(
                    f"{self.db.path}: lane {lane} with {peer} stores bits at {piece.start}..{piece.end} that"
                    f" are gone or doubled (head {state.head}); do not use this store: seed the pair again"
                )
            reached = piece.end
