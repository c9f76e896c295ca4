"""What the process around the hub sees of it: limits, events, counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.events.common import Unknown
from orchestrator.events.status import PeerItem
from orchestrator.wire.messages import FromPeer


class HubError(Exception):
    """The hub cannot go on."""


@dataclass(frozen=True)
class HubLimits:
    """Times in seconds, sizes in bytes.

    ``observers``: how many may listen at a time.  ``outbox_bytes``: what waits for one peer on one plane beyond
    what libzmq took.  ``event_bytes``: what
    peers said and the process has not read, all together and of one peer, as memory at worst
    (:func:`~orchestrator.wire.budget.decoded_cost`).
    """

    heartbeat_s: float = 0.5
    lost_after_s: float = 4.0
    observers: int = 16
    outbox_bytes: int = 64 << 20
    event_bytes: int = 256 << 20
    event_bytes_per_peer: int = 32 << 20


@dataclass(frozen=True)
class PeerUp:
    """``role`` has both links; ``session`` tells observers apart."""

    role: str
    session: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PeerDown:
    """``role`` is gone."""

    role: str
    reason: str
    session: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PeerMessage:
    """``role`` said something on the control plane."""

    role: str
    message: FromPeer | PeerItem | Unknown
    session: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PeerRefused:
    """``role`` greeted and was not let in: another version, release or testbed file than the hub's."""

    role: str
    reason: str


HubEvent: TypeAlias = PeerUp | PeerDown | PeerMessage | PeerRefused


@dataclass
class HubCounters:
    """What the hub did and refused since its start."""

    frames: int = 0
    bytes: int = 0
    malformed: int = 0
    strangers: int = 0
    refused: int = 0
    disagreeing: int = 0
    """Greetings refused over another version, release or testbed file."""
    stale: int = 0
    undelivered: int = 0
    overloads: int = 0
    """Messages refused or dropped because too many bytes were waiting."""
    lost_peers: int = 0
    superseded: int = 0
    handshake_failures: int = 0
