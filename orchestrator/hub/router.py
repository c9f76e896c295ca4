"""Sending through a ROUTER without ever blocking or losing a message silently.

With ``ROUTER_MANDATORY`` libzmq reports a peer that is gone (EHOSTUNREACH) and one whose queue is full (EAGAIN);
without it both would swallow the message.  A full queue is continued here in an outbox of limited
bytes, in order.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import zmq

from orchestrator.wire.budget import waiting_cost
from orchestrator.wire.codec import Message, encode

Parts: TypeAlias = list[bytes | zmq.Frame]


class Sent(enum.Enum):
    """What became of a message."""

    YES = enum.auto()
    QUEUED = enum.auto()
    GONE = enum.auto()
    OVERFLOW = enum.auto()


@dataclass
class PeerLink:
    """One peer's end on one ROUTER, with what the socket would not take yet."""

    routing_id: bytes
    outbox: deque[Parts] = field(default_factory=deque)
    outbox_bytes: int = 0


class RouterPort:
    """One bound ROUTER socket, used by one thread."""

    def __init__(self, socket: zmq.Socket[bytes], outbox_bytes: int) -> None:
        self.socket = socket
        self._outbox_bytes = outbox_bytes
        self.unreachable = 0

    def received(self, batch: int) -> Iterator[list[zmq.Frame]]:
        """Up to ``batch`` waiting messages, routing id first, as frames that know their sender's key."""
        for _ in range(batch):
            try:
                yield self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return

    def reply(self, routing_id: bytes, message: Message) -> None:
        """Tell a connection something, or not: for those that have no outbox."""
        self._try(routing_id, [encode(message)])

    def send(self, link: PeerLink, message: Message, payload: zmq.Frame | None = None) -> Sent:
        """Send behind whatever waits in the outbox already."""
        parts: Parts = [encode(message)] if payload is None else [encode(message), payload]
        sent = Sent.QUEUED if link.outbox else self._try(link.routing_id, parts)
        if sent is Sent.QUEUED:
            cost = _cost(parts)
            if link.outbox_bytes + cost > self._outbox_bytes:
                return Sent.OVERFLOW
            link.outbox.append(parts)
            link.outbox_bytes += cost
        return sent

    def has_room(self, link: PeerLink) -> bool:
        """Is at least half of the outbox free?  Lossy messages are dropped otherwise."""
        return link.outbox_bytes <= self._outbox_bytes // 2

    def flush(self, link: PeerLink) -> Sent:
        """Send what waits, as far as the socket takes it."""
        while link.outbox:
            sent = self._try(link.routing_id, link.outbox[0])
            if sent is not Sent.YES:
                return sent
            link.outbox_bytes -= _cost(link.outbox.popleft())
        return Sent.YES

    def _try(self, routing_id: bytes, parts: Parts) -> Sent:
        try:
            self.socket.send_multipart([routing_id, *parts], zmq.DONTWAIT)
        except zmq.Again:
            return Sent.QUEUED
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.unreachable += 1
            return Sent.GONE
        return Sent.YES


def _cost(parts: Parts) -> int:
    return sum(waiting_cost(len(part)) for part in parts)
