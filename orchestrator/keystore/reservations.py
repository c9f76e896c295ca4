"""Ranges of a lane, each for one agreed context, each released once by each end.

=========  =====================================================================================
state      meaning
=========  =====================================================================================
proposed   allocated by the owner of the lane; the peer has not followed yet
committed  both ends have moved their heads past the range (the peer at once, the owner when told)
released   the bits have left this store; kept for ever, so that a second call is recognised
burnt      given up: agreement failed, or the store was started again (I4)
=========  =====================================================================================
"""

from __future__ import annotations

from orchestrator.keystore.core import Core
from orchestrator.keystore.errors import (
    AlreadyReleasedError,
    KeysShortError,
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
        core = self._core
        with core.transaction():
            self.check_request(peer, lane, n_bits, context)
            if lane_owner(lane) != core.role(peer):
                raise RefusedError(f"lane {lane} with {peer} is allocated by {peer}; ask there")
            head = core.lane(peer, lane).head
            stored = list(core.pieces.stored(peer, lane, head))
            run = find_run(head, stored, n_bits)
            if run is None:
                missing = n_bits - sum(piece.n_bits for piece in stored)
                raise KeysShortError(peer, lane, max(missing, 1))
            burnt = core.advance(peer, lane, run.start)
            core.set_head(peer, lane, run.end)
            self._insert(peer, lane, run, context, "proposed")
        if burnt:
            core.shred()
        return run

    def commit(self, peer: str, lane: Lane, wanted: Range, context: bytes) -> None:
        if lane_owner(lane) == self._core.role(peer):
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
            self.check_request(peer, lane, wanted.n_bits, context)
            head = core.lane(peer, lane).head
            if wanted.start < head:
                raise ReplayError(
                    f"{peer} proposed bits of lane {lane} from {wanted.start} on, used up to {head} before"
                )
            if not covers(wanted, core.pieces.stored(peer, lane, wanted.start)):
                raise ReservationError(
                    f"{peer} proposed {wanted.n_bits} bits of lane {lane} from {wanted.start} on,"
                    " which are not all stored here; compare the stores (reconcile)"
                )
            burnt = core.advance(peer, lane, wanted.start)
            core.set_head(peer, lane, wanted.end)
            self._insert(peer, lane, wanted, context, "committed")
        if burnt:
            core.shred()

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
                self._set_state(row, "burnt")
                self._core.burn(peer, lane, wanted)
        self._core.shred()

    def burn_open(self) -> None:
        """Burn everything reserved and not released (I4)."""
        burnt = 0
        with self._core.transaction():
            for row, peer, lane, start, n_bits in self._core.db.query(
                "SELECT id, peer, lane, start, n_bits FROM reservations"
                " WHERE state IN ('proposed', 'committed')"
            ):
                self._set_state(row, "burnt")
                burnt += self._core.burn(peer, Lane(lane), Range(start, n_bits))
        if burnt:
            self._core.shred()

    def check_request(self, peer: str, lane: Lane, n_bits: int, context: bytes) -> None:
        """Raise unless this context may have a range of the lane: not released, not reserved before."""
        if lane in AUTH_LANES:
            raise RefusedError(f"lane {lane} authenticates messages and cannot be reserved (I8)")
        if n_bits <= 0:
            raise RefusedError(f"a reservation has at least one bit, {n_bits} were asked for")
        if len(context) != CONTEXT_BYTES:
            raise RefusedError(f"a context digest has {CONTEXT_BYTES} bytes, got {len(context)}")
        states = {
            str(row[0])
            for row in self._core.db.query(
                "SELECT state FROM reservations WHERE peer = ? AND lane = ? AND context = ?",
                peer,
                lane,
                context,
            )
        }
        if "released" in states:
            raise AlreadyReleasedError(
                f"bits of lane {lane} with {peer} were released for this context before;"
                " return its stored output, or begin a new round"
            )
        if states - {"burnt"}:
            raise ReservationError(f"lane {lane} with {peer} is reserved for this context already")

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
