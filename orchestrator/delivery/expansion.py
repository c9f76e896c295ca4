"""Cipher ``expanded``: 256 bits of key become a pad of any length.  Computational security only.

The pad is the ChaCha20 key stream (RFC 8439; D. Bernstein, 2008) under a key that two users share for one
round and never use again.  Whoever breaks the cipher reads the update; a one-time pad has no such lever.
That is why the cipher is part of the context both ends agree on, and why nothing turns to it by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from orchestrator.bits import PackedBits, check_packed, packed_size
from orchestrator.delivery.messages import EXPANSION_KEY_BITS, RoundContext

COUNTER_BYTES = 4
NONCE_BYTES = 12
LARGEST_PAD_BYTES = 64 << 32
"""A 32-bit counter of 64-byte blocks."""


def pad_maker(context: RoundContext) -> Callable[[PackedBits], PackedBits]:
    """From the key that two users share for a round to its pad: that key itself, or its key stream."""
    if context.cipher != "expanded":
        return lambda key: key
    return partial(expand_key, n_bits=context.value_bits, context_digest=context.digest())


def expand_key(key: PackedBits, n_bits: int, context_digest: bytes) -> PackedBits:
    """A pad of ``n_bits`` bits, packed, from a ``key`` of 256 bits that is used for nothing else.

    The nonce is taken from ``context_digest`` (32 bytes): it separates contexts even where a key was
    repeated by mistake.
    """
    check_packed(key, EXPANSION_KEY_BITS)
    size = packed_size(n_bits)
    if size > LARGEST_PAD_BYTES:
        raise ValueError(f"one key stream has at most {LARGEST_PAD_BYTES} bytes, {size} were asked for")
    nonce = bytes(COUNTER_BYTES) + context_digest[:NONCE_BYTES]
    encryptor = Cipher(ChaCha20(key.tobytes(), nonce), mode=None).encryptor()
    pad = np.frombuffer(bytearray(encryptor.update(bytes(size))), np.uint8)
    if n_bits % 8:
        pad[-1] &= (1 << (n_bits % 8)) - 1
    return pad
