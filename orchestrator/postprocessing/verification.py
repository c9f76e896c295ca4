"""Verification: do both users hold the same bits after reconciliation?

The first user tags its block with Poly1305 under a fresh one-time key ``(r, s)`` from the pair's authentication
lane; the second compares.  ``s`` pads the tag, so the tag itself tells nothing about the block; the published
outcome tells one bit.  Two different blocks of n bits pass with probability at most ``8 ceil(n/128) / 2**106``
(Bernstein, FSE 2005, theorem 3.3).  Sent only after all parities of the block; every attempt takes a fresh key.
"""

from __future__ import annotations

import hmac
import math

from cryptography.hazmat.primitives.poly1305 import Poly1305

from orchestrator.bits import PackedBits, check_packed
from orchestrator.secret import SecretBits

KEY_BITS = 256
"""One-time key of a tag: 128 bits for r (22 of them masked by Poly1305), 128 for s."""
LEAK_BITS = 1
"""Disclosed by one published outcome."""


def block_tag(key: SecretBits, bits: PackedBits, n_bits: int) -> bytes:
    """16-byte tag of the packed block ``bits`` under a one-time ``key`` of 256 bits."""
    check_packed(bits, n_bits)
    return one_time_tag(key, [bits.tobytes()])


def one_time_tag(key: SecretBits, parts: list[bytes]) -> bytes:
    """Poly1305 over the concatenation of ``parts``; ``key`` must never tag anything else."""
    if len(key) != KEY_BITS:
        raise ValueError(f"a one-time tag takes a key of {KEY_BITS} bits, got {len(key)}")
    mac = Poly1305(key.reveal_bytes())
    for part in parts:
        mac.update(part)
    return mac.finalize()


def tags_equal(a: bytes, b: bytes) -> bool:
    """Compare two tags in constant time."""
    return hmac.compare_digest(a, b)


def undetected_error_bound(n_bits: int) -> float:
    """Probability that two different blocks of ``n_bits`` get the same tag, at most."""
    return 8.0 * math.ceil(n_bits / 128) / 2.0**106
