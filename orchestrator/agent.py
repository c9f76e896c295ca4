"""A process's end of the hub: one background thread owns the sockets, everybody else uses queues.

The thread makes a *session*: a control and a bulk connection, Hello and Welcome on both, then traffic
until something breaks.  A broken session is thrown away with its sockets, its channels break, and after
a back-off the next one starts from nothing, so no message of an old session can surface in a later one.
Heartbeats are answered by this thread alone; however busy the rest of the process is, the hub sees it alive.

Channels are named (peer, topic).  Messages for a channel that is not open here yet are kept (within
limits); those for a closed one are dropped.  Order holds per channel; a missing frame, a peer that left or
a lost hub breaks the channel, and a broken channel stays broken: a session of a protocol starts over under
a fresh topic.  :mod:`orchestrator.wire.table` keeps them.
"""

from __future__ import annotations

import enum
import logging
import queue
import random
import secrets
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from orchestrator.wire.channel import ChannelBrokenError, ChannelClosedError, ChannelError, ChannelTimeoutError
from orchestrator.wire.codec import WireError, decode, encode
from orchestrator.wire.curve import BULK_LIMIT, CurveKeys, client_socket
from orchestrator.wire.flow import CreditBook, FlowError, Inflow, Outflow
from orchestrator.wire.links import LinkMonitor, LinkState
from orchestrator.wire.messages import (
    MESSAGE_LIMIT,
    PROTOCOL_VERSION,
    BulkFromHub,
    BulkHello,
    BulkWelcome,
    Credit,
    CreditReturn,
    Delivery,
    FromHub,
    FromPeer,
    Heartbeat,
    Hello,
    PeerChange,
    Refused,
    Superseded,
    Welcome,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinkUp:
    """A session with the hub began; ``epoch`` is the orchestrator's."""

    epoch: int


@dataclass(frozen=True)
class LinkDown:
    """The session ended; leases and channels of it are gone."""

    state: LinkState
    reason: str


@dataclass(frozen=True)
class TopicWaiting:
    """``peer`` sent the first message on a topic that is not open here; it is kept within the limits."""

    peer: str
    topic: str


AgentEvent: TypeAlias = FromHub | PeerChange | LinkUp | LinkDown | TopicWaiting


class AgentError(Exception):
    """The agent cannot take what it was given."""


@dataclass(frozen=True)
class AgentLimits:
    """Bounds of an agent; times in seconds, sizes in bytes."""

    connect_timeout_s: float = 3.0
    backoff_s: float = 0.1
    backoff_max_s: float = 1.0
    queued_control: int = 10_000
    queued_bytes_per_peer: int = 4 * MESSAGE_LIMIT
    unopened_topics_per_peer: int = 64
    mailbox_bytes: int = 4 * MESSAGE_LIMIT
    closed_topics_remembered: int = 1000


class _Phase(enum.Enum):
    CONNECTING = enum.auto()
    GREETING = enum.auto()
    JOINING = enum.auto()
    UP = enum.auto()


class _SessionEndError(Exception):
    def __init__(self, state: LinkState, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class _Session:
    """The sockets of one session and their clocks; lives and dies in the agent's thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: CurveKeys,
        hub_public: str,
        endpoints: tuple[str, str],
        now: float,
    ) -> None:
        self.monitors: list[LinkMonitor] = []
        self.sockets: list[zmq.Socket[bytes]] = []
        self.phase = _Phase.CONNECTING
        self.started_s = self.sent_s = self.heard_s = now
        self.heartbeat_s = 0.5
        self.lost_after_s = 4.0
        self.epoch = 0
        for endpoint, limit in zip(endpoints, (1 << 20, BULK_LIMIT), strict=True):
            self.sockets.append(
                client_socket(
                    context,
                    zmq.DEALER,
                    keys,
                    hub_public,
                    endpoint,
                    max_message=limit,
                    reconnect=False,
                    before_connect=lambda made: self.monitors.append(LinkMonitor(made)),
                )
            )
        self.control, self.bulk = self.sockets

    def close(self) -> None:
        for monitor in self.monitors:
            monitor.close()
        for each in self.sockets:
            each.close()


class Agent:
    """The client of the hub for ``role``.  All public methods may be called from any thread."""

    def __init__(
        self,
        role: str,
        keys: CurveKeys,
        hub_public_key: str,
        control_endpoint: str,
        bulk_endpoint: str,
        *,
        limits: AgentLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self.role = role
        self._keys = keys
        self._hub_public = hub_public_key
        self._endpoints = (control_endpoint, bulk_endpoint)
        self._limits = limits or AgentLimits()
        self._clock = clock
        self._own_context = context is None
        self._context: zmq.Context[zmq.Socket[bytes]] = context or zmq.Context()
        self._instance = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._events: queue.SimpleQueue[AgentEvent] = queue.SimpleQueue()
        self._control_out: deque[FromPeer] = deque()
        self._outflows: dict[str, Outflow] = {}
        self._channels: dict[tuple[str, str], AgentChannel] = {}
        self._closed_topics: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._credits = CreditBook()
        self._state = LinkState.CONNECTING
        self._epoch: int | None = None
        self._peers: set[str] = set()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._awake = False
        self._stop = False
        self._thread = threading.Thread(target=self._run, name=f"agent-{role}", daemon=True)

    # -- for the process ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin connecting; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """End the session and the thread; channels then raise ChannelClosedError.  Idempotent."""
        self._stop = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for channel in self._channels.values():
                self._shut(channel)
            self._channels.clear()
        if self._own_context and not self._context.closed:
            self._context.term()
            self._wake_read.close()
            self._wake_write.close()

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def link_state(self) -> LinkState:
        """How the link to the hub stands."""
        return self._state

    @property
    def epoch(self) -> int | None:
        """The orchestrator's epoch, None while there is no session."""
        return self._epoch

    @property
    def peers(self) -> frozenset[str]:
        """The other roles that the hub can reach at the moment."""
        with self._lock:
            return frozenset(self._peers)

    def wait_for(self, state: LinkState, timeout_s: float) -> bool:
        """Block until the link is in ``state``; False if that took longer than ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state is state, timeout_s)

    def wait_up(self, timeout_s: float) -> bool:
        """Block until a session stands; False if that took longer than ``timeout_s``."""
        return self.wait_for(LinkState.UP, timeout_s)

    def control_send(self, message: FromPeer) -> None:
        """Queue a control message; it waits for the next session if there is none."""
        with self._lock:
            if len(self._control_out) >= self._limits.queued_control:
                raise AgentError(
                    f"{len(self._control_out)} control messages wait for the hub ({self._state.value})"
                )
            self._control_out.append(message)
        self._wake()

    def control_recv(self, timeout_s: float) -> AgentEvent | None:
        """The next thing the hub said or that happened to the link; None if nothing came in time."""
        try:
            return self._events.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def channel(self, peer: str, topic: str) -> AgentChannel:
        """Open the channel to ``peer`` under ``topic`` (again: the same object).  Topics are used once."""
        with self._lock:
            if self._stop:
                raise ChannelClosedError(f"the agent of {self.role} is closed")
            if (peer, topic) in self._closed_topics:
                raise ChannelClosedError(f"channel {topic} to {peer} was closed here; use a fresh topic")
            channel = self._channels.get((peer, topic))
            if channel is None:
                channel = self._channels[peer, topic] = AgentChannel(self, peer, topic)
            channel.opened = True
            return channel

    def close_channel(self, peer: str, topic: str) -> None:
        """Close a channel, opened or not: queued messages still leave, later arrivals are dropped."""
        with self._lock:
            channel = self._channels.pop((peer, topic), None)
            if channel is not None:
                self._shut(channel)
                if channel._broken is None:
                    self._outflows.setdefault(peer, Outflow(peer)).end(topic)
            self._remember_closed(peer, topic)
        self._wake()

    # -- shared with the thread, under the lock ------------------------------------------------------

    def _push(self, channel: AgentChannel, payload: bytes) -> None:
        with self._lock:
            outflow = self._outflows.setdefault(channel.peer, Outflow(channel.peer))
            if outflow.waiting_bytes + len(payload) > self._limits.queued_bytes_per_peer:
                channel._break(f"{channel.peer} does not take its messages")
                outflow.drop(channel.topic)
                raise ChannelBrokenError(str(channel._broken))
            outflow.push(channel.topic, payload)
        self._wake()

    def _shut(self, channel: AgentChannel) -> None:
        channel._closed = True
        channel._inbox.put(ChannelClosedError(f"channel {channel.topic} to {channel.peer} was closed here"))

    def _remember_closed(self, peer: str, topic: str) -> None:
        self._closed_topics[peer, topic] = None
        while len(self._closed_topics) > self._limits.closed_topics_remembered:
            self._closed_topics.popitem(last=False)

    def _break_channels(self, reason: str, peer: str | None = None) -> None:
        """Break the open channels (of ``peer``, or all), forget what waited in either direction."""
        with self._lock:
            for key, channel in list(self._channels.items()):
                if peer is None or key[0] == peer:
                    channel._break(reason)
                    if not channel.opened:
                        del self._channels[key]
            for name in [peer] if peer is not None else list(self._outflows):
                self._outflows.pop(name, None)
                self._credits.forget(name)

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                self._wake_write.send(b"\0")
            except OSError:
                _log.debug("wake-up pipe of %s is full or closed", self.role)

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff_s = self._limits.backoff_s
        while not self._stop:
            try:
                self._run_session()
            except _SessionEndError as end:
                was_up = self._epoch is not None
                self._end_session(end.state, str(end))
                if end.state is LinkState.SUPERSEDED:
                    break
                backoff_s = self._limits.backoff_s if was_up else min(backoff_s * 2, self._limits.backoff_max_s)
                self._pause(backoff_s * random.uniform(0.8, 1.2))
            except OSError as error:
                self._end_session(LinkState.UNREACHABLE, str(error))
                self._pause(self._limits.backoff_max_s)
        self._end_session(LinkState.CLOSED if self._stop else LinkState.SUPERSEDED, "closed here")

    def _pause(self, duration_s: float) -> None:
        """Back-off on the real clock, cut short by close()."""
        end_s = time.monotonic() + duration_s
        poller = zmq.Poller()
        poller.register(self._wake_read, zmq.POLLIN)
        while not self._stop and (left_s := end_s - time.monotonic()) > 0:
            if poller.poll(max(1, int(left_s * 1000))):
                self._drain_wake()

    def _drain_wake(self) -> None:
        self._awake = False
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            return

    def _end_session(self, state: LinkState, reason: str) -> None:
        if self._epoch is not None:
            self._events.put(LinkDown(state, reason))
        if state is not self._state and state not in (LinkState.CLOSED, LinkState.LOST):
            _log.warning("%s has no link to the hub at %s: %s", self.role, self._endpoints[0], reason)
        with self._changed:
            self._state = state
            self._epoch = None
            self._peers.clear()
            self._changed.notify_all()
        self._break_channels(f"no link to the hub: {reason}")

    def _run_session(self) -> None:
        session = _Session(self._context, self._keys, self._hub_public, self._endpoints, self._clock())
        poller = zmq.Poller()
        for each in (*session.sockets, *(monitor.socket for monitor in session.monitors), self._wake_read):
            poller.register(each, zmq.POLLIN)
        blocked = False
        try:
            while not self._stop:
                timeout_ms = 5 if blocked else int(1000 * session.heartbeat_s / 4)
                ready = dict(poller.poll(timeout_ms))
                if self._wake_read.fileno() in ready:
                    self._drain_wake()
                if session.control in ready:
                    self._read_control(session)
                if session.bulk in ready:
                    self._read_bulk(session)
                self._check_links(session)
                blocked = session.phase is _Phase.UP and not self._write(session)
        finally:
            session.close()

    def _check_links(self, session: _Session) -> None:
        now = self._clock()
        states = [monitor.read() for monitor in session.monitors]
        for state in states:
            if state not in (LinkState.CONNECTING, LinkState.UP):
                raise _SessionEndError(state, state.value)
        if session.phase is _Phase.CONNECTING and states == [LinkState.UP, LinkState.UP]:
            session.phase = _Phase.GREETING
            session.heard_s = now
            self._send_control(session, Hello(self.role, PROTOCOL_VERSION, self._instance))
        if session.phase is not _Phase.UP:
            if now - session.started_s > self._limits.connect_timeout_s:
                raise _SessionEndError(LinkState.UNREACHABLE, "the hub did not answer in time")
        elif now - session.heard_s > session.lost_after_s:
            raise _SessionEndError(LinkState.LOST, f"nothing from the hub for {session.lost_after_s:g} s")
        elif now - session.sent_s >= session.heartbeat_s:
            self._send_control(session, Heartbeat())

    def _send_control(self, session: _Session, message: FromPeer) -> bool:
        try:
            session.control.send(encode(message), zmq.DONTWAIT)
        except zmq.Again:
            return False
        session.sent_s = self._clock()
        return True

    def _write(self, session: _Session) -> bool:
        """Send what waits; False if a socket would not take it."""
        while self._control_out:
            if not self._send_control(session, self._control_out[0]):
                return False
            self._control_out.popleft()
        with self._lock:
            for outflow in list(self._outflows.values()):
                while (frame := outflow.next_frame()) is not None:
                    post, payload = frame
                    try:
                        session.bulk.send(encode(post), zmq.SNDMORE | zmq.DONTWAIT)
                        session.bulk.send(payload, zmq.DONTWAIT, copy=len(payload) < 65536)
                    except zmq.Again:
                        raise _SessionEndError(LinkState.LOST, "the hub takes no more data") from None
        return True

    def _read_control(self, session: _Session) -> None:
        for _ in range(100):
            try:
                frames = session.control.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            session.heard_s = self._clock()
            try:
                message: FromHub = decode(frames[0], FromHub)
            except WireError as error:
                raise _SessionEndError(LinkState.LOST, f"the hub sent a {error}") from None
            match message:
                case Heartbeat():
                    pass
                case Welcome():
                    self._welcomed(session, message)
                case Refused(code="hello-first"):
                    raise _SessionEndError(LinkState.LOST, message.detail)
                case Refused(code="identity" | "version"):
                    raise _SessionEndError(LinkState.REFUSED, message.detail)
                case Superseded():
                    raise _SessionEndError(LinkState.SUPERSEDED, LinkState.SUPERSEDED.value)
                case _:
                    self._events.put(message)

    def _welcomed(self, session: _Session, welcome: Welcome) -> None:
        if session.phase is not _Phase.GREETING:
            return
        session.phase = _Phase.JOINING
        session.heartbeat_s = welcome.heartbeat_s
        session.lost_after_s = welcome.lost_after_s
        session.epoch = welcome.epoch
        session.bulk.send_multipart([encode(BulkHello(self._instance))], zmq.DONTWAIT)

    def _read_bulk(self, session: _Session) -> None:
        for _ in range(100):
            try:
                frames = session.bulk.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            session.heard_s = self._clock()
            try:
                message: BulkFromHub = decode(frames[0], BulkFromHub)
            except WireError as error:
                raise _SessionEndError(LinkState.LOST, f"the hub sent a {error}") from None
            match message:
                case Delivery():
                    self._deliver(session, message, frames[1] if len(frames) == 2 else b"")
                case Credit():
                    with self._lock:
                        if message.peer in self._outflows:
                            self._outflows[message.peer].credit(message.amount)
                case PeerChange():
                    self._peer_changed(message)
                case BulkWelcome():
                    self._joined(session, message)
                case Refused():
                    self._bulk_refused(message)

    def _joined(self, session: _Session, welcome: BulkWelcome) -> None:
        session.phase = _Phase.UP
        with self._changed:
            self._state = LinkState.UP
            self._epoch = session.epoch
            self._peers = set(welcome.peers)
            self._changed.notify_all()
        self._events.put(LinkUp(session.epoch))
        for peer in welcome.peers:
            self._events.put(PeerChange(peer, True))

    def _peer_changed(self, change: PeerChange) -> None:
        with self._lock:
            (self._peers.add if change.up else self._peers.discard)(change.role)
        if not change.up:
            self._break_channels(f"{change.role} left: {change.reason}", change.role)
        self._events.put(change)

    def _bulk_refused(self, refused: Refused) -> None:
        if refused.code == "hello-first":
            raise _SessionEndError(LinkState.LOST, refused.detail)
        with self._lock:
            channel = self._channels.get((refused.to, refused.topic))
            if channel is not None:
                channel._break(refused.detail)
            if refused.to in self._outflows:
                self._outflows[refused.to].drop(refused.topic)

    def _deliver(self, session: _Session, delivery: Delivery, payload: bytes) -> None:
        key = delivery.sender, delivery.topic
        with self._lock:
            owed = self._credits.took(delivery.sender, len(payload))
            channel = self._channels.get(key)
            if channel is None and key not in self._closed_topics:
                self._make_room(delivery.sender)
                channel = self._channels[key] = AgentChannel(self, *key)
                self._events.put(TopicWaiting(*key))
            if channel is not None:
                try:
                    if delivery.end:
                        channel._break(f"{delivery.sender} closed it")
                    else:
                        channel._deliver(delivery.seq, delivery.more, payload, self._limits.mailbox_bytes)
                except FlowError as error:
                    channel._break(str(error))
        if owed:
            self._return_credit(session, delivery.sender, owed)

    def _make_room(self, peer: str) -> None:
        """Before keeping a message for a channel nobody opened: drop the peer's oldest such channel."""
        unopened = [key for key, channel in self._channels.items() if key[0] == peer and not channel.opened]
        if len(unopened) >= self._limits.unopened_topics_per_peer:
            del self._channels[unopened[0]]
            self._remember_closed(*unopened[0])

    def _return_credit(self, session: _Session, sender: str, amount: int) -> None:
        try:
            session.bulk.send(encode(CreditReturn(sender, amount)), zmq.DONTWAIT)
        except zmq.Again:
            raise _SessionEndError(LinkState.LOST, "the hub takes no more data") from None
