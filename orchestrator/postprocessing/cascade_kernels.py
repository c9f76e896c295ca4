"""The inner loops of Cascade over many frames at once, compiled by numba.

Layout.  A block is cut into frames of at most 65536 bits; a frame takes part in up to 8 passes, and pass ``p`` has
its own order of the bits.  For every frame and pass three rows of ``uint64`` words are kept, bit ``i`` of a row
in word ``i // 64`` at position ``i % 64``:

* ``bits[f, p]``: the frame's bits in the order of the pass;
* ``known[f, p]``: bit ``m`` set when the boundary ``m`` is known, i.e. the parity of ``[m - lowbit(m), m)`` was
  disclosed (``lowbit(m) = m & -m``);
* ``odd[f, p]`` (corrector): bit ``s`` set when the leaf interval that starts at ``s`` differs in parity.

Trees.  Blocks of a pass have a power-of-two size ``k`` and start at multiples of ``k`` (the last may be short).  Every
dyadic interval below a block is a node, and the middle ``m`` of a node of size ``2 lowbit(m)`` names that node: so
one number per question, and whatever number arrives, it can only mean an interval of a fixed tree.  The
leaves at any time are the intervals between neighbouring known boundaries.

Orders.  Pass 0 keeps the order of the key.  The others use a keyed bijection of ``0 .. 2**w - 1`` (three rounds of
``x -> x * odd + c mod 2**w`` and ``x ^= x >> ceil(w/2)``), walked until it lands below ``n``.  It can be
evaluated in both directions at any point, so no table of 65536 entries per frame and pass is stored.  It decides
efficiency, not secrecy: all it must be is unpredictable to whoever placed the errors.

Kernels check every number that came from the peer and return a negative code instead of touching memory outside;
they release the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

KEYS_PER_PASS = 9
"""Words of a pass's bijection: three odd multipliers, three offsets, three inverse multipliers."""

IDLE = 0xFF
"""Action of a frame that asks nothing."""
START = 0x80
"""Added to the pass number when a frame asks for the top-level parities of that pass."""

ERR_ACTION = -1
ERR_POSITION = -2
ERR_REPEATED = -3
ERR_COUNT = -4
ERR_INCONSISTENT = -5

_STRIDE = 1024
_ONE = np.uint64(1)
_SIX = np.uint64(6)
_LOW = np.uint64(63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, nogil=True)
def _signed(x: np.unsignedinteger[Any] | np.uint64) -> int:
    """A signed 64-bit integer: numba makes floats of mixed signed and unsigned arithmetic."""
    return np.int64(x)  # type: ignore[return-value]


@njit(cache=True, nogil=True)
def forward(position: int, key: U64, width: int, n: int) -> int:
    """Index of the bit at ``position`` of the pass."""
    half = np.uint64((width + 1) // 2)
    mask = (_ONE << np.uint64(width)) - _ONE
    y = np.uint64(position)
    while True:
        y = (y * key[0] + key[3]) & mask
        y ^= y >> half
        y = (y * key[1] + key[4]) & mask
        y ^= y >> half
        y = (y * key[2] + key[5]) & mask
        y ^= y >> half
        if y < np.uint64(n):
            return _signed(y)


@njit(cache=True, nogil=True)
def backward(index: int, key: U64, width: int, n: int) -> int:
    """Position in the pass of the bit with this index; undoes :func:`forward`."""
    half = np.uint64((width + 1) // 2)
    mask = (_ONE << np.uint64(width)) - _ONE
    y = np.uint64(index)
    while True:
        y ^= y >> half
        y = ((y - key[5]) * key[8]) & mask
        y ^= y >> half
        y = ((y - key[4]) * key[7]) & mask
        y ^= y >> half
        y = ((y - key[3]) * key[6]) & mask
        if y < np.uint64(n):
            return _signed(y)


@njit(cache=True, nogil=True)
def _scatter(base: int, key: U64, width: int, out: npt.NDArray[np.uint32]) -> None:
    """One application of the bijection to ``base .. base + out.size - 1``; 32-bit words, so that it vectorises."""
    half = np.uint32((width + 1) // 2)
    mask = np.uint32((1 << width) - 1)
    a0, a1, a2 = np.uint32(key[0]), np.uint32(key[1]), np.uint32(key[2])
    c0, c1, c2 = np.uint32(key[3]), np.uint32(key[4]), np.uint32(key[5])
    for i in range(out.size):
        y = np.uint32(base + i)
        y = np.uint32(np.uint32(y * a0) + c0) & mask
        y = np.uint32(y ^ np.uint32(y >> half))
        y = np.uint32(np.uint32(y * a1) + c1) & mask
        y = np.uint32(y ^ np.uint32(y >> half))
        y = np.uint32(np.uint32(y * a2) + c2) & mask
        out[i] = np.uint32(y ^ np.uint32(y >> half))


@njit(cache=True, nogil=True)
def fill_pass(frame: U8, n: int, key: U64, width: int, identity: bool, row: U64) -> None:
    """Write the ``n`` bits of ``frame`` (one per element) into ``row``, packed in the order of the pass."""
    indices = np.empty(_STRIDE, np.uint32)
    for base in range(0, n, _STRIDE):
        count = min(_STRIDE, n - base)
        if identity:
            for i in range(count):
                indices[i] = base + i
        else:
            _scatter(base, key, width, indices)
        if n != 1 << width:
            for i in range(count):
                index = _signed(indices[i])
                while index >= n:
                    index = forward(index, key, width, 1 << width)
                indices[i] = index
        for word in range((count + 63) // 64):
            acc = np.uint64(0)
            length = min(64, count - word * 64)
            if length == 64:  # a constant number of turns, which the compiler unrolls
                for bit in range(64):
                    acc |= np.uint64(frame[np.uint64(indices[word * 64 + bit])]) << np.uint64(bit)
            else:
                for bit in range(length):
                    acc |= np.uint64(frame[np.uint64(indices[word * 64 + bit])]) << np.uint64(bit)
            row[(base >> 6) + word] = acc


@njit(cache=True, nogil=True)
def parity(row: U64, start: int, stop: int) -> int:
    """Parity of bits ``start .. stop - 1`` of a packed row; ``start < stop``."""
    first, last = start >> 6, (stop - 1) >> 6
    head = _ALL << (np.uint64(start) & _LOW)
    tail = _ALL >> (_LOW - (np.uint64(stop - 1) & _LOW))
    if first == last:
        acc = row[first] & head & tail
    else:
        acc = (row[first] & head) ^ (row[last] & tail)
        for word in range(first + 1, last):
            acc ^= row[word]
    acc ^= acc >> np.uint64(32)
    acc ^= acc >> np.uint64(16)
    acc ^= acc >> np.uint64(8)
    acc ^= acc >> np.uint64(4)
    acc ^= acc >> np.uint64(2)
    acc ^= acc >> _ONE
    return _signed(acc & _ONE)


@njit(cache=True, nogil=True)
def _get(row: U64, i: int) -> bool:
    place = np.uint64(i)
    return bool((row[place >> _SIX] >> (place & _LOW)) & _ONE)


@njit(cache=True, nogil=True)
def _flip(row: U64, i: int) -> None:
    place = np.uint64(i)
    row[place >> _SIX] ^= _ONE << (place & _LOW)


@njit(cache=True, nogil=True)
def _leaf(known: U64, position: int, k: int, n: int) -> tuple[int, int]:
    """(start, size) of the leaf that holds ``position``; the size is cut so that its middle lies below ``n``."""
    start, size = position - position % k, k
    while size > 1:
        middle = start + size // 2
        if middle >= n:
            size //= 2
        elif _get(known, middle):
            size //= 2
            if position >= middle:
                start = middle
        else:
            break
    return start, size


@njit(cache=True, nogil=True)
def answer_round(
    frames: U8,
    sizes: I64,
    blocks: I64,
    keys: U64,
    widths: I64,
    bits: U64,
    known: U64,
    started: I64,
    actions: U8,
    counts: I64,
    positions: U16,
    out: U8,
) -> int:
    """One round of the reference: the parities asked for, in order, into ``out``; their number or a negative code.

    ``frames`` (F, n_max) bits; ``sizes`` (F,), ``blocks`` (F, P) and ``keys`` (F, P, 9) fix the trees; ``bits`` and
    ``known`` (F, P, W) and ``started`` (F,) are the state.  ``out`` must hold every answer (see
    :func:`count_answers`, which also checks ``actions`` and ``counts``).
    """
    written, read = 0, 0
    for f in range(sizes.size):
        action = _signed(actions[f])
        if action == IDLE:
            continue
        n = sizes[f]
        p = action & 0x7F
        k = blocks[f, p]
        row = bits[f, p]
        if action >= START:
            fill_pass(frames[f], n, keys[f, p], widths[f], p == 0, row)
            started[f] = p + 1
            n_blocks = (n + k - 1) // k
            for b in range(n_blocks if p == 0 else n_blocks - 1):
                out[written] = parity(row, b * k, min((b + 1) * k, n))
                written += 1
            continue
        for _ in range(counts[f]):
            m = _signed(positions[read])
            read += 1
            low = m & -m
            if m == 0 or m >= n or low >= k:
                return ERR_POSITION
            if _get(known[f, p], m):
                return ERR_REPEATED
            _flip(known[f, p], m)
            out[written] = parity(row, m - low, m)
            written += 1
    return written


@njit(cache=True, nogil=True)
def count_answers(sizes: I64, blocks: I64, started: I64, actions: U8, counts: I64, n_positions: int) -> int:
    """Number of parities a request would disclose, or a negative code if it is not well formed."""
    total, asked = 0, 0
    for f in range(sizes.size):
        action = _signed(actions[f])
        if action == IDLE:
            if counts[f] != 0:
                return ERR_COUNT
            continue
        p = action & 0x7F
        if action >= START:
            if p != started[f] or p >= blocks.shape[1]:
                return ERR_ACTION
            if counts[f] != 0:
                return ERR_COUNT
            n_blocks = (sizes[f] + blocks[f, p] - 1) // blocks[f, p]
            total += n_blocks if p == 0 else n_blocks - 1
        else:
            if p >= started[f]:
                return ERR_ACTION
            if counts[f] <= 0 or counts[f] >= sizes[f]:
                return ERR_COUNT
            total += counts[f]
            asked += counts[f]
    return total if asked == n_positions else ERR_COUNT


@njit(cache=True, nogil=True)
def _correct(
    f: int,
    index: int,
    n: int,
    blocks: I64,
    keys: U64,
    width: int,
    bits: U64,
    known: U64,
    odd: U64,
    odd_counts: I64,
    n_started: int,
    frames: U8,
    corrections: I64,
) -> None:
    """Flip the bit ``index`` of frame ``f`` and tell the leaf that holds it in every started pass."""
    corrections[f] += 1
    frames[f, index] ^= 1
    for q in range(n_started):
        position = index if q == 0 else backward(index, keys[f, q], width, n)
        _flip(bits[f, q], position)
        start, _ = _leaf(known[f, q], position, blocks[f, q], n)
        _flip(odd[f, q], start)
        odd_counts[f, q] += 1 if _get(odd[f, q], start) else -1


@njit(cache=True, nogil=True)
def _absorb_start(
    n: int, k: int, row: U64, odd: U64, first: bool, frame_parity: int, answers: U8, read: int
) -> tuple[int, int, int]:
    """Compare the top-level parities of a pass; (odd blocks, parity of the reference's frame, answers used)."""
    n_blocks = (n + k - 1) // k
    n_odd, rest, used = 0, frame_parity, 0
    for b in range(n_blocks):
        if first or b < n_blocks - 1:
            theirs = _signed(answers[read + used])
            used += 1
            rest ^= theirs
        else:
            theirs = rest
        if theirs ^ parity(row, b * k, min((b + 1) * k, n)):
            _flip(odd, b * k)
            n_odd += 1
    return n_odd, (rest if first else frame_parity), used


@njit(cache=True, nogil=True)
def _collect(n: int, k: int, known: U64, odd: U64, starts: I64, leaf_sizes: I64) -> int:
    """List the odd leaves of a pass (as many as fit); their number."""
    found = 0
    for word in range((n + 63) // 64):
        if odd[word] == 0:
            continue
        for b in range(64):
            if (odd[word] >> np.uint64(b)) & _ONE:
                if found == starts.size:
                    return found
                start, size = _leaf(known, word * 64 + b, k, n)
                starts[found] = start
                leaf_sizes[found] = size
                found += 1
    return found


@njit(cache=True, nogil=True)
def _correct_single_bits(
    f: int,
    p: int,
    active: int,
    n: int,
    width: int,
    blocks: I64,
    keys: U64,
    bits: U64,
    known: U64,
    odd: U64,
    odd_counts: I64,
    n_started: int,
    frames: U8,
    corrections: I64,
    leaf_starts: I64,
    leaf_sizes: I64,
) -> int:
    """Correct the listed odd leaves of pass ``p`` that are single bits, keep the others; their number."""
    kept = 0
    for i in range(active):
        start, size = leaf_starts[f, i], leaf_sizes[f, i]
        if size > 1:
            leaf_starts[f, kept] = start
            leaf_sizes[f, kept] = size
            kept += 1
            continue
        index = start if p == 0 else forward(start, keys[f, p], width, n)
        _correct(
            f, index, n, blocks, keys, width, bits, known, odd, odd_counts, n_started, frames, corrections
        )
    return kept


@njit(cache=True, nogil=True)
def correct_round(
    frames: U8,
    sizes: I64,
    blocks: I64,
    keys: U64,
    widths: I64,
    bits: U64,
    known: U64,
    odd: U64,
    odd_counts: I64,
    started: I64,
    frame_parity: I64,
    corrections: I64,
    leaf_starts: I64,
    leaf_sizes: I64,
    actions: U8,
    counts: I64,
    answers: U8,
    positions: U16,
) -> int:
    """One round of the corrector: take in the answers to the last request, decide and write the next one.

    ``actions``, ``counts`` (F,) hold the last request and are overwritten by the next; its boundaries go into
    ``positions``, their number is returned (or a negative code).  ``leaf_starts`` and ``leaf_sizes`` (F, C) are the
    intervals being bisected, all of one pass per frame: intervals of one pass are disjoint, so no error is
    searched twice.
    """
    read, written = 0, 0
    for f in range(sizes.size):
        action = _signed(actions[f])
        n, width, p = sizes[f], widths[f], action & 0x7F
        active = 0
        if action == IDLE:
            if started[f] > 0:
                continue
        elif action >= START:
            started[f] = p + 1
            odd_counts[f, p], frame_parity[f], used = _absorb_start(
                n, blocks[f, p], bits[f, p], odd[f, p], p == 0, frame_parity[f], answers, read
            )
            read += used
        else:
            for i in range(counts[f]):
                start, size = leaf_starts[f, i], leaf_sizes[f, i] // 2
                _flip(known[f, p], start + size)
                if _signed(answers[read]) == parity(bits[f, p], start, start + size):
                    _flip(odd[f, p], start)
                    start += size
                    _flip(odd[f, p], start)
                read += 1
                while size > 1 and start + size // 2 >= n:
                    size //= 2
                leaf_starts[f, active] = start
                leaf_sizes[f, active] = size
                active += 1
        while True:
            active = _correct_single_bits(
                f, p, active, n, width, blocks, keys, bits, known, odd, odd_counts, started[f], frames, corrections,
                leaf_starts, leaf_sizes,
            )  # fmt: skip
            if corrections[f] > 2 * n:
                return ERR_INCONSISTENT
            if active > 0:
                break
            p = 0
            while p < started[f] and odd_counts[f, p] == 0:
                p += 1
            if p == started[f]:
                break
            active = _collect(n, blocks[f, p], known[f, p], odd[f, p], leaf_starts[f], leaf_sizes[f])
        counts[f] = active
        if active > 0:
            actions[f] = p
            for i in range(active):
                positions[written] = leaf_starts[f, i] + leaf_sizes[f, i] // 2
                written += 1
        elif started[f] < blocks.shape[1]:
            p = started[f]
            fill_pass(frames[f], n, keys[f, p], width, p == 0, bits[f, p])
            actions[f] = START + p
        else:
            actions[f] = IDLE
    return written
