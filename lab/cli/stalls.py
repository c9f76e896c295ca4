"""Why training on a ring stands still, and for how long: pure bookkeeping over what processes report.

A run stands still when no round can start because clients are missing, or when a client of the round waits
for keys.  The latter has a cause of its own, looked for in this order: a process that is away from the hub
(no light without relay and both nodes), an instrument that failed in the last lease, and otherwise simply
that the key of a pair is not made yet.  Time between two reports is charged to the cause in force.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fl.results import Stall

RELAY = "relay"
REPORT_LASTS_S = 3.0
"""A client that waits says so at least every second; after this long it waits no more."""


@dataclass
class StallWatch:
    """Adds up stalls by cause.

    ``clients`` take part in the training; ``instruments`` are names to look for in the reasons of failed
    leases.  Times are monotonic seconds passed in by the caller, never going back.
    """

    clients: tuple[str, ...]
    instruments: tuple[str, ...]
    now_s: float
    seconds: dict[str, float] = field(default_factory=dict)
    _missing: tuple[str, ...] = ()
    _waiting: dict[str, tuple[str, float]] = field(default_factory=dict)
    _fault: str = ""
    _present: frozenset[str] | None = None

    def advance(self, now_s: float) -> None:
        """Charge the time since the last call to the cause in force."""
        cause = self.cause
        if cause is not None and now_s > self.now_s:
            self.seconds[cause] = self.seconds.get(cause, 0.0) + now_s - self.now_s
        self.now_s = max(self.now_s, now_s)
        oldest_s = self.now_s - REPORT_LASTS_S
        self._waiting = {who: wait for who, wait in self._waiting.items() if wait[1] >= oldest_s}

    @property
    def cause(self) -> str | None:
        """Why training stands still; None while it does not."""
        if self._missing:
            return f"clients away: {', '.join(self._missing)}"
        if not self._waiting:
            return None
        away = self.away
        if away:
            return f"peer away: {', '.join(away)}"
        if self._fault:
            return f"instrument fault: {self._fault}"
        return f"waiting for keys of {', '.join(self.pairs)}"

    @property
    def pairs(self) -> tuple[str, ...]:
        """Pairs whose key is waited for, as the waiting clients name them."""
        found = set()
        for client, (detail, _) in self._waiting.items():
            named = [peer for peer in self.clients if peer != client and re.search(rf"\b{peer}\b", detail)]
            found |= {_pair(client, peer, self.clients) for peer in named} or {f"{client} and its peers"}
        return tuple(sorted(found))

    @property
    def away(self) -> tuple[str, ...]:
        """Relay and nodes without which no light is possible and that the hub does not reach."""
        if self._present is None:
            return ()
        return tuple(role for role in (RELAY, *self.clients) if role not in self._present)

    def waiting_for_keys(self, client: str, detail: str, now_s: float) -> None:
        """A client of the round says that it waits."""
        self.advance(now_s)
        self._missing = ()
        self._waiting[client] = detail, now_s

    def missing_clients(self, names: Iterable[str], now_s: float) -> None:
        """The server waits for clients before it can start a round."""
        self.advance(now_s)
        self._missing = tuple(names)

    def moving(self, now_s: float) -> None:
        """A round began or ended: nobody waits for the moment."""
        self.advance(now_s)
        self._missing = ()
        self._waiting.clear()

    def lease(self, ok: bool, reason: str, now_s: float) -> None:
        """A ring lease ended; the last one tells whether instruments are well."""
        self.advance(now_s)
        named = [name for name in self.instruments if re.search(rf"\b{re.escape(name)}\b", reason)]
        self._fault = "" if ok else ", ".join(named) or self._fault

    def peers(self, present: Iterable[str], now_s: float) -> None:
        """The roles that the hub reaches."""
        self.advance(now_s)
        self._present = frozenset(present)

    def stalls(self) -> tuple[Stall, ...]:
        """The longest first."""
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1])
        return tuple(Stall(cause, round(seconds, 2)) for cause, seconds in ordered)


def merged(first: Iterable[Stall], second: Iterable[Stall]) -> tuple[Stall, ...]:
    """Stalls of two attempts at one run."""
    seconds: dict[str, float] = {}
    for stall in (*first, *second):
        seconds[stall.cause] = seconds.get(stall.cause, 0.0) + stall.seconds
    ordered: Mapping[str, float] = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    return tuple(Stall(cause, value) for cause, value in ordered.items())


def _pair(first: str, second: str, order: tuple[str, ...]) -> str:
    return "-".join(sorted((first, second), key=order.index))
