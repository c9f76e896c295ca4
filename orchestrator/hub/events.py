"""What the process around the hub sees of it: limits, events, counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.wire.messages import FromPeer


class HubError(Exception):
    """The hub cannot go on."""


@dataclass(frozen=True)
class HubLimits:
    """Times in seconds, sizes in messages."""

    heartbeat_s: float = 0.5
    lost_after_s: float = 4.0
    outbox: int = 20_000
    events: int = 20_000


@dataclass(frozen=True)
class PeerUp:
    """``role`` has both links."""

    role: str


@dataclass(frozen=True)
class PeerDown:
    """``role`` is gone."""

    role: str
    reason: str


@dataclass(frozen=True)
class PeerMessage:
    """``role`` said something on the control plane."""

    role: str
    message: FromPeer


HubEvent: TypeAlias = PeerUp | PeerDown | PeerMessage


@dataclass
class HubCounters:
    """What the hub did and refused since its start."""

    frames: int = 0
    bytes: int = 0
    malformed: int = 0
    strangers: int = 0
    refused: int = 0
    stale: int = 0
    undelivered: int = 0
    lost_peers: int = 0
    superseded: int = 0
    handshake_failures: int = 0
