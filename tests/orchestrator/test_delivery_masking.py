"""Masking on packed bits, against the same sums written out value by value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bits import packed_size
from orchestrator.delivery.masking import (
    add_packed,
    mask,
    pack_values,
    unpack_values,
)
from orchestrator.delivery.ring_width import largest_sum


def pad(rng: np.random.Generator, n_values: int, ring_width: int) -> npt.NDArray[np.uint8]:
    return np.packbits(rng.integers(0, 2, n_values * ring_width, np.uint8), bitorder="little")


def as_signed(values: npt.NDArray[np.int64], ring_width: int) -> npt.NDArray[np.int64]:
    half = 1 << (ring_width - 1)
    return (values + half) % (2 * half) - half


def by_hand(packed: npt.NDArray[np.uint8], n_values: int, ring_width: int) -> npt.NDArray[np.int64]:
    """Little-endian fields, one Python integer at a time."""
    number = int.from_bytes(packed.tobytes(), "little")
    fields = [(number >> (i * ring_width)) & ((1 << ring_width) - 1) for i in range(n_values)]
    return as_signed(np.array(fields, np.int64), ring_width)


@given(st.integers(2, 32), st.integers(1, 200), st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_masking_is_addition_in_the_ring(ring_width: int, n_values: int, n_pads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    limit = largest_sum(ring_width)
    weight = int(rng.integers(1, min(limit, 5) + 1))
    values = rng.integers(-(limit // weight), limit // weight + 1, n_values)
    pads = [pad(rng, n_values, ring_width) for _ in range(n_pads)]
    signs = [int(sign) for sign in rng.choice([-1, 1], n_pads)]
    masked = mask(values, pads, signs, ring_width, weight)
    expected = weight * values + sum(
        sign * by_hand(p, n_values, ring_width) for sign, p in zip(signs, pads, strict=True)
    )
    assert masked.size == packed_size(n_values * ring_width)
    np.testing.assert_array_equal(by_hand(masked, n_values, ring_width), as_signed(expected, ring_width))
    np.testing.assert_array_equal(
        unpack_values(masked, n_values, ring_width), as_signed(expected, ring_width)
    )
    np.testing.assert_array_equal(mask(values, [], [], ring_width), pack_values(values, ring_width))
    total = add_packed(masked, pads[0], n_values, ring_width)
    np.testing.assert_array_equal(
        unpack_values(total, n_values, ring_width),
        as_signed(expected + by_hand(pads[0], n_values, ring_width), ring_width),
    )


@pytest.mark.parametrize("ring_width", [2, 8, 10, 13, 31, 32])
def test_pads_cancel_between_two_clients(ring_width: int) -> None:
    rng = np.random.default_rng(ring_width)
    limit = largest_sum(ring_width)
    one, two = rng.integers(-(limit // 2), limit // 2 + 1, (2, 999))
    shared = pad(rng, 999, ring_width)
    total = add_packed(
        mask(one, [shared], [1], ring_width), mask(two, [shared], [-1], ring_width), 999, ring_width
    )
    np.testing.assert_array_equal(unpack_values(total, 999, ring_width), one + two)


@pytest.mark.parametrize("bad", [32, -32, 2**62, -(2**63), 2**63 - 1])
def test_values_outside_the_ring_are_refused(bad: int) -> None:
    values = np.zeros(10, np.int64)
    values[7] = bad
    with pytest.raises(ValueError, match="does not fit a ring width of 6 bits"):
        mask(values, [], [], 6)
    values[7] = np.sign(bad) * 31
    mask(values, [], [], 6)
    with pytest.raises(ValueError, match="does not fit"):
        mask(values, [], [], 6, weight=2)


def test_wrong_shapes_are_refused() -> None:
    values = np.zeros(10, np.int64)
    good = np.zeros(8, np.uint8)
    with pytest.raises(ValueError, match="uint8 array of 8 bytes"):
        mask(values, [np.zeros(7, np.uint8)], [1], 6)
    with pytest.raises(ValueError, match="must be zero"):
        mask(values, [np.full(8, 255, np.uint8)], [1], 6)
    with pytest.raises(ValueError, match="one sign"):
        mask(values, [good], [0], 6)
    with pytest.raises(ValueError, match="one sign"):
        mask(values, [good], [], 6)
    with pytest.raises(ValueError, match="int64"):
        mask(values.astype(np.int32), [], [], 6)  # type: ignore[arg-type]
    for ring_width in (1, 33):
        with pytest.raises(ValueError, match="ring_width"):
            mask(values, [], [], ring_width)
    for weight in (0, -1, 32):
        with pytest.raises(ValueError, match="weight"):
            mask(values, [], [], 6, weight)


def test_pads_are_left_as_they_were() -> None:
    """The caller wipes them; masking neither changes nor keeps them."""
    rng = np.random.default_rng(1)
    shared = pad(rng, 64, 8)
    before = shared.copy()
    masked = mask(np.zeros(64, np.int64), [shared], [1], 8)
    np.testing.assert_array_equal(shared, before)
    assert not np.shares_memory(masked, shared)
