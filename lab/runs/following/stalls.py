"""Why training on a ring stands still, and for how long: pure bookkeeping over what processes report.

A run stands still when no round can start because clients are missing, or when a client of the round waits
for keys.  The latter has a cause of its own, looked for in this order: a process that is away from the hub
(no light without relay and both nodes), an instrument that a process told to have failed, until a lease is good
again, and otherwise simply that the key of a pair is not made yet.  Time between two reports is charged to the cause in force.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fl.experiments.results import Stall, StallPart
from orchestrator.events.learning import WaitingForKeys
from orchestrator.events.status import RELAY, PeerStatus, pair_name

REPORT_LASTS_S = 3.0
"""A client that waits says so at least every second; after this long it waits no more."""

Names: TypeAlias = tuple[str, ...]
"""The two users of a pair, or one client, process or instrument."""
Charged: TypeAlias = defaultdict[Names, float]
"""Seconds by the names that a cause is due to; under no names, the whole."""


@dataclass
class StallWatch:
    """Adds up stalls by cause.

    ``clients`` take part in the training.  Times are monotonic seconds passed in by the caller, never going back.
    """

    clients: tuple[str, ...]
    now_s: float
    seconds: dict[str, Charged] = field(default_factory=dict)
    _missing: tuple[str, ...] = ()
    _waiting: dict[str, tuple[Names, float]] = field(default_factory=dict)
    _fault: tuple[str, ...] = ()
    _peers: dict[str, PeerStatus] = field(default_factory=dict)

    def advance(self, now_s: float) -> None:
        """Charge the time since the last call to the cause in force."""
        reason, passed_s = self.reason, now_s - self.now_s
        if reason is not None and passed_s > 0:
            charged = self.seconds.setdefault(reason[0], defaultdict(float))
            for whom in ((), *reason[1]):
                charged[whom] += passed_s
        self.now_s = max(self.now_s, now_s)
        oldest_s = self.now_s - REPORT_LASTS_S
        self._waiting = {who: wait for who, wait in self._waiting.items() if wait[1] >= oldest_s}

    @property
    def reason(self) -> tuple[str, tuple[Names, ...]] | None:
        """Why training stands still, and because of whom; None while it does not."""
        if self._missing:
            return "waiting for clients", _each(self._missing)
        if not self._waiting:
            return None
        if self.away:
            return "peer away", _each(self.away)
        if self._fault:
            return "instrument fault", _each(self._fault)
        return "waiting for keys", self.pairs

    @property
    def cause(self) -> str | None:
        """The reason in words."""
        reason = self.reason
        return (
            None if reason is None else f"{reason[0]}: {', '.join(pair_name(names) for names in reason[1])}"
        )

    @property
    def pairs(self) -> tuple[Names, ...]:
        """Pairs whose key is waited for; a client alone where its node cannot tell with whom it lacks key."""
        found: set[Names] = set()
        for client, (peers, _) in self._waiting.items():
            found |= {tuple(sorted((client, peer), key=self.clients.index)) for peer in peers} or {(client,)}
        return tuple(sorted(found))

    @property
    def away(self) -> tuple[str, ...]:
        """Relay and nodes without which no light is possible and that the hub does not reach."""
        parties = [self._peers[role] for role in (RELAY, *self.clients) if role in self._peers]
        return tuple(each.peer for each in parties if not each.present)

    def waiting_for_keys(self, event: WaitingForKeys, now_s: float) -> None:
        """A client of the round says that it waits."""
        self.advance(now_s)
        self._missing = ()
        self._waiting[event.client] = tuple(event.missing_bits), now_s

    def missing_clients(self, names: Iterable[str], now_s: float) -> None:
        """The server waits for clients before it can start a round."""
        self.advance(now_s)
        self._missing = tuple(names)

    def moving(self, now_s: float) -> None:
        """A round began or ended: no client waits at this moment."""
        self.advance(now_s)
        self._missing = ()
        self._waiting.clear()

    def lease(self, ok: bool, now_s: float) -> None:
        """A ring lease ended; a good one shows that instruments are well again."""
        self.advance(now_s)
        if ok:
            self._fault = ()

    def peer(self, status: PeerStatus, now_s: float) -> None:
        """A peer came, went, or told which of its instruments failed."""
        self.advance(now_s)
        self._peers[status.peer] = status
        self._fault = status.instruments or self._fault

    def stalls(self) -> tuple[Stall, ...]:
        """The longest first."""
        return _stalls(self.seconds)


def merged(first: Iterable[Stall], second: Iterable[Stall]) -> tuple[Stall, ...]:
    """Stalls of two attempts at one run."""
    seconds: dict[str, Charged] = {}
    for stall in (*first, *second):
        charged = seconds.setdefault(stall.cause, defaultdict(float))
        charged[()] += stall.seconds
        for part in stall.parts:
            charged[part.names] += part.seconds
    return _stalls(seconds)


def _stalls(seconds: Mapping[str, Charged]) -> tuple[Stall, ...]:
    found = [
        Stall(
            cause,
            round(charged[()], 2),
            tuple(
                StallPart(names, round(s, 2))
                for names, s in sorted(charged.items(), key=lambda item: -item[1])
                if names
            ),
        )
        for cause, charged in seconds.items()
    ]
    return tuple(sorted(found, key=lambda stall: -stall.seconds))


def _each(names: Names) -> tuple[Names, ...]:
    return tuple((name,) for name in names)
