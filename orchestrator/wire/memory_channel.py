"""A channel within one process: what one end sends, the other receives, in order and whole."""

from __future__ import annotations

from orchestrator import runtime
from orchestrator.wire.channel import ChannelBrokenError, ChannelTimeoutError


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
    """Two connected ends."""
    forward: runtime.Queue[bytes | None] = runtime.queue()
    backward: runtime.Queue[bytes | None] = runtime.queue()
    return MemoryChannel(forward, backward), MemoryChannel(backward, forward)
