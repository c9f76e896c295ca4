"""The transport between processes: ZeroMQ over TCP under CURVE.

*State of a link.*  A ZeroMQ ``send`` succeeds although the server refused us or is somebody else.  libzmq reports such
things only to a socket monitor (zmq_socket_monitor(3)); :func:`next_state` turns its events into a
:class:`~orchestrator.wire.links.LinkState`.  What each event means was read off libzmq 4.3.5: a key that the gate does
not know gives ``HANDSHAKE_FAILED_AUTH``; a server with another key (or without a gate) just hangs up in the middle of
the handshake, ``HANDSHAKE_FAILED_NO_DETAIL``.  After a refusal libzmq does not try again by itself.

*Who sent a message.*  libzmq attaches the CURVE key of a connection to every message as ``User-Id``; routing ids only
say where an answer goes.  There is one ZAP handler per ``zmq.Context``, hence one gate per :class:`ZeroMQ`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import Callable, Mapping

import zmq
from zmq.auth.base import Authenticator
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from orchestrator.wire.connections import Connections
from orchestrator.wire.curve import DOMAIN, CurveError, CurveKeys, client_socket, server_socket
from orchestrator.wire.gate import Gate
from orchestrator.wire.links import (
    SERVER_QUEUES,
    Frame,
    Link,
    LinkBrokenError,
    LinkBusyError,
    LinkClosedError,
    LinkState,
    Listener,
    QueueLimits,
    Received,
    Target,
    Waiter,
)
from orchestrator.wire.revoked import RevokedKeys

_AFTER: dict[int, LinkState] = {
    zmq.Event.CONNECT_DELAYED: LinkState.CONNECTING,
    zmq.Event.CONNECT_RETRIED: LinkState.CONNECTING,
    zmq.Event.HANDSHAKE_SUCCEEDED: LinkState.UP,
    zmq.Event.HANDSHAKE_FAILED_AUTH: LinkState.REFUSED,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: LinkState.WRONG_SERVER_KEY,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: LinkState.WRONG_SERVER_KEY,
}
_TOLD_WHY = (LinkState.REFUSED, LinkState.WRONG_SERVER_KEY)
_FAILED = (
    zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


def next_state(state: LinkState, event: int) -> LinkState:
    """The state after monitor event ``event`` (a ``zmq.Event`` value); unknown events change nothing.

    A disconnection that follows a failed handshake keeps the reason of the failure, and so do the
    attempts after it until one ends differently.
    """
    if event in (zmq.Event.DISCONNECTED, zmq.Event.CLOSED):
        if state in _TOLD_WHY:
            return state
        return LinkState.LOST if state in (LinkState.UP, LinkState.LOST) else LinkState.UNREACHABLE
    after = _AFTER.get(event, state)
    if after is LinkState.CONNECTING and state in _TOLD_WHY:
        return state
    return after


class PollWaiter:
    """Polls sockets, and a pipe through which other threads wake the one that waits."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._notes: dict[zmq.Socket[bytes], Callable[[], object]] = {}
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._awake = False
        self._poller.register(self._read.fileno(), zmq.POLLIN)

    def watch(self, each: zmq.Socket[bytes], note: Callable[[], object] | None = None) -> None:
        """End waits when something can be read there; ``note`` is then called to read it."""
        self._poller.register(each, zmq.POLLIN)
        if note is not None:
            self._notes[each] = note

    def forget(self, each: zmq.Socket[bytes]) -> None:
        self._poller.unregister(each)
        self._notes.pop(each, None)

    def wait(self, timeout_s: float) -> None:
        for each, _ in self._poller.poll(max(0, math.ceil(1000 * timeout_s))):
            if isinstance(each, int):
                self._drain()
            elif (note := self._notes.get(each)) is not None:
                note()

    def _drain(self) -> None:
        """Empty the pipe, then let the next waker write again; work queued meanwhile is looked at after this.

        The other way round a wake-up in between would be swallowed with ``_awake`` left set, and every later
        one with it.
        """
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)
        self._awake = False

    def wake(self) -> None:
        if not self._awake:
            self._awake = True
            with contextlib.suppress(OSError):  # full: awake anyway; closed: nobody left to wake
                self._write.send(b"\0")

    def close(self) -> None:
        self._read.close()
        self._write.close()


class ZeroMQLink:
    """A DEALER and its monitor."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], waiter: PollWaiter, keys: CurveKeys, target: Target
    ) -> None:
        self._waiter = waiter
        self.state = LinkState.CONNECTING

        def before_connect(made: zmq.Socket[bytes]) -> None:
            if target.lost_after_s is not None:
                # ZMTP pings notice a server that vanished without a FIN.
                made.setsockopt(zmq.HEARTBEAT_IVL, int(1000 * target.lost_after_s / 3))
                made.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(1000 * target.lost_after_s))
            self._monitor = made.get_monitor_socket()

        try:
            self._socket = client_socket(context, keys, target, before_connect)
        except OSError:
            self._monitor.close(linger=0)
            raise
        waiter.watch(self._socket)
        waiter.watch(self._monitor, self._follow)

    def _follow(self) -> None:
        """Take in what happened to the connection."""
        while self._monitor.poll(0, zmq.POLLIN):
            self.state = next_state(self.state, recv_monitor_message(self._monitor)["event"])

    def send(self, *frames: Frame) -> None:
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            if self.state is LinkState.UP:
                raise LinkBusyError("the server does not take its messages") from None
            raise LinkBrokenError(self.state.value) from None
        except zmq.ZMQError as error:
            raise LinkClosedError(f"the link is closed ({error})") from None

    def receive(self) -> list[bytes] | None:
        try:
            return self._socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None

    def close(self) -> None:
        if not self._socket.closed:
            self.state = LinkState.CLOSED
            _close(self._waiter, self._socket, self._monitor)


class ZeroMQListener:
    """A ROUTER behind a gate; counts the handshakes that failed."""

    def __init__(self, gate: ZapGate, waiter: PollWaiter, router: zmq.Socket[bytes], endpoint: str) -> None:
        self._gate = gate
        self._waiter = waiter
        self._socket = router
        self.endpoint = endpoint
        self.refused_handshakes = 0
        self._monitor = router.get_monitor_socket(_FAILED)
        waiter.watch(router)
        waiter.watch(self._monitor, self._count_refusal)

    def _count_refusal(self) -> None:
        recv_monitor_message(self._monitor)
        self.refused_handshakes += 1

    def receive(self) -> Received | None:
        try:
            connection, *frames = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None
        role = self._gate.role_of(frames[0]) if frames else None
        return Received(connection.bytes, role, [frame.buffer for frame in frames])

    def send(self, connection: bytes, *frames: Frame) -> None:
        try:
            self._socket.send_multipart((connection, *frames), zmq.DONTWAIT)
        except zmq.Again:
            raise LinkBusyError("it does not take its messages") from None
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise LinkBrokenError("its connection ended") from None
            raise LinkClosedError(f"the listener is closed ({error})") from None

    def close(self) -> None:
        if not self._socket.closed:
            _close(self._waiter, self._socket, self._monitor)


def _close(waiter: PollWaiter, each: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
    waiter.forget(each)
    waiter.forget(monitor)
    each.disable_monitor()
    monitor.close(linger=0)
    each.close()


class _OneAtATime(Authenticator):
    """Takes and frees the handler's address at once.

    Closing alone would free it some time later, and a gate that follows in the same context could not bind.
    """

    def start(self) -> None:
        try:
            super().start()
        except zmq.ZMQError as error:
            self.zap_socket.close()
            self.zap_socket = None  # type: ignore[assignment]
            raise CurveError(f"this context has a gate already: one context, one gate ({error})") from error

    def stop(self) -> None:
        if self.zap_socket:
            self.zap_socket.unbind("inproc://zeromq.zap.01")
        super().stop()


class _Authenticator(ThreadAuthenticator, _OneAtATime):
    """pyzmq's handler thread; CURVE is the only mechanism it may accept.

    The base class answers "200" to the NULL mechanism, which would admit unencrypted clients wherever
    a server socket was made without CURVE by mistake.
    """

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        if len(msg) >= 6 and msg[5] != b"CURVE":
            self._send_zap_reply(msg[1], b"400", b"CURVE only")
            return
        await super().handle_zap_message(msg)


class ZapGate(Gate):
    """The ZAP handler of one context, and the TCP connections that came in through it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        allowed: Mapping[str, str],
        revoked: RevokedKeys | None = None,
    ) -> None:
        super().__init__(allowed, revoked)
        self._context = context
        self.connections = Connections()
        self._authenticator = _Authenticator(context, log=logging.getLogger(f"{__name__}.zap"))
        self._authenticator.configure_curve_callback(DOMAIN, self)
        self._authenticator.start()

    def callback(self, domain: str, key: bytes) -> bool:
        """pyzmq's credentials provider interface: may the client with this Z85 key come in?"""
        return self.admits(key.decode("ascii", "replace"))

    def role_of(self, frame: zmq.Frame) -> str | None:
        """The role whose key sent the message that ``frame`` belongs to, None where it is not allowed.

        ``frame`` must come from ``recv(copy=False)`` or ``recv_multipart(copy=False)``.
        """
        try:
            role = self.role_of_key(str(frame.get("User-Id")))
        except zmq.ZMQError:  # no CURVE
            return None
        if role is not None:
            self.connections.heard(frame, role)
        return role

    def listen(
        self, waiter: Waiter, keys: CurveKeys, endpoint: str, limits: QueueLimits = SERVER_QUEUES
    ) -> Listener:
        assert isinstance(waiter, PollWaiter)
        router, bound = server_socket(self._context, keys, endpoint, limits)
        self.connections.serve(bound, limits.unread_bytes)
        return ZeroMQListener(self, waiter, router, bound)

    @property
    def floods(self) -> int:
        return self.connections.floods

    def _end_connections(self, role: str) -> int:
        return self.connections.end({role})

    def close(self) -> None:
        self.connections.close()
        self._authenticator.stop()


class ZeroMQ:
    """One context; close it after everything that was made with it."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def waiter(self) -> PollWaiter:
        return PollWaiter()

    def gate(self, allowed: Mapping[str, str], revoked: RevokedKeys | None = None) -> ZapGate:
        return ZapGate(self.context, allowed, revoked)

    def connect(self, waiter: Waiter, keys: CurveKeys, target: Target) -> Link:
        assert isinstance(waiter, PollWaiter)
        return ZeroMQLink(self.context, waiter, keys, target)

    def close(self) -> None:
        """Wait until what was sent has left, half a second at most.  Idempotent."""
        self.context.term()

    def __enter__(self) -> ZeroMQ:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
