"""A process's end of the hub: one background thread owns the links, everybody else uses queues.

The thread makes a *session*: a control and a bulk connection, Hello and Welcome on both, then traffic
until something breaks.  A broken session is thrown away with its links, its channels break, and after
a back-off the next one starts from nothing, so no message of an old session can surface in a later one.
Heartbeats are answered by this thread alone: however busy the rest of the process is, the hub sees it alive.

What happens is reported through one queue (:meth:`Agent.control_recv`): the hub's control messages, and
:class:`LinkUp`, :class:`LinkDown`, :class:`TopicWaiting` and :class:`~orchestrator.wire.messages.PeerChange`.
Channels to other peers live in :mod:`orchestrator.hub.table`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

from orchestrator import runtime
from orchestrator.events.inside import HubLink
from orchestrator.events.status import PeerItem
from orchestrator.hub.session import ClientSession, Phase, SessionEndError
from orchestrator.hub.table import AgentChannel, ChannelTable, TableLimits
from orchestrator.randomness import jittered, random_hex
from orchestrator.wire.agreed import Agreed
from orchestrator.wire.budget import ITEM_BYTES, BudgetedQueue, ByteBudget, decoded_cost, waiting_cost
from orchestrator.wire.codec import WireError, decode, encode, packed
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.links import Link, LinkError, LinkState, Transport
from orchestrator.wire.messages import (
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
    Said,
    Superseded,
    TelemetryItem,
    Welcome,
)
from orchestrator.wire.zeromq import ZeroMQ

_log = logging.getLogger(__name__)
HUB, LOSSY = "hub", "lossy"
"""Budgets of unread events: those that must not be missed and those that may be have half of the room each."""
_BATCH = 100
"""Messages read from one link before the other ones get their turn."""


@dataclass(frozen=True)
class LinkUp:
    """A session with the hub began; ``epoch`` is the orchestrator's."""

    epoch: int


@dataclass(frozen=True)
class LinkDown:
    """The session ended; the leases and channels of it are gone."""

    state: LinkState
    reason: str


@dataclass(frozen=True)
class TopicWaiting:
    """``peer`` sent something on a topic that is not open here; it is kept until the channel is opened."""

    peer: str
    topic: str


AgentEvent: TypeAlias = FromHub | PeerChange | LinkUp | LinkDown | TopicWaiting


class AgentError(Exception):
    """The agent cannot take what it was given, or its thread has failed."""


@dataclass(frozen=True)
class AgentLimits:
    """Times in seconds, queues in bytes: control messages that wait for the hub, and events nobody has read
    (as memory at worst, :func:`~orchestrator.wire.budget.decoded_cost`)."""

    connect_timeout_s: float = 4.0
    silent_after_s: float = 1.5
    backoff_s: float = 0.1
    backoff_max_s: float = 0.5
    control_bytes: int = 16 << 20
    event_bytes: int = 64 << 20
    peers: int = 1000
    table: TableLimits = field(default_factory=TableLimits)


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
        transport: Transport | None = None,
        limits: AgentLimits | None = None,
        clock: Callable[[], float] = runtime.now,
        agreed: Agreed | None = None,
        tell: Callable[[PeerItem | HubLink], None] = lambda said: None,
    ) -> None:
        """``tell`` gets every item of status that is said to the hub, and how the link to it stands."""
        self.role = role
        self._agreed = agreed or Agreed()
        self._tell = tell
        self._keys = keys
        self._hub_public = hub_public_key
        self._endpoints = (control_endpoint, bulk_endpoint)
        self._limits = limits or AgentLimits()
        self._clock = clock
        self._closing = ExitStack()
        self._transport = transport or self._closing.enter_context(ZeroMQ())
        self._waiter = self._transport.waiter()
        self._instance = random_hex(16)
        self._changed = runtime.condition()
        half = self._limits.event_bytes // 2
        self._events: BudgetedQueue[AgentEvent] = BudgetedQueue(ByteBudget(2 * half, half))
        self._control_out: deque[bytes] = deque()
        self._control_bytes = ByteBudget(self._limits.control_bytes)
        self._table = ChannelTable(
            self._waiter.wake,
            lambda peer, topic: self._report_lossy(TopicWaiting(peer, topic), ITEM_BYTES + len(topic)),
            self._limits.table,
        )
        self._state = LinkState.CONNECTING
        self._reason = ""
        self._epoch: int | None = None
        self._heard_s: float | None = None
        self._peers: frozenset[str] = frozenset()
        self._stop = False
        self._failed = False
        self._thread: runtime.Thread | None = None

    # -- for the process ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin connecting; returns at once."""
        self._tell(HubLink(self._state))
        self._thread = runtime.spawn(self._run, name=f"agent-{self.role}")

    def close(self) -> None:
        """End the session and the thread; channels then raise ChannelClosedError.  Idempotent."""
        self._stop = True
        self._table.shut_down()
        self._waiter.wake()
        if self._thread is not None:
            self._thread.join()
        self._waiter.close()
        self._closing.close()

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
    def link_reason(self) -> str:
        """Why the last session ended or never began; what the hub said where it refused."""
        return self._reason

    @property
    def heard_s(self) -> float | None:
        """When the hub was last heard, monotonic seconds; None before it was."""
        return self._heard_s

    @property
    def epoch(self) -> int | None:
        """The orchestrator's epoch, None while there is no session."""
        return self._epoch

    @property
    def peers(self) -> frozenset[str]:
        """The other roles that the hub can reach at the moment."""
        return self._peers

    def wait_for(self, state: LinkState, timeout_s: float) -> bool:
        """Block until the link is in ``state``; False if that took longer than ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state is state, timeout_s)

    def wait_up(self, timeout_s: float) -> bool:
        """Block until a session stands; False if that took longer than ``timeout_s``."""
        return self.wait_for(LinkState.UP, timeout_s)

    def control_send(self, message: FromPeer | PeerItem) -> None:
        """Queue a control message or an item of status; it waits for the next session if there is none.

        Raises WireError for one that the hub would refuse as malformed (text too long, number too large),
        AgentError when too many wait already.
        """
        data = encode(message)
        if isinstance(message, PeerItem):
            self._tell(message)
            decode(data, PeerItem)
            data = encode(Said(packed(message)))
        else:
            decode(data, FromPeer)
        if not self._control_bytes.take(HUB, waiting_cost(len(data))):
            raise AgentError(
                f"{len(self._control_out)} control messages wait ({self._control_bytes.held()} bytes); "
                f"the hub: {self._state.value}"
            )
        self._control_out.append(data)
        self._waiter.wake()

    def control_recv(self, timeout_s: float) -> AgentEvent | None:
        """The next thing the hub said or that happened to the link; None if nothing came in time.

        Raises AgentError once everything is read and the agent's thread has failed.
        """
        try:
            return self._events.get(timeout_s)
        except runtime.Empty:
            if self._failed:
                raise AgentError(f"the thread of the agent of {self.role} has failed, see the log") from None
            return None

    def channel(self, peer: str, topic: str) -> AgentChannel:
        """Open the channel to ``peer`` under ``topic``; asking again gives the same object."""
        return self._table.open(peer, topic)

    def close_channel(self, peer: str, topic: str) -> None:
        """Close a channel, opened or not: queued messages still leave, later arrivals are dropped."""
        self._table.close(peer, topic)

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep_connected()
        except BaseException:
            self._failed = True
            self._end_session(LinkState.LOST, "the agent's thread failed")
            raise

    def _keep_connected(self) -> None:
        backoff_s = self._limits.backoff_s
        while not self._stop:
            try:
                self._run_session()
            except (SessionEndError, OSError) as error:
                state = error.state if isinstance(error, SessionEndError) else LinkState.UNREACHABLE
                backoff_s = min(2 * backoff_s, self._limits.backoff_max_s)
                if self._epoch is not None:
                    backoff_s = self._limits.backoff_s
                self._end_session(state, str(error))
                if state is LinkState.SUPERSEDED:
                    return
                self._pause(jittered(backoff_s))
        self._end_session(LinkState.CLOSED, "closed here")

    def _pause(self, duration_s: float) -> None:
        """Back-off on the real clock, cut short by close()."""
        end_s = runtime.now() + duration_s
        while not self._stop and (left_s := end_s - runtime.now()) > 0:
            self._waiter.wait(left_s)

    def _end_session(self, state: LinkState, reason: str) -> None:
        if state is not self._state and state is not LinkState.CLOSED:
            _log.warning("%s: no link to the hub at %s: %s", self.role, self._endpoints[0], reason)
        was_up, self._epoch = self._epoch is not None, None
        self._reason = reason
        self._peers = frozenset()
        self._set_state(state)
        self._table.disconnected(f"no link to the hub: {reason}")
        # Last, so that whoever reads the event finds the link down and the old channels broken.
        if was_up:
            self._events.put(LinkDown(state, reason))

    def _set_state(self, state: LinkState) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()
        self._tell(HubLink(state, "" if state is LinkState.UP else self._reason[:REASON_LIMIT]))

    def _run_session(self) -> None:
        session = ClientSession(
            self._transport, self._waiter, self._keys, self._hub_public, self._endpoints, self._clock()
        )
        try:
            idle = True
            while not self._stop:
                self._waiter.wait(session.heartbeat_s / 4 if idle else 0.005)
                self._read_control(session)
                self._read_bulk(session)
                self._check_links(session)
                if session.phase is Phase.UP:
                    idle = self._send_control(session) and session.send_bulk(self._table)
            if session.phase is Phase.UP:
                self._send_control(session)  # messages that were sent just before closing
        except LinkError as error:
            raise SessionEndError(LinkState.LOST, str(error)) from None
        finally:
            session.close()

    def _send_control(self, session: ClientSession) -> bool:
        """Send the control messages that wait; False if no more is taken."""
        while self._control_out:
            if not session.send_control(self._control_out[0], self._clock()):
                return False
            self._control_bytes.give_back(HUB, waiting_cost(len(self._control_out.popleft())))
        return True

    def _check_links(self, session: ClientSession) -> None:
        now_s = self._clock()
        states = [session.control.state, session.bulk.state]
        for state in states:
            if state not in (LinkState.CONNECTING, LinkState.UP):
                raise SessionEndError(state, state.value)
        if session.phase is Phase.CONNECTING and states == [LinkState.UP, LinkState.UP]:
            session.phase = Phase.GREETING
            hello = Hello(self.role, PROTOCOL_VERSION, self._instance, self._agreed)
            session.send_control(encode(hello), now_s)
        if session.phase is not Phase.UP:
            waited_s = now_s - session.started_s
            if waited_s > self._limits.connect_timeout_s:
                raise SessionEndError(LinkState.SILENT, "the hub did not answer in time")
            if waited_s > self._limits.silent_after_s and self._state is not LinkState.SILENT:
                self._set_state(LinkState.SILENT)
        elif now_s - session.heard_s > session.lost_after_s:
            raise SessionEndError(LinkState.LOST, f"nothing from the hub for {session.lost_after_s:g} s")
        elif now_s - session.sent_s >= session.heartbeat_s:
            session.send_control(encode(Heartbeat()), now_s)

    def _received(self, session: ClientSession, link: Link, kind: Any) -> Iterator[tuple[Any, list[bytes]]]:
        """The messages of ``kind`` that wait on ``link``, a batch at most, each with its frames."""
        for frames in islice(iter(link.receive, None), _BATCH):
            session.heard_s = self._heard_s = self._clock()
            try:
                message = decode(frames[0], kind)
            except WireError as error:
                raise SessionEndError(LinkState.LOST, f"from the hub: {error}") from None
            yield message, frames

    def _read_control(self, session: ClientSession) -> None:
        message: FromHub
        for message, frames in self._received(session, session.control, FromHub):
            cost = decoded_cost(len(frames[0]))
            match message:
                case Heartbeat():
                    pass
                case Welcome():
                    self._welcomed(session, message)
                case Refused(code="hello-first"):
                    raise SessionEndError(LinkState.LOST, message.detail)
                case Refused(code="identity" | "version" | "testbed" | "full"):
                    raise SessionEndError(LinkState.REFUSED, message.detail)
                case Refused(code="malformed") if session.phase is Phase.GREETING:
                    told = f"the hub does not understand our greeting (version {PROTOCOL_VERSION}): it runs an older release"
                    raise SessionEndError(LinkState.REFUSED, f"{told}; install the same on both machines")
                case Superseded():
                    raise SessionEndError(LinkState.SUPERSEDED, LinkState.SUPERSEDED.value)
                case TelemetryItem():
                    self._report_lossy(message, cost)
                case _:
                    self._report(message, cost)

    def _report_lossy(self, event: AgentEvent, cost: int) -> None:
        """Report what others can send at will, unless the process does not read its events."""
        self._events.offer(event, LOSSY, cost)

    def _report(self, event: AgentEvent, cost: int) -> None:
        """Report what must not be missed; without room for it the session is over, as for any other loss."""
        if not self._events.offer(event, HUB, cost):
            raise SessionEndError(LinkState.LOST, "the hub says more than this process reads")

    def _welcomed(self, session: ClientSession, welcome: Welcome) -> None:
        if session.phase is Phase.GREETING:
            session.phase = Phase.JOINING
            session.heartbeat_s = welcome.heartbeat_s
            session.lost_after_s = welcome.lost_after_s
            session.epoch = welcome.epoch
            session.bulk.send(encode(BulkHello(self._instance)))

    def _read_bulk(self, session: ClientSession) -> None:
        message: BulkFromHub
        for message, frames in self._received(session, session.bulk, BulkFromHub):
            match message:
                case Delivery() if message.sender not in self._peers:
                    raise SessionEndError(LinkState.LOST, f"data of {message.sender}, who is not here")
                case Delivery():
                    owed = self._table.deliver(message, frames[1] if len(frames) == 2 else b"")
                    if owed:
                        session.credits.append(CreditReturn(message.sender, owed))
                case Credit():
                    self._table.credit(message.peer, message.amount)
                case PeerChange():
                    self._peer_changed(message)
                case BulkWelcome():
                    self._joined(session, message)
                case Refused(code="hello-first"):
                    raise SessionEndError(LinkState.LOST, message.detail)
                case Superseded():
                    raise SessionEndError(LinkState.SUPERSEDED, LinkState.SUPERSEDED.value)
                case Refused():
                    self._table.refused(message.to, message.topic, message.detail)

    def _joined(self, session: ClientSession, welcome: BulkWelcome) -> None:
        self._check_count(welcome.peers)
        session.phase = Phase.UP
        for peer, number in welcome.peers.items():
            self._table.peer_present(peer, number)
        self._peers = frozenset(welcome.peers)
        self._epoch = session.epoch
        self._set_state(LinkState.UP)
        self._events.put(LinkUp(session.epoch))
        for peer, number in welcome.peers.items():
            self._report(PeerChange(peer, True, number), ITEM_BYTES)

    def _peer_changed(self, change: PeerChange) -> None:
        if change.up:
            self._check_count(self._peers | {change.role})
            self._table.peer_present(change.role, change.session)
            self._peers |= {change.role}
        else:
            self._peers -= {change.role}
            self._table.disconnected(f"{change.role} left: {change.reason}", change.role)
        self._report(change, decoded_cost(len(change.reason)))

    def _check_count(self, peers: Collection[str]) -> None:
        if len(peers) > self._limits.peers:
            raise SessionEndError(LinkState.LOST, f"the hub names more than {self._limits.peers} peers")
