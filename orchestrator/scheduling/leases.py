"""The life of a ring lease, as the orchestrator sees it; pure, times passed in.

::

    offer ---- all three accept ----> granted ---- all three done ----> free
      |                                  |
      | refusal, silence, peer gone      | failure, abort, peer gone, time up
      v                                  v
    free                              draining --- all done or gone, or time up ---> free

At most one lease exists at a time.  *Draining* keeps the ring closed until everybody has said that the
light is off, so that no two pairs ever modulate at once; a party that never answers is given up after
``drain_s``, and then refuses its next offer itself while it is still busy.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.events.status import RELAY
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.messages import (
    KEY,
    FromHub,
    FromPeer,
    LeaseAbort,
    LeaseAccept,
    LeaseDone,
    LeaseGrant,
    LeaseOffer,
    LeaseRefuse,
    LightStatistics,
)

Order: TypeAlias = tuple[str, FromHub]
"""A message and the role it goes to."""


class Phase(enum.Enum):
    """Where the ring stands."""

    FREE = "free"
    OFFERED = "offered"
    GRANTED = "granted"
    DRAINING = "draining"


@dataclass(frozen=True)
class Lease:
    """The ring for one block, for an ``entry`` of the queue or, without one, for running trainings."""

    epoch: int
    number: int
    first: str
    second: str
    n_frames: int
    limit_s: float
    purpose: str = KEY
    entry: int | None = None

    @property
    def pair(self) -> tuple[str, str]:
        """(first, second)."""
        return self.first, self.second

    @property
    def parties(self) -> tuple[str, str, str]:
        """Everybody who must agree."""
        return RELAY, self.first, self.second

    def is_ended_by(self, role: str, done: LeaseDone) -> bool:
        """Whether this is a party's word about its end."""
        return role in self.parties and (done.epoch, done.number) == (self.epoch, self.number)


@dataclass(frozen=True)
class Outcome:
    """A lease that is over.  ``refused``: no light was ever on; ``unknown_purpose``: and never will be, for somebody takes
    no part in such leases.  ``ring_s`` counts from the grant."""

    lease: Lease
    ok: bool
    refused: bool
    reason: str
    ring_s: float
    statistics: dict[str, LightStatistics] = field(default_factory=dict)
    unknown_purpose: bool = False


class RingLeases:
    """Gives the ring away and takes it back; every method returns what is to be sent."""

    def __init__(self, epoch: int, *, offer_timeout_s: float = 5.0, drain_s: float = 15.0) -> None:
        self._epoch = epoch
        self._offer_timeout_s = offer_timeout_s
        self._drain_s = drain_s
        self._number = 0
        self._lease: Lease | None = None
        self._waiting: set[str] = set()
        self._deadline_s = 0.0
        self._granted_s = 0.0
        self._reason = ""
        self._statistics: dict[str, LightStatistics] = {}
        self._outcomes: list[Outcome] = []
        self.phase = Phase.FREE

    @property
    def lease(self) -> Lease | None:
        """The lease in being."""
        return self._lease

    def raise_epoch(self, epoch: int) -> None:
        """Make later offers in ``epoch``; one that is not newer changes nothing."""
        self._epoch = max(self._epoch, epoch)

    def take_outcomes(self) -> list[Outcome]:
        """The leases that ended since the last call."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def offer(
        self,
        pair: tuple[str, str],
        n_frames: int,
        limit_s: float,
        now_s: float,
        *,
        purpose: str = KEY,
        entry: int | None = None,
    ) -> list[Order]:
        """Offer the free ring to a pair; raises ValueError while a lease is in being."""
        if self._lease is not None:
            raise ValueError(f"lease {self._lease.number} is still {self.phase.value}")
        self._number += 1
        first, second = pair
        lease = self._lease = Lease(
            self._epoch, self._number, first, second, n_frames, limit_s, purpose, entry
        )
        self.phase = Phase.OFFERED
        self._waiting = set(lease.parties)
        self._deadline_s = now_s + self._offer_timeout_s
        self._statistics = {}
        message = LeaseOffer(lease.epoch, lease.number, first, second, n_frames, purpose)
        return [(role, message) for role in lease.parties]

    def heard(self, role: str, message: FromPeer, now_s: float) -> list[Order]:
        """A lease message of ``role``; those of other tokens, roles or phases change nothing."""
        lease = self._lease
        if not isinstance(message, LeaseAccept | LeaseRefuse | LeaseDone | LeaseAbort) or lease is None:
            return []
        if (message.epoch, message.number) != (lease.epoch, lease.number) or role not in lease.parties:
            return []
        match message, self.phase:
            case LeaseAccept(), Phase.OFFERED:
                self._waiting.discard(role)
                return [] if self._waiting else self._grant(lease, now_s)
            case ((LeaseRefuse() | LeaseAbort()), Phase.OFFERED):
                is_unknown = isinstance(message, LeaseRefuse) and message.unknown_purpose
                return self._withdraw(
                    f"{role}: {message.reason}", except_for=role, unknown_purpose=is_unknown
                )
            case LeaseDone(), (Phase.GRANTED | Phase.DRAINING):
                self._waiting.discard(role)
                self._statistics[role] = message.statistics
                if not message.ok and self.phase is Phase.GRANTED:
                    return self._fail(f"{role}: {message.reason}", now_s, except_for=role)
                self._close_if_done(now_s)
            case LeaseAbort(), Phase.GRANTED:
                return self._fail(f"{role}: {message.reason}", now_s, except_for=role)
            case _:
                pass
        return []

    def peer_down(self, role: str, now_s: float) -> list[Order]:
        """``role`` lost its link: it cannot answer any more, and stops by itself."""
        if self._lease is None or role not in self._lease.parties:
            return []
        if self.phase is Phase.OFFERED:
            return self._withdraw(f"{role} is gone", except_for=role)
        self._waiting.discard(role)
        if self.phase is Phase.GRANTED:
            return self._fail(f"{role} is gone", now_s, except_for=role)
        self._close_if_done(now_s)
        return []

    def time(self, now_s: float) -> list[Order]:
        """Act on whatever has been waited for too long."""
        if self._lease is None or now_s < self._deadline_s:
            return []
        missing = ", ".join(sorted(self._waiting))
        if self.phase is Phase.OFFERED:
            return self._withdraw(f"no answer from {missing}")
        if self.phase is Phase.GRANTED:
            return self._fail(f"not finished in time: {missing}", now_s)
        self._end(now_s, ok=False, reason=f"{self._reason}; never finished: {missing}")
        return []

    def abort(self, reason: str, now_s: float) -> list[Order]:
        """End the lease in being from here."""
        if self.phase is Phase.OFFERED:
            return self._withdraw(reason)
        return self._fail(reason, now_s) if self.phase is Phase.GRANTED else []

    def stop(self, reason: str, now_s: float) -> list[Order]:
        """End the lease in being as nobody will be heard any more: what its parties tell after this is not waited for."""
        orders = self.abort(reason, now_s)
        if self._lease is not None:
            self._end(now_s, ok=False, reason=reason)
        return orders

    # -- transitions ---------------------------------------------------------------------------------

    def _grant(self, lease: Lease, now_s: float) -> list[Order]:
        self.phase = Phase.GRANTED
        self._waiting = set(lease.parties)
        self._granted_s = now_s
        self._deadline_s = now_s + lease.limit_s
        message = LeaseGrant(lease.epoch, lease.number, lease.limit_s)
        return [(role, message) for role in lease.parties]

    def _withdraw(self, reason: str, except_for: str = "", *, unknown_purpose: bool = False) -> list[Order]:
        assert self._lease is not None
        orders = self._abort_orders(self._lease, reason, except_for)
        self._outcomes.append(
            Outcome(self._lease, False, True, reason, ring_s=0.0, unknown_purpose=unknown_purpose)
        )
        self._lease, self.phase = None, Phase.FREE
        return orders

    def _fail(self, reason: str, now_s: float, except_for: str = "") -> list[Order]:
        assert self._lease is not None
        orders = self._abort_orders(self._lease, reason, except_for)
        self.phase = Phase.DRAINING
        self._reason = reason
        self._deadline_s = now_s + self._drain_s
        self._close_if_done(now_s)
        return orders

    @staticmethod
    def _abort_orders(lease: Lease, reason: str, except_for: str) -> list[Order]:
        message = LeaseAbort(lease.epoch, lease.number, reason[:REASON_LIMIT])
        return [(role, message) for role in lease.parties if role != except_for]

    def _close_if_done(self, now_s: float) -> None:
        if not self._waiting:
            failed = self.phase is Phase.DRAINING
            self._end(now_s, ok=not failed, reason=self._reason if failed else "")

    def _end(self, now_s: float, *, ok: bool, reason: str) -> None:
        assert self._lease is not None
        ring_s = now_s - self._granted_s
        self._outcomes.append(
            Outcome(self._lease, ok, refused=False, reason=reason, ring_s=ring_s, statistics=self._statistics)
        )
        self._lease, self.phase = None, Phase.FREE
