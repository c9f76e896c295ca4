"""What an operator asks a running node about the key in its store, and the answers: counts and places, never bits."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from orchestrator.wire.codec import Message
from orchestrator.wire.fields import Count


class AuditKeys(Message, frozen=True):
    """A node: open every seal of the store once, and check its books."""


class ShowUse(Message, frozen=True):
    """A node: what each of its applications was given."""


class ShowDeliveries(Message, frozen=True):
    """A node: what applications were given and refused lately, behind row ``after``; ``whole``: rows that grow no more."""

    after: Count = 0
    whole: bool = False


class Unopened(Message, frozen=True):
    """A seal that does not open: ``what`` of the pair with ``peer``, from ``start`` of its lane on where it has a place."""

    peer: str
    what: str
    start: int | None
    bits: int
    block: str
    why: str


class KeysAudited(Message, frozen=True):
    """What came of opening every seal: how many opened, of how many bits of the lanes; ``unopened`` has the first of ``failed``.

    ``books`` says what does not balance, ``uncut`` why destroyed bits may still be readable; both empty where all is well.
    """

    node: str
    opened: int
    bits: int
    failed: int
    unopened: list[Unopened]
    books: str
    uncut: str


class SaeUse(Message, frozen=True):
    """What an application was given so far of the key of this node with ``peer``, as the one who asks for keys or fetches copies.

    ``bits_today`` are those that it drew as master on this UTC day, by which its quota is counted.
    """

    sae: str
    peer: str
    side: str
    keys: int
    bits: int
    bits_today: int


class Use(Message, frozen=True):
    """The use of all applications of a node."""

    node: str
    rows: list[SaeUse]


class Delivery(Message, frozen=True):
    """Requests of one application with one outcome within the second ``at``: ``delivered``, or why they were refused.

    ``number`` counts a node's rows since it was started; ``sae`` is empty for a caller that the node does not serve, ``peer``
    where nothing was given.
    """

    number: Count
    at: datetime
    sae: str
    peer: str
    side: str
    outcome: str
    requests: Count
    keys: Count
    bits: Count


class Deliveries(Message, frozen=True):
    """The latest of a node, oldest first."""

    node: str
    rows: list[Delivery]


KeyRequest: TypeAlias = AuditKeys | ShowUse | ShowDeliveries
KeyReply: TypeAlias = KeysAudited | Use | Deliveries
