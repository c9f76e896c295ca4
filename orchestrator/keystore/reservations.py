"""Ranges of a lane, each for one agreed context, each released once by each end.

=========  =====================================================================================
state      meaning
=========  =====================================================================================
proposed   allocated by the owner of the lane; the peer has not followed yet, or nobody said so
committed  both ends have moved their heads past the range (the peer at once, the owner when told)
released   the bits have left this store; kept for ever, so that a second call is recognised
skipped    not the owner's end: passed over by a later range of the owner; its offer may still come
waiting    a key of a lease window (:mod:`orchestrator.keystore.windows`) that waits for its application
burnt      given up: the context was abandoned, or a store of the pair was started again (I4)
=========  =====================================================================================

A context keeps its range: asking again, however often, gives the same one, and nothing is burnt because a message
was lost or wrong.
"""

from __future__ import annotations

from orchestrator.keystore.core import Core
from orchestrator.keystore.errors import (
    AlreadyReleasedError,
    LaneShortError,
    RefusedError,
    ReplayError,
    ReservationError,
)
from orchestrator.keystore.lanes import AUTH_LANES, Lane, Range, covers, find_run, lane_owner
from orchestrator.secret import SecretBits

CONTEXT_BYTES = 32


class Reservations:
    """The ``reservations`` table of one store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def propose(self, peer: str, lane: Lane, n_bits: int, context: bytes) -> Range:
        """The range of ``context`` in a lane that this end owns: the one it has, or the next free one."""
        core = self._core
        with core.transaction():
            held = self.check_request(peer, lane, n_bits, context)
            if lane_owner(lane) != core.pair_end(peer):
                raise RefusedError(f"lane {lane} with {peer} is allocated by {peer}; ask there")
            if held is not None:
                return held
            head = core.lane(peer, lane).head
            stored = list(core.pieces.stored(peer, lane, head))
            run = find_run(head, stored, n_bits)
            if run is None:
                missing = n_bits - sum(piece.n_bits for piece in stored)
                raise LaneShortError(peer, lane, max(missing, 1))
            burnt = core.advance(peer, lane, run.start)
            core.set_head(peer, lane, run.end)
            self._insert(peer, lane, run, context, "proposed")
        if burnt:
            core.shred()
        return run

    def commit(self, peer: str, lane: Lane, wanted: Range, context: bytes) -> None:
        if lane_owner(lane) == self._core.pair_end(peer):
            self._commit_own(peer, lane, wanted, context)
        else:
            self._follow(peer, lane, wanted, context)

    def _commit_own(self, peer: str, lane: Lane, wanted: Range, context: bytes) -> None:
        with self._core.transaction():
            row, state = self._need(peer, lane, wanted, context)
            if state == "committed":
                return
            if state != "proposed":
                raise ReservationError(f"the range at {wanted.start} of lane {lane} with {peer} is {state}")
            self._set_state(row, "committed")

    def _follow(self, peer: str, lane: Lane, wanted: Range, context: bytes) -> None:
        core = self._core
        with core.transaction():
            held = self.check_request(peer, lane, wanted.n_bits, context)
            if held == wanted:
                return
            burnt = 0
            if held is not None:  # the owner abandoned it and begins anew
                burnt += self._burn_row(*self._need(peer, lane, held, context)[:1], peer, lane, held)
            head = core.lane(peer, lane).head
            if wanted.start < head and not self._unskip(peer, lane, wanted):
                raise ReplayError(
                    f"{peer} proposed bits of lane {lane} from {wanted.start} on, used up to {head} before"
                )
            if not covers(wanted, core.pieces.stored(peer, lane, wanted.start)):
                raise ReservationError(
                    f"{peer} proposed {wanted.n_bits} bits of lane {lane} from {wanted.start} on,"
                    " which are not all stored here; compare the stores (reconcile)"
                )
            if wanted.start >= head:
                self._skip(peer, lane, Range(head, wanted.start - head))
                core.set_head(peer, lane, wanted.end)
            self._insert(peer, lane, wanted, context, "committed")
        if burnt:
            core.shred()

    def _skip(self, peer: str, lane: Lane, passed: Range) -> None:
        """Keep what a later range passed over: the offer of an earlier one may have been lost on its way."""
        for piece in self._core.pieces.stored(peer, lane, passed.start):
            if piece.start >= passed.end:
                break
            kept = Range(piece.start, min(piece.end, passed.end) - piece.start)
            self._insert(peer, lane, kept, b"", "skipped")

    def _unskip(self, peer: str, lane: Lane, wanted: Range) -> bool:
        """Take ``wanted`` out of what was passed over; False if it was not."""
        rows = self._core.db.query(
            "SELECT id, start, n_bits FROM reservations WHERE peer = ? AND lane = ? AND state = 'skipped'"
            " AND start < ? AND start + n_bits > ? ORDER BY start",
            peer,
            lane,
            wanted.end,
            wanted.start,
        )
        if not covers(wanted, [Range(start, n_bits) for _, start, n_bits in rows]):
            return False
        for row, start, n_bits in rows:
            self._core.db.write("DELETE FROM reservations WHERE id = ?", row)
            for begin, end in ((start, wanted.start), (wanted.end, start + n_bits)):
                if end > begin:
                    self._insert(peer, lane, Range(begin, end - begin), b"", "skipped")
        return True

    def held(self, peer: str, lane: Lane, n_bits: int, context: bytes) -> Range | None:
        """The range that ``context`` had or has here, released or not; None without one, or of another size."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT start, n_bits FROM reservations WHERE peer = ? AND lane = ? AND context = ?"
                " AND state IN ('proposed', 'committed', 'released')",
                peer,
                lane,
                context,
            )
        return Range(int(rows[0][0]), int(rows[0][1])) if rows and rows[0][1] == n_bits else None

    def release(self, peer: str, lane: Lane, wanted: Range, context: bytes) -> SecretBits:
        with self._core.transaction():
            row, state = self._need(peer, lane, wanted, context)
            if state == "released":
                raise AlreadyReleasedError(
                    f"the range at {wanted.start} of lane {lane} with {peer} was released before;"
                    " return the stored output of its context"
                )
            if state != "committed":
                raise ReservationError(
                    f"the range at {wanted.start} of lane {lane} with {peer} is {state}, not committed"
                )
            self._set_state(row, "released")
            bits = self._core.take(peer, lane, wanted, purpose="delivered")
        self._core.shred()
        return bits

    def burn(self, peer: str, lane: Lane, wanted: Range, context: bytes) -> None:
        with self._core.transaction():
            row, state = self._need(peer, lane, wanted, context)
            if state == "released":
                raise AlreadyReleasedError(f"the range at {wanted.start} of lane {lane} with {peer} is gone")
            if state != "burnt":
                self._burn_row(row, peer, lane, wanted)
        self._core.shred()

    def burn_open(self, peer: str | None = None) -> int:
        """Burn everything reserved and not released (I4), with one peer or all; how many bits that were.

        Keys that wait for an application are burnt by a start of this end only: the other end's copies may be in use.
        """
        burnt = 0
        with self._core.transaction():
            for row, with_peer, lane, start, n_bits, state in self._core.db.query(
                "SELECT id, peer, lane, start, n_bits, state FROM reservations"
                " WHERE state IN ('proposed', 'committed', 'skipped', 'waiting')"
            ):
                if peer is None or (peer == with_peer and state != "waiting"):
                    burnt += self._burn_row(row, with_peer, Lane(lane), Range(start, n_bits))
        if burnt:
            self._core.shred()
        return burnt

    def _burn_row(self, row: int, peer: str, lane: Lane, wanted: Range) -> int:
        self._set_state(row, "burnt")
        return self._core.burn(peer, lane, wanted)

    def check_request(self, peer: str, lane: Lane, n_bits: int, context: bytes) -> Range | None:
        """The range that this context holds, None if it may have one; raises if it may not.

        Not: bits of the lane were released for it before, or it holds a range of another size.
        """
        if lane in AUTH_LANES:
            raise RefusedError(f"lane {lane} authenticates messages and cannot be reserved (I8)")
        if n_bits <= 0:
            raise RefusedError(f"a reservation has at least one bit, {n_bits} were asked for")
        if len(context) != CONTEXT_BYTES:
            raise RefusedError(f"a context digest has {CONTEXT_BYTES} bytes, got {len(context)}")
        rows = self._core.db.query(
            "SELECT state, start, n_bits FROM reservations WHERE peer = ? AND lane = ? AND context = ?"
            " AND state IN ('proposed', 'committed', 'released')",
            peer,
            lane,
            context,
        )
        if any(state == "released" for state, _, _ in rows):
            raise AlreadyReleasedError(
                f"bits of lane {lane} with {peer} were released for this context before;"
                " return its stored output, or begin a new round"
            )
        if not rows:
            return None
        if rows[0][2] != n_bits:
            raise ReservationError(
                f"lane {lane} with {peer} is reserved for this context already, with {rows[0][2]} bits"
            )
        return Range(int(rows[0][1]), int(rows[0][2]))

    def _insert(self, peer: str, lane: Lane, wanted: Range, context: bytes, state: str) -> None:
        self._core.db.write(
            "INSERT INTO reservations (peer, lane, start, n_bits, context, state) VALUES (?, ?, ?, ?, ?, ?)",
            peer,
            lane,
            wanted.start,
            wanted.n_bits,
            context,
            state,
        )

    def _need(self, peer: str, lane: Lane, wanted: Range, context: bytes) -> tuple[int, str]:
        rows = self._core.db.query(
            "SELECT id, state FROM reservations WHERE peer = ? AND lane = ? AND start = ? AND n_bits = ?"
            " AND context = ?",
            peer,
            lane,
            wanted.start,
            wanted.n_bits,
            context,
        )
        if not rows:
            raise ReservationError(
                f"nothing is reserved at {wanted.start} of lane {lane} with {peer} for this context"
            )
        return int(rows[0][0]), str(rows[0][1])

    def _set_state(self, row: int, state: str) -> None:
        self._core.db.write("UPDATE reservations SET state = ? WHERE id = ?", state, row)
