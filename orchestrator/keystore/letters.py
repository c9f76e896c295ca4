"""What one process remembers of its correspondence with a peer; none of it survives the process.

*Sent*: a message that was tagged once is kept with its *place* in the agreement, and a retry
sends the same bytes again.  So a retry spends nothing, and one key never tags two messages.  *Seen*: a tagged
message whose key was spent here is recognised when it comes again, and counts as heard again.

Both hold within one *session*: the pair of nonces that the two processes drew when they started.  A peer with
another nonce was started again (perhaps from an old copy), and everything kept for the older one is dropped.

The keys that tag messages are masked with a stream made from the reusable keys and the session::

    key = lane bits xor HMAC-SHA-256(reusable key, session, offset)

Lane bits are uniform and used once, so this changes nothing for an honest pair.  It counts where a store was
restored from an old copy and somebody had held back its last messages: the restored store cannot know that these
lane bits were used and uses them again, but in another session, so that the two tags have unrelated keys.  That
protection is computational: it rests on HMAC-SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from orchestrator import runtime
from orchestrator.bits import packed_size
from orchestrator.keystore.pair_macs import PairMacs
from orchestrator.secret import SecretBits

NONCE_BYTES = 16
KEPT = 512
"""Messages kept per peer in either direction; the oldest are forgotten, and a retry of theirs is tagged afresh."""


@dataclass(frozen=True)
class Letter:
    """A tagged message: what decides whether a retry is the same, what was tagged, and the bytes that went out."""

    content: bytes
    body: bytes
    sent: bytes


@dataclass(frozen=True)
class Session:
    """The nonces of the two processes, first's before second's, the pair's generation and its reusable keys."""

    nonces: bytes
    generation: int
    macs: PairMacs = field(repr=False)

    def mask(self, bits: SecretBits, offset: int, *, outgoing: bool) -> SecretBits:
        """``bits`` of the lane at ``offset`` as the key of this session (see the module text); wipes ``bits``."""
        key = (self.macs.outgoing if outgoing else self.macs.incoming).reveal_bytes()
        n_bytes = packed_size(len(bits))
        label = b"qunetlab-session-mask-v1" + self.nonces + offset.to_bytes(8, "big")
        stream = b"".join(
            hmac.new(key, label + block.to_bytes(4, "big"), hashlib.sha256).digest()
            for block in range(-(-n_bytes // 32))
        )
        packed = bits.reveal() ^ np.frombuffer(stream[:n_bytes], np.uint8)
        if len(bits) % 8:
            packed[-1] &= (1 << len(bits) % 8) - 1
        masked = SecretBits(packed, len(bits))
        bits.wipe()
        return masked


class Letters:
    """The memory of one peer."""

    def __init__(self, nonce: bytes) -> None:
        self.nonce = nonce
        """Drawn once in the life of this process."""
        self.session: Session | None = None
        self.meeting = runtime.lock()
        """Held while the two stores are compared; nothing else may move heads meanwhile."""
        self.peer_nonce = b""
        self.settled_with = b""
        """The peer's nonce of the session in which the stores were compared; empty before."""
        self.restored: Literal["self", "peer"] | None = None
        """Who was found to be restored from an old copy, until a meeting has come to its end and said so."""
        self.rejected: Counter[str] = Counter()
        """Messages that were refused, by reason."""
        self._sent: OrderedDict[str, Letter] = OrderedDict()
        self._seen: OrderedDict[bytes, list[SecretBits]] = OrderedDict()

    def enter(self, peer_nonce: bytes, session: Session) -> bool:
        """The peer proved that it is alive under this nonce; True if no tag of before is of use any more.

        That is so where the peer has another nonce, and where a new generation was begun.
        """
        before, self.session = self.session, session
        if peer_nonce != self.peer_nonce:
            self.settled_with = b""
        elif before is not None and before.generation == session.generation:
            return False
        self.peer_nonce = peer_nonce
        self._forget()
        return True

    def _forget(self) -> None:
        self._sent.clear()
        while self._seen:
            _wipe(self._seen.popitem()[1])

    def sent(self, place: str, content: bytes) -> Letter | None:
        """The letter of this place, if it says the same."""
        letter = self._sent.get(place)
        return letter if letter is not None and letter.content == content else None

    def keep(self, place: str, letter: Letter) -> None:
        """Keep a letter *before* it goes out for the first time; it replaces what the place held."""
        self._sent[place] = letter
        self._sent.move_to_end(place)
        if len(self._sent) > KEPT:
            self._sent.popitem(last=False)

    def seen(self, message: bytes) -> list[SecretBits] | None:
        """Copies of the further keys of a message that was accepted before; None for one that was not."""
        keys = self._seen.get(hashlib.sha256(message).digest())
        return None if keys is None else [key.take(0, len(key)) for key in keys]

    def note_seen(self, message: bytes, keys: list[SecretBits]) -> None:
        """Remember a message whose tag was right."""
        self._seen[hashlib.sha256(message).digest()] = [key.take(0, len(key)) for key in keys]
        if len(self._seen) > KEPT:
            _wipe(self._seen.popitem(last=False)[1])


def _wipe(keys: list[SecretBits]) -> None:
    for key in keys:
        key.wipe()
