"""One-time tags: Poly1305 under a key that tags nothing else.

A uniformly random key of 256 bits that is never used again makes Poly1305 an almost-XOR-universal hash with a pad
(Wegman-Carter): whoever does not know the key forges a tag over L bytes with probability at most
:func:`orchestrator.protocols.epsilons.forgery_bound`, whatever its computing power, and the tag itself tells nothing
about the text.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

from orchestrator.secret import SecretBits

TAG_KEY_BITS = 256
"""One-time key of a tag: 128 bits for r (22 of them masked by Poly1305), 128 for s."""
TAG_BYTES = 16


def _keyed(key: SecretBits, parts: tuple[bytes, ...]) -> Poly1305:
    if len(key) != TAG_KEY_BITS:
        raise ValueError(f"a one-time tag takes a key of {TAG_KEY_BITS} bits, got {len(key)}")
    mac = Poly1305(key.reveal_bytes())
    for part in parts:
        mac.update(part)
    return mac


def one_time_tag(key: SecretBits, *parts: bytes) -> bytes:
    """The 16 bytes of the tag over the concatenation of ``parts``.

    Raises ValueError for a key that has not 256 bits.
    """
    return _keyed(key, parts).finalize()


def one_time_tag_fits(key: SecretBits, data: bytes, tag: bytes) -> bool:
    """Whether ``tag`` belongs to ``data``, compared in constant time; errors as for :func:`one_time_tag`."""
    try:
        _keyed(key, (data,)).verify(tag)
    except InvalidSignature:
        return False
    return True
