"""The door to the operating system's generator: what it returns, and that a replaced source is seen everywhere."""

from __future__ import annotations

import os

import numpy as np
import pytest

from orchestrator import randomness


def test_every_function_draws_from_the_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def recorded(count: int) -> bytes:
        asked.append(count)
        return bytes(range(256)) * (count // 256) + bytes(range(count % 256))

    monkeypatch.setattr(randomness, "_system", recorded)
    assert randomness.random_bytes(3) == b"\0\1\2"
    assert randomness.random_hex(2) == "0001"
    assert randomness.random_below(7) == 0
    assert randomness.jittered(2.0) == pytest.approx(2 * (0.8 + 0.4 * 0x03020100 / (1 << 32)))
    buffer = bytearray(randomness.CHUNK_BYTES + 3)
    randomness.random_into(memoryview(buffer))
    assert buffer[:4] == buffer[randomness.CHUNK_BYTES - 256 :][:4] == b"\0\1\2\3"
    assert buffer[-3:] == b"\0\1\2"
    first = randomness.local_generator().integers(0, 1 << 62)
    assert first == np.random.default_rng(int.from_bytes(bytes(range(32)), "little")).integers(0, 1 << 62)
    assert asked == [3, 2, 1, 4, randomness.CHUNK_BYTES, 3, 32]


def test_the_source_is_the_system() -> None:
    assert randomness._system is os.urandom
    assert randomness.random_bytes(32) != randomness.random_bytes(32)
    values = {int(randomness.local_generator().integers(0, 1 << 62)) for _ in range(8)}
    assert len(values) == 8


def test_integers_below_a_limit_are_uniform_by_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = iter([b"\x06", b"\x05", b"\xfc"])
    monkeypatch.setattr(randomness, "_system", lambda count: next(stream))
    assert randomness.random_below(5) == 4, "6 and 5 lie outside, 0xfc & 7 = 4 does not"


@pytest.mark.parametrize("limit", [0, -3])
def test_bad_limits_are_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        randomness.random_below(limit)
    with pytest.raises(ValueError, match="not negative"):
        randomness.random_bytes(limit - 1)


def test_jitter_stays_within_its_share() -> None:
    assert all(8 <= randomness.jittered(10.0) <= 12 for _ in range(200))
