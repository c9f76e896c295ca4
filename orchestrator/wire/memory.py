"""The transport inside one process: no sockets, no threads of its own, and no time spent on the way.

A :class:`MemoryNetwork` connects the parties of one process.  It keeps the contract of
:mod:`orchestrator.wire.links`, with the same gate: a party is known by the public key that it connects with, which
between the parts of one program is believed.  One condition guards everything, and whoever waits waits for it, so a
scheduler that stands behind conditions decides who goes on; all queues are first in, first out.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator import runtime
from orchestrator.wire.curve import CurveKeys
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

_TRIED_AGAIN = (LinkState.CONNECTING, LinkState.LOST)


class MemoryNetwork:
    """Listeners by their endpoints, and the links that look for one."""

    def __init__(self) -> None:
        self.changed = runtime.condition()
        self.listeners: dict[str, MemoryListener] = {}
        self.links: list[MemoryLink] = []
        self._numbers = 0

    def number(self) -> int:
        """A number that was not given before."""
        self._numbers += 1
        return self._numbers

    def waiter(self) -> MemoryWaiter:
        return MemoryWaiter(self)

    def gate(self, allowed: Mapping[str, str], revoked: RevokedKeys | None = None) -> MemoryGate:
        return MemoryGate(self, allowed, revoked)

    def connect(self, waiter: Waiter, keys: CurveKeys, target: Target) -> Link:
        assert isinstance(waiter, MemoryWaiter)
        return MemoryLink(self, waiter, keys.public, target)


class MemoryWaiter:
    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._awake = False
        self.watched: list[MemoryLink | MemoryListener] = []

    def wait(self, timeout_s: float) -> None:
        with self._network.changed:
            self._network.changed.wait_for(self._due, max(0.0, timeout_s))
            self._awake = False
            for each in self.watched:
                each.look()

    def _due(self) -> bool:
        return self._awake or any(each.due for each in self.watched)

    def wake(self) -> None:
        with self._network.changed:
            self._awake = True
            self._network.changed.notify_all()

    def close(self) -> None:
        """Nothing is held."""


class MemoryLink:
    """:attr:`present` is how it stands, :attr:`state` how its owner has seen it."""

    def __init__(self, network: MemoryNetwork, waiter: MemoryWaiter, public: str, target: Target) -> None:
        self._network = network
        self._waiter = waiter
        self.public = public
        self.target = target
        self.state = self.present = LinkState.CONNECTING
        self.connection: _Connection | None = None
        self.inbox: deque[list[bytes]] = deque()
        with network.changed:
            waiter.watched.append(self)
            network.links.append(self)
            self.seek()

    @property
    def due(self) -> bool:
        return bool(self.inbox) or self.state is not self.present

    def look(self) -> None:
        self.state = self.present

    def seek(self) -> None:
        """Connect to the listener at the endpoint, if there is one."""
        listener = self._network.listeners.get(self.target.endpoint)
        nobody = LinkState.CONNECTING if self.target.reconnect else LinkState.UNREACHABLE
        self.present = nobody if listener is None else listener.meet(self)
        self._network.changed.notify_all()

    def found(self) -> None:
        """Somebody began to listen at the endpoint."""
        if self.target.reconnect and self.present in _TRIED_AGAIN:
            self.seek()

    def lost(self) -> None:
        """The connection ended."""
        if self.present is LinkState.CLOSED:
            return
        self.connection = None
        self.present = LinkState.LOST
        self._network.changed.notify_all()
        self.found()

    def send(self, *frames: Frame) -> None:
        with self._network.changed:
            if self.present is LinkState.CLOSED:
                raise LinkClosedError("the link is closed")
            if self.connection is None:
                raise LinkBrokenError(self.present.value)
            self.connection.to_listener(frames)

    def receive(self) -> list[bytes] | None:
        with self._network.changed:
            return self.inbox.popleft() if self.inbox else None

    def close(self) -> None:
        with self._network.changed:
            if self.present is not LinkState.CLOSED:
                self._network.links.remove(self)
                self._waiter.watched.remove(self)
                connection, self.connection = self.connection, None
                self.state = self.present = LinkState.CLOSED
                if connection is not None:
                    connection.end()


@dataclass(eq=False)
class _Connection:
    """A connection of a link with a listener; all calls under the network's condition."""

    name: bytes
    role: str | None
    link: MemoryLink
    listener: MemoryListener
    unread: int = 0
    """Messages that the listener has not read."""

    def to_listener(self, frames: tuple[Frame, ...]) -> None:
        ours, theirs = self.link.target.limits, self.listener.limits
        if self._fits(frames, theirs.frame_bytes, self.unread, ours.unsent + theirs.unread):
            self.unread += 1
            self.listener.inbox.append((self, [bytes(frame) for frame in frames]))

    def to_link(self, frames: tuple[Frame, ...]) -> None:
        ours, theirs = self.listener.limits, self.link.target.limits
        if self._fits(frames, theirs.frame_bytes, len(self.link.inbox), ours.unsent + theirs.unread):
            self.link.inbox.append([bytes(frame) for frame in frames])

    def _fits(self, frames: tuple[Frame, ...], longest: int, waiting: int, room: int) -> bool:
        """The other end ends a connection that brings a longer frame than it takes, as ZeroMQ does."""
        if waiting >= room:
            raise LinkBusyError("it does not take its messages")
        if max(map(len, frames)) > longest:
            self.end()
            return False
        self.listener.network.changed.notify_all()
        return True

    def end(self) -> None:
        del self.listener.connections[self.name]
        self.link.lost()


class MemoryListener:
    def __init__(
        self,
        gate: MemoryGate,
        network: MemoryNetwork,
        waiter: MemoryWaiter,
        keys: CurveKeys,
        endpoint: str,
        limits: QueueLimits,
    ) -> None:
        self._gate = gate
        self.network = network
        self._waiter = waiter
        self._public = keys.public
        self.limits = limits
        self.refused_handshakes = 0
        self.connections: dict[bytes, _Connection] = {}
        self.inbox: deque[tuple[_Connection, list[bytes]]] = deque()
        with network.changed:
            self.endpoint = f"memory://{network.number()}" if endpoint == "auto" else endpoint
            if self.endpoint in network.listeners:
                raise OSError(errno.EADDRINUSE, f"cannot listen on {endpoint}: is another instance running?")
            network.listeners[self.endpoint] = self
            waiter.watched.append(self)
            for link in [link for link in network.links if link.target.endpoint == self.endpoint]:
                link.found()

    @property
    def due(self) -> bool:
        return bool(self.inbox)

    def look(self) -> None:
        """Nothing is shown to an owner but messages."""

    def meet(self, link: MemoryLink) -> LinkState:
        """What becomes of a link that came here."""
        if self._gate.closed:
            return LinkState.CONNECTING
        right_server = link.target.public == self._public
        if not right_server or not self._gate.admits(link.public):
            self.refused_handshakes += 1
            return LinkState.REFUSED if right_server else LinkState.WRONG_SERVER_KEY
        name = self.network.number().to_bytes(5, "big")
        role = self._gate.role_of_key(link.public)
        link.connection = self.connections[name] = _Connection(name, role, link, self)
        return LinkState.UP

    def receive(self) -> Received | None:
        with self.network.changed:
            if not self.inbox:
                return None
            connection, frames = self.inbox.popleft()
            connection.unread -= 1
            return Received(connection.name, self._gate.role_of_key(connection.link.public), [*frames])

    def send(self, connection: bytes, *frames: Frame) -> None:
        with self.network.changed:
            if self.network.listeners.get(self.endpoint) is not self:
                raise LinkClosedError("the listener is closed")
            if connection not in self.connections:
                raise LinkBrokenError("its connection ended")
            self.connections[connection].to_link(frames)

    def close(self) -> None:
        with self.network.changed:
            if self.network.listeners.get(self.endpoint) is self:
                del self.network.listeners[self.endpoint]
                self._waiter.watched.remove(self)
                for connection in [*self.connections.values()]:
                    connection.end()


class MemoryGate(Gate):
    """Admits to the listeners that it made."""

    def __init__(
        self, network: MemoryNetwork, allowed: Mapping[str, str], revoked: RevokedKeys | None = None
    ) -> None:
        super().__init__(allowed, revoked)
        self._network = network
        self._listeners: list[MemoryListener] = []
        self.closed = False

    def listen(
        self, waiter: Waiter, keys: CurveKeys, endpoint: str, limits: QueueLimits = SERVER_QUEUES
    ) -> Listener:
        assert isinstance(waiter, MemoryWaiter)
        self._listeners.append(MemoryListener(self, self._network, waiter, keys, endpoint, limits))
        return self._listeners[-1]

    def _end_connections(self, role: str) -> int:
        with self._network.changed:
            ended = [
                each for made in self._listeners for each in made.connections.values() if each.role == role
            ]
            for each in ended:
                each.end()
        return len(ended)

    def close(self) -> None:
        self.closed = True
