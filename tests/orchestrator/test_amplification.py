"""Multiply-add-shift: bit for bit the plain definition, universal down to the last pair, and what may not be dropped."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from orchestrator.bits import packed_size
from orchestrator.postprocessing.amplification import (
    amplify,
    draw_seed,
    seed_bytes,
    word_bits,
)


def plain_hash(x: int, a: int, b: int, w: int, m: int) -> int:
    """The definition, in Python's own integers."""
    return ((a * x + b) % 2**w) // 2 ** (w - m)


def hash_of(x: int, n: int, m: int, a: int, b: int) -> int:
    """The same through :func:`amplify`."""
    size = packed_size(word_bits(n, m))
    bits = np.frombuffer(x.to_bytes(packed_size(n), "little"), np.uint8)
    key = amplify(bits, n, m, a.to_bytes(size, "little") + b.to_bytes(size, "little"))
    assert len(key) == m
    return int.from_bytes(key.reveal_bytes(), "little")


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 3), (8, 8), (64, 1), (100, 37), (1000, 999), (4097, 513)])
def test_fast_path_is_the_definition(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    w = word_bits(n, m)
    for _ in range(20):
        x, a, b = (int.from_bytes(rng.bytes(packed_size(size)), "little") % 2**size for size in (n, w, w))
        assert hash_of(x, n, m, a, b) == plain_hash(x, a, b, w, m)


def test_seed_bits_past_the_word_change_nothing() -> None:
    n, m = 10, 4  # w = 13: three bits of each second byte are spare
    bits = np.array([0xA5, 0x01], np.uint8)
    seed = bytes([0x12, 0x1F, 0x34, 0x0A])
    spare = bytes([0x12, 0xFF, 0x34, 0xEA])
    assert amplify(bits, n, m, seed).same_as(amplify(bits, n, m, spare))


def collisions(n: int, m: int, w: int, *, offsets: bool = True) -> float:
    """Largest collision probability over all pairs of inputs, over all a (and b)."""
    worst = 0
    words = list(product(range(2**w), range(2**w) if offsets else (0,)))
    table = [[plain_hash(x, a, b, w, m) for a, b in words] for x in range(2**n)]
    for one, two in combinations(table, 2):
        worst = max(worst, sum(u == v for u, v in zip(one, two, strict=True)))
    return worst / len(words)


@pytest.mark.parametrize(("n", "m"), [(2, 1), (3, 1), (3, 2), (2, 2), (3, 3)])
def test_exhaustively_strongly_universal(n: int, m: int) -> None:
    """For every two inputs, every pair of outputs comes from equally many seeds; the real function is enumerated."""
    w = word_bits(n, m)
    outputs = [[hash_of(x, n, m, a, b) for a in range(2**w) for b in range(2**w)] for x in range(2**n)]
    for one, two in combinations(outputs, 2):
        joint = np.bincount(np.array(one) * 2**m + np.array(two), minlength=4**m)
        assert set(joint) == {4**w // 4**m}


def test_what_may_not_be_dropped() -> None:
    """The same exhaustive count sees the two shortcuts that cost up to twice the collisions."""
    n, m = 3, 2
    assert collisions(n, m, n + m - 1) == 2**-m
    assert collisions(n, m, n + m - 2) == 2 * 2**-m
    assert collisions(n, m, n + m - 1, offsets=False) == 1.5 * 2**-m


def test_sizes_are_checked() -> None:
    bits = np.zeros(10, np.uint8)
    with pytest.raises(ValueError, match="seed must have 24 bytes"):
        amplify(bits, 80, 16, bytes(23))
    for m in (0, -1, 81):
        with pytest.raises(ValueError, match="cannot make"):
            amplify(bits, 80, m, bytes(24))
    with pytest.raises(ValueError, match="uint8 array"):
        amplify(bits, 90, 16, bytes(seed_bytes(90, 16)))


def test_seed_comes_from_the_given_source_and_is_long_enough() -> None:
    asked: list[int] = []

    def source(n: int) -> bytes:
        asked.append(n)
        return bytes(n)

    assert len(draw_seed(1000, 300, source)) == 2 * packed_size(1299)
    assert asked == [2 * packed_size(1299)]


def test_output_is_balanced() -> None:
    rng = np.random.default_rng(3)
    bits = np.zeros(1250, np.uint8)  # the all-zero block, which b alone must hide
    ones = sum(
        int(np.unpackbits(amplify(bits, 10_000, 2000, rng.bytes(seed_bytes(10_000, 2000))).reveal()).sum())
        for _ in range(50)
    )
    assert abs(ones - 50_000) < 6 * (100_000 / 4) ** 0.5
