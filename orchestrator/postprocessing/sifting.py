"""Sifting: from announced clicks to key bits and test bits.

Each user knows, for every slot that the relay announced, its own symbol; after both have published their bases they
keep the rounds in which these agree.  Clicks of both detectors are not kept.  Equal phases light detector 1, so the
second user flips its bit where detector 2 clicked, in X and in Y alike (four-phase protocol, step 3).  XX rounds are
key; YY rounds are disclosed and count errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.bits import BitArray, PackedBits, pack, packed_size, unpack
from orchestrator.keystore.lanes import PairEnd
from orchestrator.light.clicks import BOTH, D1_ONLY, D2_ONLY, BlockClicks
from orchestrator.light.symbols import basis_of, bit_of


class SiftingError(Exception):
    """The announcement, or what the peer sent about it, cannot be of this block."""


def check_clicks(clicks: BlockClicks) -> None:
    """Raise SiftingError unless every slot is announced once, in order, with a known outcome.

    A slot announced twice would put the same secret bit into the key twice.
    """
    n = clicks.outcome.size
    if not clicks.frame.shape == clicks.slot.shape == clicks.symbol.shape == clicks.outcome.shape == (n,):
        raise SiftingError("frame, slot, outcome and symbol must be arrays of one length")
    if n > clicks.n_pulses:
        raise SiftingError(f"{n} slots announced of {clicks.n_pulses} emitted")
    if not n:
        return
    order = (clicks.frame.astype(np.uint64) << np.uint64(32)) | clicks.slot.astype(np.uint64)
    if np.any(order[1:] <= order[:-1]):
        raise SiftingError("a slot is announced twice or out of order")
    if clicks.outcome.min() < D1_ONLY or clicks.outcome.max() > BOTH or clicks.symbol.max() > 3:
        raise SiftingError("an outcome or a symbol that does not exist")


@dataclass(slots=True)
class OwnRounds:
    """This user's side of the single clicks: bases (1 = Y) and bits, flips done."""

    bases: BitArray
    bits: BitArray

    @classmethod
    def of(cls, clicks: BlockClicks, pair_end: PairEnd) -> OwnRounds:
        """Keep the single clicks of ``clicks``; the second user flips its bit where detector 2 clicked."""
        single = clicks.outcome != BOTH
        symbol = clicks.symbol[single]
        bits = bit_of(symbol)
        if pair_end == "second":
            bits ^= clicks.outcome[single] == D2_ONLY
        return cls(bases=basis_of(symbol), bits=bits)

    def __repr__(self) -> str:
        return f"<OwnRounds: {self.n_rounds} single clicks>"

    @property
    def n_rounds(self) -> int:
        """Single clicks of the block."""
        return self.bits.size

    def sift(self, peer_bases: bytes) -> SiftedBits:
        """Keep the rounds in which ``peer_bases`` (packed) agree with ours."""
        theirs = unpack_exactly(peer_bases, self.n_rounds, "bases")
        xx = (self.bases | theirs) == 0
        yy = (self.bases & theirs) == 1
        x_bits = self.bits[xx]
        return SiftedBits(x=pack(x_bits), n_x=x_bits.size, yy=self.bits[yy])

    def wipe(self) -> None:
        """Overwrite the bits."""
        self.bits[:] = 0


@dataclass(slots=True)
class SiftedBits:
    """Key bits (packed) and test bits (one per element) of a user."""

    x: PackedBits
    n_x: int
    yy: BitArray

    def __repr__(self) -> str:
        return f"<SiftedBits: {self.n_x} XX and {self.n_y} YY rounds>"

    @property
    def n_y(self) -> int:
        """YY rounds."""
        return self.yy.size

    def yy_errors(self, peer_yy: bytes) -> int:
        """Test bits of the peer (packed) that differ from ours."""
        return int(np.count_nonzero(self.yy != unpack_exactly(peer_yy, self.n_y, "test bits")))

    def wipe(self) -> None:
        """Overwrite the key bits."""
        self.x[:] = 0


def unpack_exactly(packed: bytes, n_bits: int, what: str) -> BitArray:
    """Exactly ``n_bits`` bits from the wire; raises SiftingError for another size or padding that is not zero."""
    if len(packed) != packed_size(n_bits) or (n_bits % 8 and packed[-1] >> (n_bits % 8)):
        raise SiftingError(f"{n_bits} {what} were expected, not {len(packed)} bytes of this form")
    return unpack(np.frombuffer(packed, np.uint8), n_bits)
