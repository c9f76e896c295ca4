"""How processes reach each other: a client's :class:`Link`, a server's :class:`Listener`, and waiting for several.

A :class:`Transport` makes all three.  Two stand behind this interface: :mod:`orchestrator.wire.zeromq` between
processes, and :mod:`orchestrator.wire.memory` inside one.  Messages are lists of frames; they keep their order and
their borders.  Nothing here blocks but :meth:`Waiter.wait`: a message that cannot be sent at once is an error, one
that has not come is None.  Who is at the other end follows from keys alone: a link speaks only to the owner of the
public key it was given, and a listener asks its gate (:mod:`orchestrator.wire.gate`) for the role of every message.

A link, a listener and the waiter that watches them belong to one thread at a time; :meth:`Waiter.wake` may be called
from any.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from orchestrator.wire.revoked import RevokedKeys

if TYPE_CHECKING:
    from orchestrator.wire.curve import CurveKeys
    from orchestrator.wire.gate import Gate

Frame: TypeAlias = bytes | memoryview
"""A frame of a received message may be a view of the transport's memory, which lives as long as the view."""

CONTROL_LIMIT = 1 << 20
"""Longest frame of a connection that carries control messages only, in bytes."""


class LinkError(Exception):
    """Base of what can go wrong with a message that is to be sent."""


class LinkClosedError(LinkError):
    """The link or the listener was closed here."""


class LinkBrokenError(LinkError):
    """There is no connection to the other end: it was not made, or it broke."""


class LinkBusyError(LinkError):
    """The other end does not take its messages, and no more may wait for it."""


class LinkState(enum.Enum):
    """How a link to a server stands; the value is the text for people."""

    CONNECTING = "connecting"
    UP = "up"
    UNREACHABLE = "nothing listens at the address"
    REFUSED = "the server does not accept our key or name"
    WRONG_SERVER_KEY = "the server's key is not the one in the testbed file, or the server admits nobody"
    SILENT = "the server does not finish the handshake: it is stopped, or its gate is down"
    LOST = "the link was up and broke"
    SUPERSEDED = "another process with our key took our place"
    CLOSED = "closed by us"


@dataclass(frozen=True)
class QueueLimits:
    """What one connection can make an end hold.

    ``frame_bytes``: the longest frame that is taken; a connection that brings a longer one is ended.  ``unsent`` and
    ``unread``: messages of ``message_frames`` such frames that wait here to leave, and to be read.
    """

    frame_bytes: int = CONTROL_LIMIT
    unsent: int = 1000
    unread: int = 16
    message_frames: int = 1

    @property
    def unread_bytes(self) -> int:
        """What waits to be read, at most."""
        return self.unread * self.message_frames * self.frame_bytes


CLIENT_QUEUES = QueueLimits()
"""A client's own messages are bounded by its own outbox."""
SERVER_QUEUES = QueueLimits(unsent=256)


@dataclass(frozen=True)
class Target:
    """Where a link leads: to the owner of ``public`` at ``endpoint`` and to nobody else.

    With ``reconnect`` a link that broke, or found nobody, is tried again by itself (its state is then CONNECTING);
    after a refusal none is.  ``lost_after_s``: a server that vanished without a word, or stands still, is noticed after so long.
    ``unacknowledged_s``: so long its machine may leave what was sent unacknowledged, before the link is made anew; a server
    that stands still, on a machine that is there, keeps it.
    """

    endpoint: str
    public: str
    limits: QueueLimits = CLIENT_QUEUES
    reconnect: bool = True
    lost_after_s: float | None = None
    unacknowledged_s: float | None = None


class Waiter(Protocol):
    """Waits for any of the links and listeners that were made with it."""

    def wait(self, timeout_s: float) -> None:
        """Return when a message waits, a link's state changed, :meth:`wake` was called, or the time is over."""

    def wake(self) -> None:
        """End the present wait, or the next one where nobody waits."""

    def close(self) -> None:
        """Free what waiting needs; after the links and listeners.  Waking is then without effect."""


class Link(Protocol):
    """A client's connection to one server."""

    @property
    def state(self) -> LinkState:
        """How the link stood when the last wait ended: CONNECTING, UP, or why there is no connection."""

    def send(self, *frames: Frame) -> None:
        """Queue one message; raises LinkBusyError, LinkBrokenError or LinkClosedError."""

    def receive(self) -> list[bytes] | None:
        """The next message, or None if none waits."""

    def close(self) -> None:
        """End the connection; what was sent still leaves.  Idempotent."""


class Received(NamedTuple):
    """A message, the connection that it came on, and the role whose key sent it: None where that is not allowed."""

    connection: bytes
    role: str | None
    frames: list[Frame]


class Listener(Protocol):
    """A server's end of all its connections; made by a gate, which says whose they may be."""

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""

    @property
    def refused_handshakes(self) -> int:
        """How many connections did not come about."""

    def receive(self) -> Received | None:
        """The next message of any connection, or None if none waits."""

    def send(self, connection: bytes, *frames: Frame) -> None:
        """Queue one message; raises LinkBusyError, LinkBrokenError or LinkClosedError."""

    def close(self) -> None:
        """Listen no more and end the connections; what was sent still leaves.  Idempotent."""


class Transport(Protocol):
    """Makes what a process needs to reach others and to be reached."""

    def waiter(self) -> Waiter:
        """For one thread, and what it waits for."""

    def gate(self, allowed: Mapping[str, str], revoked: RevokedKeys | None = None) -> Gate:
        """A gate for the keys of ``allowed`` (public key in Z85 -> role); it makes listeners."""

    def connect(self, waiter: Waiter, keys: CurveKeys, target: Target) -> Link:
        """A link of the owner of ``keys``; returns before it stands.  Raises OSError for an address that is none."""
