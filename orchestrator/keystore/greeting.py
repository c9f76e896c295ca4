"""What two ends say to each other when they meet, and where one stands: :mod:`orchestrator.keystore.meeting`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from orchestrator.keystore.depositing import BlockId, Context, Position, Positions, Tag
from orchestrator.keystore.lanes import PairEnd, Part
from orchestrator.wire.codec import Message

PROTOCOL = 2
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
KnownNonce = Annotated[bytes, Meta(max_length=16)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
MOST_BLOCKS = 1024


class Hello(Message, frozen=True):
    """First to second, in the clear; ``keyed``: whether the first holds reusable keys."""

    protocol: int
    nonce: Nonce
    fresh: Nonce
    keyed: bool


class Bare(Message, frozen=True):
    """Second to first, in the clear: this pair has no reusable keys yet; where the lanes stand here."""

    heads: Positions


class Gift(Message, frozen=True):
    """First to second under a one-time tag: the two further keys of this message are the reusable ones."""


class Stand(Message, frozen=True):
    """Where an end stands: heads, the peer's nonce it has settled with, blocks that wait, digest of its state."""

    heads: Positions
    settled_with: KnownNonce
    n_pending: Annotated[int, Meta(ge=0, lt=2**32)]
    digest: Digest


class Answer(Message, frozen=True):
    """Second to first, under the reusable key."""

    nonce: Nonce
    fresh: Nonce
    stand: Stand


class Proof(Message, frozen=True):
    """First to second, under the reusable key."""

    stand: Stand


class Settled(Message, frozen=True):
    """Either end, under the reusable key: nothing is left to settle here."""


class PendingBlock(Message, frozen=True):
    """A pending block and its fingerprint under a further key of this message, in their order."""

    block_id: BlockId
    n_bits: Position
    context: Context
    fingerprint: Tag


class ConfirmedBlock(Message, frozen=True):
    """A confirmed block of which free bits are left, and where its parts lie."""

    block_id: BlockId
    starts: Positions


class State(Message, frozen=True):
    """Everything the two ends compare."""

    own_nonce: Nonce
    peer_nonce: Nonce
    heads: Positions
    tails: Positions
    pending: Annotated[list[PendingBlock], Meta(max_length=MOST_BLOCKS)]
    confirmed: list[ConfirmedBlock]


@dataclass(frozen=True)
class Held:
    """A pending block as this end's store describes it; ``parts`` are its shares by the fixed rule."""

    block_id: str
    n_bits: int
    context: bytes
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Own:
    """This end at the beginning of a meeting."""

    name: str
    peer: str
    pair_end: PairEnd
    nonce: bytes
    fresh: bytes
    keyed: bool
    proved: bool
    """The peer is known to hold the reusable keys."""
    settled_with: bytes
    heads: Mapping[str, int]
    pending: tuple[Held, ...]
    confirmed: tuple[ConfirmedBlock, ...]
    suspected: Literal["self", "peer"] | None = None
    """Who was found to be restored in a meeting that came to no end."""

    def digest(self) -> bytes:
        """SHA-256 of the blocks that this end will speak of."""
        waiting = [(block.block_id, block.n_bits, block.context) for block in self.pending]
        return digest_of(waiting, list(self.confirmed))

    def stand(self) -> Stand:
        return Stand(dict(self.heads), self.settled_with, len(self.pending), self.digest())


def digest_of(waiting: list[tuple[str, int, bytes]], confirmed: list[ConfirmedBlock]) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((waiting, confirmed), order="sorted")).digest()
