"""Cipher ``lightsecagg``: secret shares from client to client, through a server that cannot read or change them.

Every pair of participants has a pad for the round.  Its first half belongs to the share that the earlier of
the two (in the order of the participants) sends, its second half to the share that comes back.  A half is as
many bits as a packed share, XORed onto it, and 256 bits more: the key of a one-time Poly1305 tag over the
sealed share (forgery at most ``8 ceil(n / 16) / 2**106`` for n bytes; Bernstein 2005, theorem 3.3).

The tag is needed for secrecy, not only for a right sum: flipping the sealed bits of a share turns S into
2^b - 1 - S, and where more clients answer than are needed the server could read S off the changed answer -
N - U shares of one victim, more than the T that the code hides as soon as N - U > T.
"""

from __future__ import annotations

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

from orchestrator.bits import PackedBits, check_packed, packed_size, slice_packed
from orchestrator.delivery.errors import SealError
from orchestrator.delivery.messages import TAG_KEY_BITS, RoundContext

TAG_BYTES = 16


def sealed_size(context: RoundContext) -> int:
    """Bytes of a sealed share."""
    return packed_size(context.value_bits) + TAG_BYTES


class ShareChannel:
    """Seals one share for every peer and opens one from every peer; each pad is overwritten once used.

    One thread at a time.  ``key_bits_used`` counts what the node released for it.
    """

    def __init__(self, context: RoundContext, pads: dict[str, PackedBits]) -> None:
        """``pads``: one of ``context.pad_bits`` per other participant; they are taken over."""
        (owner,) = set(context.participants) - set(pads)
        order = {name: place for place, name in enumerate(context.participants)}
        half = context.value_bits + TAG_KEY_BITS
        self.context = context
        self.key_bits_used = len(pads) * context.pad_bits
        self._seal: dict[str, PackedBits] = {}
        self._open: dict[str, PackedBits] = {}
        for peer, pad in pads.items():
            first, second = slice_packed(pad, 0, half), slice_packed(pad, half, half)
            pad[:] = 0
            earlier = order[owner] < order[peer]
            self._seal[peer], self._open[peer] = (first, second) if earlier else (second, first)

    def seal(self, peer: str, share: bytes) -> bytes:
        """``share`` (packed, ``context.value_bits`` bits) as only ``peer`` can read it; once per peer."""
        pad = self._take(self._seal, peer, "sealed for")
        try:
            plain = np.frombuffer(share, np.uint8)
            check_packed(plain, self.context.value_bits)
            sealed = (plain ^ slice_packed(pad, 0, self.context.value_bits)).tobytes()
            return sealed + self._tag(pad, sealed).finalize()
        finally:
            pad[:] = 0

    def open(self, peer: str, sealed: bytes) -> bytes:
        """The share that ``peer`` sealed for us; once per peer.

        Raises SealError for a share that is not as ``peer`` sent it.
        """
        pad = self._take(self._open, peer, "opened from")
        try:
            body, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
            if len(sealed) != sealed_size(self.context):
                raise SealError(
                    f"a sealed share has {sealed_size(self.context)} bytes, {peer}'s {len(sealed)}"
                )
            try:
                self._tag(pad, body).verify(tag)
            except InvalidSignature:
                raise SealError(f"the share of {peer} was changed on its way, or is for another") from None
            return (np.frombuffer(body, np.uint8) ^ slice_packed(pad, 0, self.context.value_bits)).tobytes()
        finally:
            pad[:] = 0

    def close(self) -> None:
        """Overwrite the pads that were not used."""
        for pads in (self._seal, self._open):
            for pad in pads.values():
                pad[:] = 0
            pads.clear()

    def __enter__(self) -> ShareChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, pads: dict[str, PackedBits], peer: str, what: str) -> PackedBits:
        if peer not in pads:
            raise SealError(f"no share can be {what} {peer} (any more): a pad serves once")
        return pads.pop(peer)

    def _tag(self, pad: PackedBits, sealed: bytes) -> Poly1305:
        tag = Poly1305(slice_packed(pad, self.context.value_bits, TAG_KEY_BITS).tobytes())
        tag.update(sealed)
        return tag
