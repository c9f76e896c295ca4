"""The whole orchestrator with a relay and nodes that are real agents and make no light."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab.agreed import agreed_on
from lab.testbed import load_testbed, write_testbed
from orchestrator.events.common import Unknown
from orchestrator.events.status import (
    BlockReport,
    LaneStock,
    Learning,
    LeaseStatus,
    PairStatus,
    PeerStatus,
    Ready,
    Refusals,
    RingStatus,
    Served,
    Stock,
)
from orchestrator.hub.agent import Agent, AgentEvent, LinkUp
from orchestrator.hub.events import HubLimits
from orchestrator.processes.orchestrator import NOT_SEEN, Orchestrator
from orchestrator.processes.orchestrator_config import OrchestratorConfig, config_of
from orchestrator.records.kinds import LeaseEnded
from orchestrator.scheduling.fencing import AHEAD, EPOCH_STEP, REACH, Fence, Reach
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty
from orchestrator.wire.agreed import Agreed
from orchestrator.wire.budget import waiting_cost
from orchestrator.wire.channel import ChannelError
from orchestrator.wire.codec import encode
from orchestrator.wire.control_socket import Revoke, Revoked, ShowRevoked, ask
from orchestrator.wire.curve import generate_keys, write_keys
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import (
    Demand,
    FromPeer,
    LeaseAbort,
    LeaseAccept,
    LeaseDone,
    LeaseGrant,
    LeaseOffer,
    LeaseRefuse,
    LightStatistics,
    Refused,
    Said,
    Subscribe,
    TelemetryItem,
)
from orchestrator.wire.zeromq import ZeroMQ

USERS = ("alice", "bob", "carol")
ROLES = ("relay", *USERS, "fl-server", "observer")
PAIRS = (("alice", "bob"), ("alice", "carol"), ("bob", "carol"))
BLOCK_BITS = 1000
LARGE_SLOT = 1 << 62
CONFIG = OrchestratorConfig(
    users=USERS,
    rates_bps=dict.fromkeys(PAIRS, 1000.0),
    n_frames=24,
    light_limit_s=20.0,
    offer_timeout_s=2.0,
    drain_s=2.0,
    step_s=0.01,
    limits=HubLimits(heartbeat_s=0.1, lost_after_s=2.0),
)
TEMPLATE = Path(__file__).parents[2] / "lab" / "testbeds" / "simulated-reference.toml"


class Party:
    """A relay or node that takes part in leases, records all it hears, and can be told to misbehave."""

    def __init__(self, world: World, role: str) -> None:
        self.role = role
        self.world = world
        self.fence = Fence()
        self.heard: queue.SimpleQueue[AgentEvent] = queue.SimpleQueue()
        self.on_offer: Callable[[LeaseOffer], FromPeer] = lambda m: LeaseAccept(m.epoch, m.number)
        self.on_grant: Callable[[LeaseGrant], FromPeer | None] = lambda m: LeaseDone(m.epoch, m.number, True)
        self.held: dict[str, int] = {user: 0 for user in USERS if user != role}
        self._pair = ("", "")
        self._stop = threading.Event()
        self.agent = world.agent(role)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        world.stack.callback(self.close)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            event = self.agent.control_recv(0.05)
            if event is None:
                continue
            self.heard.put(event)
            if isinstance(event, LeaseOffer):
                assert self.fence.accept(event.epoch, event.number) or self.fence.newest[0] < event.epoch
                self._pair = event.first, event.second
                self.agent.control_send(self.on_offer(event))
            elif isinstance(event, LeaseGrant):
                done = self.on_grant(event)
                if done is not None:
                    self.agent.control_send(done)
                    if self.role != "relay" and isinstance(done, LeaseDone) and done.ok:
                        self._deposit(event)
            elif isinstance(event, LinkUp) and self.role != "relay":
                self.report()

    def _deposit(self, grant: LeaseGrant) -> None:
        first, second = self._pair
        self.held[second if self.role == first else first] += BLOCK_BITS
        self.agent.control_send(
            BlockReport(grant.epoch, grant.number, first, second, True, secret_bits=BLOCK_BITS, qber=0.02)
        )
        self.report()

    def report(self) -> None:
        self.agent.control_send(Stock([LaneStock(peer, "mask", bits) for peer, bits in self.held.items()]))

    def next(self, kind: type, timeout_s: float = 10.0) -> Any:
        """The next thing of a kind that this party heard."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                event = self.heard.get(timeout=left_s)
            except queue.Empty:
                break
            if isinstance(event, kind):
                return event
        raise AssertionError(f"{self.role} heard no {kind.__name__}")


class RealParty:
    """A party with the real rules for offers and fence; its light takes no time."""

    def __init__(self, world: World, role: str, fence: Fence) -> None:
        self.fence = fence
        self.lit: queue.SimpleQueue[HeldLease] = queue.SimpleQueue()
        self._stop = threading.Event()
        party = LeaseParty(
            world.agent(role), fence, objection=lambda offer: None, run_light=lambda lease: self._light(lease)
        )
        self._thread = threading.Thread(target=party.serve, args=(self._stop,))
        self._thread.start()
        world.stack.callback(self.close)

    def _light(self, lease: HeldLease) -> LightStatistics:
        self.lit.put(lease)
        return LightStatistics()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class World:
    """One orchestrator in a thread; everything is closed at the end."""

    def __init__(self, state_dir: Path, stack: ExitStack, **config: Any) -> None:
        self.stack = stack
        self.state_dir = state_dir
        self.emitted: list[Any] = []
        self.keys = {role: generate_keys() for role in ("orchestrator", *ROLES)}
        self.config = replace(CONFIG, **config)
        self.start()

    def start(self) -> None:
        transport = self.stack.enter_context(ZeroMQ())
        self.orchestrator = Orchestrator(
            self.config,
            self.keys["orchestrator"],
            {self.keys[role].public: role for role in ROLES},
            self.state_dir,
            transport=transport,
            emit=self.emitted.append,
        )
        hub = self.orchestrator.hub
        hub.start()
        self.config = replace(
            self.config, control_endpoint=hub.control_endpoint, bulk_endpoint=hub.bulk_endpoint
        )
        self.stop_event = threading.Event()
        self._thread = threading.Thread(target=self.orchestrator.serve, args=(self.stop_event,))
        self._thread.start()
        self.stack.callback(self.stop)

    def stop(self) -> None:
        self.stop_event.set()
        self._thread.join()
        self.orchestrator.hub.close()

    def agent(self, role: str, *, agreed: Agreed | None = None, wait: bool = True) -> Agent:
        hub = self.orchestrator.hub
        agent = Agent(
            role,
            self.keys[role],
            self.keys["orchestrator"].public,
            hub.control_endpoint,
            hub.bulk_endpoint,
            agreed=agreed or self.config.agreed,
        )
        agent.start()
        self.stack.callback(agent.close)
        assert not wait or agent.wait_up(10.0)
        return agent

    def party(self, role: str) -> Party:
        return Party(self, role)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_demand_becomes_leases_and_leases_become_stock(world: World) -> None:
    relay, alice, bob = (world.party(role) for role in ("relay", "alice", "bob"))
    alice.agent.control_send(Demand("alice", "bob", 10 * BLOCK_BITS))
    deadline = time.monotonic() + 20.0
    while min(alice.held["bob"], bob.held["alice"]) < 4000:
        assert time.monotonic() < deadline
        offer = relay.next(LeaseOffer)
        assert (offer.first, offer.second, offer.n_frames) == ("alice", "bob", 24)
    assert alice.held["bob"] == pytest.approx(bob.held["alice"], abs=BLOCK_BITS)


def test_every_pair_gets_the_ring(world: World) -> None:
    relay, *nodes = (world.party(role) for role in ("relay", *USERS))
    server = world.agent("fl-server")
    for first, second in PAIRS:
        server.control_send(Demand(first, second, BLOCK_BITS))
    served = set()
    while served != set(PAIRS):
        offer = relay.next(LeaseOffer)
        served.add((offer.first, offer.second))
    assert len(nodes) == 3


def test_an_orchestrator_restored_from_an_old_state_catches_up_with_fences_that_were_walked_far_up(
    world: World,
) -> None:
    """Another hub moved alice's fence as far as it goes, bob's node is new, and ours begins at epoch 1."""
    walked, fresh, relay = Fence(), Fence(), Fence()
    while walked.step(walked.newest[0] + EPOCH_STEP - 1):
        pass
    assert walked.newest[0] > REACH - EPOCH_STEP
    assert walked.accept(walked.newest[0], LARGE_SLOT)
    wanted = walked.newest[0] + 1
    started = time.monotonic()
    parties = [
        RealParty(world, role, fence) for role, fence in (("relay", relay), ("alice", walked), ("bob", fresh))
    ]
    world.agent("fl-server").control_send(Demand("alice", "bob", BLOCK_BITS))
    leases = [party.lit.get(timeout=10.0) for party in parties]
    assert time.monotonic() - started < 10.0
    assert {lease.epoch for lease in leases} == {wanted}
    assert world.orchestrator.epoch == world.orchestrator.hub.epoch == leases[0].epoch
    assert int((world.state_dir / "epoch").read_text()) == leases[0].epoch


def test_a_party_that_always_names_a_far_epoch_moves_ours_only_within_the_reach(world: World) -> None:
    relay, alice, _ = (world.party(role) for role in ("relay", "alice", "bob"))
    assert world.orchestrator._epochs.reach.take(REACH + AHEAD - 3 * EPOCH_STEP)
    alice.on_offer = lambda m: LeaseRefuse(m.epoch, m.number, "", 1 << 61)
    alice.agent.control_send(Demand("alice", "bob", BLOCK_BITS))
    for _ in range(7):
        epoch = relay.next(LeaseOffer).epoch
    assert epoch == 1 + 3 * EPOCH_STEP
    world.orchestrator._epochs.reach = Reach()
    alice.agent.control_send(LeaseRefuse(epoch, 1000, "", 1 << 61))  # answers no offer in being
    alice.on_offer = lambda m: LeaseAccept(m.epoch, m.number)
    assert relay.next(LeaseGrant).epoch <= epoch + EPOCH_STEP


def test_no_lease_without_the_relay(world: World) -> None:
    alice, _ = world.party("alice"), world.party("bob")
    alice.agent.control_send(Demand("alice", "bob", 500))
    with pytest.raises(AssertionError, match="heard no LeaseOffer"):
        alice.next(LeaseOffer, timeout_s=0.5)
    world.party("relay")
    assert isinstance(alice.next(LeaseOffer), LeaseOffer)


def test_a_refusal_releases_the_others_and_the_offer_is_repeated(world: World) -> None:
    relay, alice, bob = (world.party(role) for role in ("relay", "alice", "bob"))
    answers = iter(["instrument not ready"])

    def refuse_once(offer: LeaseOffer) -> FromPeer:
        for reason in answers:
            return LeaseRefuse(offer.epoch, offer.number, reason)
        return LeaseAccept(offer.epoch, offer.number)

    bob.on_offer = refuse_once
    alice.agent.control_send(Demand("alice", "bob", 500))
    first = relay.next(LeaseOffer)
    abort = relay.next(LeaseAbort)
    assert abort == LeaseAbort(first.epoch, first.number, "bob: instrument not ready")
    assert relay.next(LeaseOffer).number > first.number
    assert relay.next(LeaseGrant).number > first.number


def test_a_failing_party_stops_the_other_two(world: World) -> None:
    relay, alice, bob = (world.party(role) for role in ("relay", "alice", "bob"))
    alice.on_grant = lambda m: LeaseDone(m.epoch, m.number, False, "AWG did not arm")
    relay.on_grant = bob.on_grant = lambda m: None
    bob.agent.control_send(Demand("alice", "bob", 500))
    grant = relay.next(LeaseGrant)
    for party in (relay, bob):
        abort = party.next(LeaseAbort)
        assert abort == LeaseAbort(grant.epoch, grant.number, "alice: AWG did not arm")


def test_an_orchestrator_that_stops_puts_the_end_of_the_lease_in_being_on_record(world: World) -> None:
    relay, alice, bob = (world.party(role) for role in ("relay", "alice", "bob"))
    for party in (relay, alice, bob):
        party.on_grant = lambda m: None
    bob.agent.control_send(Demand("alice", "bob", 500))
    grant = relay.next(LeaseGrant)
    kept: list[Any] = []
    world.orchestrator._records.keep = kept.append  # type: ignore[method-assign]
    world.stop()
    (ended,) = (each for each in kept if isinstance(each, LeaseEnded))
    assert (ended.token, ended.ok, ended.reason) == (
        (grant.epoch, grant.number),
        False,
        "the orchestrator stops",
    )


def test_a_node_that_dies_in_its_lease_frees_the_ring_for_others(world: World) -> None:
    relay, alice, bob, carol = (world.party(role) for role in ("relay", *USERS))
    alice.on_grant = bob.on_grant = lambda m: None
    relay.on_grant = lambda m: None if relay._pair == ("alice", "bob") else LeaseDone(m.epoch, m.number, True)
    bob.agent.control_send(Demand("alice", "bob", 500))
    relay.next(LeaseGrant)
    alice.agent.close()
    assert relay.next(LeaseAbort).reason == "alice is gone"
    bob.on_grant = lambda m: LeaseDone(m.epoch, m.number, True)
    carol.agent.control_send(Demand("bob", "carol", 500))
    relay.agent.control_send(LeaseDone(1, 1, False, "aborted"))
    bob.agent.control_send(LeaseDone(1, 1, False, "aborted"))
    offer = carol.next(LeaseOffer)
    assert (offer.first, offer.second) == ("bob", "carol")


def test_observers_hear_what_the_keys_of_a_pair_rest_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack, trusted={PAIRS[0]: ("gated", "calibrated")})
        told: Any = Listener(world).until("orchestrator", lambda item: isinstance(item, PairStatus)).item
    assert (told.pair, told.light, told.monitoring) == (PAIRS[0], "gated", "calibrated")


class Listener:
    """An observer and what it was told."""

    def __init__(self, world: World) -> None:
        self.agent = world.agent("observer")
        self.agent.control_send(Subscribe())
        self.items: list[TelemetryItem] = []

    def until(self, role: str, wanted: Callable[[Any], bool], timeout_s: float = 10.0) -> TelemetryItem:
        """The first item of ``role`` from here on that is ``wanted``."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            event = self.agent.control_recv(0.1)
            if isinstance(event, TelemetryItem):
                self.items.append(event)
                if event.role == role and wanted(event.item):
                    return event
        raise AssertionError(f"nothing of the kind from {role}; heard {self.items}")


def test_an_observer_sees_what_was_and_what_comes(world: World) -> None:
    alice = world.agent("alice")
    alice.control_send(Ready(False, "no light", ("awg_alice",)))
    observer = Listener(world)
    observer.until("alice", lambda item: item == Ready(False, "no light", ("awg_alice",)))
    alice.control_send(Ready(True))
    observer.until("alice", lambda item: item == Ready(True))
    assert [item.seq for item in observer.items] == list(range(len(observer.items)))
    assert PeerStatus("relay", False, reason=NOT_SEEN) in [item.item for item in observer.items]


def test_a_node_with_another_testbed_file_is_kept_out_shown_and_counted(tmp_path: Path) -> None:
    ours = Agreed("0.1.0", {"users": "0" * 16})
    with ExitStack() as stack:
        world = World(tmp_path, stack, agreed=ours)
        observer = Listener(world)
        node = world.agent("alice", agreed=Agreed("0.1.0", {"users": "1" * 16}), wait=False)
        shown = observer.until(
            "orchestrator", lambda item: isinstance(item, PeerStatus) and item.reason.startswith("refused")
        )
        assert shown.item == PeerStatus("alice", False, reason=f"refused: {node.link_reason}")
        assert "differs from the hub's in [users]" in node.link_reason
        counted = observer.until(
            "orchestrator", lambda item: isinstance(item, Refusals) and item.count >= 2
        ).item
        assert (counted.peer, counted.last) == ("alice", node.link_reason)
        node.close()
        world.agent("alice")
        observer.until("orchestrator", lambda item: item == PeerStatus("alice", True))


def test_an_item_of_a_newer_peer_is_kept_counted_and_shown(world: World) -> None:
    """Of a kind that this hub does not know: neither refused nor dropped, and the peer goes on."""
    alice, observer = world.agent("alice"), Listener(world)
    observer.until("orchestrator", lambda item: isinstance(item, RingStatus))
    newer = encode(Said(msgspec.Raw(msgspec.msgpack.encode({"type": "Decoyed", "intensities": [0.1, 0.4]}))))
    for _ in range(3):  # past what this version lets its own processes say
        assert alice._control_bytes.take("hub", waiting_cost(len(newer)))
        alice._control_out.append(newer)
    alice.control_send(Ready(True))
    observer.until("alice", lambda item: item == Ready(True))
    told = [each.item for each in observer.items if isinstance(each.item, Unknown)]
    assert [(each.kind, each.count) for each in told] == [("Decoyed", 1), ("Decoyed", 2), ("Decoyed", 3)]
    late = Listener(world)
    late.until("alice", lambda item: isinstance(item, Unknown) and item.count == 3)


def test_ends_of_leases_and_peers_are_printed_as_the_structs_that_observers_get(world: World) -> None:
    observer = Listener(world)
    for role in ("relay", "alice", "bob"):
        world.party(role)
    carol = world.agent("carol")
    carol.control_send(Ready(False, "no light"))
    world.agent("fl-server").control_send(Demand("alice", "bob", BLOCK_BITS))
    observer.until("orchestrator", lambda item: isinstance(item, LeaseStatus) and item.ok)
    observer.until("orchestrator", lambda item: isinstance(item, PairStatus) and item.stock_bits > 0)
    told = [item for each in observer.items if isinstance(item := each.item, LeaseStatus | PeerStatus)]
    printed = [event for event in world.emitted if isinstance(event, LeaseStatus)]
    assert printed
    assert printed[0] in told
    assert PeerStatus("carol", True, False, "no light") in world.emitted


def test_observers_do_not_take_each_others_place(world: World) -> None:
    first = Listener(world)
    first.until("orchestrator", lambda item: isinstance(item, RingStatus))
    second = Listener(world)
    second.until("orchestrator", lambda item: isinstance(item, RingStatus))
    world.party("alice").agent.control_send(Ready(False, "dark"))
    for each in (first, second):
        each.until("alice", lambda item: item == Ready(False, "dark"))
        assert each.agent.link_state is LinkState.UP


def test_observers_are_bounded_in_number_and_told_so(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack, limits=replace(CONFIG.limits, observers=2))
        kept = [world.agent("observer") for _ in range(2)]
        hub = world.orchestrator.hub
        third = Agent(
            "observer",
            world.keys["observer"],
            world.keys["orchestrator"].public,
            hub.control_endpoint,
            hub.bulk_endpoint,
        )
        stack.callback(third.close)
        third.start()
        assert third.wait_for(LinkState.REFUSED, 10.0)
        assert "2 observers are connected" in third.link_reason
        kept[0].close()
        assert third.wait_up(10.0)


def test_an_observer_is_nobodys_peer_and_says_nothing(world: World) -> None:
    alice = world.agent("alice")
    observer = world.agent("observer")
    assert "observer" not in alice.peers
    assert "alice" in observer.peers
    channel = observer.channel("alice", "topic")
    channel.send(b"hello")
    with pytest.raises(ChannelError, match="an observer only listens"):
        channel.recv(5.0)


@pytest.mark.parametrize("role", ["relay", "alice"])
def test_a_pair_is_unavailable_as_soon_as_one_of_its_parties_is(world: World, role: str) -> None:
    parties = {each: world.party(each) for each in ("relay", "alice", "bob")}
    observer = Listener(world)

    def alice_bob(available: bool) -> PairStatus:
        told = observer.until(
            "orchestrator",
            lambda item: (
                isinstance(item, PairStatus) and item.second == "bob" and item.available is available
            ),
        ).item
        assert isinstance(told, PairStatus)
        return told

    alice_bob(True)
    parties[role].agent.control_send(Ready(False, "laser: no answer", ("laser",)))
    assert alice_bob(False).reason == f"{role} is not ready: laser: no answer"
    parties[role].agent.control_send(Ready(True))
    alice_bob(True)
    parties[role].agent.close()
    assert alice_bob(False).reason == f"{role} is gone"


def test_every_pair_has_a_subject_of_its_own_however_names_are_cut_and_glued(tmp_path: Path) -> None:
    users = ("a", "a-b", "b-c", "c")
    pairs = [(x, y) for n, x in enumerate(users) for y in users[n + 1 :]]
    with ExitStack() as stack:
        world = World(tmp_path, stack, users=users, rates_bps=dict.fromkeys(pairs, 1.0))
        observer = Listener(world)
        observer.until(
            "orchestrator",
            lambda item: isinstance(item, PairStatus) and item.second == "c" and item.first == "b-c",
        )
        subjects = {each.item.subject for each in observer.items if isinstance(each.item, PairStatus)}
    assert len(subjects) == 6


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("observer", Demand("alice", "bob", 10**9)),
        ("carol", Demand("alice", "bob", 10**9)),
        ("carol", BlockReport(1, 1, "alice", "bob", True, secret_bits=10**9)),
        ("relay", Stock([LaneStock("alice", "mask", 10**9)])),
        ("alice", Stock([LaneStock("alice", "mask", 10**9)])),
        ("alice", Stock([LaneStock("mallory", "mask", 10**9)])),
        ("alice", Subscribe()),
        ("alice", Learning("run", "otp", "finished", 10, 10)),
        ("observer", Ready(True)),
        ("fl-server", Served(1, 0, 1.0)),
    ],
)
def test_nobody_speaks_for_others(world: World, role: str, message: FromPeer) -> None:
    agent = world.agent(role)
    agent.control_send(message)
    while not isinstance(event := agent.control_recv(10.0), Refused):
        assert event is not None
    assert event.code == "not-allowed"
    assert event.detail.startswith(f"{role} ")
    refusals = Listener(world).until("orchestrator", lambda item: isinstance(item, Refusals)).item
    assert isinstance(refusals, Refusals)
    assert (refusals.peer, refusals.count, refusals.last) == (role, 1, event.detail)
    assert all(p.demand_bits == p.stock_bits == 0 for p in world.orchestrator.schedule.state.pairs)


def test_a_restart_takes_the_next_epoch_and_keeps_the_demand(world: World) -> None:
    relay, alice, bob = (world.party(role) for role in ("relay", "alice", "bob"))
    alice.agent.control_send(Demand("alice", "bob", 10**6))
    old = relay.next(LeaseOffer)
    relay.next(LeaseGrant)
    world.stop()
    started_s = time.monotonic()
    world.start()
    while (offer := relay.next(LeaseOffer)).epoch == old.epoch:
        pass
    assert (offer.epoch, offer.number) == (old.epoch + 1, 1)
    assert time.monotonic() - started_s < 10.0
    assert bob.next(LeaseGrant) is not None


def test_a_replayed_lease_of_an_older_epoch_is_refused_by_the_fence(world: World) -> None:
    relay, alice, _ = (world.party(role) for role in ("relay", "alice", "bob"))
    alice.agent.control_send(Demand("alice", "bob", 500))
    offer = relay.next(LeaseOffer)
    relay.next(LeaseGrant)
    assert not relay.fence.accept(offer.epoch, offer.number)
    assert not relay.fence.accept(offer.epoch - 1, offer.number + 1000)


# -- from the command line's point of view -------------------------------------------------------------

PROCESS = """
import signal, sys, threading
from pathlib import Path
from lab.testbed import load_testbed
from orchestrator.events.process import line_of
from orchestrator.processes.orchestrator_process import run_orchestrator

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
folder = Path(sys.argv[1])
run_orchestrator(load_testbed(folder / "testbed.toml"), folder / "orchestrator", folder / "state", stop,
                 lambda event: print(line_of(event), flush=True))
print("stopped", flush=True)
"""


def test_the_process_reports_its_endpoints_and_stops_cleanly_on_sigterm(tmp_path: Path) -> None:
    import tomllib

    data = tomllib.loads(TEMPLATE.read_text(encoding="utf-8"))
    keys = {"orchestrator": write_keys(tmp_path / "orchestrator"), "relay": generate_keys()}
    keys["observer"] = generate_keys()
    data["keys"] = {role: pair.public for role, pair in keys.items()}
    write_testbed(data, tmp_path / "testbed.toml")
    agreed = agreed_on(load_testbed(tmp_path / "testbed.toml"))
    (tmp_path / "state").mkdir()
    for epoch in (1, 2):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROCESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            info = json.loads(process.stdout.readline())
            assert info["epoch"] == epoch
            public = keys["orchestrator"].public
            with Agent("relay", keys["relay"], public, info["control"], info["bulk"], agreed=agreed) as relay:
                assert relay.wait_up(10.0)
                assert relay.epoch == epoch
                refused = ask(tmp_path / "state", ShowRevoked())
                assert refused == Revoked([] if epoch == 1 else ["observer"])
                ask(tmp_path / "state", Revoke("observer"))
                os.kill(process.pid, signal.SIGTERM)
                assert process.wait(10.0) == 0
            assert process.stdout.read().splitlines()[-1] == "stopped"
        finally:
            process.kill()
            process.communicate()


def test_the_testbed_says_everything_the_orchestrator_needs() -> None:
    testbed = load_testbed(TEMPLATE)
    config = config_of(testbed)
    assert config.users == testbed.user_names()
    assert set(config.rates_bps) == set(testbed.pairs())
    assert all(rate > 0 for rate in config.rates_bps.values())
    assert config.n_frames == testbed.frames_per_block()
    assert set(config.trusted.values()) == {(testbed.protocol.light, testbed.protocol.monitoring)}
    assert set(config.trusted) == set(testbed.pairs())
