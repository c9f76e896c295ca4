"""The FL server's connections: who is there, what they say, and how to reach them.

A client is known by its CURVE key (role ``fl-<user>``), whatever it says.  The newest connection that joins speaks
for its client; anything from another connection is answered with JoinAgain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fl.rounds.messages import FromClient, FromServer, Join, JoinAgain, frame_of, split_message
from orchestrator.wire.codec import WireError, encode
from orchestrator.wire.links import LinkError, Listener, Received, Waiter

ROLE_PREFIX = "fl-"

_log = logging.getLogger(__name__)


@dataclass
class Connection:
    """What the server knows of one client's present connection."""

    route: bytes
    ready: bool = False
    last_heard_s: float = 0.0
    last_wait_report_s: float = field(default=-1e9)


class ClientConnections:
    """The clients ``names`` behind one listener; use from one thread."""

    def __init__(
        self,
        listener: Listener,
        waiter: Waiter,
        names: tuple[str, ...],
        clock: Callable[[], float],
    ) -> None:
        self._listener = listener
        self._waiter = waiter
        self._names = names
        self._clock = clock
        self._connections: dict[str, Connection] = {}
        self.undelivered = 0
        """Messages that were not queued because their client is gone or leaves too many bytes unread."""

    def __getitem__(self, name: str) -> Connection:
        return self._connections[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Clients that have joined and not left."""
        return tuple(self._connections)

    def present(self, silence_s: float) -> list[str]:
        """Clients heard of within ``silence_s``."""
        oldest_s = self._clock() - silence_s
        return [name for name, each in self._connections.items() if each.last_heard_s >= oldest_s]

    def excuse(self, gap_s: float) -> None:
        """The server itself was away: this time does not count as silence of any client."""
        for each in self._connections.values():
            each.last_heard_s += gap_s

    def forget(self, name: str) -> None:
        """The client left."""
        self._connections.pop(name, None)

    def wait(self, timeout_s: float) -> None:
        """Wait for a message."""
        self._waiter.wait(timeout_s)

    def receive(self) -> tuple[str, FromClient, bytes | None] | None:
        """The next message with its sender and array frame, or None if none waits; others are dropped."""
        while (received := self._listener.receive()) is not None:
            try:
                return self._identify(received)
            except WireError as error:
                _log.warning("message dropped: %s", error)
        return None

    def _identify(self, received: Received) -> tuple[str, FromClient, bytes | None]:
        role = received.role or ""
        name = role.removeprefix(ROLE_PREFIX)
        if name == role or name not in self._names:
            raise WireError(f"{role or 'the owner of an unknown key'} is not a client of this run")
        message, buffer = split_message([bytes(frame) for frame in received.frames], FromClient)
        assert isinstance(message, FromClient)
        route = received.connection
        connection = self._connections.get(name)
        if isinstance(message, Join):
            connection = self._connections[name] = Connection(route)
        elif connection is None or connection.route != route:
            self._transmit(route, JoinAgain())
            raise WireError(f"{type(message).__name__} from {name} before Join")
        connection.last_heard_s = self._clock()
        return name, message, buffer

    def send(
        self,
        name: str,
        message: FromServer,
        array: npt.NDArray[np.float32] | npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Queue a message for a client, with an array of any shape (float32 or uint8) behind it; one that cannot be
        reached is not ready any more."""
        connection = self._connections.get(name)
        buffer = None if array is None else frame_of(array)
        if connection is not None and not self._transmit(connection.route, message, buffer):
            connection.ready = False

    def _transmit(self, route: bytes, message: FromServer, buffer: bytes | None = None) -> bool:
        """Queue a message for one connection; False if it is gone or does not read."""
        frames = [encode(message)] if buffer is None else [encode(message), buffer]
        try:
            self._listener.send(route, *frames)
        except LinkError as error:
            self.undelivered += 1
            # As text: whoever keeps the record must not keep the frames that the error has seen.
            told = type(message).__name__, str(error), self.undelivered
            _log.warning("%s not delivered: %s (%d so far)", *told)
            return False
        return True
