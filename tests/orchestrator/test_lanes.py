"""The pure rules of the lanes: how a block is divided, who allocates, where a run of bits lies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.keystore.lanes import (
    Lane,
    Ledger,
    Range,
    SplitRule,
    covers,
    find_run,
    incoming_auth,
    lane_owner,
    outgoing_auth,
)


def test_every_lane_has_one_allocating_owner() -> None:
    owners = {lane: lane_owner(lane) for lane in Lane}
    assert owners == {
        Lane.AUTH_AB: "first",
        Lane.AUTH_BA: "second",
        Lane.OTP_AB: "first",
        Lane.OTP_BA: "second",
        Lane.MASK: "first",
    }
    assert outgoing_auth("first") == incoming_auth("second") == Lane.AUTH_AB
    assert outgoing_auth("second") == incoming_auth("first") == Lane.AUTH_BA


def test_the_first_bits_of_a_block_refill_the_authentication_lanes() -> None:
    parts = SplitRule().parts(100_000)
    assert [(part.lane, part.offset, part.n_bits) for part in parts] == [
        (Lane.AUTH_AB, 0, 4096),
        (Lane.AUTH_BA, 4096, 4096),
        (Lane.MASK, 8192, 91_808),
    ]


def test_large_blocks_refill_in_proportion_and_small_ones_keep_half_for_masks() -> None:
    large = {part.lane: part.n_bits for part in SplitRule().parts(10 * 1024 * 1024)}
    assert large[Lane.AUTH_AB] == large[Lane.AUTH_BA] == 10 * 1024 * 32
    small = {part.lane: part.n_bits for part in SplitRule().parts(1000)}
    assert small == {Lane.AUTH_AB: 248, Lane.AUTH_BA: 248, Lane.MASK: 504}


def test_one_time_pad_shares_are_configurable() -> None:
    rule = SplitRule(auth_bits=1024, auth_per_1024=0, otp_per_1024=256)
    sizes = {part.lane: part.n_bits for part in rule.parts(1 << 20)}
    assert sizes[Lane.OTP_AB] == sizes[Lane.OTP_BA] == 1 << 18
    assert sizes[Lane.MASK] == (1 << 19) - 2048
    with pytest.raises(ValueError, match="512"):
        SplitRule(auth_per_1024=300, otp_per_1024=300)
    with pytest.raises(ValueError, match="negative"):
        SplitRule(auth_bits=-1)


@given(st.integers(1, 1 << 24), st.integers(0, 1 << 16), st.integers(0, 256), st.integers(0, 256))
@settings(max_examples=200, deadline=None)
def test_parts_cover_a_block_exactly_once(n_bits: int, auth: int, per: int, otp: int) -> None:
    reached = 0
    for part in SplitRule(auth, per, otp).parts(n_bits):
        assert part.offset == reached
        assert part.n_bits > 0
        assert part.offset % 8 == 0
        reached += part.n_bits
    assert reached == n_bits


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=8),
    st.integers(0, 60),
    st.integers(1, 30),
)
@settings(max_examples=300, deadline=None)
def test_find_run_finds_the_first_run_that_a_bitmap_has(
    layout: list[tuple[int, int]], head: int, n_bits: int
) -> None:
    stored: list[Range] = []
    position = 0
    for gap, size in layout:
        stored.append(Range(position + gap, size))
        position += gap + size
    present = {bit for piece in stored for bit in range(piece.start, piece.end)}
    expected = next(
        (
            start
            for start in range(head, position)
            if all(bit in present for bit in range(start, start + n_bits))
        ),
        None,
    )
    found = find_run(head, stored, n_bits)
    assert (found.start if found else None) == expected
    if found:
        assert covers(found, stored)
        assert not covers(Range(found.start, position + 1), stored)


def test_a_ledger_balances_only_if_every_bit_is_accounted_for() -> None:
    assert Ledger(10, 4, 3, 2, 1).balanced
    assert not Ledger(10, 4, 3, 2, 0).balanced
    assert Ledger(1, 1, 0, 0, 0) + Ledger(2, 0, 2, 0, 0) == Ledger(3, 1, 2, 0, 0)
