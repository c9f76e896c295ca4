"""Keys stretched by a cipher: the standard's own figures, the shape of a pad, and one stream per context."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.bits import check_packed
from orchestrator.delivery.expansion import expand_key

KEY = np.arange(32, dtype=np.uint8)


def test_the_stream_is_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, nonce and counter zero."""
    stream = expand_key(np.zeros(32, np.uint8), 512, bytes(32))
    assert stream.tobytes().hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )


@pytest.mark.parametrize("n_bits", [2, 8, 510, 513, 10_007])
def test_a_pad_is_packed_and_does_not_depend_on_its_length(n_bits: int) -> None:
    pad = expand_key(KEY, n_bits, bytes(32))
    check_packed(pad, n_bits)
    longer = expand_key(KEY, n_bits + 8, bytes(32))
    assert np.array_equal(longer[: n_bits // 8], pad[: n_bits // 8])


def test_contexts_have_streams_of_their_own() -> None:
    one, other = (expand_key(KEY, 4096, bytes([n]) * 32) for n in (1, 2))
    assert np.mean(np.unpackbits(one) == np.unpackbits(other)) == pytest.approx(0.5, abs=0.05)


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        expand_key(KEY[:16], 100, bytes(32))
