"""What one key server bears from its callers: a caller that is slow, large or many is refused, the others are served."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Each deadline runs from the beginning of its step and is not put off by bytes that trickle in."""

    connections: int = 512
    """In all; those in their handshake are counted apart, as nobody knows yet whose they are."""
    connections_per_sae: int = 64
    connections_turned_away: int = 16
    """That stay open until they have been told why; any more are closed without a word, so that nobody's room is theirs."""
    handshakes: int = 128
    """At a time; one more ends the oldest."""
    handshakes_per_address: int = 32
    """Or per network of 64 bits, of which a caller by IPv6 has every address."""
    handshake_s: float = 5.0
    header_s: float = 10.0
    body_s: float = 10.0
    answer_s: float = 15.0
    """For the desk; then its future is cancelled and the caller gets 503."""
    send_s: float = 10.0
    """For a caller to take its answer."""
    linger_s: float = 2.0
    """For a caller whose request is refused before it has all been sent."""
    idle_s: float = 60.0
    drain_s: float = 5.0
    header_bytes: int = 16384
    header_lines: int = 64
    body_bytes: int = 131072
    """The ids of as many keys as any testbed may let a request name, written with room."""
    body_chunks: int = 4096
    """Of a body of unknown length: each costs the server what many bytes do."""
    pipelined_bytes: int = 65536
    """Read ahead while an answer is prepared; beyond it nothing is read."""
