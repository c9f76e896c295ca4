"""What a node's key delivery tells of each request of an application: counts and lengths, never a key or its id.

There may be hundreds in a second, so they are neither printed nor told to the hub: they are told to the process's own
metrics alone.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from orchestrator.wire.codec import Message
from orchestrator.wire.fields import Count, Reason, Role, Seconds

Side: TypeAlias = Literal["master", "slave"]
"""Of the two ends of a delivery: who asked for fresh keys, or who fetched its copies of them."""
RefusedFor: TypeAlias = Literal["request", "caller", "short", "quota", "peer", "store"]
"""Why a request was not granted: it can never be granted as it stands (``request``), this caller may not have it
(``caller``), too little key is there (``short``), the caller's quota is used up (``quota``), the peer's node was not reached
in time (``peer``), or the key store failed (``store``)."""

TurnedAway: TypeAlias = Literal[
    "handshake",
    "certificate refused",
    "certificate in use at another address",
    "too many connections",
    "too many connections of one SAE",
    "too many handshakes",
    "too many handshakes of one address",
    "too slow",
]
"""Why a caller's connection was not let in, or closed."""
Fault: TypeAlias = Literal[
    "starting",
    "the server",
    "the loop",
    "accepting a connection",
    "looking at certificates",
    "the desk",
    "a request",
]
"""Where the key server failed; ``starting``: it serves nobody."""


class KeysDelivered(Message, frozen=True):
    """``sae`` was given ``keys`` keys of ``bits`` in all, which it shares with an application at ``peer``'s node.

    ``sae`` is the caller's id from its certificate, one of those that this node serves.
    """

    sae: str
    peer: Role
    keys: Count
    bits: Count
    side: Side


class KeysRefused(Message, frozen=True):
    """A request was not granted; ``sae`` is empty for a caller that this node does not serve."""

    sae: str
    reason: RefusedFor
    side: Side


class KeyRequestAnswered(Message, frozen=True):
    """``sae`` asked over HTTPS by ``method`` for ``endpoint``, for keys shared with ``other``; both empty elsewhere.

    ``status`` is that of HTTP; ``keys`` were delivered.
    """

    sae: str
    method: str
    endpoint: str
    other: str
    status: int
    keys: Count
    took_s: Seconds


class KeyCallerTurnedAway(Message, frozen=True):
    """A connection from ``address`` was refused or closed; ``sae`` is empty where no certificate was proved.

    ``other_address`` is where the certificate was in use already.
    """

    address: str
    why: TurnedAway
    sae: str = ""
    other_address: str = ""
    detail: Reason = ""


class KeyServerFault(Message, frozen=True):
    """Something failed that should not; ``error`` is the name of the kind of error, as its text might hold key."""

    what: Fault
    error: str


DeliveryEvent: TypeAlias = (
    KeysDelivered | KeysRefused | KeyRequestAnswered | KeyCallerTurnedAway | KeyServerFault
)
