"""Sifting: from announced clicks to key bits and test bits.

Each user knows, for every slot that the relay announced, its own symbol; after both have published its label (its
basis, say) the protocol tells which rounds are key and which are disclosed and count errors.  Clicks of both detectors
are not kept.  Equal phases light detector 1, so the second user flips its bit where detector 2 clicked, whatever the
basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.bits import BitArray, PackedBits, pack, packed_size, unpack
from orchestrator.keystore.lanes import PairEnd
from orchestrator.light.clicks import BOTH, D1_ONLY, D2_ONLY, BlockClicks
from orchestrator.protocols.base import BoolArray, Codes, PulseSymbols


class SiftingError(Exception):
    """The announcement, or what the peer sent about it, cannot be of this block."""


def check_clicks(clicks: BlockClicks, symbols: PulseSymbols) -> None:
    """Raise SiftingError unless every slot is announced once, in order, with a known outcome and symbol.

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
    if (
        clicks.outcome.min() < D1_ONLY
        or clicks.outcome.max() > BOTH
        or clicks.symbol.max() >= len(symbols.phases_rad)
    ):
        raise SiftingError("an outcome or a symbol that does not exist")


@dataclass(slots=True)
class OwnRounds:
    """This user's side of the single clicks: published labels and secret bits, uint8 of shape (n,), flips done.

    ``in_d2``: which of them were in detector 2, as announced; bool of shape (n,).
    """

    symbols: PulseSymbols
    pair_end: PairEnd
    labels: Codes
    bits: BitArray
    in_d2: BoolArray

    @classmethod
    def of(cls, clicks: BlockClicks, pair_end: PairEnd, symbols: PulseSymbols) -> OwnRounds:
        """Keep the single clicks of ``clicks``; the second user flips its bit where detector 2 clicked."""
        single = clicks.outcome != BOTH
        codes = clicks.symbol[single]
        bits, in_d2 = symbols.bits(codes), clicks.outcome[single] == D2_ONLY
        if pair_end == "second":
            bits ^= in_d2
        return cls(symbols, pair_end, symbols.labels(codes), bits, in_d2)

    def __repr__(self) -> str:
        return f"<OwnRounds: {self.n_rounds} single clicks>"

    @property
    def n_rounds(self) -> int:
        """Single clicks of the block."""
        return self.bits.size

    def published(self) -> bytes:
        """The labels as they go to the peer: packed, ``label_bits`` bits of each, lowest first."""
        width = np.arange(self.symbols.label_bits, dtype=np.uint8)
        return pack(((self.labels[:, None] >> width) & np.uint8(1)).ravel()).tobytes()

    def sift(self, published: bytes) -> SiftedBits:
        """Keep the rounds that the protocol keeps for what the peer ``published``; raises SiftingError."""
        width = self.symbols.label_bits
        planes = unpack_exactly(published, self.n_rounds * width, "bits of labels").reshape(-1, width)
        theirs = (planes << np.arange(width, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
        first, second = (self.labels, theirs) if self.pair_end == "first" else (theirs, self.labels)
        key, test = self.symbols.kept(first, second)
        table = np.bincount((first.astype(np.intp) << width) | second, minlength=1 << 2 * width)
        by_labels = tuple(map(tuple, table.reshape(1 << width, -1).tolist()))
        told = self.symbols.told(first, second) & ~key & ~test
        rounds = ToldRounds(self.symbols, self.labels[told], self.bits[told], theirs[told], self.in_d2[told])
        return SiftedBits(
            pack(self.bits[key]),
            int(np.count_nonzero(key)),
            self.bits[test],
            self.in_d2[test],
            by_labels,
            rounds,
        )

    def wipe(self) -> None:
        """Overwrite the bits."""
        self.bits[:] = 0


@dataclass(slots=True)
class ToldRounds:
    """Rounds that make neither key nor test bits: own labels and bits, the peer's labels, all uint8 of shape (n,).

    ``in_d2``: which of them were in detector 2; bool of shape (n,).
    """

    symbols: PulseSymbols
    labels: Codes
    bits: BitArray
    peer_labels: Codes
    in_d2: BoolArray

    def __repr__(self) -> str:
        return f"<ToldRounds: {self.bits.size} rounds>"

    def clicks(self, peer_bits: bytes) -> npt.NDArray[np.int64]:
        """At the first user, with what the second told: clicks of D1 and D2 by both symbols, int64 of shape (2, n, n)."""
        theirs = unpack_exactly(peer_bits, self.bits.size, "told bits") ^ self.in_d2
        first = self.symbols.code_of(self.labels, self.bits).astype(np.intp)
        second = self.symbols.code_of(self.peer_labels, theirs)
        n = len(self.symbols.phases_rad)
        cells = (self.in_d2.astype(np.intp) * n + first) * n + second
        return np.bincount(cells, minlength=2 * n * n).reshape(2, n, n).astype(np.int64)

    def wipe(self) -> None:
        """Overwrite the bits."""
        self.bits[:] = 0


@dataclass(slots=True)
class SiftedBits:
    """A user's key bits (packed) and test bits (one per element), those of D2 in ``test_in_d2``; ``by_labels`` as in BlockCounts."""

    key: PackedBits
    n_key: int
    test: BitArray
    test_in_d2: BoolArray
    by_labels: tuple[tuple[int, ...], ...]
    told: ToldRounds

    def __repr__(self) -> str:
        return f"<SiftedBits: {self.n_key} key and {self.n_test} test rounds>"

    @property
    def n_test(self) -> int:
        """Disclosed rounds."""
        return self.test.size

    def test_errors(self, peer_test: bytes) -> tuple[int, int]:
        """Test bits of the peer (packed) that differ from ours, of D1 and of D2."""
        wrong = self.test != unpack_exactly(peer_test, self.n_test, "test bits")
        in_d2 = int(np.count_nonzero(wrong & self.test_in_d2))
        return int(np.count_nonzero(wrong)) - in_d2, in_d2

    def wipe(self) -> None:
        """Overwrite the key bits."""
        self.key[:] = 0
        self.told.wipe()


def unpack_exactly(packed: bytes, n_bits: int, what: str) -> BitArray:
    """Exactly ``n_bits`` bits from the wire; raises SiftingError for another size or padding that is not zero."""
    if len(packed) != packed_size(n_bits) or (n_bits % 8 and packed[-1] >> (n_bits % 8)):
        raise SiftingError(f"{n_bits} {what} were expected, not {len(packed)} bytes of this form")
    return unpack(np.frombuffer(packed, np.uint8), n_bits)
