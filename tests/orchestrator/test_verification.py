"""One-time tags: the published Poly1305 vector, and what a single wrong bit does."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.bits import pack
from orchestrator.one_time_tags import TAG_KEY_BITS, one_time_tag
from orchestrator.postprocessing.verification import block_tag, tags_equal
from orchestrator.protocols.epsilons import undetected_error_bound
from orchestrator.secret import SecretBits

RFC_KEY = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
RFC_TAG = bytes.fromhex("a8061dc1305136c6c22b8baf0c0127a9")


def key_of(data: bytes) -> SecretBits:
    return SecretBits.from_bytes(data)


def test_rfc_8439_vector() -> None:
    parts = [b"Cryptographic Forum ", b"Research Group"]
    assert one_time_tag(key_of(RFC_KEY), *parts) == RFC_TAG


def test_every_single_wrong_bit_is_seen() -> None:
    bits = np.random.default_rng(1).integers(0, 2, 300, dtype=np.uint8)
    key = key_of(np.random.default_rng(2).bytes(32))
    tag = block_tag(key, pack(bits), 300)
    assert tags_equal(tag, block_tag(key, pack(bits.copy()), 300))
    for i in range(300):
        bits[i] ^= 1
        assert not tags_equal(tag, block_tag(key, pack(bits), 300))
        bits[i] ^= 1


def test_another_key_gives_another_tag() -> None:
    packed = pack(np.ones(256, np.uint8))
    tags = {block_tag(key_of(np.random.default_rng(seed).bytes(32)), packed, 256) for seed in range(50)}
    assert len(tags) == 50


def test_key_and_block_must_have_their_sizes() -> None:
    with pytest.raises(ValueError, match=f"key of {TAG_KEY_BITS} bits, got 128"):
        one_time_tag(key_of(bytes(16)), b"x")
    with pytest.raises(ValueError, match="uint8 array of 2 bytes"):
        block_tag(key_of(bytes(32)), np.zeros(3, np.uint8), 16)


def test_undetected_error_bound_at_a_million_bits() -> None:
    assert undetected_error_bound(10**6) == pytest.approx(8 * 7813 / 2**106)
    assert undetected_error_bound(10**8) < 1e-15
