"""Masking of a quantised update: sums of b-bit numbers modulo 2^b, on packed bits.

Client i of the pairwise-pad protocol (QuNetQFL, arXiv:2501.12709; FL.md section 1) sends

    y_i = w_i q_i + sum_{j > i} k_ij - sum_{j < i} k_ij   (mod 2^b),

one ring element of ``b = ring_bits`` bits per value.  Value ``v`` occupies bits ``v b .. (v + 1) b`` of a
packed array (:mod:`orchestrator.bits`), of an update and of a pad alike, so a pad is used exactly as it
comes from the key store.

The pads are never unpacked: all fields of a packed array are added at once, as one long integer.  With H the
top bit of every field,

    x + y = ((x & ~H) + (y & ~H)) ^ ((x ^ y) & H),      x - y = ((x | H) - (y & ~H)) ^ ((x ^ ~y) & H)

(Warren, Hacker's Delight, 2nd ed., section 2-18); no carry crosses from field to field, and a carry between
the 64-bit words of a field that straddles two is handed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from orchestrator.bits import PackedBits, check_packed, packed_size, whole
from orchestrator.kernels import kernel

MAX_RING_BITS = 32
Words = npt.NDArray[np.uint64]


def _check_ring(ring_bits: int) -> int:
    """``ring_bits`` as Python's int."""
    ring_bits = whole(ring_bits, "ring_bits")
    if not 2 <= ring_bits <= MAX_RING_BITS:
        raise ValueError(f"ring_bits is 2 to {MAX_RING_BITS}, got {ring_bits}")
    return ring_bits


def largest_sum(ring_bits: int) -> int:
    """The largest magnitude that a sum may reach without wrapping: 2^(b-1) - 1."""
    return (1 << (_check_ring(ring_bits) - 1)) - 1


@lru_cache(maxsize=MAX_RING_BITS)
def _top_bits(ring_bits: int) -> Words:
    """The top bit of every field in ``ring_bits`` words of 64 bits, after which the pattern repeats."""
    bits = np.zeros(64 * ring_bits, np.uint8)
    bits[ring_bits - 1 :: ring_bits] = 1
    return np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)


@kernel
def _pack(
    values: npt.NDArray[np.int64], weight: np.int64, ring_bits: int, out: npt.NDArray[np.uint32]
) -> int:
    """Pack weight * values; returns the largest magnitude seen, or -1 if a product overflows."""
    field = np.uint64((1 << ring_bits) - 1)
    width = np.uint64(ring_bits)
    low = np.uint64(0xFFFFFFFF)
    acc, have, word = np.uint64(0), np.uint64(0), 0
    smallest, largest = np.int64(0), np.int64(0)
    for value in values:
        smallest, largest = min(smallest, value), max(largest, value)
        acc |= (np.uint64(value * weight) & field) << have
        have += width
        if have >= np.uint64(32):
            out[word] = np.uint32(acc & low)
            word += 1
            acc >>= np.uint64(32)
            have -= np.uint64(32)
    if have > np.uint64(0):
        out[word] = np.uint32(acc & low)
    if smallest < -(2**62):
        return -1
    return int(max(-smallest, largest))


@kernel
def _unpack(words: npt.NDArray[np.uint32], ring_bits: int, out: npt.NDArray[np.int64]) -> None:
    field = np.uint64((1 << ring_bits) - 1)
    half = np.int64(1 << (ring_bits - 1))
    for index in range(out.size):
        bit = index * ring_bits
        word = bit >> 5
        pair = np.uint64(words[word]) | (np.uint64(words[word + 1]) << np.uint64(32))
        value = np.int64((pair >> np.uint64(bit & 31)) & field)
        out[index] = value - 2 * half if value >= half else value


@kernel
def _add(target: Words, other: Words, top_bits: Words) -> None:
    """target += other, field by field."""
    carry, phase = np.uint64(0), 0
    for word in range(target.size):
        top = top_bits[phase]
        phase = phase + 1 if phase + 1 < top_bits.size else 0
        x, y = target[word], other[word]
        left = x & ~top
        partial = left + (y & ~top)
        total = partial + carry
        carry = np.uint64(partial < left) | np.uint64(total < partial)
        target[word] = total ^ ((x ^ y) & top)


@kernel
def _subtract(target: Words, other: Words, top_bits: Words) -> None:
    """target -= other, field by field."""
    borrow, phase = np.uint64(0), 0
    for word in range(target.size):
        top = top_bits[phase]
        phase = phase + 1 if phase + 1 < top_bits.size else 0
        x, y = target[word], other[word]
        left, right = x | top, y & ~top
        partial = left - right
        total = partial - borrow
        borrow = np.uint64(left < right) | np.uint64(partial < borrow)
        target[word] = total ^ ((x ^ ~y) & top)


def _words(packed: PackedBits, n_bits: int) -> Words:
    """``packed`` as little-endian 64-bit words, zero-filled at the end (a copy only where needed)."""
    check_packed(packed, n_bits)
    if packed.size % 8 == 0 and packed.flags.c_contiguous and packed.ctypes.data % 8 == 0:
        return packed.view("<u8")
    words = np.zeros((packed.size + 7) // 8, "<u8")
    words.view(np.uint8)[: packed.size] = packed
    return words


def pack_values(values: npt.NDArray[np.int64], ring_bits: int, weight: int = 1) -> PackedBits:
    """``weight * values`` modulo 2^ring_bits, packed; raises ValueError where one lies outside the ring."""
    ring_bits = _check_ring(ring_bits)
    return _packed_words(values, ring_bits, weight).view(np.uint8)[: packed_size(values.size * ring_bits)]


def _packed_words(values: npt.NDArray[np.int64], ring_bits: int, weight: int) -> Words:
    weight = whole(weight, "a weight")
    limit = largest_sum(ring_bits)
    if values.dtype != np.int64 or values.ndim != 1:
        raise ValueError(f"values are a 1-d int64 array, got {values.dtype} with {values.ndim} dimensions")
    if not 1 <= weight <= limit:
        raise ValueError(f"a weight is 1 to {limit} in a ring of {ring_bits} bits, got {weight}")
    words = np.zeros((values.size * ring_bits + 63) // 64, "<u8")
    largest = _pack(np.ascontiguousarray(values), np.int64(weight), ring_bits, words.view("<u4"))
    if largest < 0 or largest * weight > limit:
        raise ValueError(
            f"a weighted value does not fit a ring of {ring_bits} bits (at most {limit} in magnitude);"
            " lower the levels or the weights, or widen the ring"
        )
    return words


def unpack_values(packed: PackedBits, n_values: int, ring_bits: int) -> npt.NDArray[np.int64]:
    """The ``n_values`` ring elements of a packed array, read as signed numbers."""
    ring_bits, n_values = _check_ring(ring_bits), whole(n_values, "a number of values")
    check_packed(packed, n_values * ring_bits)
    words = np.zeros(packed.size // 4 + 2, "<u4")
    words.view(np.uint8)[: packed.size] = packed
    out = np.empty(n_values, np.int64)
    _unpack(words, ring_bits, out)
    return out


def add_packed(target: PackedBits, other: PackedBits, n_values: int, ring_bits: int) -> PackedBits:
    """The sum of two packed arrays, field by field modulo 2^ring_bits (a new array)."""
    ring_bits, n_values = _check_ring(ring_bits), whole(n_values, "a number of values")
    total = _words(target, n_values * ring_bits).copy()
    _add(total, _words(other, n_values * ring_bits), _top_bits(ring_bits))
    return total.view(np.uint8)[: packed_size(n_values * ring_bits)]


def add_words(total: Words, other: Words, ring_bits: int) -> None:
    """``total += other`` in place, field by field; both as 64-bit words, zero-filled at the end."""
    ring_bits = _check_ring(ring_bits)
    _add(total, other, _top_bits(ring_bits))


def subtract_words(total: Words, other: Words, ring_bits: int) -> None:
    """``total -= other`` in place, field by field; both as 64-bit words, zero-filled at the end."""
    ring_bits = _check_ring(ring_bits)
    _subtract(total, other, _top_bits(ring_bits))


def mask(
    values: npt.NDArray[np.int64],
    pads: Sequence[PackedBits],
    signs: Sequence[int],
    ring_bits: int,
    weight: int = 1,
) -> PackedBits:
    """``weight * values + sum(signs[j] * pads[j])`` modulo 2^ring_bits, packed.

    ``values``: 1-d int64.  ``pads``: packed arrays of exactly ``len(values) * ring_bits`` bits.
    ``signs``: +1 or -1 per pad.  Raises ValueError where a weighted value does not fit the ring.
    """
    ring_bits = _check_ring(ring_bits)
    if len(pads) != len(signs) or any(sign not in (1, -1) for sign in signs):
        raise ValueError("every pad needs one sign, +1 or -1")
    n_bits = values.size * ring_bits
    total = _packed_words(values, ring_bits, weight)
    for pad, sign in zip(pads, signs, strict=True):
        (_add if sign == 1 else _subtract)(total, _words(pad, n_bits), _top_bits(ring_bits))
    return total.view(np.uint8)[: packed_size(n_bits)]
