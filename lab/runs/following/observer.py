"""What the hub tells an observer, kept with its age: stock and rate per pair, leases, blocks, who is present.

Observers share one CURVE key (role ``observer``), may only listen, and several may do so at a time.  One
subscribes again at every new link, so a hub that was started again is heard as well; what the earlier hub had
told is forgotten with the first item of the new one.  Numbers that are missing in the sequence are counted:
telemetry is lossy.  An observer that the hub does not admit ends with an error and never falls silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fl.keys.budget import Pair, PairSupply
from lab.runs.following.verdict import Facts, Verdict, verdict
from lab.testbed import Testbed
from orchestrator.events.common import Subject
from orchestrator.events.status import (
    FL_SERVER,
    OBSERVER,
    ORCHESTRATOR,
    RELAY,
    Alarm,
    Learning,
    PairStatus,
    PeerStatus,
    RingStatus,
    StatusItem,
    Stock,
)
from orchestrator.hub.agent import Agent, LinkDown, LinkUp
from orchestrator.hub.connect import connect_agent
from orchestrator.protocols.block_planning import plan_for
from orchestrator.scheduling.ring_schedule import USABLE_LANE
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import SnapshotEnd, Subscribe, TelemetryItem

T = TypeVar("T")
CONNECT_TIMEOUT_S = 10.0
POLL_S = 0.05
ENDED = (LinkState.SUPERSEDED, LinkState.REFUSED)
"""States in which waiting does not help."""


class ObserverError(ConnectionError):
    """The hub does not serve this observer: it does not answer, or it refuses."""


@dataclass(frozen=True)
class Heard:
    """The latest word of ``role`` on a subject, and since when it has been so, on this process's clock."""

    role: str
    item: StatusItem
    since_s: float


@dataclass
class Observer:
    """A listening agent and the latest it heard on every subject; a context manager."""

    testbed: Testbed
    agent: Agent
    clock: Callable[[], float] = time.monotonic
    heard: dict[tuple[str, Subject], Heard] = field(default_factory=dict)
    lost: int = 0
    """Items that were sent and never came."""
    synced: bool = False
    """Everything that the hub knew when this subscription began has come."""
    _next: int = 0
    _link: str = "connecting"
    _link_since_s: float = field(init=False)
    _last_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._link_since_s = self._last_s = self.clock()

    @classmethod
    def connect(cls, testbed: Testbed, secrets: Path, timeout_s: float = CONNECT_TIMEOUT_S) -> Observer:
        """Connect with the observer's key below ``secrets``; raises ObserverError if no hub takes it."""
        agent = connect_agent(testbed, OBSERVER, secrets / OBSERVER)
        if not agent.wait_up(timeout_s):
            state, reason = agent.link_state, agent.link_reason
            agent.close()
            told = reason if state in ENDED and reason else state.value
            raise ObserverError(
                f"the orchestrator at {testbed.hub.control} did not answer within {timeout_s:g} s "
                f"({told}); is it running (`qunetlab up` starts all roles of a machine), and is this its testbed file?"
            )
        return cls(testbed, agent)

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.close()

    def poll(self, timeout_s: float = 0.0) -> list[Heard]:
        """What has come since the last call; waits at most ``timeout_s`` for the first item.

        Raises ObserverError when the hub refuses this observer or another process took its place.
        """
        items: list[Heard] = []
        while (event := self.agent.control_recv(0.0 if items else timeout_s)) is not None:
            if isinstance(event, LinkUp):
                self._begin()
            elif isinstance(event, LinkDown):
                self._link, self._link_since_s = event.reason, self.clock()
                self.synced = False
            elif isinstance(event, TelemetryItem):
                items.append(self._keep(event))
            elif isinstance(event, SnapshotEnd):
                self.synced = True
        if self.agent.link_state in ENDED:
            raise ObserverError(
                f"the orchestrator does not serve this observer any more: "
                f"{self.agent.link_reason or self.agent.link_state.value}"
            )
        return items

    def wait_for_snapshot(self, patience_s: float) -> bool:
        """Poll until everything that the hub knows was told; False if that took longer than ``patience_s``."""
        return self._wait(lambda: self.synced, patience_s)

    def wait_for_stock(self, pairs: list[Pair], patience_s: float) -> bool:
        """Poll until both nodes of every pair told their stock and the orchestrator put it together."""

        def complete() -> bool:
            for first, second in pairs:
                ends = [self._held(first, second), self._held(second, first)]
                told = self.pair((first, second))
                if (
                    told is None
                    or None in ends
                    or told.stock_bits != min(bits for bits in ends if bits is not None)
                ):
                    return False
            return True

        return self._wait(complete, patience_s)

    def _wait(self, done: Callable[[], bool], patience_s: float) -> bool:
        deadline = self.clock() + patience_s
        while not done() and self.clock() < deadline:
            self.poll(POLL_S)
        return done()

    def _held(self, user: str, peer: str) -> int | None:
        """Bits for applications that ``user`` says it holds with ``peer``."""
        heard = self.heard.get((user, (Stock.__name__,)))
        if heard is None or not isinstance(heard.item, Stock):
            return None
        return next(
            (each.bits for each in heard.item.lanes if (each.peer, each.lane) == (peer, USABLE_LANE)), None
        )

    def _begin(self) -> None:
        self.agent.control_send(Subscribe())
        self.heard.clear()
        self._next, self.synced = 0, False
        self._link, self._link_since_s = "", self.clock()
        self._last_s = self._link_since_s

    def _keep(self, event: TelemetryItem) -> Heard:
        now_s = self.clock()
        self._last_s = now_s
        self.lost += max(0, event.seq - self._next)
        self._next = event.seq + 1
        item = event.item
        heard = Heard(event.role, item, now_s - event.age_s)
        key = event.role, item.subject
        if isinstance(item, Alarm) and not item.on:
            self.heard.pop(key, None)
        else:
            self.heard[key] = heard
        return heard

    # -- what follows from it --------------------------------------------------------------------------

    def said_by(self, kind: type[T], role: str = "") -> Iterator[tuple[str, T, float]]:
        """Role, item and age of every item of a kind, of one role or of all."""
        now_s = self.clock()
        for each in self.heard.values():
            if isinstance(each.item, kind) and role in ("", each.role):
                yield each.role, each.item, max(0.0, now_s - each.since_s)

    def facts(self) -> Facts:
        """What a verdict is made of."""
        now_s = self.clock()
        said = self.said_by
        return Facts(
            expected=(RELAY, *self.testbed.user_names()),
            link=self._link,
            link_age_s=now_s - self._link_since_s,
            heard_s=now_s - self._last_s,
            peers={item.peer: (item, age_s) for _, item, age_s in said(PeerStatus, ORCHESTRATOR)},
            pairs=tuple((item, age_s) for _, item, age_s in said(PairStatus, ORCHESTRATOR)),
            ring=next(((item, age_s) for _, item, age_s in said(RingStatus, ORCHESTRATOR)), None),
            alarms=tuple(said(Alarm)),
            learning=next(((item, age_s) for _, item, age_s in said(Learning, FL_SERVER)), None),
        )

    def pair(self, pair: Pair) -> PairStatus | None:
        """What the orchestrator told of a pair."""
        heard = self.heard.get((ORCHESTRATOR, (PairStatus.__name__, *pair)))
        return heard.item if heard is not None and isinstance(heard.item, PairStatus) else None

    def supply(self, pairs: list[Pair], *, light: bool) -> list[PairSupply]:
        """Stock and rate of every pair; without ``light`` no key is made and the rate is 0."""
        return [supply_of(self.testbed, pair, self.pair(pair), light=light) for pair in pairs]


def verdict_on(testbed: Testbed, secrets: Path, timeout_s: float = CONNECT_TIMEOUT_S) -> Verdict:
    """What there is to say of a testbed at this moment, from a connection of its own."""
    try:
        with Observer.connect(testbed, secrets, timeout_s) as observer:
            observer.wait_for_snapshot(timeout_s)
            return verdict(observer.facts())
    except ObserverError as error:
        return Verdict("no answer", 0.0, str(error))


def supply_of(testbed: Testbed, pair: Pair, told: PairStatus | None, *, light: bool) -> PairSupply:
    """Stock and rate of a pair, of which the orchestrator told this or nothing; without ``light`` the rate is 0."""
    stock_bits = told.stock_bits if told else 0
    if not light:
        return PairSupply(pair, stock_bits, 0.0, "none")
    if told is not None:
        return PairSupply(pair, stock_bits, told.rate_bps, "measured" if told.measured else "planned")
    return PairSupply(pair, stock_bits, planned_rate_bps(testbed, pair), "planned")


def planned_rate_bps(testbed: Testbed, pair: Pair) -> float:
    """Secret bits per second of light that the pair's block plan expects."""
    plan = plan_for(testbed, *pair)
    return plan.expected_bits / (plan.n_pulses / testbed.protocol.clock_hz)
