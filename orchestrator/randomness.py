"""The one door to the operating system's generator: every secret and every unpredictable name comes from here.

What is claimed: the bytes are those of the system's generator (``getrandom(2)``, seeded by the kernel from
interrupts and from the processor's own noise source) and nothing of ours lies between.  That generator is a
stream cipher under a seed of 256 bits, so whatever is drawn here is *computationally* unpredictable, also
where the use of the bits is information-theoretic; :data:`CLAIM` says that in the words which every mode,
report and page repeats.  A hardware generator would replace :func:`random_bytes` at this place and nowhere
else.

Drawn here: symbols and coin labels, seeds of shuffles, hashes and privacy amplification, masks, data keys and
key-encryption keys, initial secrets, nonces, run ids, topics and job tags, and the seeds of local choices
that nobody else may predict (:func:`local_generator`).  Not drawn here: CURVE key pairs, which libzmq takes
from libsodium (``randombytes_buf``, on Linux the same ``getrandom(2)``), and TLS, which OpenSSL draws for.

Code outside this module imports no other source; what simulates or must repeat uses generators with a stated
seed.  All functions read :data:`_system` when called, so that a test which replaces it sees every draw.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

RandomBytes: TypeAlias = Callable[[int], bytes]
"""Uniform random bytes, as many as asked for: how a random source is passed to what draws from it."""

CLAIM = "random bits come from the operating system's generator, which is computational"
"""What every label of a mode says of its randomness, word for word."""

CHUNK_BYTES = 1 << 22
"""Most bytes asked of the system at once, so that a whole frame's symbols need no second buffer."""

_system: RandomBytes = os.urandom


def random_bytes(count: int) -> bytes:
    """``count`` uniform random bytes; raises ValueError if ``count`` is negative."""
    if count < 0:
        raise ValueError(f"a number of random bytes is not negative, got {count}")
    return _system(count)


def random_into(buffer: memoryview) -> None:
    """Fill the writable ``buffer`` (of bytes) with uniform random bytes."""
    for start in range(0, len(buffer), CHUNK_BYTES):
        part = buffer[start : start + CHUNK_BYTES]
        part[:] = _system(len(part))


def random_hex(n_bytes: int) -> str:
    """A name nobody can guess: ``n_bytes`` random bytes as ``2 * n_bytes`` hexadecimal digits."""
    return random_bytes(n_bytes).hex()


def random_below(limit: int) -> int:
    """A uniform integer ``0 <= value < limit``; raises ValueError if ``limit`` is below 1.

    By rejection: as many bits as ``limit - 1`` has are drawn until they lie below ``limit``.
    """
    if limit < 1:
        raise ValueError(f"an upper limit of random integers is at least 1, got {limit}")
    n_bits = (limit - 1).bit_length()
    while True:
        value = int.from_bytes(random_bytes((n_bits + 7) // 8), "little") & ((1 << n_bits) - 1)
        if value < limit:
            return value


def jittered(seconds: float, share: float = 0.2) -> float:
    """``seconds`` times a uniform factor of ``1 - share .. 1 + share``: peers that failed together retry apart."""
    return seconds * (1 + share * (2 * random_below(1 << 32) / (1 << 32) - 1))


def local_generator() -> np.random.Generator:
    """A fast generator for local choices that others must not predict (shuffling, rounding, sampling).

    It is NumPy's default generator under 256 random bits.  Never draw key or masks from it: it is no
    cryptographic generator, and its outputs tell its state.
    """
    return np.random.default_rng(int.from_bytes(random_bytes(32), "little"))
