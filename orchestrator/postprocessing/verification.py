"""Verification: do both users hold the same bits after reconciliation?

The first user tags its block with Poly1305 under a fresh one-time key ``(r, s)`` from the pair's authentication
lane; the second compares.  ``s`` pads the tag, so the tag itself tells nothing about the block; the published
outcome tells one bit.  As many tags under independent keys are sent as the block's eps_cor asks for
(:func:`~orchestrator.protocols.epsilons.verification_tags`).  Sent only after all parities of the block; every
attempt takes fresh keys.
"""

from __future__ import annotations

import hmac

from orchestrator.bits import PackedBits, check_packed
from orchestrator.one_time_tags import TAG_KEY_BITS, one_time_tag
from orchestrator.secret import SecretBits

LEAK_BITS = 1
"""Disclosed by the published outcome of one tag, at most."""


def block_tag(keys: SecretBits, bits: PackedBits, n_bits: int) -> bytes:
    """A 16-byte tag of the packed block ``bits`` for every 256 bits of one-time ``keys``, one after the other."""
    check_packed(bits, n_bits)
    data = bits.tobytes()
    tags = []
    for start in range(0, len(keys), TAG_KEY_BITS):
        key = keys.take(start, TAG_KEY_BITS)
        tags.append(one_time_tag(key, data))
        key.wipe()
    return b"".join(tags)


def tags_equal(a: bytes, b: bytes) -> bool:
    """Compare two tags in constant time."""
    return hmac.compare_digest(a, b)
