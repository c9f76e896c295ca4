"""A message channel between two nodes, as the protocols see it.

The protocols (sifting, reconciliation, deposit, reservations) are written against :class:`Channel` and
know nothing of sockets: in a running system the frames travel through the hub as opaque payloads, in
tests they go through :func:`memory_channel_pair`.  A channel keeps order and message borders and
promises nothing about authenticity: whoever needs that puts one-time tags on top.
"""

from __future__ import annotations

from typing import Protocol

from orchestrator import runtime


class ChannelError(Exception):
    """Base of what can go wrong on a channel."""


class ChannelTimeoutError(ChannelError):
    """The peer sent nothing in time."""


class ChannelClosedError(ChannelError):
    """This side closed the channel or its session was aborted."""


class ChannelBrokenError(ChannelError):
    """The peer or the hub between is gone."""


class Channel(Protocol):
    """Ordered messages to and from one peer within one session."""

    def send(self, payload: bytes) -> None:
        """Queue one message; raises ChannelClosedError or ChannelBrokenError."""

    def recv(self, timeout_s: float) -> bytes:
        """The next message; raises ChannelTimeoutError, ChannelClosedError or ChannelBrokenError."""


class MemoryChannel:
    """One end of an in-process channel."""

    def __init__(self, outgoing: runtime.Queue[bytes | None], incoming: runtime.Queue[bytes | None]) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def send(self, payload: bytes) -> None:
        self._outgoing.put(payload)

    def recv(self, timeout_s: float) -> bytes:
        try:
            payload = self._incoming.get(timeout=timeout_s)
        except runtime.Empty:
            raise ChannelTimeoutError(f"no message within {timeout_s:g} s") from None
        if payload is None:
            raise ChannelBrokenError("the peer closed the channel")
        return payload

    def close(self) -> None:
        """Tell the peer that nothing more will come."""
        self._outgoing.put(None)


def memory_channel_pair() -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected ends for tests and single-process simulation."""
    forward: runtime.Queue[bytes | None] = runtime.queue()
    backward: runtime.Queue[bytes | None] = runtime.queue()
    return MemoryChannel(forward, backward), MemoryChannel(backward, forward)
