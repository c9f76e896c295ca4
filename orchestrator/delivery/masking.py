"""Masking of a quantised update: sums of b-bit numbers modulo 2^b, on packed bits.

Client i of the pairwise-pad protocol (QuNetQFL, arXiv:2501.12709; docs/formulas.md, Secure sums) sends

    y_i = w_i q_i + sum_{j > i} k_ij - sum_{j < i} k_ij   (mod 2^b),

one integer modulo 2^b, ``b = ring_width`` bits, per value.  Value ``v`` occupies bits ``v b .. (v + 1) b`` of a
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
from orchestrator.delivery.ring_width import MAX_RING_WIDTH, checked_width, largest_sum
from orchestrator.kernels import kernel

Words = npt.NDArray[np.uint64]
"""1-d uint64, little endian: packed bits, 64 in a word, least significant first."""


@lru_cache(maxsize=MAX_RING_WIDTH)
def _top_bits(ring_width: int) -> Words:
    """The top bit of every field in ``ring_width`` words of 64 bits, after which the pattern repeats."""
    bits = np.zeros(64 * ring_width, np.uint8)
    bits[ring_width - 1 :: ring_width] = 1
    return np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)


@kernel
def _pack(
    values: npt.NDArray[np.int64], weight: np.int64, ring_width: int, out: npt.NDArray[np.uint32]
) -> int:
    """Pack weight * values; returns the largest magnitude seen, or -1 if a product overflows."""
    field = np.uint64((1 << ring_width) - 1)
    width = np.uint64(ring_width)
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
def _unpack(words: npt.NDArray[np.uint32], ring_width: int, out: npt.NDArray[np.int64]) -> None:
    field = np.uint64((1 << ring_width) - 1)
    half = np.int64(1 << (ring_width - 1))
    for index in range(out.size):
        bit = index * ring_width
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


def as_words(packed: PackedBits, n_bits: int) -> Words:
    """``packed`` as little-endian 64-bit words, zero-filled at the end (a copy only where needed)."""
    check_packed(packed, n_bits)
    if packed.size % 8 == 0 and packed.flags.c_contiguous and packed.ctypes.data % 8 == 0:
        return packed.view("<u8")
    words = np.zeros((packed.size + 7) // 8, "<u8")
    words.view(np.uint8)[: packed.size] = packed
    return words


def pack_values(values: npt.NDArray[np.int64], ring_width: int, weight: int = 1) -> PackedBits:
    """``weight * values`` modulo 2^ring_width, packed; raises ValueError where one does not fit."""
    ring_width = checked_width(ring_width)
    return _packed_words(values, ring_width, weight).view(np.uint8)[: packed_size(values.size * ring_width)]


def _packed_words(values: npt.NDArray[np.int64], ring_width: int, weight: int) -> Words:
    weight = whole(weight, "a weight")
    limit = largest_sum(ring_width)
    if values.dtype != np.int64 or values.ndim != 1:
        raise ValueError(f"values are a 1-d int64 array, got {values.dtype} with {values.ndim} dimensions")
    if not 1 <= weight <= limit:
        raise ValueError(f"a weight is 1 to {limit} at a ring width of {ring_width} bits, got {weight}")
    words = np.zeros((values.size * ring_width + 63) // 64, "<u8")
    largest = _pack(np.ascontiguousarray(values), np.int64(weight), ring_width, words.view("<u4"))
    if largest < 0 or largest * weight > limit:
        raise ValueError(
            f"a weighted value does not fit a ring width of {ring_width} bits (at most {limit} in magnitude);"
            " lower the levels or the weights, or take a larger ring width"
        )
    return words


def unpack_values(packed: PackedBits, n_values: int, ring_width: int) -> npt.NDArray[np.int64]:
    """The ``n_values`` integers modulo 2^ring_width of a packed array, read as signed numbers."""
    ring_width, n_values = checked_width(ring_width), whole(n_values, "a number of values")
    check_packed(packed, n_values * ring_width)
    words = np.zeros(packed.size // 4 + 2, "<u4")
    words.view(np.uint8)[: packed.size] = packed
    out = np.empty(n_values, np.int64)
    _unpack(words, ring_width, out)
    return out


def add_packed(target: PackedBits, other: PackedBits, n_values: int, ring_width: int) -> PackedBits:
    """The sum of two packed arrays, field by field modulo 2^ring_width (a new array)."""
    ring_width, n_values = checked_width(ring_width), whole(n_values, "a number of values")
    total = as_words(target, n_values * ring_width).copy()
    _add(total, as_words(other, n_values * ring_width), _top_bits(ring_width))
    return total.view(np.uint8)[: packed_size(n_values * ring_width)]


def add_words(total: Words, other: Words, ring_width: int) -> None:
    """``total += other`` in place, field by field; both as 64-bit words, zero-filled at the end."""
    ring_width = checked_width(ring_width)
    _add(total, other, _top_bits(ring_width))


def subtract_words(total: Words, other: Words, ring_width: int) -> None:
    """``total -= other`` in place, field by field; both as 64-bit words, zero-filled at the end."""
    ring_width = checked_width(ring_width)
    _subtract(total, other, _top_bits(ring_width))


def mask(
    values: npt.NDArray[np.int64],
    pads: Sequence[PackedBits],
    signs: Sequence[int],
    ring_width: int,
    weight: int = 1,
) -> PackedBits:
    """``weight * values + sum(signs[j] * pads[j])`` modulo 2^ring_width, packed.

    ``values``: 1-d int64.  ``pads``: packed arrays of exactly ``len(values) * ring_width`` bits.
    ``signs``: +1 or -1 per pad.  Raises ValueError where a weighted value does not fit the ring width.
    """
    ring_width = checked_width(ring_width)
    if len(pads) != len(signs) or any(sign not in (1, -1) for sign in signs):
        raise ValueError("every pad needs one sign, +1 or -1")
    n_bits = values.size * ring_width
    total = _packed_words(values, ring_width, weight)
    for pad, sign in zip(pads, signs, strict=True):
        (_add if sign == 1 else _subtract)(total, as_words(pad, n_bits), _top_bits(ring_width))
    return total.view(np.uint8)[: packed_size(n_bits)]
