"""Packed bit arrays: the one bit order used everywhere in qunetlab.

Bit ``i`` of an array of ``n`` bits sits in byte ``i // 8`` at position ``i % 8``, least significant
first.  This is numpy's ``bitorder="little"`` and makes ``int.from_bytes(packed, "little")`` the integer
``sum(bit_i * 2**i)``, which is the form that privacy amplification multiplies.  Bits past the length in
the last byte are zero; every function here keeps that promise and :func:`check_packed` tests it.
"""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt

BitArray = npt.NDArray[np.uint8]
"""1-d uint8: one bit per element, values 0 or 1."""

PackedBits = npt.NDArray[np.uint8]
"""1-d uint8: eight bits per element, least significant first, unused high bits of the last byte zero."""


def packed_size(n_bits: int) -> int:
    """Bytes that hold ``n_bits`` bits."""
    if n_bits < 0:
        raise ValueError(f"a bit count cannot be negative, got {n_bits}")
    return (n_bits + 7) // 8


def pack(bits: BitArray) -> PackedBits:
    """Pack a 1-d array of 0/1 values (uint8 or bool)."""
    return np.packbits(bits, bitorder="little")


def unpack(packed: PackedBits, n_bits: int) -> BitArray:
    """The first ``n_bits`` bits of ``packed`` as uint8 zeros and ones.

    Raises ValueError if ``packed`` is shorter than ``n_bits``.
    """
    if packed.size * 8 < n_bits:
        raise ValueError(f"{packed.size} bytes cannot hold {n_bits} bits")
    return np.unpackbits(packed, count=n_bits, bitorder="little")


def slice_packed(packed: PackedBits, start: int, n_bits: int) -> PackedBits:
    """Bits ``start .. start + n_bits`` of ``packed`` as a packed array of its own (a copy)."""
    if start < 0 or n_bits < 0 or start + n_bits > packed.size * 8:
        raise ValueError(f"bits {start}..{start + n_bits} lie outside an array of {packed.size * 8} bits")
    first, shift = divmod(start, 8)
    size = packed_size(n_bits)
    if shift == 0:
        out = packed[first : first + size].copy()
    else:
        window = packed[first : first + size + 1].astype(np.uint16)
        if window.size < size + 1:
            window = np.append(window, np.uint16(0))
        out = ((window[:-1] >> shift) | (window[1:] << (8 - shift))).astype(np.uint8)[:size]
    if n_bits % 8 and size:
        out[-1] &= (1 << (n_bits % 8)) - 1
    return out


def check_packed(packed: PackedBits, n_bits: int) -> None:
    """Raise ValueError unless ``packed`` is exactly a packed array of ``n_bits`` bits."""
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size != packed_size(n_bits):
        raise ValueError(f"{n_bits} bits need a 1-d uint8 array of {packed_size(n_bits)} bytes")
    if n_bits % 8 and packed[-1] >> (n_bits % 8):
        raise ValueError("bits past the end of a packed array must be zero")


def whole(value: object, what: str) -> int:
    """``value`` as Python's int, whose arithmetic has no width; NumPy's integers are taken.

    Raises ValueError, calling it ``what``, for anything else: a float is refused rather than truncated.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{what} is a whole number, got {value!r}")
    return int(value)
