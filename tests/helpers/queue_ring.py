"""A relay and nodes with the real rules of leases, whose light is a meeting of the three, for tests of the queue.

A block is made when all three parties of its lease met; ``blocks`` is the truth about what was made, once each,
whatever an orchestrator heard of it.  Light that is ``dark`` does not end until it is let.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from lab.agreed import agreed_on
from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator.events.status import BlockReport, LaneStock, Pair, Stock
from orchestrator.hub.agent import Agent, LinkUp
from orchestrator.light.messages import LightAborted
from orchestrator.scheduling.fencing import Fence
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.messages import KEY, LightStatistics, ReportedBefore, calibration

USERS = ("alice", "bob", "carol")
PAIRS: tuple[Pair, ...] = (("alice", "bob"), ("alice", "carol"), ("bob", "carol"))
PARTIES = ("relay", *USERS)
ROLES = (*PARTIES, "fl-server", "observer")
BLOCK_BITS = 1000
MEET_S = 10.0


@dataclass
class Light:
    """Where the parties of a lease meet, and what came of it."""

    blocks: Counter[Pair] = field(default_factory=Counter)
    """Blocks of key that were made, by pair."""
    processing_s: tuple[float, ...] = (0.0,)
    """How long nodes take between light and report, by turns."""
    steps: Counter[str] = field(default_factory=Counter)
    """Calibration leases that ran to their end, by purpose."""
    unfit: dict[Pair, tuple[Step, ...]] = field(default_factory=dict)
    """Pairs whose blocks give no key until these calibrations have run."""
    refusing: dict[str, str] = field(default_factory=dict)
    """Why roles refuse the frames of calibrations that they have met for."""
    shining: threading.Event = field(default_factory=threading.Event)
    """Cleared: whoever met waits before the light is over."""
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released whenever three have met."""
    _meetings: dict[tuple[int, int], threading.Barrier] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.shining.set()

    def meet(self, lease: HeldLease, role: str) -> None:
        """Until all three are here, and their light is over; raises LightAborted if the lease ends before."""

        def over() -> None:
            (self.blocks.update([lease.pair]) if lease.purpose == KEY else self.steps.update([lease.purpose]))
            left = tuple(
                step for step in self.unfit.pop(lease.pair, ()) if calibration(step) != lease.purpose
            )
            if left:
                self.unfit[lease.pair] = left

        with self._lock:
            first = self._meetings.setdefault(lease.token, threading.Barrier(3, self.begun.release))
            second = self._meetings.setdefault((-lease.epoch, lease.number), threading.Barrier(3, over))
        gone = threading.Event()
        for each in (first.abort, second.abort, gone.set):
            lease.on_abort(each)
        try:
            first.wait(MEET_S)
            if lease.purpose != KEY and role in self.refusing:
                raise LightAborted(self.refusing[role])
            while not self.shining.wait(0.01):
                if gone.is_set():
                    raise LightAborted(lease.aborted)
            second.wait(MEET_S)
        except threading.BrokenBarrierError:
            raise LightAborted(lease.aborted or "the others did not come") from None


class Party:
    """One party; ``safe`` is whether its instruments were made safe and not set up since."""

    def __init__(self, role: str, light: Light, agent: Agent, purposes: tuple[str, ...]) -> None:
        self.role, self.light, self.agent = role, light, agent
        self.safe = False
        self.held: dict[str, int] = {user: 0 for user in USERS if user != role}
        self._told: deque[BlockReport] = deque(maxlen=64)
        self._in_work: set[tuple[int, int]] = set()
        self._stop = threading.Event()
        self.leases = LeaseParty(
            agent,
            Fence(),
            objection=lambda offer: None,
            run_light=self._run,
            recover=self._recover,
            on_other=self._other,
            make_safe=self._make_safe,
            purposes=purposes,
        )
        self._thread = threading.Thread(target=self.leases.serve, args=(self._stop,))
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _make_safe(self) -> Mapping[str, Exception]:
        self.safe = True
        return {}

    def _recover(self) -> None:
        self.safe = False

    def _run(self, lease: HeldLease) -> LightStatistics:
        assert not self.safe, f"{self.role} is lit while it rests"
        if self.role == "relay" or lease.purpose != KEY:
            self.light.meet(lease, self.role)
            return LightStatistics()
        self._in_work.add(lease.token)
        try:
            self.light.meet(lease, self.role)
        except BaseException:
            self._in_work.discard(lease.token)
            raise
        turns = self.light.processing_s
        takes_s = turns[lease.number % len(turns)]
        processing = threading.Timer(takes_s, self._store, [lease])
        processing.start()
        if not takes_s:
            processing.join()
        return LightStatistics()

    def _store(self, lease: HeldLease) -> None:
        about = lease.epoch, lease.number, *lease.pair
        if wanted := self.light.unfit.get(lease.pair):
            report = BlockReport(*about, False, "error rate 1.20 % in X does not fit", calibrate=wanted)
        else:
            self.held[lease.second if self.role == lease.first else lease.first] += BLOCK_BITS
            report = BlockReport(*about, True, secret_bits=BLOCK_BITS, qber=0.02)
        self._told.append(report)
        self._in_work.discard(lease.token)
        self.agent.control_send(report)
        self._say_stock()

    def _say_stock(self) -> None:
        self.agent.control_send(Stock([LaneStock(peer, "mask", bits) for peer, bits in self.held.items()]))

    def _other(self, event: Any) -> None:
        if isinstance(event, LinkUp) and self.role != "relay":
            self._say_stock()
            self.agent.control_send(ReportedBefore(list(self._told), tuple(self._in_work)))


def parties(
    stack: ExitStack,
    agent_of: Callable[[str], Agent],
    light: Light,
    *,
    roles: tuple[str, ...] = PARTIES,
    purposes: tuple[str, ...] = (KEY,),
) -> dict[str, Party]:
    """Relay and nodes, started; they end with ``stack``."""
    made = {}
    for role in roles:
        made[role] = Party(role, light, agent_of(role), purposes)
        stack.callback(made[role].close)
    return made


def agent_at(
    stack: ExitStack,
    role: str,
    keys: Mapping[str, CurveKeys],
    control: str,
    bulk: str,
    testbed: Testbed | None = None,
) -> Agent:
    """A connected agent of ``role``; of a hub that asks what machines have alike, with the ``testbed`` file that it has."""
    agreed = agreed_on(testbed) if testbed else None
    agent = Agent(role, keys[role], keys["orchestrator"].public, control, bulk, agreed=agreed)
    agent.start()
    stack.callback(agent.close)
    assert agent.wait_up(10.0)
    return agent
