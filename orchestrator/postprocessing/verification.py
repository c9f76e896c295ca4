"""Verification: do both users hold the same bits after reconciliation?

The first user tags its block with Poly1305 under a fresh one-time key ``(r, s)`` from the pair's authentication
lane; the second compares.  ``s`` pads the tag, so the tag itself tells nothing about the block; the published
outcome tells one bit.  As many tags under independent keys are sent as the block's eps_cor asks for
(:func:`~orchestrator.protocols.epsilons.verification_tags`).  Sent only after all parities of the block; every
attempt takes fresh keys.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.poly1305 import Poly1305

from orchestrator.bits import PackedBits, check_packed
from orchestrator.protocols.epsilons import undetected_error_bound as undetected_error_bound
from orchestrator.secret import SecretBits

KEY_BITS = 256
"""One-time key of a tag: 128 bits for r (22 of them masked by Poly1305), 128 for s."""
LEAK_BITS = 1
"""Disclosed by the published outcome of one tag, at most."""


def block_tag(keys: SecretBits, bits: PackedBits, n_bits: int) -> bytes:
    """A 16-byte tag of the packed block ``bits`` for every 256 bits of one-time ``keys``, one after the other."""
    check_packed(bits, n_bits)
    data = bits.tobytes()
    tags = []
    for start in range(0, len(keys), KEY_BITS):
        key = keys.take(start, KEY_BITS)
        tags.append(one_time_tag(key, [data]))
        key.wipe()
    return b"".join(tags)


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
