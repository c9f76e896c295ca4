"""Agents over a real hub, and the table of channels by itself."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from orchestrator.events.status import LaneStock, Ready, Stock
from orchestrator.hub.agent import Agent, AgentError, AgentLimits, LinkDown, LinkUp, TopicWaiting
from orchestrator.hub.table import ChannelTable, TableLimits
from orchestrator.wire.budget import decoded_cost, waiting_cost
from orchestrator.wire.channel import ChannelBrokenError, ChannelClosedError, ChannelTimeoutError
from orchestrator.wire.codec import WireError, encode
from orchestrator.wire.curve import generate_keys
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import (
    MESSAGE_LIMIT,
    Delivery,
    Demand,
    Heartbeat,
    LeaseAbort,
    PeerChange,
    Post,
    TelemetryItem,
)
from orchestrator.wire.zeromq import PollWaiter

MIB = 1 << 20


def next_event(agent: Agent, kind: type) -> Any:
    """The next event of a kind; others before it are passed over."""
    while True:
        event = agent.control_recv(10.0)
        assert event is not None, f"no {kind.__name__} came"
        if isinstance(event, kind):
            return event


@pytest.fixture
def pair(hub_world: Any) -> tuple[Agent, Agent]:
    alice, bob = hub_world.agent("alice"), hub_world.agent("bob")
    while next_event(alice, PeerChange) != PeerChange("bob", True, 2):
        pass
    return alice, bob


# -- over the hub ------------------------------------------------------------------------------------


def test_messages_arrive_in_order_with_their_borders(pair: tuple[Agent, Agent]) -> None:
    alice, bob = pair
    sent = [bytes([n % 256]) * (n % 50) for n in range(300)]
    out, into = alice.channel("bob", "t"), bob.channel("alice", "t")
    for message in sent:
        out.send(message)
    assert [into.recv(10.0) for _ in sent] == sent


def test_topics_are_apart(pair: tuple[Agent, Agent]) -> None:
    alice, bob = pair
    alice.channel("bob", "one").send(b"1")
    alice.channel("bob", "two").send(b"2")
    assert bob.channel("alice", "two").recv(10.0) == b"2"
    assert bob.channel("alice", "one").recv(10.0) == b"1"


def test_what_comes_before_the_channel_is_opened_is_kept_and_announced(pair: tuple[Agent, Agent]) -> None:
    alice, bob = pair
    out = alice.channel("bob", "early")
    out.send(b"first")
    out.send(b"second")
    assert next_event(bob, TopicWaiting) == TopicWaiting("alice", "early")
    into = bob.channel("alice", "early")
    assert [into.recv(10.0), into.recv(10.0)] == [b"first", b"second"]


def test_waiting_longer_than_allowed_is_a_timeout_and_breaks_nothing(pair: tuple[Agent, Agent]) -> None:
    alice, bob = pair
    into = bob.channel("alice", "t")
    with pytest.raises(ChannelTimeoutError, match=r"alice on t within 0\.01 s"):
        into.recv(0.01)
    alice.channel("bob", "t").send(b"late")
    assert into.recv(10.0) == b"late"


def test_the_peer_reads_everything_and_then_learns_of_the_close(pair: tuple[Agent, Agent]) -> None:
    alice, bob = pair
    out, into = alice.channel("bob", "t"), bob.channel("alice", "t")
    out.send(b"last words")
    out.close()
    assert into.recv(10.0) == b"last words"
    for _ in range(2):
        with pytest.raises(ChannelBrokenError, match="alice closed it"):
            into.recv(10.0)
    with pytest.raises(ChannelBrokenError):
        into.send(b"too late")
    with pytest.raises(ChannelClosedError):
        out.send(b"too late as well")


def test_closing_wakes_a_thread_that_waits(pair: tuple[Agent, Agent]) -> None:
    alice, _ = pair
    channel = alice.channel("bob", "t")
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            channel.recv(30.0)
        except ChannelClosedError as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    alice.close_channel("bob", "t")
    waiting.join(10.0)
    assert len(caught) == 1


def test_a_peer_that_leaves_breaks_its_channels_and_no_others(hub_world: Any) -> None:
    alice, bob, carol = (hub_world.agent(role) for role in ("alice", "bob", "carol"))
    to_bob, to_carol = alice.channel("bob", "t"), alice.channel("carol", "t")
    carol.channel("alice", "t").send(b"here")
    assert to_carol.recv(10.0) == b"here"
    bob.channel("alice", "t").send(b"here")
    assert to_bob.recv(10.0) == b"here"
    bob.close()
    with pytest.raises(ChannelBrokenError, match="bob left"):
        to_bob.recv(10.0)
    to_carol.send(b"still there")
    assert carol.channel("alice", "t").recv(10.0) == b"still there"
    assert "bob" not in alice.peers


def test_a_topic_starts_afresh_when_the_peer_has_come_back(hub_world: Any) -> None:
    alice = hub_world.agent("alice")
    for generation in (b"one", b"two"):
        bob = hub_world.agent("bob")
        while not next_event(alice, PeerChange).up:
            pass
        channel = alice.channel("bob", "t")
        channel.send(generation)
        assert bob.channel("alice", "t").recv(10.0) == generation
        bob.close()
        with pytest.raises(ChannelBrokenError):
            channel.recv(10.0)
        channel.close()


def test_sending_to_a_peer_that_is_not_there_breaks_the_channel(hub_world: Any) -> None:
    alice = hub_world.agent("alice")
    for peer, reason in (("bob", "not connected"), ("mallory", "unknown peer")):
        channel = alice.channel(peer, "t")
        channel.send(b"anybody?")
        with pytest.raises(ChannelBrokenError, match=reason):
            channel.recv(10.0)


def test_64_mib_travel_in_chunks_and_heartbeats_stay_on_time(
    pair: tuple[Agent, Agent], hub_world: Any
) -> None:
    alice, bob = pair
    relay = hub_world.raw("relay").join()
    message = bytes(range(256)) * (MESSAGE_LIMIT // 256)
    beats: list[float] = []
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            if relay.control.poll(100):
                relay.control.recv()
                relay.say(Heartbeat())
                beats.append(time.monotonic())

    listening = threading.Thread(target=listen)
    listening.start()
    into = bob.channel("alice", "big")
    alice.channel("bob", "big").send(message)
    received = into.recv(60.0)
    done.set()
    listening.join()
    assert received == message
    gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
    assert max(gaps, default=0.0) < 2.0
    assert hub_world.hub.counters.frames >= 64
    assert hub_world.hub.counters.lost_peers == 0


def test_more_than_64_mib_is_refused_here(pair: tuple[Agent, Agent]) -> None:
    with pytest.raises(ValueError, match="at most"):
        pair[0].channel("bob", "t").send(bytes(MESSAGE_LIMIT + 1))


def test_a_peer_that_has_stopped_does_not_hold_up_the_others(hub_world: Any) -> None:
    alice, carol = hub_world.agent("alice"), hub_world.agent("carol")
    stopped = hub_world.raw("bob").join()
    alice.channel("bob", "t").send(bytes(32 * MIB))
    channel = alice.channel("carol", "t")
    for number in range(50):
        channel.send(b"%d" % number)
        assert carol.channel("alice", "t").recv(10.0) == b"%d" % number
    chunks = 0
    while stopped.get(200) is not None:
        chunks += stopped.payload is not None
    assert chunks == 4


def test_control_messages_wait_for_the_session(hub_world: Any) -> None:
    alice = hub_world.agent("alice", wait=False)
    alice.control_send(Demand("alice", "bob", 5))
    hub = hub_world.hub
    messages = [hub.recv(10.0), hub.recv(10.0)]
    assert messages[1].message == Demand("alice", "bob", 5)


def test_a_full_queue_is_an_error_and_not_a_loss(hub_world: Any) -> None:
    limits = AgentLimits(control_bytes=3 * waiting_cost(len(encode(Heartbeat()))))
    alice = hub_world.agent("alice", wait=False, limits=limits, keys=generate_keys())
    for _ in range(3):
        alice.control_send(Heartbeat())
    with pytest.raises(AgentError, match="3 control messages wait"):
        alice.control_send(Heartbeat())


@pytest.mark.parametrize(
    "message",
    [
        LeaseAbort(1, 1, "x" * 1001),
        Demand("Alice", "bob", 1),
        Demand("alice", "bob", -1),
        Demand("alice", "bob", 1 << 70),
        Stock([LaneStock("bob", "Mask", 1)]),
    ],
)
def test_what_the_hub_would_refuse_is_an_error_here(hub_world: Any, message: Any) -> None:
    alice = hub_world.agent("alice")
    with pytest.raises(WireError):
        alice.control_send(message)


def test_unread_telemetry_is_lost_and_nothing_else(hub_world: Any) -> None:
    item = len(encode(TelemetryItem.of("bob", 0, 0.0, Ready(True))))
    alice = hub_world.agent("alice", limits=AgentLimits(event_bytes=2 * 10 * decoded_cost(item)))
    for seq in range(100):
        hub_world.hub.send("alice", TelemetryItem.of("bob", seq, 0.0, Ready(True)))
    hub_world.hub.send("alice", LeaseAbort(1, 1, "not lossy"))
    deadline = time.monotonic() + 10.0
    while alice._events.qsize() < 12:
        assert time.monotonic() < deadline
        alice.wait_for(LinkState.LOST, 0.01)
    items = []
    while not isinstance(event := alice.control_recv(10.0), LeaseAbort):
        assert event is not None
        if isinstance(event, TelemetryItem):
            items.append(event.seq)
    assert items == list(range(10))


def test_the_hub_is_heard_and_the_link_reported(hub_world: Any) -> None:
    alice = hub_world.agent("alice")
    assert next_event(alice, LinkUp) == LinkUp(1)
    assert alice.epoch == 1
    hub_world.hub.send("alice", LeaseAbort(1, 2, "because"))
    assert next_event(alice, LeaseAbort) == LeaseAbort(1, 2, "because")


def test_a_second_process_with_the_same_key_takes_over(hub_world: Any) -> None:
    older = hub_world.agent("alice")
    channel = older.channel("bob", "t")
    newer = hub_world.agent("alice")
    assert older.wait_for(LinkState.SUPERSEDED, 10.0)
    with pytest.raises(ChannelBrokenError):
        channel.recv(10.0)
    assert isinstance(next_event(older, LinkDown), LinkDown)
    assert newer.link_state is LinkState.UP


def test_a_hub_that_has_fallen_silent_is_lost_and_found(hub_world: Any) -> None:
    """A word that comes in the very moment of a jump is heard after it; the next jump meets a silence."""
    now = [0.0]
    alice = hub_world.agent("alice", clock=lambda: time.monotonic() + now[0])
    for _ in range(50):
        now[0] += 3600.0
        down = alice.control_recv(0.5)
        if isinstance(down, LinkDown):
            break
    assert isinstance(down, LinkDown)
    assert down.state is LinkState.LOST
    assert "nothing from the hub" in down.reason
    assert alice.wait_up(10.0)


def test_a_step_of_the_wall_clock_changes_nothing(
    pair: tuple[Agent, Agent], hub_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = pair
    real = time.time
    for step_s in (3600.0, -7200.0):
        monkeypatch.setattr(time, "time", lambda step_s=step_s: real() + step_s)
        for number in range(20):
            alice.channel("bob", "t").send(b"%d" % number)
            assert bob.channel("alice", "t").recv(10.0) == b"%d" % number
    assert hub_world.hub.counters.lost_peers == 0
    assert alice.link_state is LinkState.UP


def test_a_closed_agent_closes_its_channels(hub_world: Any) -> None:
    alice = hub_world.agent("alice")
    channel = alice.channel("bob", "t")
    alice.close()
    alice.close()
    assert alice.link_state is LinkState.CLOSED
    with pytest.raises(ChannelClosedError):
        channel.recv(1.0)
    with pytest.raises(ChannelClosedError):
        alice.channel("bob", "u")


# -- the table by itself -----------------------------------------------------------------------------


def make_table(**limits: int) -> ChannelTable:
    return ChannelTable(lambda: None, lambda peer, topic: None, TableLimits(**limits))


def deliver(table: ChannelTable, topic: str, seq: int, payload: bytes, more: bool = False) -> None:
    table.deliver(Delivery("bob", topic, seq, more), payload)


@pytest.mark.parametrize("sequence", [[1], [0, 2], [0, 0], [0, 1, 1], [5, 0]])
def test_missing_or_repeated_frames_break_the_channel(sequence: list[int]) -> None:
    table = make_table()
    channel = table.open("bob", "t")
    for seq in sequence:
        deliver(table, "t", seq, b"x")
    assert channel.broken is not None
    assert "was due" in channel.broken


def test_a_message_that_never_ends_breaks_the_channel() -> None:
    table = make_table()
    channel = table.open("bob", "t")
    for seq in range(65):
        deliver(table, "t", seq, bytes(MIB), more=True)
    assert "more than" in str(channel.broken)


def test_unread_messages_are_limited() -> None:
    table = make_table(mailbox_bytes=10 * waiting_cost(100))
    channel = table.open("bob", "t")
    for seq in range(11):
        deliver(table, "t", seq, bytes(100))
    assert "unread" in str(channel.broken)
    for _ in range(10):
        assert channel.recv(0.0) == bytes(100)
    with pytest.raises(ChannelBrokenError):
        channel.recv(0.0)


def test_reading_makes_room() -> None:
    table = make_table(mailbox_bytes=10 * waiting_cost(100))
    channel = table.open("bob", "t")
    for seq in range(50):
        deliver(table, "t", seq, bytes(100))
        channel.recv(0.0)
    assert channel.broken is None


def test_unopened_channels_share_a_limit() -> None:
    table = make_table(unopened_bytes_per_peer=5 * waiting_cost(200))
    for number in range(10):
        deliver(table, f"t{number}", 0, bytes(200))
    kept = [number for number in range(10) if table.open("bob", f"t{number}").broken is None]
    assert kept == [0, 1, 2, 3, 4]


def test_only_so_many_topics_wait_to_be_opened() -> None:
    table = make_table(unopened_topics_per_peer=3)
    for number in range(5):
        deliver(table, f"t{number}", 0, b"x")
    with pytest.raises(ChannelClosedError):
        table.open("bob", "t0")
    assert table.open("bob", "t4").recv(0.0) == b"x"


def test_frames_for_a_closed_channel_are_dropped() -> None:
    table = make_table()
    table.open("bob", "t")
    table.close("bob", "t")
    deliver(table, "t", 0, b"late")
    assert table.dropped_frames == 1
    with pytest.raises(ChannelClosedError, match="fresh topic"):
        table.open("bob", "t")


def test_frames_for_a_closed_channel_give_their_credit_back() -> None:
    table = make_table()
    table.close("bob", "t")
    returned = sum(table.deliver(Delivery("bob", "t", seq, True), bytes(MIB)) for seq in range(40))
    assert returned >= 39 * MIB


def test_a_closed_name_is_free_again_once_the_peer_was_away() -> None:
    table = make_table()
    for topic in ("opened", "never opened"):
        table.open("bob", "opened")
        table.close("bob", topic)
        table.disconnected("left", "bob")
        deliver(table, topic, 0, b"afresh")
        assert table.open("bob", topic).recv(0.0) == b"afresh"
        table.disconnected("left", None)


def test_closing_an_old_channel_leaves_its_successor_alone() -> None:
    table = make_table()
    old = table.open("bob", "t")
    table.disconnected("left", "bob")
    successor = table.open("bob", "t")
    old.close()
    deliver(table, "t", 0, b"for the successor")
    assert successor.recv(0.0) == b"for the successor"
    with pytest.raises(ChannelClosedError):
        old.recv(0.0)


def test_what_a_peer_does_not_take_piles_up_to_a_limit() -> None:
    table = make_table(queued_bytes_per_peer=1000)
    channel = table.open("bob", "t")
    channel.send(bytes(600))
    with pytest.raises(ChannelBrokenError, match="does not take"):
        channel.send(bytes(600))
    assert table.next_frame() is None
    other = table.open("bob", "u")
    other.send(bytes(900))
    assert table.next_frame() == (Post("bob", "u", 0), memoryview(bytes(900)))


class WakingSocket:
    """The reading end of the wake-up pipe; another thread's wake-up falls right before the read."""

    def __init__(self, waiter: PollWaiter) -> None:
        self._waiter, self._real = waiter, waiter._read

    def recv(self, size: int) -> bytes:
        self._waiter.wake()
        return self._real.recv(size)


def test_a_wake_up_in_the_middle_of_draining_is_not_the_last_one() -> None:
    waiter = PollWaiter()
    real = waiter._read
    waiter.wake()
    waiter._read = WakingSocket(waiter)  # type: ignore[assignment]
    waiter.wait(5.0)
    waiter._read = real
    waiter.wake()
    assert real.recv(16)
    waiter.close()
