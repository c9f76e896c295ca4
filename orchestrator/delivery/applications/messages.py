"""What two nodes say about keys for applications: windows of a lane, and batches of keys out of them.

On a channel that the master's node opens (topic ``keys/...``)::

    master's node                                              slave's node
      Offer(range, context)          [one-time tag]  ->      follows, durably
                                     <-  [one-time tag]      Accept(range, context)
      Announce(Batch(...), tag)                      ->      checks, holds every key, durably
                                     <-  [MAC]               Answer(Kept(...))
      Where(key ids), Links()                        ->
                                     <-  [MAC]               Answer(Arrived(...)), Answer(Linked(...))

A batch is tagged with 256 bits of the window itself, so that applications pay for their own authentication and never
draw on the authentication lanes (I8): only a new window does.  The answer carries the pair's reusable MAC, which is
computational: whoever forges it makes an application hold a key that its partner cannot fetch, and learns nothing.
Key ids and the names of applications travel in the clear through the hub; keys never travel.

**Relayed keys** (:mod:`orchestrator.delivery.applications.relaying`): a key whose ``path`` is not empty is for an
application further on.  The node that keeps it gives the next one a key of the same id and size, and ``carried``, the
first key under the second as a one-time pad; so the last node holds what the first one has, and so does every node of
the path.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from lab.key_delivery import SAE_ID_CHARACTERS
from orchestrator.keystore.lanes import Range
from orchestrator.keystore.pair_macs import MAC_BYTES
from orchestrator.keystore.windows import KEY_ID_BYTES, LeasedKey
from orchestrator.one_time_tags import TAG_BYTES
from orchestrator.wire.codec import Message
from orchestrator.wire.fields import Role

TOPIC_PREFIX = "keys/"
MOST_KEYS = 1024
"""Keys in one batch."""
Position: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 62)]
KeyId: TypeAlias = Annotated[bytes, Meta(min_length=KEY_ID_BYTES, max_length=KEY_ID_BYTES)]
SaeName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=SAE_ID_CHARACTERS)]
Why: TypeAlias = Literal["full", "unknown", "relay", "master", "twice"]
"""Why a key is not kept: too many wait for that application, this node does not serve it, or relays no keys (that way),
the master is none of the node that the key came from, or another key of that id is here."""
MOST_HOPS = 8
CARRIED_BITS = 1 << 20
"""Relayed key in one batch, which travels beside its announcement."""


class KeyNote(Message, frozen=True):
    """One key: bits ``start .. start + n_bits`` of the lane, from ``master`` to ``slave``."""

    key_id: KeyId
    start: Position
    n_bits: Annotated[int, Meta(ge=8, le=1 << 24, multiple_of=8)]
    master: SaeName
    slave: SaeName
    path: Annotated[tuple[Role, ...], Meta(max_length=MOST_HOPS)] = ()
    """All nodes between the two ends of a relayed key; empty for a key of two ends alone."""
    carried: Annotated[bytes, Meta(max_length=1 << 17)] = b""
    """What to add (bit by bit, modulo 2) to this range, for the last node of a path; empty: nothing."""

    proof: Annotated[bytes, Meta(max_length=MAC_BYTES)] = b""
    """The first node's of a path for the last (:mod:`~orchestrator.delivery.applications.labels`)."""

    def leased(self) -> LeasedKey:
        return LeasedKey(self.key_id, Range(self.start, self.n_bits))


class KeyLabel(Message, frozen=True):
    """What both ends of a path have to know alike of a relayed key."""

    key_id: KeyId
    n_bits: int
    master: SaeName
    slave: SaeName
    path: tuple[Role, ...]


class Batch(Message, frozen=True):
    """Keys that both ends give away together; its tag's key lies at ``start``."""

    start: Position
    keys: Annotated[tuple[KeyNote, ...], Meta(min_length=1, max_length=MOST_KEYS)]


class Announce(Message, frozen=True):
    """An encoded Batch under its one-time tag."""

    body: Annotated[bytes, Meta(max_length=1 << 19)]
    start: Position
    tag: Annotated[bytes, Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]


class Unkept(Message, frozen=True):
    """A key of the batch that the slave's node burnt."""

    key_id: KeyId
    why: Why


class Kept(Message, frozen=True):
    """The batch at ``start`` is held, durably, but for some keys."""

    start: Position
    unkept: Annotated[tuple[Unkept, ...], Meta(max_length=MOST_KEYS)] = ()


class Where(Message, frozen=True):
    """What became of these relayed keys?"""

    key_ids: Annotated[tuple[KeyId, ...], Meta(max_length=MOST_KEYS)]


class Arrived(Message, frozen=True):
    """Keys asked for that lie at the other end of their path, and those that will never come there."""

    arrived: Annotated[tuple[KeyId, ...], Meta(max_length=MOST_KEYS)]
    lost: Annotated[tuple[KeyId, ...], Meta(max_length=MOST_KEYS)]


class Links(Message, frozen=True):
    """With whom could this node relay keys?"""


class Linked(Message, frozen=True):
    """Free bits for applications towards every node that is there; empty where this node relays nothing."""

    bits: Annotated[dict[Role, Position], Meta(max_length=64)]


Said: TypeAlias = Kept | Arrived | Linked
"""What an answer may hold."""


class Answer(Message, frozen=True):
    """An encoded Kept, Arrived or Linked under the pair's reusable MAC."""

    body: Annotated[bytes, Meta(max_length=1 << 17)]
    mac: Annotated[bytes, Meta(min_length=MAC_BYTES, max_length=MAC_BYTES)]


class NotNow(Message, frozen=True):
    """Either the stores have not been compared yet, or the window is gone; untagged, so that nothing follows from it."""


def bound(label: str, generation: int, sender: str, receiver: str, body: bytes) -> bytes:
    """What a tag or MAC covers besides the body: purpose, direction and generation of the pair."""
    names = b"".join(len(name).to_bytes(2, "big") + name.encode() for name in (sender, receiver))
    return f"qunetlab-{label}-v1".encode() + names + generation.to_bytes(8, "big") + body
