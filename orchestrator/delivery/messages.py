"""Messages between a federated-learning client and the delivery service of its own node.

A request is one frame.  A reply is one frame, except :class:`Pads`, which is followed by one frame of raw
packed bits per peer.  ``request`` numbers pair replies with requests; while a request takes long, the service
sends :class:`Waiting` about twice a second.

A round is masked in two steps: :class:`PadRequest` reserves pads with every other participant, which
takes as long as the peers and the key supply take, and may be repeated without loss; :class:`Collect` then
releases them, once, to a client that is there to receive them.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from orchestrator.wire.codec import Message, encode

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Number: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 62)]
Text: TypeAlias = Annotated[str, Meta(max_length=1000)]
Bits: TypeAlias = Annotated[dict[str, Number], Meta(max_length=1000)]
Sha256: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]

PURPOSE = b"qunetlab-mask-v3"

Cipher: TypeAlias = Literal["otp", "expanded", "lightsecagg"]
PAIRWISE: tuple[Cipher, ...] = ("otp", "expanded")
"""Ciphers whose pads cancel in the sum over all participants, and only there."""
SHARING: Cipher = "lightsecagg"
"""The cipher that seals secret shares."""
EXPANSION_KEY_BITS = 256
"""Key of the stream cipher that ``expanded`` stretches, per pair and round."""
SEAL_KEY_BITS = 384
"""One-time key of the two tags of each direction: on a sealed share, and on a statement about the round."""


def pad_bits(cipher: Cipher, value_bits: int) -> int:
    """Bits of key that a round takes from each pair for updates or shares of ``value_bits``, packed."""
    if cipher == "expanded":
        return EXPANSION_KEY_BITS
    if cipher == SHARING:
        return 2 * (value_bits + SEAL_KEY_BITS)
    return value_bits


class RoundContext(Message, frozen=True):
    """What all participants of a masked round agree on (I3); never anything about an update.

    ``participants`` in the order that gives the signs of the pads: the earlier of two adds, the later
    subtracts.  ``cipher`` is what the pads are for: ``otp`` masks an update of ``n_values`` integers modulo 2^ring_width
    with them; ``expanded`` masks it with the key stream of a cipher whose key they are (computational
    security); ``lightsecagg`` seals one share of ``n_values`` symbols in each direction
    (:mod:`orchestrator.delivery.sharing`).  ``binding`` is public text in which both ends of a pair must
    agree as well, such as the thresholds of secret sharing.  ``run`` is the digest of the description of the run
    to which the client's operator consented (:mod:`orchestrator.delivery.consent`), ``model`` that of the model
    that is trained; zeros name no run and no model, and a client gives nothing for them.
    """

    run_id: Name
    round: Number
    participants: Annotated[tuple[Name, ...], Meta(min_length=2, max_length=1000)]
    n_values: Annotated[int, Meta(ge=1, le=1 << 28)]
    ring_width: Annotated[int, Meta(ge=2, le=32)]
    cipher: Cipher = "otp"
    binding: Annotated[str, Meta(max_length=200)] = ""
    run: Sha256 = bytes(32)
    model: Sha256 = bytes(32)

    def digest(self) -> bytes:
        """SHA-256 over purpose and all fields: the name under which both ends of a pair reserve."""
        return hashlib.sha256(PURPOSE + encode(self)).digest()

    def round_digest(self) -> bytes:
        """SHA-256 of run and round alone: what is bound to one context for ever once its pads leave a node."""
        return hashlib.sha256(PURPOSE + f"|round|{self.round}|{self.run_id}".encode()).digest()

    @property
    def value_bits(self) -> int:
        """Bits of a whole update or share, packed."""
        return self.n_values * self.ring_width

    @property
    def pad_bits(self) -> int:
        """Bits of key that the round takes from each pair."""
        return pad_bits(self.cipher, self.value_bits)


class PadRequest(Message, frozen=True):
    """Reserve pads for this context with every other participant; answered by Reserved or Failure."""

    request: Number
    context: RoundContext


class Collect(Message, frozen=True):
    """Release the reserved pads; answered by Pads or Failure."""

    request: Number
    context: RoundContext


class Abandon(Message, frozen=True):
    """The round is over without this client: burn what is reserved for it; answered by Burnt."""

    request: Number
    context: RoundContext


class StockRequest(Message, frozen=True):
    """How many mask bits are free with every peer; answered by StockReply."""

    request: Number


class DemandRequest(Message, frozen=True):
    """Mask bits that coming rounds need, per peer; answered by Done."""

    request: Number
    bits: Bits


class Reserved(Message, frozen=True):
    """Pads with every other participant are reserved at both ends."""

    request: Number


class Pads(Message, frozen=True):
    """The pads: one frame each of ``ceil(n_bits / 8)`` bytes follows, in the order of ``peers``."""

    request: Number
    peers: tuple[Name, ...]
    n_bits: Number


class StockReply(Message, frozen=True):
    """Free mask bits per peer, and the peers whose authentication lanes are running low."""

    request: Number
    mask_bits: Bits
    auth_alarms: tuple[Name, ...]


class Done(Message, frozen=True):
    """The request was carried out."""

    request: Number


class Burnt(Message, frozen=True):
    """The round is given up; pads with ``peers`` had been reserved for it and are gone."""

    request: Number
    peers: tuple[Name, ...]


class Waiting(Message, frozen=True):
    """The request is in work; ``peers`` have not agreed yet."""

    request: Number
    peers: tuple[Name, ...]


class Failure(Message, frozen=True):
    """The request was not carried out.

    ``keys-short``: too little key (``missing_bits`` per peer), nothing burnt, ask again.  ``peer``: a peer
    was not ready or its link broke, ask again.  ``released``: the pads are gone.  ``refused``: asking again
    will not help.
    """

    request: Number
    code: Literal["keys-short", "peer", "released", "refused"]
    text: Text
    missing_bits: Bits
    wait_s: float | None = None


Request: TypeAlias = PadRequest | Collect | Abandon | StockRequest | DemandRequest
Reply: TypeAlias = Reserved | Pads | StockReply | Done | Burnt | Waiting | Failure
