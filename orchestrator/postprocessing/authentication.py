"""Authentication of a block: one-time tags over everything the two users said and were told.

Every message of a block, both ways, goes into the :class:`Transcript` as it stood on the wire, and so do the
relay's announcements as this user received them.  At the end each user sends one tag over its transcript,
Poly1305 under a fresh key of 256 bits from its own authentication lane (Wegman-Carter: a uniformly random,
never reused key makes Poly1305 an almost strongly universal hash; forgery at most ``8 ceil(L/16) / 2**106`` for L bytes).
If the tags match, nobody changed, dropped, added, reordered or replayed a message, and the relay told both the same
of every frame that is not lost.

The tag covers the bytes themselves, not a digest of them: two ordered streams and the announcements, each entry
preceded by its length, each stream by its number of entries, behind a header that names pair, direction,
epoch, lease number, block and the place of the key in its lane.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.keystore.lanes import PairEnd
from orchestrator.one_time_tags import one_time_tag
from orchestrator.secret import SecretBits

_DOMAIN = b"qunetlab block transcript 2"


class AuthKeys(Protocol):
    """The pair's two authentication lanes, and its reusable keys, as one user sees them; every method raises KeyStoreError.

    Bits taken are given out once: their place is durable before the call returns and never goes back.
    """

    def take_outgoing(self, n_bits: int) -> tuple[int, SecretBits]:
        """Fresh bits for a tag that this user sends, and their place in its lane."""

    def peek_incoming(self, offset: int, n_bits: int) -> SecretBits:
        """The bits at ``offset`` of the peer's lane, spending nothing: the offset comes with a tag not yet checked."""

    def take_incoming(self, offset: int, n_bits: int, forgery: float = 0.0) -> SecretBits:
        """The same bits once the tag was right; what lies before is burnt, what was used is refused.

        ``forgery``: with which probability a wrong tag would have passed, for the books of the pair.
        """

    def wrong_tag(self, forgery: float) -> None:
        """A tag did not fit; the try had this chance, and is booked as well."""

    def mac(self, data: bytes) -> bytes:
        """The MAC of what this user says; computational, and spends nothing."""

    def mac_fits(self, data: bytes, mac: bytes) -> bool:
        """Whether the peer said ``data``."""


@dataclass(frozen=True, slots=True)
class BlockId:
    """What a block is bound to: the pair in order, the lease's fencing token, the block within the lease."""

    first: str
    second: str
    epoch: int
    lease_number: int
    block: int = 0

    def header(self, domain: bytes, sender: PairEnd, key_offset: int = 0) -> bytes:
        """The bytes that precede a text of kind ``domain`` under a tag or MAC sent by ``sender``."""
        names = [name.encode() for name in (self.first, self.second)]
        return b"".join(
            [
                _entry(domain),
                *map(_entry, names),
                _entry(sender.encode()),
                struct.pack("<QQQQ", self.epoch, self.lease_number, self.block, key_offset),
            ]
        )


class Transcript:
    """Everything said in a block, in three ordered streams."""

    def __init__(self, block: BlockId, announcements: Sequence[bytes] = ()) -> None:
        self._block = block
        self.announcements = tuple(announcements)
        """One per frame of the block, as received, nothing for a lost frame."""
        self._streams: dict[PairEnd, list[bytes]] = {"first": [], "second": []}

    def add(self, sender: PairEnd, message: bytes) -> None:
        """Record a message as it stood on the wire."""
        self._streams[sender].append(message)

    @property
    def n_bytes(self) -> int:
        """Bytes under a tag."""
        return sum(len(part) for part in self._parts("first", 0))

    def tag(self, key: SecretBits, sender: PairEnd, key_offset: int) -> bytes:
        """The tag that ``sender`` sends over this transcript under its one-time ``key``."""
        return one_time_tag(key, *self._parts(sender, key_offset))

    def _parts(self, sender: PairEnd, key_offset: int) -> list[bytes]:
        parts: list[bytes] = [self._block.header(_DOMAIN, sender, key_offset)]
        for stream in (self.announcements, self._streams["first"], self._streams["second"]):
            parts.append(struct.pack("<Q", len(stream)))
            for message in stream:
                parts += (struct.pack("<Q", len(message)), message)
        return parts


def _entry(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data
