"""Sifting: which rounds are kept, who flips what, and which announcements no block can have."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from orchestrator.bits import pack, unpack
from orchestrator.light.clicks import BOTH, D1_ONLY, D2_ONLY, BlockClicks
from orchestrator.postprocessing.sifting import OwnRounds, SiftingError, check_clicks, unpack_exactly
from orchestrator.protocols.four_phase.symbols import FourPhases

FOUR = FourPhases(0.75)


def clicks(outcomes: list[int], symbols: list[int], n_pulses: int = 1000) -> BlockClicks:
    n = len(outcomes)
    return BlockClicks(
        frame=np.zeros(n, np.uint32),
        slot=np.arange(n, dtype=np.uint32),
        outcome=np.array(outcomes, np.uint8),
        symbol=np.array(symbols, np.uint8),
        n_pulses=n_pulses,
    )


def test_all_pairs_of_symbols_and_outcomes() -> None:
    """Ideal light: equal phases give D1_ONLY, opposite phases D2_ONLY; in both bases the users end with equal bits."""
    cases = [(a, b, outcome) for a, b, outcome in product(range(4), range(4), (D1_ONLY, D2_ONLY, BOTH))]
    first = OwnRounds.of(clicks([o for _, _, o in cases], [a for a, _, _ in cases]), "first", FOUR)
    second = OwnRounds.of(clicks([o for _, _, o in cases], [b for _, b, _ in cases]), "second", FOUR)
    assert first.n_rounds == second.n_rounds == 32
    mine = first.sift(second.published())
    yours = second.sift(first.published())
    assert (mine.n_key, mine.n_test) == (yours.n_key, yours.n_test) == (8, 8)
    ideal = [(a, b, o) for a, b, o in cases if a >> 1 == b >> 1 and o != BOTH]
    for basis, my_bits, your_bits in (
        (0, unpack(mine.key, mine.n_key), unpack(yours.key, yours.n_key)),
        (1, mine.test, yours.test),
    ):
        rounds = [(a, b, o) for a, b, o in ideal if a >> 1 == basis]
        for (a, b, outcome), u, v in zip(rounds, my_bits, your_bits, strict=True):
            assert u == a & 1
            assert (u == v) == ((a == b) == (outcome == D1_ONLY))


def test_test_bits_and_their_errors() -> None:
    """Rounds 0, 1, 4 and 5 are kept; the bits of the last two differ, clicks of D2 and of D1."""
    outcomes = [D1_ONLY, D2_ONLY, D2_ONLY, D1_ONLY, D2_ONLY, D1_ONLY]
    rounds = OwnRounds.of(clicks(outcomes, [2, 3, 2, 0, 3, 2]), "first", FOUR)
    kept = rounds.sift(pack(np.array([1, 1, 0, 1, 1, 1], np.uint8)).tobytes())
    assert (kept.n_key, kept.n_test) == (0, 4)
    assert kept.test.tolist() == [0, 1, 1, 0]
    assert kept.test_errors(pack(np.array([0, 1, 0, 1], np.uint8)).tobytes()) == (1, 1)
    assert kept.test_errors(pack(np.array([1, 1, 1, 1], np.uint8)).tobytes()) == (2, 0)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_peer_bases_must_fit(size: int) -> None:
    rounds = OwnRounds.of(clicks([D1_ONLY] * 9, [0] * 9), "first", FOUR)
    with pytest.raises(SiftingError, match="9 bits of labels were expected"):
        rounds.sift(bytes(size))


def test_padding_must_be_zero() -> None:
    with pytest.raises(SiftingError):
        unpack_exactly(b"\x08", 3, "bases")
    assert unpack_exactly(b"\x05", 3, "bases").tolist() == [1, 0, 1]


def test_a_slot_announced_twice_is_refused() -> None:
    doubled = clicks([D1_ONLY, D1_ONLY, D2_ONLY], [0, 0, 1])
    doubled.slot[1] = 0
    with pytest.raises(SiftingError, match="announced twice"):
        check_clicks(doubled, FOUR)


def test_order_is_by_frame_and_slot() -> None:
    good = clicks([D1_ONLY, D1_ONLY], [0, 0])
    good.frame[:] = (0, 1)
    good.slot[:] = (2**32 - 1, 0)
    check_clicks(good, FOUR)
    good.frame[:] = (1, 0)
    with pytest.raises(SiftingError, match="out of order"):
        check_clicks(good, FOUR)


@pytest.mark.parametrize("field", ["outcome", "symbol"])
def test_unknown_codes_are_refused(field: str) -> None:
    bad = clicks([D1_ONLY, D2_ONLY], [0, 1])
    getattr(bad, field)[1] = 4
    with pytest.raises(SiftingError, match="does not exist"):
        check_clicks(bad, FOUR)
    none = clicks([D1_ONLY, 0], [0, 1])
    with pytest.raises(SiftingError, match="does not exist"):
        check_clicks(none, FOUR)


def test_lengths_and_pulse_count() -> None:
    short = clicks([D1_ONLY, D2_ONLY], [0, 1])
    short.symbol = short.symbol[:1]
    with pytest.raises(SiftingError, match="one length"):
        check_clicks(short, FOUR)
    with pytest.raises(SiftingError, match="3 slots announced of 2"):
        check_clicks(clicks([D1_ONLY] * 3, [0] * 3, n_pulses=2), FOUR)
    check_clicks(clicks([], []), FOUR)


def test_nothing_secret_is_shown() -> None:
    some = clicks([D1_ONLY, D2_ONLY, BOTH], [0, 1, 1])
    assert repr(some) == "<BlockClicks: 3 announced slots of 1000>"
    assert some.n_single == 2
    rounds = OwnRounds.of(some, "second", FOUR)
    assert "array" not in repr(rounds)
    assert repr(rounds.sift(b"\x00")) == "<SiftedBits: 2 key and 0 test rounds>"
    some.wipe()
    rounds.wipe()
    assert not some.symbol.any()
    assert not rounds.bits.any()


def test_rounds_of_different_bases_are_counted_by_the_symbols_of_both() -> None:
    """The first user learns the second one's symbols of these rounds, and of no other."""
    rng = np.random.default_rng(8)
    n = 500
    a, b = (rng.integers(0, 4, n).tolist() for _ in range(2))
    outcome = rng.integers(1, 4, n).tolist()
    own = OwnRounds.of(clicks(outcome, a), "first", FOUR)
    peer = OwnRounds.of(clicks(outcome, b), "second", FOUR)
    ours, theirs = own.sift(peer.published()).told, peer.sift(own.published()).told
    counted = ours.clicks(pack(theirs.bits).tobytes())
    wanted = np.zeros((2, 4, 4), np.int64)
    for first, second, detectors in zip(a, b, outcome, strict=True):
        if detectors != BOTH and first // 2 != second // 2:
            wanted[detectors - 1, first, second] += 1
    assert counted.tolist() == wanted.tolist()
    assert ours.bits.size == theirs.bits.size == counted.sum()
    with pytest.raises(SiftingError, match="told bits"):
        ours.clicks(b"")
