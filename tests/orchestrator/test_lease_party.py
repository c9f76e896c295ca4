"""A party of leases tells whether it is ready, and finds out by itself when an idle instrument is dead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from drivers.links.errors import LinkError
from lab.station import StationError
from orchestrator.events.status import Ready
from orchestrator.hub.agent import LinkUp
from orchestrator.scheduling.fencing import Fence
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty
from orchestrator.wire.messages import (
    LeaseAccept,
    LeaseDone,
    LeaseGrant,
    LeaseOffer,
    LeaseRefuse,
    LightStatistics,
)

DEAD = StationError("relay", "identifying", {"laser": LinkError("no answer", instrument="laser")})
NOT_READY = Ready(False, "identifying failed for laser", ("laser",))


class QueueAgent:
    """What a party needs of an agent."""

    role = "relay"

    def __init__(self) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.said: queue.Queue[Any] = queue.Queue()

    def control_send(self, message: Any) -> None:
        self.said.put(message)

    def control_recv(self, timeout_s: float) -> Any:
        try:
            return self.inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def hear(self) -> Any:
        return self.said.get(timeout=10.0)


class Instruments:
    """Instruments that the test breaks and mends."""

    def __init__(self) -> None:
        self.dead = False
        self.checks = 0
        self.checked = threading.Semaphore(0)

    def ask(self) -> None:
        self.checks += 1
        self.checked.release()
        if self.dead:
            raise DEAD


@contextmanager
def party(
    instruments: Instruments, run_light: Callable[[HeldLease], LightStatistics]
) -> Iterator[QueueAgent]:
    agent: Any = QueueAgent()
    stop = threading.Event()
    made = LeaseParty(
        agent,
        Fence(),
        objection=lambda offer: None,
        run_light=run_light,
        recover=instruments.ask,
        check=instruments.ask,
    )
    thread = threading.Thread(target=made.serve, args=(stop,))
    with ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(stop.set)
        thread.start()
        yield agent


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.scheduling.lease_party.CHECK_EVERY_S", 0.01)
    monkeypatch.setattr("orchestrator.scheduling.lease_party.RECOVERY_WAIT_S", 0.01)


def test_an_instrument_that_dies_while_nothing_is_to_do_is_told_and_so_is_its_return() -> None:
    instruments = Instruments()
    with party(instruments, lambda lease: LightStatistics()) as agent:
        assert instruments.checked.acquire(timeout=10.0)
        instruments.dead = True
        assert agent.hear() == NOT_READY
        agent.inbox.put(LeaseOffer(1, 1, "alice", "bob", 4))
        assert agent.hear() == LeaseRefuse(1, 1, NOT_READY.reason, None)
        agent.inbox.put(LinkUp(2))
        assert agent.hear() == NOT_READY, "a hub that was started again is told as well"
        instruments.dead = False
        assert agent.hear() == Ready(True)
        agent.inbox.put(LeaseOffer(1, 2, "alice", "bob", 4))
        assert agent.hear() == LeaseAccept(1, 2)


def test_a_grant_after_the_instruments_broke_ends_without_light() -> None:
    instruments = Instruments()

    def never(lease: HeldLease) -> LightStatistics:
        raise AssertionError("there was light with a dead laser")

    with party(instruments, never) as agent:
        agent.inbox.put(LeaseOffer(1, 1, "alice", "bob", 4))
        assert agent.hear() == LeaseAccept(1, 1)
        instruments.dead = True
        assert agent.hear() == NOT_READY
        agent.inbox.put(LeaseGrant(1, 1, 10.0))
        assert agent.hear() == LeaseDone(1, 1, False, NOT_READY.reason)
        instruments.dead = False


def test_nobody_asks_instruments_while_light_is_on() -> None:
    instruments = Instruments()
    asked: list[int] = []

    def light(lease: HeldLease) -> LightStatistics:
        before = instruments.checks
        threading.Event().wait(0.1)
        asked.append(instruments.checks - before)
        return LightStatistics()

    with party(instruments, light) as agent:
        agent.inbox.put(LeaseOffer(1, 1, "alice", "bob", 4))
        assert agent.hear() == LeaseAccept(1, 1)
        agent.inbox.put(LeaseGrant(1, 1, 10.0))
        assert isinstance(agent.hear(), LeaseDone)
    assert asked[0] <= 1, "one that had begun just before may end in it"


def test_a_lease_that_breaks_an_instrument_names_it() -> None:
    instruments = Instruments()

    def light(lease: HeldLease) -> LightStatistics:
        instruments.dead = True
        raise LinkError("no answer", instrument="laser")

    with party(instruments, light) as agent:
        agent.inbox.put(LeaseOffer(1, 1, "alice", "bob", 4))
        assert agent.hear() == LeaseAccept(1, 1)
        agent.inbox.put(LeaseGrant(1, 1, 10.0))
        told = agent.hear()
        assert isinstance(told, Ready)
        assert (told.ready, told.instruments) == (False, ("laser",))
        assert agent.hear() == LeaseDone(1, 1, False, told.reason)
        instruments.dead = False
