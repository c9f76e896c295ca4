"""Cutting channel messages into frames, spending credit for them, and putting them together again.

Pure state, no sockets, no locks: the agent owns those.  A sender may have
:data:`~orchestrator.wire.messages.WINDOW_BYTES` on the way to one recipient; the recipient gives credit back as
its agent takes the frames off the wire.
The window is per pair, so a recipient that has stopped holds up nobody else and the hub never stores
more than one window per pair.  Topics towards the same peer take turns, frame by frame.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from orchestrator.wire.messages import (
    CHUNK_BYTES,
    MESSAGE_LIMIT,
    WINDOW_BYTES,
    Post,
    chunk_cost,
)


class FlowError(Exception):
    """A peer broke the rules of a channel: frames missing, repeated, too large, or after the end."""


@dataclass
class _Topic:
    """One outgoing channel: its frame counter and the messages that wait."""

    seq: int = 0
    offset: int = 0
    waiting: deque[bytes | None] = field(default_factory=deque)


class Outflow:
    """Everything on its way to one peer; ``session`` is the number of the peer's session with the hub."""

    def __init__(self, peer: str, window: int = WINDOW_BYTES) -> None:
        self._peer = peer
        self._window = window
        self._used = 0
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        self.waiting_bytes = 0
        self.session = 0

    def push(self, topic: str, payload: bytes) -> None:
        """Queue one message."""
        self._topics.setdefault(topic, _Topic()).waiting.append(payload)
        self.waiting_bytes += len(payload)

    def end(self, topic: str) -> None:
        """Queue the end of a channel behind its messages; the counter is forgotten once it left."""
        self._topics.setdefault(topic, _Topic()).waiting.append(None)

    def drop(self, topic: str) -> None:
        """Forget a channel and what it had queued."""
        dropped = self._topics.pop(topic, None)
        if dropped is not None:
            left = sum(len(payload) for payload in dropped.waiting if payload is not None)
            self.waiting_bytes -= left - dropped.offset

    def credit(self, amount: int) -> None:
        """The peer took ``amount``."""
        self._used = max(0, self._used - amount)

    def next_frame(self) -> tuple[Post, memoryview] | None:
        """The next frame to send, or None when nothing waits or the window is used up."""
        name = next((name for name, topic in self._topics.items() if topic.waiting), None)
        if name is None:
            return None
        topic = self._topics[name]
        payload = topic.waiting[0]
        chunk = memoryview(payload or b"")[topic.offset : topic.offset + CHUNK_BYTES]
        cost = chunk_cost(len(chunk))
        if self._used + cost > self._window:
            return None
        self._used += cost
        if payload is None:
            del self._topics[name]
            return Post(self._peer, name, topic.seq, self.session, end=True), chunk
        topic.offset += len(chunk)
        more = topic.offset < len(payload)
        post = Post(self._peer, name, topic.seq, self.session, more=more)
        topic.seq += 1
        if not more:
            topic.waiting.popleft()
            topic.offset = 0
        self._topics.move_to_end(name)
        self.waiting_bytes -= len(chunk)
        return post, chunk


class Inflow:
    """Puts the frames of one incoming channel together; raises FlowError when they do not fit."""

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._expected = 0
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, seq: int, more: bool, payload: bytes) -> bytes | None:
        """The complete message if ``payload`` finishes one, else None."""
        if seq != self._expected:
            raise FlowError(f"frame {seq} came where frame {self._expected} was due")
        self._expected += 1
        self._size += len(payload)
        if self._size > self._limit:
            raise FlowError(f"a message of more than {self._limit} bytes")
        if not more and not self._parts:
            self._size = 0
            return payload
        self._parts.append(payload)
        if more:
            return None
        whole = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return whole


class CreditBook:
    """Credit to return to senders: amounts add up to a quarter of a window before a message is sent for them."""

    def __init__(self, window: int = WINDOW_BYTES) -> None:
        self._threshold = window // 4
        self._owed: dict[str, int] = {}

    def took(self, sender: str, length: int) -> int:
        """Note a frame of ``length`` bytes; the amount to return to ``sender`` at once, or 0."""
        owed = self._owed.get(sender, 0) + chunk_cost(length)
        if owed < self._threshold:
            self._owed[sender] = owed
            return 0
        self._owed[sender] = 0
        return owed

    def forget(self, sender: str | None) -> None:
        """The sender (None: everybody) is gone, and its window with it."""
        if sender is None:
            self._owed.clear()
        else:
            self._owed.pop(sender, None)
