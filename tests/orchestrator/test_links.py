"""What links, listeners, gates and waiters promise, whichever transport stands behind them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.hub.agent import Agent
from orchestrator.hub.hub import Hub
from orchestrator.wire.channel import ChannelBrokenError
from orchestrator.wire.curve import CurveError, CurveKeys, generate_keys
from orchestrator.wire.gate import Gate
from orchestrator.wire.links import (
    Link,
    LinkBrokenError,
    LinkBusyError,
    LinkClosedError,
    LinkState,
    Listener,
    QueueLimits,
    Received,
    Target,
    Transport,
    Waiter,
)
from orchestrator.wire.memory import MemoryNetwork
from orchestrator.wire.zeromq import ZeroMQ

PATIENCE_S = 5.0
ALICE, BOB, SERVER = generate_keys(), generate_keys(), generate_keys()
TRANSPORTS = (ZeroMQ, MemoryNetwork)


class Ends:
    """A server that admits alice and bob, and links to it."""

    def __init__(self, stack: ExitStack, transport: Any) -> None:
        self.stack = stack
        self.transport: Transport = stack.enter_context(transport()) if transport is ZeroMQ else transport()
        self.waiter = self.made(self.transport.waiter())
        self.gate: Gate = stack.enter_context(self.transport.gate({ALICE.public: "alice", BOB.public: "bob"}))
        self.listener = self.listen()

    def made(self, each: Any) -> Any:
        self.stack.callback(each.close)
        return each

    def listen(self, endpoint: str = "auto", limits: QueueLimits | None = None) -> Listener:
        options = {} if limits is None else {"limits": limits}
        listener: Listener = self.made(self.gate.listen(self.waiter, SERVER, endpoint, **options))
        return listener

    def link(self, keys: CurveKeys = ALICE, *, up: bool = True, **options: Any) -> tuple[Link, Waiter]:
        waiter: Waiter = self.made(self.transport.waiter())
        options = {"endpoint": self.listener.endpoint, "public": SERVER.public, **options}
        link: Link = self.made(self.transport.connect(waiter, keys, Target(**options)))
        if up:
            reach(waiter, lambda: link.state is LinkState.UP)
        return link, waiter

    def heard(self) -> Received:
        """The next message that the server gets."""
        got: list[Received | None] = [None]

        def there() -> bool:
            got[0] = self.listener.receive()
            return got[0] is not None

        reach(self.waiter, there)
        assert got[0] is not None
        return got[0]


def reach(waiter: Waiter, there: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end_s = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end_s
        waiter.wait(0.2)


def answer(link: Link, waiter: Waiter) -> list[bytes]:
    got: list[list[bytes] | None] = [None]

    def there() -> bool:
        got[0] = link.receive()
        return got[0] is not None

    reach(waiter, there)
    assert got[0] is not None
    return got[0]


def free_endpoint() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(params=TRANSPORTS)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack, request.param)


# -- messages ----------------------------------------------------------------------------------------


def test_a_message_is_known_by_the_key_that_sent_it_and_can_be_answered(ends: Ends) -> None:
    (alice, alice_waits), (bob, _) = ends.link(ALICE), ends.link(BOB)
    alice.send(b"I am bob", memoryview(b"payload"))
    heard = ends.heard()
    assert (heard.role, [bytes(each) for each in heard.frames]) == ("alice", [b"I am bob", b"payload"])
    bob.send(b"")
    other = ends.heard()
    assert (other.role, [bytes(each) for each in other.frames]) == ("bob", [b""])
    assert other.connection != heard.connection
    ends.listener.send(heard.connection, b"for", heard.frames[1])
    assert answer(alice, alice_waits) == [b"for", b"payload"]
    assert (ends.listener.receive(), alice.receive(), bob.receive()) == (None, None, None)


@pytest.mark.parametrize("transport", TRANSPORTS)
@settings(max_examples=15, deadline=None)
@given(messages=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), min_size=1, max_size=12))
def test_messages_keep_their_order_and_their_borders(transport: Any, messages: list[list[bytes]]) -> None:
    with ExitStack() as stack:
        ends = Ends(stack, transport)
        link, waits = ends.link()
        for frames in messages:
            link.send(*frames)
        for frames in messages:
            heard = ends.heard()
            assert [bytes(each) for each in heard.frames] == frames
            ends.listener.send(heard.connection, *heard.frames)
        assert [answer(link, waits) for _ in messages] == messages


# -- who comes in ------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_and_counted(ends: Ends) -> None:
    link, waiter = ends.link(generate_keys(), up=False)
    reach(waiter, lambda: link.state is LinkState.REFUSED)
    with pytest.raises(LinkBrokenError):
        link.send(b"hello")
    assert ends.gate.refused == 1
    reach(ends.waiter, lambda: ends.listener.refused_handshakes == 1)
    assert ends.listener.receive() is None


def test_a_server_with_another_key_is_not_spoken_to(ends: Ends) -> None:
    link, waiter = ends.link(public=generate_keys().public, up=False)
    reach(waiter, lambda: link.state is LinkState.WRONG_SERVER_KEY)
    with pytest.raises(LinkBrokenError):
        link.send(b"for the real server only")
    assert ends.listener.receive() is None


def test_behind_a_closed_gate_nobody_is_heard(ends: Ends) -> None:
    ends.gate.close()
    link, waiter = ends.link(up=False)
    waiter.wait(0.1)
    assert link.state is not LinkState.UP
    with pytest.raises(LinkBrokenError):
        link.send(b"anybody?")


def test_a_revoked_key_loses_its_voice_and_its_connection(ends: Ends) -> None:
    (alice, alice_waits), (bob, _) = ends.link(ALICE), ends.link(BOB)
    for link in (alice, bob):
        link.send(b"here")
        ends.heard()
    alice.send(b"on its way already")
    ends.waiter.wait(PATIENCE_S)
    ends.gate.revoke("alice")
    received = ends.listener.receive()
    assert received is not None
    assert received.role is None
    reach(alice_waits, lambda: alice.state is LinkState.REFUSED)
    bob.send(b"still here")
    assert ends.heard().role == "bob"
    assert ends.gate.revoked == ["alice"]


def test_one_role_has_one_key(ends: Ends) -> None:
    with pytest.raises(CurveError, match="exactly one key"):
        ends.gate.set_allowed({ALICE.public: "alice", BOB.public: "alice"})


def test_an_address_in_use_is_an_error_that_says_so(ends: Ends) -> None:
    with pytest.raises(OSError, match="another instance"):
        ends.listen(ends.listener.endpoint)


# -- how a link ends ---------------------------------------------------------------------------------


def test_a_link_finds_a_server_that_comes_later_and_one_that_comes_back(ends: Ends) -> None:
    endpoint = free_endpoint()
    once, once_waits = ends.link(endpoint=endpoint, reconnect=False, up=False)
    reach(once_waits, lambda: once.state is LinkState.UNREACHABLE)
    link, waiter = ends.link(endpoint=endpoint, up=False)
    for each in (once, link):
        with pytest.raises(LinkBrokenError):
            each.send(b"nobody is there")
    for _ in range(2):
        ends.listener = ends.listen(endpoint)
        reach(waiter, lambda: link.state is LinkState.UP)
        link.send(b"hello")
        assert ends.heard().role == "alice"
        ends.listener.close()
        reach(waiter, lambda: link.state is not LinkState.UP)


def test_a_link_that_shall_not_reconnect_stays_lost(ends: Ends) -> None:
    link, waiter = ends.link(reconnect=False)
    link.send(b"hello")
    connection = ends.heard().connection
    ends.listener.send(connection, b"the last word")
    assert answer(link, waiter) == [b"the last word"]
    endpoint = ends.listener.endpoint
    ends.listener.close()
    reach(waiter, lambda: link.state is LinkState.LOST)
    ends.listen(endpoint)
    waiter.wait(0.1)
    assert link.state is LinkState.LOST
    with pytest.raises(LinkBrokenError):
        link.send(b"hello")


def test_a_peer_that_left_cannot_be_sent_to_and_what_it_said_is_heard(ends: Ends) -> None:
    link, _ = ends.link()
    link.send(b"first")
    connection = ends.heard().connection
    link.send(b"last")
    link.close()
    assert [bytes(each) for each in ends.heard().frames] == [b"last"]

    def gone() -> bool:
        try:
            ends.listener.send(connection, b"hello")
        except LinkBrokenError:
            return True
        return False

    reach(ends.waiter, gone)


def test_what_was_closed_here_says_so(ends: Ends) -> None:
    link, _ = ends.link()
    link.send(b"hello")
    connection = ends.heard().connection
    for each in (link, ends.listener):
        each.close()
        each.close()
    assert link.state is LinkState.CLOSED
    with pytest.raises(LinkClosedError):
        link.send(b"hello")
    with pytest.raises(LinkClosedError):
        ends.listener.send(connection, b"hello")


# -- limits ------------------------------------------------------------------------------------------

NARROW = QueueLimits(frame_bytes=1 << 16, unsent=2, unread=2)


def test_an_end_that_does_not_read_makes_the_other_busy_and_is_sent_to_again_when_it_reads(
    ends: Ends,
) -> None:
    ends.listener = ends.listen(limits=NARROW)
    link, waiter = ends.link(limits=NARROW)
    frame = bytes(60_000)

    def fill(send: Callable[[], None]) -> int:
        for sent in range(2000):
            try:
                send()
            except LinkBusyError:
                return sent
        pytest.fail("everything is taken")

    def taken(send: Callable[[], None]) -> bool:
        try:
            send()
        except LinkBusyError:
            return False
        return True

    sent = fill(lambda: link.send(frame))
    assert link.state is LinkState.UP
    connection = ends.heard().connection
    for _ in range(sent - 1):
        assert ends.heard().connection == connection
    reach(waiter, lambda: taken(lambda: link.send(frame)))
    answered = fill(lambda: ends.listener.send(connection, frame))
    for _ in range(answered):
        assert answer(link, waiter) == [frame]
    reach(ends.waiter, lambda: taken(lambda: ends.listener.send(connection, frame)))


@pytest.mark.parametrize("from_client", [True, False])
def test_a_connection_that_brings_too_long_a_frame_is_ended(ends: Ends, from_client: bool) -> None:
    ends.listener = ends.listen(limits=NARROW)
    link, waiter = ends.link(limits=NARROW, reconnect=False)
    link.send(bytes(60_000))
    connection = ends.heard().connection
    if from_client:
        link.send(b"", bytes((1 << 16) + 1))
    else:
        ends.listener.send(connection, bytes((1 << 16) + 1))
    reach(waiter, lambda: link.state is LinkState.LOST)
    assert (ends.listener.receive(), link.receive()) == (None, None)


# -- waiting -----------------------------------------------------------------------------------------


def test_a_wait_ends_when_it_is_woken_before_or_while_it_waits(ends: Ends) -> None:
    started = time.monotonic()
    ends.waiter.wake()
    ends.waiter.wait(60.0)
    waking = threading.Timer(0.05, ends.waiter.wake)
    waking.start()
    ends.waiter.wait(60.0)
    waking.join()
    ends.waiter.wait(0.01)
    assert time.monotonic() - started < PATIENCE_S


def test_one_waiter_watches_several(ends: Ends) -> None:
    second = ends.listen()
    (first_link, _), (second_link, _) = ends.link(), ends.link(BOB, endpoint=second.endpoint)
    second_link.send(b"two")
    reach(ends.waiter, lambda: second.receive() is not None)
    first_link.send(b"one")
    assert ends.heard().role == "alice"


# -- a hub and its agents ----------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_hub_and_its_agents_speak_over_any_transport(transport: Any) -> None:
    """A channel message of several chunks, and an agent that leaves."""
    with ExitStack() as stack:
        made = stack.enter_context(transport()) if transport is ZeroMQ else transport()
        hub = stack.enter_context(Hub(made, SERVER, {ALICE.public: "alice", BOB.public: "bob"}, epoch=7))

        def agent(role: str, keys: CurveKeys) -> Agent:
            places = hub.control_endpoint, hub.bulk_endpoint
            return stack.enter_context(Agent(role, keys, SERVER.public, *places, transport=made))

        alice, bob = agent("alice", ALICE), agent("bob", BOB)
        assert alice.wait_up(PATIENCE_S)
        assert bob.wait_up(PATIENCE_S)
        while "bob" not in alice.peers:
            assert alice.control_recv(PATIENCE_S) is not None
        message = bytes(range(256)) * 20_000
        alice.channel("bob", "talk").send(message)
        assert bob.channel("alice", "talk").recv(PATIENCE_S) == message
        alice.close()
        with pytest.raises(ChannelBrokenError):
            bob.channel("alice", "talk").recv(PATIENCE_S)
        stranger = agent("alice", generate_keys())
        assert stranger.wait_for(LinkState.REFUSED, PATIENCE_S)
