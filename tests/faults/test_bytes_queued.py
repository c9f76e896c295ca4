"""Nobody makes another process hold more than its budget of bytes: real hubs, agents and learning servers flooded.

Every flood is many times the budget; what is checked is memory - the growth of the process that is flooded,
or the bytes it says it holds - and that the refusals are counted.  Nothing depends on how fast it goes.
"""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from orchestrator.events.status import Alarm, LaneStock, Learning, PeerItem, Ready, Stock
from orchestrator.hub.agent import AgentLimits
from orchestrator.hub.events import HubLimits
from orchestrator.hub.table import ChannelTable, TableLimits
from orchestrator.wire.budget import BudgetedQueue, ByteBudget, decoded_cost
from orchestrator.wire.codec import encode, packed
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import (
    Credit,
    Delivery,
    LeaseAbort,
    PeerChange,
    Post,
    Refused,
    Said,
    Subscribe,
    TelemetryItem,
)

MIB = 1 << 20


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def swollen() -> Stock:
    """An item of status of about 60 kB that is as large in memory as its form allows."""
    return Stock([LaneStock("a", "m", 0)] * 1280)


# -- the budget ------------------------------------------------------------------------------------------


def test_a_budget_counts_what_is_held_and_what_was_refused() -> None:
    budget = ByteBudget(10, 6)
    assert budget.take("alice", 6)
    assert not budget.take("alice", 1), "its own share is used up"
    assert not budget.take("bob", 5), "so is the sum"
    assert budget.take("bob", 4)
    assert (budget.held(), budget.held("alice"), budget.refused) == (10, 6, 2)
    budget.give_back("alice", 6)
    assert budget.take("bob", 2)
    with pytest.raises(ValueError, match="more than it holds"):
        budget.give_back("alice", 1)
    assert budget.held() == 6


def test_a_queue_pays_when_something_waits_and_is_paid_when_it_is_read() -> None:
    waiting: BudgetedQueue[str] = BudgetedQueue(ByteBudget(10))
    assert waiting.offer("one", "alice", 10)
    assert not waiting.offer("two", "bob", 1)
    waiting.put("must not be lost")
    assert waiting.get(0.0) == "one"
    assert waiting.budget.held() == 0
    assert waiting.get(0.0) == "must not be lost"


def test_a_decoded_message_is_charged_more_than_it_takes() -> None:
    """The factor of :func:`decoded_cost` holds for the worst that the messages allow."""
    import tracemalloc

    from orchestrator.wire.codec import decode

    for message in (
        swollen(),
        Ready(False, "", tuple("x" for _ in range(64))),
        Learning("", "", "running", 0),
        Alarm("store", ""),
    ):
        frame = encode(message)
        tracemalloc.start()
        decoded = decode(frame, PeerItem)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held <= decoded_cost(len(frame)), len(frame)
        del decoded


# -- the hub ---------------------------------------------------------------------------------------------


def test_a_hub_that_nobody_reads_holds_a_bounded_number_of_bytes(make_hub_world: Any) -> None:
    """Telemetry that takes 350 MB decoded is said to an orchestrator that is busy."""
    world = make_hub_world(limits=HubLimits(event_bytes=64 * MIB, event_bytes_per_peer=16 * MIB))
    mallory = world.raw("relay").join()
    honest = world.raw("alice").join()
    flood = encode(Said(packed(swollen())))
    gc.collect()
    before = resident_bytes()
    fitting = 16 * MIB // decoded_cost(len(flood))
    for number in range(300):
        mallory.control.send(flood)
        if number >= fitting:
            assert mallory.hear(5000).code == "overload"
    assert world.hub.counters.overloads == 300 - fitting
    assert resident_bytes() - before < 64 * MIB
    honest.say(Said(packed(Ready(True))))
    heard = []
    while (event := world.hub.recv(2.0)) is not None:
        heard.append(event)
    told = {event.role for event in heard if hasattr(event, "message")}
    assert told == {"relay", "alice"}, "the share of one peer leaves room for the others"
    assert world.hub._events.budget.held() == 0


def test_lossy_telemetry_for_an_observer_that_does_not_read_is_dropped(make_hub_world: Any) -> None:
    world = make_hub_world(limits=HubLimits(outbox_bytes=4 * MIB, lost_after_s=3600.0))
    observer = world.raw("observer").join()
    assert world.hub.recv(5.0) is not None
    item = TelemetryItem.of("alice", 0, 0.0, swollen())
    gc.collect()
    before = resident_bytes()
    sent = 3000
    for _ in range(sent):
        world.hub.send("observer", item)
        while len(world.hub._commands) > 50:
            assert world.hub.recv(0.001) is None  # waits, so that the hub's thread gets its turn
    while world.hub._commands:
        assert world.hub.recv(0.001) is None
    assert world.hub.counters.overloads > sent // 2
    assert world.hub.counters.lost_peers == 0
    assert resident_bytes() - before < 96 * MIB
    assert isinstance(observer.hear(), TelemetryItem)


def test_a_recipient_that_stopped_holds_no_more_than_an_outbox(make_hub_world: Any) -> None:
    """A sender that reconnects gets fresh credit each time; the outbox of the recipient is bounded all the same."""
    limit = 8 * MIB
    world = make_hub_world(limits=HubLimits(outbox_bytes=limit, lost_after_s=3600.0))
    stopped = world.raw("bob").join()
    world.hub.recv(5.0)
    gc.collect()
    before = resident_bytes()
    raised = []
    for _ in range(40):
        mallory = world.raw("alice").join()
        raised.append(mallory)  # its address is its instance: keep it
        for number in range(4):
            mallory.post(Post("bob", "t", number), bytes(MIB))
        mallory.post(Post("nobody", "t", 0), b"")
        while not isinstance(mallory.get(), Refused):
            assert world.hub._thread.is_alive()
        bob = world.hub._peers.get("bob")
        if bob is None:
            break
        assert bob.bulk.held_bytes <= limit
        mallory.control.close(linger=0)
        mallory.bulk.close(linger=0)
    assert world.hub.counters.overloads >= 1
    assert resident_bytes() - before < limit + 64 * MIB
    assert isinstance(stopped.get(), PeerChange)


@pytest.mark.parametrize("plane", ["control", pytest.param("bulk", marks=pytest.mark.long)])
def test_one_message_of_a_thousand_parts_does_not_fill_the_hub(make_hub_world: Any, plane: str) -> None:
    """libzmq counts messages and bounds their parts; 600 parts of almost 1 MiB are one message."""
    world = make_hub_world(limits=HubLimits(lost_after_s=3600.0))
    honest = world.raw("alice").join()
    mallory = world.raw("relay").join()
    flood, part, connections = getattr(mallory, plane), b"x" * (MIB - 4096), world.hub.gate.connections
    for _ in range(600):  # wait at the sender until the last part is there
        flood.send(part, zmq.SNDMORE)
    gc.collect()
    before = resident_bytes()
    flood.send(part)
    answered = False
    while not connections.floods and not answered:
        answered = bool(mallory.control.poll(50)) and isinstance(mallory.hear(0), Refused)
    assert connections.floods == 1, "the hub took it in whole"
    assert resident_bytes() - before < 400 * MIB, "what came in a fifth of a second"
    honest.say(Subscribe())
    assert honest.hear(300) is None, "nobody else is cut off"
    assert "alice" in {peer.role for peer in world.hub._everyone()}


def test_a_busy_hub_does_not_cut_off_whom_it_keeps_waiting(make_hub_world: Any) -> None:
    """Full queues are no flood: a peer fills them while the hub's thread stands still."""
    world = make_hub_world(limits=HubLimits(lost_after_s=3600.0))
    alice = world.raw("alice").join()
    flood, held = bytes(60_000), threading.Event()
    tick = world.hub._tick

    def standing_still() -> None:
        held.wait(20.0)
        tick()

    world.hub._tick = standing_still
    sent = 0
    with suppress(zmq.Again):
        for _ in range(2000):
            alice.control.send(flood, zmq.DONTWAIT)
            sent += 1
    for _ in range(3):
        world.hub.gate.connections.end_floods()
    assert world.hub.gate.connections.floods == 0
    held.set()
    assert sent > 20


# -- the agent -------------------------------------------------------------------------------------------


def test_a_process_that_does_not_reach_its_hub_queues_a_bounded_number_of_bytes(hub_world: Any) -> None:
    from orchestrator.hub.agent import AgentError
    from orchestrator.wire.curve import generate_keys

    limits = AgentLimits(control_bytes=4 * MIB)
    alice = hub_world.agent("alice", wait=False, keys=generate_keys(), limits=limits)
    message = swollen()

    def flood() -> None:
        for _ in range(200):
            alice.control_send(message)

    with pytest.raises(AgentError, match="control messages wait"):
        flood()
    assert sum(len(data) for data in alice._control_out) <= 4 * MIB


class EvilHub:
    """Speaks as the hub with one agent and says whatever it likes."""

    def __init__(self, world: Any) -> None:
        from orchestrator.wire.curve import server_socket
        from orchestrator.wire.links import QueueLimits
        from orchestrator.wire.messages import BULK_LIMIT, BulkWelcome, Welcome
        from orchestrator.wire.zeromq import ZapGate

        keys = world.keys["orchestrator"]
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        world.stack.callback(context.destroy, linger=0)
        gate = ZapGate(context, world.allowed)
        world.stack.callback(gate.close)
        self.control, control = server_socket(context, keys, "auto")
        self.bulk, bulk = server_socket(context, keys, "auto", limits=QueueLimits(BULK_LIMIT))
        world.hub.control_endpoint, world.hub.bulk_endpoint = control, bulk
        self.agent = world.agent("alice", wait=False, limits=AgentLimits(event_bytes=32 * MIB))
        self.route = self.control.recv_multipart()[0]
        self.say(Welcome("alice", 1, 1.0, 3600.0))
        self.bulk_route = self.bulk.recv_multipart()[0]
        self.post(BulkWelcome({"bob": 1}))
        assert self.agent.wait_up(10.0)

    def say(self, message: Any) -> None:
        self.control.send_multipart([self.route, encode(message)])

    def post(self, message: Any, *payload: bytes) -> None:
        self.bulk.send_multipart([self.bulk_route, encode(message), *payload])


def flooded(hub: EvilHub, say: Any) -> None:
    """Say it until the agent has had enough and left.

    Where the connection is gone it has left, and may be at its next attempt already, which nobody answers.
    """
    for each in (hub.control, hub.bulk):
        each.setsockopt(zmq.SNDTIMEO, 50)
    for number in range(1_000_000):
        if hub.agent.link_state is not LinkState.UP:
            return
        try:
            say(number)
        except zmq.Again:
            continue
        except zmq.ZMQError:
            hub.agent.wait_for(LinkState.LOST, 0.05)
    pytest.fail("the agent takes whatever comes")


def test_an_agent_leaves_a_hub_that_says_more_than_is_read(hub_world: Any) -> None:
    hub = EvilHub(hub_world)
    gc.collect()
    before = resident_bytes()
    reason = "r" * 1000
    flooded(hub, lambda number: hub.say(LeaseAbort(1, number, reason)))
    assert resident_bytes() - before < 96 * MIB
    assert hub.agent._events.budget.held() <= 32 * MIB


def test_an_agent_leaves_a_hub_that_invents_peers(hub_world: Any) -> None:
    hub = EvilHub(hub_world)
    flooded(hub, lambda number: hub.post(PeerChange(f"peer-{number}", True, 1)))
    hub = EvilHub(hub_world)
    flooded(hub, lambda number: hub.post(Delivery(f"peer-{number}", "t", 0), b"x"))


def test_credit_and_telemetry_without_end_cost_an_agent_nothing(hub_world: Any) -> None:
    hub = EvilHub(hub_world)
    for number in range(2000):
        hub.post(Credit("bob", number))
        hub.say(TelemetryItem.of("bob", number, 0.0, Alarm("store", "y" * 1000)))
    hub.say(LeaseAbort(1, 1, "the last word"))
    seen = []
    while not seen or not isinstance(seen[-1], LeaseAbort):
        event = hub.agent.control_recv(10.0)
        assert event is not None
        seen.append(event)
    assert hub.agent.link_state is LinkState.UP


def test_all_mailboxes_together_have_one_budget() -> None:
    table = ChannelTable(lambda: None, lambda peer, topic: None, TableLimits(unread_bytes=10 * MIB))
    for peer in range(20):
        for seq in range(20):
            table.deliver(Delivery(f"peer-{peer}", "t", seq), bytes(MIB // 4))
    assert table.unread_bytes <= 10 * MIB
    broken = [table.open(f"peer-{peer}", "t").broken for peer in range(20)]
    assert sum(reason is not None for reason in broken) >= 17
    for peer in range(20):
        table.disconnected("left", f"peer-{peer}")
    assert table.unread_bytes == 0


def test_empty_frames_fill_a_mailbox_too() -> None:
    table = ChannelTable(lambda: None, lambda peer, topic: None, TableLimits(mailbox_bytes=MIB))
    channel = table.open("bob", "t")
    for seq in range(10_000):
        table.deliver(Delivery("bob", "t", seq), b"")
    assert "unread" in str(channel.broken)
    assert channel.held_bytes <= MIB
