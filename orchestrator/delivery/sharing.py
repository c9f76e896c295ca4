"""Cipher ``lightsecagg``: secret shares from client to client, through a server that cannot read or change them.

Every pair of participants has a pad for the round.  Its first half belongs to what the earlier of the two (in
the order of the participants) sends, its second half to what comes back.  A half is

    as many bits as a packed share, XORed onto it | r | s1 | s2,   128 bits each,

where (r, s1) is the key of a Poly1305 tag over the sealed share and (r, s2) that of one over a later
statement (:meth:`ShareChannel.vouch`).  Each tag has an ``s`` of its own, so the hash key r may serve both
(Wegman and Carter 1981, section 4); forgery at most ``8 ceil(n / 16) / 2**106`` for n bytes (Bernstein 2005).

The tags are needed for secrecy, not only for a right sum.  Flipping the sealed bits of a share turns S into
2^b - 1 - S, and where more clients answer than are needed the server could read S off the changed answer: up to
N - U shares of one victim, more than the T that the code hides as soon as N - U > T.  And only clients that
vouch to each other for one list of survivors cannot be given two (:mod:`fl.modes.shares`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

from orchestrator.bits import PackedBits, check_packed, packed_size, slice_packed
from orchestrator.delivery.errors import ShareSealError
from orchestrator.delivery.messages import SEAL_KEY_BITS, RoundContext
from orchestrator.secret import SecretLeakError
from orchestrator.wire.codec import Message

TAG_BYTES = 16
STATEMENT = b"qunetlab-statement-v1"


def sealed_size(context: RoundContext) -> int:
    """Bytes of a sealed share."""
    return packed_size(context.value_bits) + TAG_BYTES


@dataclass
class _Direction:
    """Key of what travels one way between two participants; every part is overwritten once used."""

    pad: PackedBits = field(repr=False)
    tag_keys: PackedBits = field(repr=False)
    sealed: bool = False
    vouched: bytes | None = None

    def share_tag(self, sealed: bytes) -> Poly1305:
        return _tag(self.tag_keys[:32].tobytes(), sealed)

    def statement_tag(self, statement: bytes) -> Poly1305:
        return _tag(self.tag_keys[:16].tobytes() + self.tag_keys[32:].tobytes(), STATEMENT + statement)

    def wipe(self) -> None:
        self.pad[:] = 0
        self.tag_keys[:] = 0


class ParkedWay(Message, frozen=True):
    """One direction of a parked channel.  Key: never to be written down as it is."""

    pad: bytes
    tag_keys: bytes
    sealed: bool
    vouched: bytes | None

    def __repr__(self) -> str:
        return "<ParkedWay>"


class ParkedChannel(Message, frozen=True):
    """A channel without a process to live in.  Key: whoever keeps it encrypts it, and resumes it once."""

    context: RoundContext
    key_bits_used: int
    outward: dict[str, ParkedWay]
    inward: dict[str, ParkedWay]


class ShareChannel:
    """Seals one share for every peer and opens one from every peer; each pad is overwritten once used.

    One thread at a time.  ``key_bits_used`` counts what the node released for it.
    """

    def __init__(self, context: RoundContext, pads: dict[str, PackedBits]) -> None:
        """``pads``: one of ``context.pad_bits`` per other participant; they are taken over."""
        (owner,) = set(context.participants) - set(pads)
        order = {name: place for place, name in enumerate(context.participants)}
        self.context = context
        self.key_bits_used = len(pads) * context.pad_bits
        self._out: dict[str, _Direction] = {}
        self._in: dict[str, _Direction] = {}
        for peer, pad in pads.items():
            first, second = (_half(pad, context, start) for start in (0, context.pad_bits // 2))
            pad[:] = 0
            earlier = order[owner] < order[peer]
            self._out[peer], self._in[peer] = (first, second) if earlier else (second, first)

    def seal(self, peer: str, share: bytes | PackedBits) -> bytes:
        """``share`` (packed, ``context.value_bits`` bits) as only ``peer`` can read it; once per peer."""
        way = self._once(self._out, peer, "sealed for")
        try:
            plain = np.frombuffer(share, np.uint8)
            check_packed(plain, self.context.value_bits)
            sealed = (plain ^ way.pad).tobytes()
        finally:
            way.pad[:] = 0
        return sealed + way.share_tag(sealed).finalize()

    def open(self, peer: str, sealed: bytes) -> bytes:
        """The share that ``peer`` sealed for us; once per peer.

        Raises ShareSealError for a share that is not as ``peer`` sent it.
        """
        way = self._once(self._in, peer, "opened from")
        try:
            body, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
            if len(sealed) != sealed_size(self.context):
                raise ShareSealError(
                    f"a sealed share has {sealed_size(self.context)} bytes, {peer}'s {len(sealed)}"
                )
            try:
                way.share_tag(body).verify(tag)
            except InvalidSignature:
                raise ShareSealError(
                    f"the share of {peer} was changed on its way, or is for another"
                ) from None
            return (np.frombuffer(body, np.uint8) ^ way.pad).tobytes()
        finally:
            way.pad[:] = 0

    def vouch(self, peer: str, statement: bytes) -> bytes:
        """A tag by which ``peer`` knows that this end said ``statement`` in this round; one statement per peer.

        The same statement again gives the same tag.
        """
        way = self._direction(self._out, peer)
        if way.vouched not in (None, statement):
            raise ShareSealError(f"another statement was vouched for to {peer} in round {self.context.round}")
        way.vouched = statement
        return way.statement_tag(statement).finalize()

    def is_vouched(self, peer: str, statement: bytes, tag: bytes) -> bool:
        """Did ``peer`` say ``statement`` in this round?"""
        try:
            self._direction(self._in, peer).statement_tag(statement).verify(tag)
        except InvalidSignature:
            return False
        return True

    def park(self) -> ParkedChannel:
        """The channel for a client whose process ends before the round does; closes it here."""
        parked = ParkedChannel(self.context, self.key_bits_used, _parked(self._out), _parked(self._in))
        self.close()
        return parked

    @classmethod
    def resume(cls, parked: ParkedChannel) -> ShareChannel:
        """The channel that was parked."""
        channel = cls.__new__(cls)
        channel.context, channel.key_bits_used = parked.context, parked.key_bits_used
        channel._out, channel._in = _unparked(parked.outward), _unparked(parked.inward)
        return channel

    def close(self) -> None:
        """Overwrite all key; nothing can be sealed, opened or vouched for afterwards."""
        for way in (*self._out.values(), *self._in.values()):
            way.wipe()
        self._out.clear()
        self._in.clear()

    def __repr__(self) -> str:
        return f"<ShareChannel: round {self.context.round}, {self.key_bits_used} bits>"

    def __reduce__(self) -> NoReturn:
        raise SecretLeakError("a channel holds key bits and cannot be copied or pickled; park it")

    def __enter__(self) -> ShareChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _once(self, ways: dict[str, _Direction], peer: str, what: str) -> _Direction:
        way = self._direction(ways, peer)
        if way.sealed:
            raise ShareSealError(f"a share was {what} {peer} before: a pad serves once")
        way.sealed = True
        return way

    def _direction(self, ways: dict[str, _Direction], peer: str) -> _Direction:
        if peer not in ways:
            raise ShareSealError(f"there is no key with {peer} for round {self.context.round} (any more)")
        return ways[peer]


def _half(pad: PackedBits, context: RoundContext, start: int) -> _Direction:
    return _Direction(
        slice_packed(pad, start, context.value_bits),
        slice_packed(pad, start + context.value_bits, SEAL_KEY_BITS),
    )


def _parked(ways: dict[str, _Direction]) -> dict[str, ParkedWay]:
    return {
        peer: ParkedWay(way.pad.tobytes(), way.tag_keys.tobytes(), way.sealed, way.vouched)
        for peer, way in ways.items()
    }


def _unparked(ways: dict[str, ParkedWay]) -> dict[str, _Direction]:
    def array(data: bytes) -> PackedBits:
        return np.frombuffer(bytearray(data), np.uint8)

    return {
        peer: _Direction(array(way.pad), array(way.tag_keys), way.sealed, way.vouched)
        for peer, way in ways.items()
    }


def _tag(key: bytes, text: bytes) -> Poly1305:
    tag = Poly1305(key)
    tag.update(text)
    return tag
