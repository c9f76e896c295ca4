"""A message channel between two nodes, as the protocols see it.

The protocols (sifting, reconciliation, deposit, reservations) are written against :class:`Channel` and
know nothing of sockets: in a running system the frames travel through the hub as opaque payloads.  A
channel keeps order and message borders and promises nothing about authenticity: whoever needs that
puts one-time tags on top.
"""

from __future__ import annotations

from typing import Protocol


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
