"""The meeting point of all processes: who is there, control messages in and out, opaque frames between peers.

One thread owns two listeners, control and bulk.  It knows its peers by their keys only; the gate says the role
of the sender of every message, whatever the message says.  The newest connection of a key wins and the older one is told; only observers, who share one key, have a
session for each connection.  They listen and are nobody's peers.  Every message counts as a heartbeat;
a peer that was silent for ``lost_after_s``, does not take its messages, or lost its connection is *down*, and everybody
else is told, in order with the data they had from it.

Bulk payloads are passed on unread.  What one peer may have on the way to another is bounded by credit
that the recipient returns (:mod:`orchestrator.hub.flow`), so one that has stopped costs one window per sender and
delays nobody else.

The process talks to the hub's thread through :meth:`Hub.send` and :meth:`Hub.recv`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from orchestrator import runtime
from orchestrator.events.common import read_item
from orchestrator.events.status import OBSERVER, PeerItem
from orchestrator.hub.events import (
    HubCounters,
    HubError,
    HubEvent,
    HubLimits,
    PeerDown,
    PeerMessage,
    PeerRefused,
    PeerUp,
)
from orchestrator.hub.outbox import Outbox, reply
from orchestrator.wire.agreed import Agreed
from orchestrator.wire.budget import ITEM_BYTES, BudgetedQueue, ByteBudget, decoded_cost
from orchestrator.wire.codec import WireError, decode
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.links import Frame, LinkBusyError, LinkError, Listener, QueueLimits, Transport
from orchestrator.wire.messages import (
    BULK_LIMIT,
    CHUNK_BYTES,
    PROTOCOL_VERSION,
    WINDOW_BYTES,
    BulkFromHub,
    BulkFromPeer,
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
    Post,
    Refused,
    Said,
    Shutdown,
    Superseded,
    TelemetryItem,
    Welcome,
    chunk_cost,
    version_of,
)
from orchestrator.wire.revoked import RevokedKeys

_log = logging.getLogger(__name__)
BULK_QUEUES = QueueLimits(BULK_LIMIT, unsent=32, unread=32)
"""Few, since messages are large; more for one peer wait in its outbox, which counts bytes.  Credit alone does not
bound them: a sender that comes back begins with a fresh window."""
FAREWELL_S = 0.1
"""Between the last message and closing: a client that sees its connection end drops what it has not read."""


def _versions(role: str, version: int | None) -> str:
    return f"the hub speaks version {PROTOCOL_VERSION}, {role} {version}: install the same release on both machines"


@dataclass
class _Peer:
    role: str
    instance: str
    session: int
    heard_s: float
    control: Outbox
    bulk: Outbox | None = None


class Hub:
    """``allowed`` maps public keys (Z85) to role names; endpoints may be "auto" (see :attr:`control_endpoint`)."""

    def __init__(
        self,
        transport: Transport,
        keys: CurveKeys,
        allowed: Mapping[str, str],
        control_endpoint: str = "auto",
        bulk_endpoint: str = "auto",
        *,
        epoch: int,
        limits: HubLimits | None = None,
        clock: Callable[[], float] = runtime.now,
        revoked: RevokedKeys | None = None,
        agreed: Agreed | None = None,
    ) -> None:
        """``agreed``: what every peer's machine must have as ours has it; without it nobody is asked."""
        self.epoch = epoch
        self._agreed = agreed
        self._revoked = revoked
        self.control_endpoint = control_endpoint
        self.bulk_endpoint = bulk_endpoint
        self.counters = HubCounters()
        self._transport = transport
        self._waiter = transport.waiter()
        self._keys = keys
        self._allowed = dict(allowed)
        self._limits = limits or HubLimits()
        self._clock = clock
        self._peers: dict[str, _Peer] = {}
        self._observers: dict[str, _Peer] = {}  # by instance
        self._sessions = 0
        self._superseded: deque[bytes | str] = deque(maxlen=256)
        self._outstanding: dict[tuple[str, str], int] = {}
        self._commands: deque[tuple[str, FromHub, int]] = deque()
        self._events: BudgetedQueue[HubEvent] = BudgetedQueue(
            ByteBudget(self._limits.event_bytes, self._limits.event_bytes_per_peer)
        )
        self._stop: str | None = None
        self._failed = False
        self._next_tick_s = 0.0

    # -- for the process ---------------------------------------------------------------------------

    def start(self) -> None:
        """Bind and begin to serve; raises OSError when an address is taken."""
        self.gate = self._transport.gate(self._allowed, self._revoked)
        with ExitStack() as undo:
            undo.callback(self.gate.close)
            self._control = self.gate.listen(self._waiter, self._keys, self.control_endpoint)
            undo.callback(self._control.close)
            self._bulk = self.gate.listen(self._waiter, self._keys, self.bulk_endpoint, BULK_QUEUES)
            undo.pop_all()
        self.control_endpoint, self.bulk_endpoint = self._control.endpoint, self._bulk.endpoint
        self._next_tick_s = self._clock()
        self._thread = runtime.spawn(self._run, name="hub")

    def close(self, reason: str = "the orchestrator stops") -> None:
        """Tell the peers, stop the thread, close the sockets.  Idempotent."""
        if self._stop is None:
            self._stop = reason
            self._waiter.wake()
            self._thread.join()
            self.gate.close()
            self._waiter.close()

    def __enter__(self) -> Hub:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, role: str, message: FromHub, session: int = 0) -> None:
        """Queue a control message; one for a peer that is down is dropped (a PeerDown event says so).

        An observer is told apart from the others by its ``session``.
        """
        self._commands.append((role, message, session))
        self._waiter.wake()

    def recv(self, timeout_s: float) -> HubEvent | None:
        """The next event, or None if none came in time; raises HubError when the hub's thread has failed."""
        try:
            return self._events.get(timeout_s)
        except runtime.Empty:
            if self._failed:
                raise HubError("the hub's thread has failed, see the log") from None
            return None

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._control.close()
            self._bulk.close()

    def _serve(self) -> None:
        while self._stop is None:
            self._waiter.wait(0.002 if self._backlog() else self._limits.heartbeat_s / 4)
            self._read(self._control, self._on_control, 200)
            self._send_commands()
            self._read(self._bulk, self._on_bulk, 50)
            self._tick()
        self._send_commands()
        everyone = self._everyone()
        for peer in everyone:
            self._tell(peer, Shutdown(self._stop))
        if everyone:
            runtime.sleep(FAREWELL_S)

    def _backlog(self) -> bool:
        return any(p.control.waits or (p.bulk is not None and p.bulk.waits) for p in self._everyone())

    def _read(
        self, listener: Listener, handle: Callable[[str, bytes, list[Frame]], None], batch: int
    ) -> None:
        """Hand up to ``batch`` messages on, each with the role its key stands for."""
        for connection, role, frames in islice(iter(listener.receive, None), batch):
            if role is None:
                self.counters.strangers += 1
                self._refuse(listener, connection, "identity", "the key is not, or no longer, allowed")
                continue
            try:
                handle(role, connection, frames)
            except WireError as error:
                self.counters.malformed += 1
                self._refuse(listener, connection, "malformed", str(error))

    def _on_control(self, role: str, connection: bytes, frames: list[Frame]) -> None:
        if len(frames) != 1:
            raise WireError("a control message is one frame")
        try:
            message: FromPeer = decode(frames[0], FromPeer)
        except WireError:
            version = version_of(frames[0])
            if version in (None, PROTOCOL_VERSION):
                raise
            self._disagree(role, connection, "version", _versions(role, version))
            return
        if isinstance(message, Hello):
            self._on_hello(role, connection, message)
            return
        peer = next((each for each in self._of(role) if each.control.connection == connection), None)
        if peer is None:
            self._unknown(self._control, connection)
            return
        peer.heard_s = self._clock()
        if isinstance(message, Heartbeat):
            return
        said = read_item(message.packed, PeerItem, strict=True) if isinstance(message, Said) else message
        event = PeerMessage(role, said, peer.session)
        if not self._events.offer(event, role, decoded_cost(len(frames[0]))):
            self.counters.overloads += 1
            self._refuse(self._control, connection, "overload", "the orchestrator is behind, message dropped")

    def _on_hello(self, role: str, connection: bytes, hello: Hello) -> None:
        if hello.role != role:
            detail = f"the key belongs to {role}, not to {hello.role}: check the keys of the testbed file"
            self._refuse(self._control, connection, "identity", detail)
            return
        if hello.version != PROTOCOL_VERSION:
            self._disagree(role, connection, "version", _versions(role, hello.version))
            return
        if self._agreed is not None and (why := self._agreed.objection(role, hello.agreed)):
            self._disagree(role, connection, "testbed", why)
            return
        if hello.instance in self._superseded:
            reply(self._control, connection, Superseded())
            return
        known = self._named(role, hello.instance)
        if known is not None and known.control.connection != connection:
            if known.instance != hello.instance:
                self._supersede(known)
            self._down(known, "replaced by a newer connection")
            known = None
        if known is None:
            if role == OBSERVER and len(self._observers) >= self._limits.observers:
                detail = (
                    f"{self._limits.observers} observers are connected, and no more may be: end one of them"
                )
                self._refuse(self._control, connection, "full", detail)
                return
            self._sessions += 1
            outbox = Outbox(self._control, connection, self._limits.outbox_bytes)
            known = _Peer(role, hello.instance, self._sessions, self._clock(), outbox)
            if role == OBSERVER:
                self._observers[hello.instance] = known
            else:
                self._peers[role] = known
        limits = self._limits
        self._tell(known, Welcome(role, self.epoch, limits.heartbeat_s, limits.lost_after_s))

    def _disagree(self, role: str, connection: bytes, code: str, detail: str) -> None:
        """Keep a peer out that was set up otherwise than the hub; it is told, and so is the process."""
        self.counters.disagreeing += 1
        detail = detail[:REASON_LIMIT]
        self._refuse(self._control, connection, code, detail)
        self._events.offer(PeerRefused(role, detail), role, decoded_cost(len(detail)))

    def _supersede(self, old: _Peer) -> None:
        """Another process showed the same key: the older one is told, and stays out for good."""
        self.counters.superseded += 1
        self._superseded += [old.instance, old.control.connection]
        if old.bulk is not None:
            self._superseded.append(old.bulk.connection)
        reply(self._control, old.control.connection, Superseded())

    def _unknown(self, listener: Listener, connection: bytes) -> None:
        """Answer a message of a connection that is not, or no longer, served."""
        if connection in self._superseded:
            reply(listener, connection, Superseded())
        else:
            self._refuse(listener, connection, "hello-first", "this connection is not known: say Hello")

    def _on_bulk(self, role: str, connection: bytes, frames: list[Frame]) -> None:
        message: BulkFromPeer = decode(frames[0], BulkFromPeer)
        if len(frames) != (2 if isinstance(message, Post) else 1):
            raise WireError("a Post has one payload frame, other bulk messages have none")
        if isinstance(message, BulkHello):
            known = self._named(role, message.instance)
            if known is not None and known.instance == message.instance:
                self._join(known, connection)
                return
        peer = next(
            (each for each in self._of(role) if each.bulk and each.bulk.connection == connection), None
        )
        if peer is None:
            self._unknown(self._bulk, connection)
            return
        peer.heard_s = self._clock()
        match message:
            case Post() if role == OBSERVER:
                self._refuse_post(peer, message, "not-allowed", "an observer only listens")
            case Post():
                self._on_post(peer, message, frames[1])
            case CreditReturn():
                key = message.to, role
                if key in self._outstanding:
                    self._outstanding[key] = max(0, self._outstanding[key] - message.amount)
                    self._forward(self._peers[message.to], Credit(role, message.amount))
            case BulkHello():
                self._refuse(self._bulk, connection, "hello-first", "another process said Hello meanwhile")

    def _join(self, peer: _Peer, connection: bytes) -> None:
        if peer.bulk is not None:
            if peer.bulk.connection != connection:
                self._down(peer, "bulk connection replaced")
            return
        others = [other for other in self._peers.values() if other.bulk is not None]
        # Coming and going costs its events too; what a peer cannot pay for must not begin.
        if not self._events.offer(PeerUp(peer.role, peer.session), peer.role, ITEM_BYTES):
            self.counters.overloads += 1
            self._refuse(self._bulk, connection, "overload", "the orchestrator is behind, join again later")
            return
        peer.bulk = Outbox(self._bulk, connection, self._limits.outbox_bytes)
        self._forward(peer, BulkWelcome({other.role: other.session for other in others}))
        for other in [*others, *self._observers.values()] if peer.role != OBSERVER else ():
            self._forward(other, PeerChange(peer.role, True, peer.session))

    def _on_post(self, peer: _Peer, post: Post, payload: Frame) -> None:
        target = self._peers.get(post.to)
        key = peer.role, post.to
        size = len(payload)
        used = self._outstanding.get(key, 0) + chunk_cost(size)
        if target is None or target.bulk is None:
            known = self.gate.is_allowed(post.to)
            code = "not-connected" if known else "unknown-peer"
            self._refuse_post(peer, post, code, f"{post.to} is {code.replace('-', ' ')}")
        elif post.session not in (0, target.session):
            self.counters.stale += 1
        elif size > CHUNK_BYTES:
            self._refuse_post(peer, post, "malformed", f"a frame holds at most {CHUNK_BYTES} bytes")
        elif used > WINDOW_BYTES:
            self._refuse_post(peer, post, "credit", f"sent more than {post.to} gave credit for")
        else:
            self._outstanding[key] = used
            self.counters.frames += 1
            self.counters.bytes += size
            delivery = Delivery(peer.role, post.topic, post.seq, post.more, post.end)
            self._forward(target, delivery, payload)

    def _refuse_post(self, peer: _Peer, post: Post, code: str, detail: str) -> None:
        self.counters.refused += 1
        self._forward(peer, Refused(code, detail, post.to, post.topic))

    # -- sending -------------------------------------------------------------------------------------

    def _refuse(self, listener: Listener, connection: bytes, code: str, detail: str) -> None:
        self.counters.refused += 1
        reply(listener, connection, Refused(code, detail))

    def _send_commands(self) -> None:
        while self._commands:
            role, message, session = self._commands.popleft()
            peer = next((each for each in self._of(role) if session in (0, each.session)), None)
            if peer is None:
                self.counters.undelivered += 1
            else:
                self._tell(peer, message)

    def _tell(self, peer: _Peer, message: FromHub) -> None:
        if isinstance(message, TelemetryItem) and not peer.control.has_room:
            self.counters.overloads += 1  # lossy by nature, and its sequence numbers show the gap
            return
        self._attempt(peer, peer.control.send, message)

    def _forward(self, peer: _Peer, message: BulkFromHub, *payload: Frame) -> None:
        if peer.bulk is not None:
            self._attempt(peer, peer.bulk.send, message, *payload)

    def _attempt(self, peer: _Peer, send: Callable[..., None], *what: object) -> None:
        """Send, or count what was not sent and give the peer up."""
        try:
            send(*what)
        except LinkError as error:
            self.counters.undelivered += 1
            self.counters.overloads += isinstance(error, LinkBusyError)
            self._down(peer, str(error))

    # -- who is there --------------------------------------------------------------------------------

    def _everyone(self) -> list[_Peer]:
        return [*self._peers.values(), *self._observers.values()]

    def _of(self, role: str) -> list[_Peer]:
        """The sessions of a role: one at most, unless it is the observers'."""
        if role == OBSERVER:
            return [*self._observers.values()]
        return [self._peers[role]] if role in self._peers else []

    def heard_ages_s(self) -> dict[str, float]:
        """For how long each role that is there, observers aside, has not been heard; may be asked from any thread."""
        now_s = self._clock()
        return {peer.role: max(0.0, now_s - peer.heard_s) for peer in list(self._peers.values())}

    def _named(self, role: str, instance: str) -> _Peer | None:
        """The session that a process of ``role`` belongs to or takes the place of."""
        return self._observers.get(instance) if role == OBSERVER else self._peers.get(role)

    def _down(self, peer: _Peer, reason: str) -> None:
        if self._named(peer.role, peer.instance) is not peer:
            return
        if not self.gate.is_allowed(peer.role):
            reason = "its key was revoked"
        if peer.role == OBSERVER:
            del self._observers[peer.instance]
        else:
            del self._peers[peer.role]
        self.counters.lost_peers += 1
        for key in [key for key in self._outstanding if peer.role in key]:
            del self._outstanding[key]
        _log.info("%s is down: %s", peer.role, reason)
        if peer.bulk is not None:
            self._events.put(PeerDown(peer.role, reason, peer.session))
            for other in self._everyone() if peer.role != OBSERVER else ():
                self._forward(other, PeerChange(peer.role, False, peer.session, reason))

    def _tick(self) -> None:
        self.counters.handshake_failures = self._control.refused_handshakes + self._bulk.refused_handshakes
        for peer in self._everyone():
            self._attempt(peer, peer.control.flush)
            if peer.bulk is not None:
                self._attempt(peer, peer.bulk.flush)
        now_s = self._clock()
        if now_s < self._next_tick_s:
            return
        # A hub that was stopped itself must not blame peers for its own silence.
        own_pause_s = now_s - self._next_tick_s
        self._next_tick_s = now_s + self._limits.heartbeat_s
        for peer in self._everyone():
            if own_pause_s > self._limits.heartbeat_s:
                peer.heard_s += own_pause_s
            if not self.gate.is_allowed(peer.role):
                self._down(peer, "")
            elif now_s - peer.heard_s > self._limits.lost_after_s:
                self._down(peer, f"nothing heard for {self._limits.lost_after_s:g} s")
            else:
                self._tell(peer, Heartbeat())
