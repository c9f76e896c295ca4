"""Cascade in large, message-batched form: both users' sifted bits become the reference's bits.

The block is cut into frames of at most 65536 bits.  Every frame goes through 8 passes with growing blocks; in
each pass the corrector learns the parity of every block, bisects the blocks that differ down to one wrong bit, and
follows what each correction reveals in the earlier passes (Brassard and Salvail, EUROCRYPT '93).  Frames are
independent, so every round carries the questions of *all* frames in one message each way; a frame bisects all
odd intervals of one pass at the same time.  Block sizes: ``k1 = 2**round(log2 1/Q)``, ``4 k1``,
``2**round((log2 1/Q + log2 n)/2)``, then a small part of the frame five times (after Martinez-Mateo et al.,
arXiv:1407.3257, "Demystifying the information reconciliation protocol Cascade", who take halves).

Secrecy of the unauthenticated conversation.  The reference answers only for nodes of the trees that the frame's
public seed fixes; each answered node is answered once and counted; beyond ``limit_bits`` it refuses.  The
corrector's own parities are never sent: its questions depend on the error pattern, which may be public.  The last
top-level block of every pass but the first follows from the others and is not asked.

:class:`CascadeReference` and :class:`CascadeCorrector` are pure state machines (message in, message out).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from orchestrator.bits import PackedBits, pack, packed_size, unpack
from orchestrator.postprocessing import cascade_kernels as kernels
from orchestrator.postprocessing.messages import ParityReply, ParityRequest

FRAME_BITS: Final = 65536
PASSES: Final = 8
SEED_BYTES: Final = 16
MIN_BITS: Final = 64
"""Fewer bits than this are not worth reconciling, and the schedule has no room for them."""

U64 = npt.NDArray[np.uint64]
"""1-d uint64."""
I64 = npt.NDArray[np.int64]
"""1-d int64."""

_CODES: Final = {
    kernels.ERR_ACTION: "a pass out of turn",
    kernels.ERR_POSITION: "a boundary outside the pass's trees",
    kernels.ERR_REPEATED: "a boundary that was answered before",
    kernels.ERR_COUNT: "counts that do not fit the message",
    kernels.ERR_INCONSISTENT: "parities that contradict each other",
}


class CascadeError(Exception):
    """The peer's message cannot belong to this reconciliation, or the disclosure limit was reached."""


def n_frames(n_bits: int) -> int:
    """Frames that a block of ``n_bits`` is cut into."""
    return -(-n_bits // FRAME_BITS)


def frame_sizes(n_bits: int) -> I64:
    """Bits of each frame: as equal as possible, longer ones first."""
    count = n_frames(n_bits)
    sizes = np.full(count, n_bits // count, np.int64)
    sizes[: n_bits % count] += 1
    return sizes


def block_sizes(frame_bits: int, qber: float) -> list[int]:
    """Block size of each of the 8 passes for a frame of ``frame_bits`` and an expected error rate (powers of two).

    Passes 4 to 8 only look for the last pairs of errors that shared a block each time.  With two blocks a pass
    leaves half of them, with eight an eighth, for six more bits: of frames of 65536 bits one in 2000 stays wrong
    after five passes of halves, which loses one long block in ten, and none of 100 000 after eighths (measured
    at 1 to 3 % errors).  A short frame cannot spare the bits and takes halves, in three parts where two would be
    too unequal to tell anything.
    """
    top = max((frame_bits - 1).bit_length() - 1, 1)
    if frame_bits >= 32768:
        last = top - 2
    elif frame_bits >= 8192 or frame_bits - 2**top < 2 ** (top - 1):
        last = top - 1
    else:
        last = top
    bits_per_error = math.log2(1.0 / min(max(qber, 1.0 / frame_bits), 0.25))
    first = min(max(round(bits_per_error), 2), top)
    third = min(max(round((bits_per_error + math.log2(frame_bits)) / 2), first), last)
    return [2**first, 2 ** min(first + 2, top), 2**third] + [2**last] * (PASSES - 3)


def _trees(n_bits: int, qber: float, seeds: bytes) -> kernels.Trees:
    """The public trees of a block."""
    if n_bits < MIN_BITS:
        raise ValueError(f"cannot reconcile {n_bits} bits, at least {MIN_BITS} are needed")
    sizes = frame_sizes(n_bits)
    if len(seeds) != SEED_BYTES * sizes.size:
        raise CascadeError(
            f"{sizes.size} frames need {SEED_BYTES * sizes.size} bytes of seeds, got {len(seeds)}"
        )
    widths = np.array([(int(size) - 1).bit_length() for size in sizes], np.int64)
    blocks = np.array([block_sizes(int(size), qber) for size in sizes], np.int64)
    return kernels.Trees(sizes, widths, blocks, _pass_keys(seeds, widths))


def _frames(trees: kernels.Trees, bits: PackedBits) -> kernels.Frames:
    """The block cut into frames."""
    count, longest = trees.sizes.size, int(trees.sizes[0])
    cut = np.zeros((count, longest), np.uint8)
    flat, start = unpack(bits, int(trees.sizes.sum())), 0
    for f, size in enumerate(trees.sizes):
        cut[f, :size] = flat[start : start + size]
        start += size
    flat[:] = 0
    shape = (count, PASSES, (longest + 63) // 64)
    return kernels.Frames(
        bits=cut,
        rows=np.zeros(shape, np.uint64),
        known=np.zeros(shape, np.uint64),
        started=np.zeros(count, np.int64),
    )


def _pass_keys(seeds: bytes, widths: I64) -> U64:
    """The bijections of every frame and pass, expanded from the frame's 128-bit seed by splitmix64.

    splitmix64: Steele, Lea, Flood, OOPSLA 2014.  Multipliers are odd; their inverses modulo 2**64 serve modulo
    every smaller power of two, found by Newton's iteration (each step doubles the correct low bits).
    """
    words = np.frombuffer(seeds, dtype="<u8").reshape(widths.size, 2)
    index = np.arange(1, PASSES * 6 + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = words[:, :1] + index[None, :] * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27)) ^ words[:, 1:]) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
        state = state.reshape(widths.size, PASSES, 6)
        odd = state[:, :, :3] | np.uint64(1)
        inverse = odd.copy()
        for _ in range(6):
            inverse *= np.uint64(2) - odd * inverse
    return np.ascontiguousarray(np.concatenate([odd, state[:, :, 3:], inverse], axis=2))


class _Side:
    """What both sides keep of a block and of the conversation about it."""

    def __init__(self, bits: PackedBits, n_bits: int, qber: float, seeds: bytes) -> None:
        self._trees = _trees(n_bits, qber, seeds)
        self._frames = _frames(self._trees, bits)
        self.parity_bits = 0
        """Parity bits disclosed by the reference so far."""
        self.rounds = 0

    def wipe(self) -> None:
        """Overwrite the copies of the bits held here."""
        self._frames.bits[:] = 0
        self._frames.rows[:] = 0


class CascadeReference(_Side):
    """The side whose bits are right.  ``limit_bits`` bounds what it ever discloses."""

    def __init__(self, bits: PackedBits, n_bits: int, qber: float, seeds: bytes, limit_bits: int) -> None:
        super().__init__(bits, n_bits, qber, seeds)
        self._limit_bits = limit_bits

    def answer(self, request: ParityRequest) -> ParityReply:
        """The parities asked for; raises CascadeError for anything else and when the limit would be passed."""
        actions = np.frombuffer(request.actions, np.uint8)
        if (
            actions.size != self._trees.sizes.size
            or len(request.counts) != 4 * actions.size
            or len(request.positions) % 2
        ):
            raise CascadeError("a parity request of the wrong shape")
        counts = np.frombuffer(request.counts, "<u4").astype(np.int64)
        positions = np.frombuffer(request.positions, "<u2").astype(np.uint16)
        total = _checked(
            kernels.count_answers(self._trees, self._frames, actions, counts, positions.size),
            "parity request",
        )
        if total == 0:
            raise CascadeError("a parity request that asks nothing")
        if self.parity_bits + total > self._limit_bits:
            raise CascadeError(
                f"reconciliation would disclose {self.parity_bits + total} parity bits, the limit of this block"
                f" is {self._limit_bits}"
            )
        self.parity_bits += total
        self.rounds += 1
        out = np.empty(total, np.uint8)
        _checked(
            kernels.answer_round(self._trees, self._frames, actions, counts, positions, out), "parity request"
        )
        return ParityReply(parities=pack(out).tobytes())


class CascadeCorrector(_Side):
    """The side that corrects: ``request = next_request(None)``, then with every reply, until it returns None."""

    def __init__(self, bits: PackedBits, n_bits: int, qber: float, seeds: bytes) -> None:
        super().__init__(bits, n_bits, qber, seeds)
        count = self._trees.sizes.size
        capacity = int(self._trees.sizes[0] // self._trees.blocks.min()) + 1
        self._search = kernels.Search(
            odd=np.zeros_like(self._frames.known),
            odd_counts=np.zeros((count, PASSES), np.int64),
            reference_parity=np.zeros(count, np.int64),
            corrections=np.zeros(count, np.int64),
            starts=np.zeros((count, capacity), np.int64),
            lengths=np.zeros((count, capacity), np.int64),
        )
        self._actions = np.full(count, kernels.IDLE, np.uint8)
        self._counts = np.zeros(count, np.int64)
        self._positions = np.zeros(count * capacity, np.uint16)
        self.awaited_bits = 0
        """Parities that the last request asked for."""

    def next_request(self, reply: ParityReply | None) -> ParityRequest | None:
        """The next questions after ``reply`` (None at first); None when every frame is through."""
        answers = self._answers(reply)
        n_positions = _checked(
            kernels.correct_round(
                self._trees, self._frames, self._search, self._actions, self._counts, answers, self._positions
            ),
            "parity reply",
        )
        self.awaited_bits = _checked(
            kernels.count_answers(self._trees, self._frames, self._actions, self._counts, n_positions),
            "own request",
        )
        if not self.awaited_bits:
            return None
        self.rounds += 1
        return ParityRequest(
            actions=self._actions.tobytes(),
            counts=self._counts.astype("<u4").tobytes(),
            positions=self._positions[:n_positions].astype("<u2").tobytes(),
        )

    def _answers(self, reply: ParityReply | None) -> npt.NDArray[np.uint8]:
        if (reply is None) != (self.awaited_bits == 0):
            raise CascadeError("a parity reply out of turn")
        if reply is None:
            return np.zeros(0, np.uint8)
        if len(reply.parities) != packed_size(self.awaited_bits):
            raise CascadeError(
                f"{self.awaited_bits} parities were asked, the reply has {len(reply.parities)} bytes"
            )
        self.parity_bits += self.awaited_bits
        return unpack(np.frombuffer(reply.parities, np.uint8), self.awaited_bits)

    @property
    def corrected_bits(self) -> int:
        """Bits flipped, each of them an error of the original block."""
        return int(self._search.corrections.sum())

    def corrected(self) -> PackedBits:
        """The block as corrected, packed."""
        cut, sizes = self._frames.bits, self._trees.sizes
        return pack(np.concatenate([cut[f, :size] for f, size in enumerate(sizes)]))


def _checked(code: int, what: str) -> int:
    if code < 0:
        raise CascadeError(f"{what}: {_CODES[code]}")
    return int(code)


def compile_kernels() -> None:
    """Have numba compile (or load from its cache) everything before time matters; seconds the first time."""
    bits = pack(np.zeros(MIN_BITS, np.uint8))
    reference = CascadeReference(bits, MIN_BITS, 0.1, bytes(SEED_BYTES), limit_bits=8 * MIN_BITS)
    corrector = CascadeCorrector(bits, MIN_BITS, 0.1, bytes(SEED_BYTES))
    request = corrector.next_request(None)
    while request is not None:
        request = corrector.next_request(reference.answer(request))
