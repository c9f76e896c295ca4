"""Sending to the peers of a listener without ever blocking or losing a message silently.

What a connection does not take at once waits here, in order, within limited bytes.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from orchestrator.wire.budget import waiting_cost
from orchestrator.wire.codec import Message, encode
from orchestrator.wire.links import Frame, LinkBusyError, LinkError, Listener


def reply(listener: Listener, connection: bytes, message: Message) -> None:
    """Send to a connection that has no outbox, without a promise that it arrives."""
    with suppress(LinkError):
        listener.send(connection, encode(message))


class Outbox:
    """One connection of a listener, and what it would not take yet: ``limit_bytes`` at most."""

    def __init__(self, listener: Listener, connection: bytes, limit_bytes: int) -> None:
        self._listener = listener
        self.connection = connection
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[Frame, ...]] = deque()
        self.held_bytes = 0

    @property
    def waits(self) -> bool:
        """Does anything wait here?"""
        return bool(self._waiting)

    @property
    def has_room(self) -> bool:
        """Is at least half of it free?  Lossy messages are dropped otherwise."""
        return self.held_bytes <= self._limit_bytes // 2

    def send(self, message: Message, *payload: Frame) -> None:
        """Send behind whatever waits already; raises LinkBrokenError, or LinkBusyError where no more may wait."""
        frames = (encode(message), *payload)
        if not self._waiting:
            with suppress(LinkBusyError):
                self._listener.send(self.connection, *frames)
                return
        if self.held_bytes + _cost(frames) > self._limit_bytes:
            raise LinkBusyError("it does not take its messages")
        self._waiting.append(frames)
        self.held_bytes += _cost(frames)

    def flush(self) -> None:
        """Send what waits, as far as it is taken; raises LinkBrokenError."""
        with suppress(LinkBusyError):
            while self._waiting:
                self._listener.send(self.connection, *self._waiting[0])
                self.held_bytes -= _cost(self._waiting.popleft())


def _cost(frames: tuple[Frame, ...]) -> int:
    return sum(waiting_cost(len(frame)) for frame in frames)
