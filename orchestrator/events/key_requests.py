"""What a key server tells: each request with its answer, and whoever it turned away; no key, and no key id.

Texts from callers (SAE ids of certificates, addresses) are theirs and are escaped where people read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from orchestrator.wire.codec import Message
from orchestrator.wire.fields import Count, Reason, Seconds


class KeyRequestAnswered(Message, frozen=True):
    """``sae`` asked by ``method`` for ``endpoint`` shared with ``other`` (both empty outside the standard's paths).

    ``status`` is that of HTTP; ``keys`` were delivered.
    """

    sae: str
    method: str
    endpoint: str
    other: str
    status: int
    keys: Count
    took_s: Seconds


TurnedAway: TypeAlias = Literal[
    "handshake",
    "too many connections",
    "too many connections of one SAE",
    "too many handshakes of one address",
    "no single name in the certificate",
    "certificate in use at another address",
    "certificate revoked",
    "too slow",
]


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

    what: str
    error: str


KeyEvent: TypeAlias = KeyRequestAnswered | KeyCallerTurnedAway | KeyServerFault
TellKeyEvent: TypeAlias = Callable[[KeyEvent], None]
