"""The trees of Cascade: orders of the bits, parities of intervals, and the leaves; compiled by numba.

Rows.  A row is an array of ``uint64`` words, bit ``i`` in word ``i // 64`` at position ``i % 64``.

Trees.  Blocks of a pass have a power-of-two size ``k`` and start at multiples of ``k`` (the last may be short).  Every
dyadic interval below a block is a node, and the middle ``m`` of a node of size ``2 lowbit(m)`` names that node
(``lowbit(m) = m & -m``): so one number per question, and whatever number arrives, it can only mean an interval of a
fixed tree.  A boundary ``m`` is known when the parity of ``[m - lowbit(m), m)`` was disclosed; the leaves at any
time are the intervals between neighbouring known boundaries.

Orders.  Pass 0 keeps the order of the key.  The others use a keyed bijection of ``0 .. 2**w - 1`` (three rounds of
``x -> x * odd + c mod 2**w`` and ``x ^= x >> ceil(w/2)``, which undoes itself), walked until it lands below ``n``.
It can be evaluated in both directions at any point, so no table of 65536 entries per frame and pass is stored.  It
decides efficiency, not secrecy: all it must be is unpredictable to whoever placed the errors.

Everything here releases the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.kernels import kernel

U8 = npt.NDArray[np.uint8]
"""1-d uint8."""
U32 = npt.NDArray[np.uint32]
"""1-d uint32."""
U64 = npt.NDArray[np.uint64]
"""1-d uint64."""

_STRIDE = 1024
_ONE = np.uint64(1)
_SIX = np.uint64(6)
_LOW = np.uint64(63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel
def signed(x: np.unsignedinteger[Any] | np.uint64) -> int:
    """A signed 64-bit integer: numba makes floats of mixed signed and unsigned arithmetic."""
    return np.int64(x)  # type: ignore[return-value]


@kernel
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
            return signed(y)


@kernel
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
            return signed(y)


@kernel
def _scatter(base: int, key: U64, width: int, out: U32) -> None:
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


@kernel
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
                index = signed(indices[i])
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


@kernel
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
    return signed(acc & _ONE)


@kernel
def get(row: U64, i: int) -> bool:
    place = np.uint64(i)
    return bool((row[place >> _SIX] >> (place & _LOW)) & _ONE)


@kernel
def flip(row: U64, i: int) -> None:
    place = np.uint64(i)
    row[place >> _SIX] ^= _ONE << (place & _LOW)


@kernel
def leaf(known: U64, position: int, k: int, n: int) -> tuple[int, int]:
    """(start, size) of the leaf that holds ``position``; the size is cut so that its middle lies below ``n``."""
    start, size = position - position % k, k
    while size > 1:
        middle = start + size // 2
        if middle >= n:
            size //= 2
        elif get(known, middle):
            size //= 2
            if position >= middle:
                start = middle
        else:
            break
    return start, size
