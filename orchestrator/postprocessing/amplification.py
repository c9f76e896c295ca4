"""Privacy amplification by multiply-add-shift: n partly known bits become m secret ones.

``h(x) = ((a x + b) mod 2**w) div 2**(w - m)`` with ``a`` and ``b`` uniform on ``w >= n + m - 1`` bits is strongly
universal (Dietzfelbinger, STACS 1996, "Universal hashing and k-wise independent random variables via integer
arithmetic without primes"), so the leftover hash lemma applies with collision probability exactly ``2**-m``.
``b`` is not optional and ``w`` not smaller: either would double the collisions.  ``x`` is the block read as
a little-endian integer, bit 0 lowest (:mod:`orchestrator.bits`); the key is read out the same way.

The product is one multiplication of big integers by GMP, whose cost is close to linear in the length.
The seed is public, truly random, and used once.
"""

from __future__ import annotations

from collections.abc import Callable

import gmpy2
import numpy as np

from orchestrator.bits import PackedBits, check_packed, packed_size
from orchestrator.secret import SecretBits


def word_bits(n_bits: int, key_bits: int) -> int:
    """w, the length of each of the two random numbers."""
    if not 0 < key_bits <= n_bits:
        raise ValueError(f"cannot make {key_bits} key bits from {n_bits}")
    return n_bits + key_bits - 1


def seed_bytes(n_bits: int, key_bits: int) -> int:
    """Bytes of the seed: ``a`` then ``b``, each in whole bytes (bits past ``w`` are ignored)."""
    return 2 * packed_size(word_bits(n_bits, key_bits))


def draw_seed(n_bits: int, key_bits: int, random_bytes: Callable[[int], bytes]) -> bytes:
    """A fresh seed; ``random_bytes`` must be truly random, an expanded seed has no proof."""
    return random_bytes(seed_bytes(n_bits, key_bits))


def amplify(bits: PackedBits, n_bits: int, key_bits: int, seed: bytes) -> SecretBits:
    """The ``key_bits`` secret bits of the packed block ``bits``.

    Raises ValueError if ``seed`` has not exactly :func:`seed_bytes` bytes.  The integers of the computation cannot
    be overwritten from Python; they are freed on return.
    """
    check_packed(bits, n_bits)
    if len(seed) != seed_bytes(n_bits, key_bits):
        raise ValueError(f"the seed must have {seed_bytes(n_bits, key_bits)} bytes, got {len(seed)}")
    w, half = word_bits(n_bits, key_bits), len(seed) // 2
    with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
        a = gmpy2.f_mod_2exp(gmpy2.mpz.from_bytes(seed[:half], "little"), w)
        b = gmpy2.mpz.from_bytes(seed[half:], "little")
        product = a * gmpy2.mpz.from_bytes(bits.tobytes(), "little") + b
        key = gmpy2.f_mod_2exp(product, w) >> (w - key_bits)
        out = key.to_bytes(packed_size(key_bits), "little")
    return SecretBits(np.frombuffer(bytearray(out), np.uint8), key_bits)
