"""Arithmetic in a prime field F_p: symbols drawn exactly uniformly, packed tightly, multiplied exactly.

A symbol is an integer in ``[0, p)``, kept as uint32; ``p < 2^31``.  Three ideas carry the module.

*Matrix products by BLAS.*  A product of matrices over the integers ``[0, p)`` with inner dimension k is exact
in float64 as long as every partial sum stays at or below 2^53, i.e. ``k (p-1)^2 <= 2^53``, in whatever order
BLAS adds.  Larger primes split the left factor into limbs of fewer bits, one product each.

*Rejection sampling.*  Random bits are cut into words of ``ceil(log2 p)`` bits and words at or above p are
thrown away.  Reducing them modulo p instead would make small symbols more likely than large ones: by a factor
of two wherever a power of two lies between.

*Packing.*  Symbols travel at ``ceil(log2 p)`` bits each, in the bit order of :mod:`orchestrator.bits`, so
that they can be XORed with a one-time pad.  A packed word can hold a number that is no symbol; unpacking
refuses it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fl.modes.primes import MAX_MODULUS_BITS, FieldError, symbol_bits
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.masking import unpack_values
from orchestrator.kernels import kernel
from orchestrator.randomness import RandomBytes

Symbols = npt.NDArray[np.uint32]
"""uint32 of any shape: elements of F_p, each in ``[0, p)``."""

EXACT_IN_FLOAT64 = 1 << 53
BLOCK = 1 << 15
"""Numbers per block of a product: 256 KiB of float64."""


def check_symbols(symbols: npt.NDArray[np.integer], modulus: int, what: str) -> None:
    """Raise FieldError unless every number of ``symbols`` (integers of any shape, uint32 to int64) is in ``[0, p)``."""
    if symbols.size and (symbols.max() >= modulus or symbols.min() < 0):
        bad = int(np.argmax((symbols >= modulus) | (symbols < 0)))
        raise FieldError(
            f"{what}: value {bad} of {symbols.size} is not a number from 0 to {modulus - 1}, so it is no"
            f" symbol of F_{modulus}; it was damaged, or sealed under another pad"
        )


# -- randomness ----------------------------------------------------------------------------------------


@kernel
def _keep_below(
    words: npt.NDArray[np.generic], mask: np.uint32, modulus: np.uint32, out: Symbols, filled: int
) -> int:
    """Append the masked words below p to ``out`` from position ``filled``; returns the new filling."""
    for word in words:
        value = np.uint32(word) & mask
        if filled == out.size:
            break
        out[filled] = value
        filled += 1 if value < modulus else 0
    return filled


def draw_symbols(n_symbols: int, modulus: int, random_bytes: RandomBytes) -> Symbols:
    """``n_symbols`` independent symbols, exactly uniform if ``random_bytes`` is."""
    bits = symbol_bits(modulus)
    word = np.dtype("u1") if bits <= 8 else np.dtype("<u2") if bits <= 16 else np.dtype("<u4")
    out = np.empty(n_symbols, np.uint32)
    filled = 0
    while filled < n_symbols:
        wanted = ((n_symbols - filled) << bits) // modulus
        words = np.frombuffer(random_bytes((wanted + wanted // 100 + 16) * word.itemsize), word)
        filled = _keep_below(words, np.uint32((1 << bits) - 1), np.uint32(modulus), out, filled)
    return out


# -- packing -------------------------------------------------------------------------------------------


@kernel
def _pack(symbols: Symbols, width: np.uint64, out: npt.NDArray[np.uint32]) -> None:
    low = np.uint64(0xFFFFFFFF)
    acc, have, word = np.uint64(0), np.uint64(0), 0
    for symbol in symbols:
        acc |= np.uint64(symbol) << have
        have += width
        if have >= np.uint64(32):
            out[word] = np.uint32(acc & low)
            word += 1
            acc >>= np.uint64(32)
            have -= np.uint64(32)
    if have > np.uint64(0):
        out[word] = np.uint32(acc & low)


def pack_symbols(symbols: Symbols, bits: int) -> PackedBits:
    """A 1-d array of symbols at ``bits`` bits each; raises FieldError where one does not fit."""
    if symbols.ndim != 1 or not 2 <= bits <= MAX_MODULUS_BITS:
        raise FieldError(f"cannot pack an array of {symbols.ndim} dimensions at {bits} bits a symbol")
    check_symbols(symbols, 1 << bits, "symbols to pack")
    words = np.zeros((symbols.size * bits + 31) // 32, "<u4")
    _pack(np.ascontiguousarray(symbols, np.uint32), np.uint64(bits), words)
    return words.view(np.uint8)[: packed_size(symbols.size * bits)]


def unpack_symbols(packed: PackedBits, n_symbols: int, bits: int, modulus: int) -> Symbols:
    """The symbols of a packed array; raises FieldError where a word is no symbol of F_p.

    Raises ValueError unless ``packed`` is exactly a packed array of ``n_symbols * bits`` bits.
    """
    if bits != symbol_bits(modulus):
        raise FieldError(f"symbols of F_{modulus} have {symbol_bits(modulus)} bits, not {bits}")
    symbols = (unpack_values(packed, n_symbols, bits) & ((1 << bits) - 1)).astype(np.uint32)
    check_symbols(symbols, modulus, "packed symbols")
    return symbols


# -- products ------------------------------------------------------------------------------------------


@kernel
def _remainder(value: float, modulus: float, inverse: float) -> float:
    """An exact integer in ``[0, 2^53]`` modulo p.

    The rounded quotient is off by less than ``2^53 / p * 2^-52 = 2 / p``, hence by at most one after floor.
    """
    rest = value - float(np.floor(value * inverse)) * modulus
    rest = rest + modulus if rest < 0.0 else rest
    return rest - modulus if rest >= modulus else rest


@kernel
def _reduce(products: npt.NDArray[np.float64], modulus: float, out: Symbols, start: int) -> None:
    """``products`` modulo p into the columns of ``out`` from ``start``."""
    inverse = 1.0 / modulus
    for row in range(products.shape[0]):
        for column in range(products.shape[1]):
            rest = _remainder(products[row, column], modulus, inverse)
            out[row, start + column] = np.uint32(rest)


@kernel
def _reduce_add(
    products: npt.NDArray[np.float64], modulus: float, scale: int, out: Symbols, start: int
) -> None:
    """Add ``scale * products`` modulo p to the columns of ``out`` from ``start``."""
    inverse = 1.0 / modulus
    for row in range(products.shape[0]):
        for column in range(products.shape[1]):
            rest = np.int64(_remainder(products[row, column], modulus, inverse))
            total = (np.int64(out[row, start + column]) + rest * np.int64(scale)) % np.int64(modulus)
            out[row, start + column] = np.uint32(total)


def limb_bits(inner: int, modulus: int) -> int:
    """Bits of the left factor that one exact float64 product may use: the largest c such that
    ``inner (2^c - 1) (p - 1) <= 2^53``, at most those of a symbol."""
    widest = EXACT_IN_FLOAT64 // (max(inner, 1) * (modulus - 1)) + 1
    if inner * (modulus - 1) ** 2 <= EXACT_IN_FLOAT64:
        return symbol_bits(modulus)
    return min(widest.bit_length() - 1, symbol_bits(modulus))


def matmul(left: Symbols, right: Symbols, modulus: int) -> Symbols:
    """``left @ right`` over F_p: shapes (n, k) and (k, m).

    Works through blocks of columns that stay in the cache.  Raises FieldError where k is so large that not
    even single bits multiply exactly.
    """
    if modulus.bit_length() > MAX_MODULUS_BITS:
        raise FieldError(f"the modulus {modulus} has more than {MAX_MODULUS_BITS} bits")
    (n, k), m = left.shape, right.shape[1]
    bits, limb = symbol_bits(modulus), limb_bits(k, modulus)
    if limb < 1:
        raise FieldError(f"an inner dimension of {k} is too large for exact sums in F_{modulus}")
    low = np.uint32((1 << limb) - 1)
    limbs = [(shift, (left >> np.uint32(shift) & low).astype(np.float64)) for shift in range(0, bits, limb)]
    width = min(m, max(64, BLOCK // max(n, k, 1)))
    factor_space, product_space = np.empty(k * width), np.empty(n * width)
    out = np.empty((n, m), np.uint32)
    for start in range(0, m, max(width, 1)):
        columns = right[:, start : start + width]
        factor = factor_space[: columns.size].reshape(columns.shape)
        product = product_space[: n * columns.shape[1]].reshape(n, -1)
        factor[:] = columns
        for shift, part in limbs:
            np.matmul(part, factor, out=product)
            if shift == 0:
                _reduce(product, float(modulus), out, start)
            else:
                _reduce_add(product, float(modulus), pow(2, shift, modulus), out, start)
    return out


def inverses(symbols: npt.NDArray[np.int64], modulus: int) -> npt.NDArray[np.int64]:
    """The multiplicative inverses of non-zero symbols, one by one; 1-d int64."""
    return np.array([pow(int(symbol), -1, modulus) for symbol in symbols.tolist()], np.int64)


def compile_kernels() -> None:
    """Compile every kernel for the types of a real run, or load it from the cache on disk."""
    for modulus in (251, 1021, 1_000_003):
        symbols = draw_symbols(4, modulus, bytes)
        bits = symbol_bits(modulus)
        unpack_symbols(pack_symbols(symbols, bits), 4, bits, modulus)
        matmul(symbols.reshape(2, 2), symbols.reshape(2, 2), modulus)
    matmul(symbols.reshape(2, 2), symbols.reshape(2, 2), (1 << MAX_MODULUS_BITS) - 1)
