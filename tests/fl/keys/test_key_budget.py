"""How much key a run needs, and what is said when it is not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.keys.budget import PairLedger, PairSupply, duration, forecast, quantity, record, simulated_forecast

PAIRS = [("alice", "bob"), ("alice", "carol"), ("bob", "carol")]


def supply(*stock: int, rate: float = 1000.0) -> list[PairSupply]:
    return [PairSupply(pair, bits, rate, "planned") for pair, bits in zip(PAIRS, stock, strict=True)]


def test_the_ring_serves_one_pair_at_a_time_so_their_times_add_up() -> None:
    # MLP 784-128-10 with N = 4, b = 10 at 32 kbit/s while a pair holds the ring: six pairs need 191 s.
    names = [(f"u{i}", f"u{j}") for i in range(4) for j in range(i)]
    budget = forecast("otp", 1, 101_770 * 10, [PairSupply(pair, 0, 32_000.0, "planned") for pair in names])
    assert budget.ring_s == pytest.approx(190.8, abs=0.1)
    assert budget.bits_per_round == 6 * 1_017_700
    assert budget.verdict == "in-time"


def test_stock_comes_first_and_only_the_rest_must_be_made() -> None:
    budget = forecast("otp", 10, 100, supply(1000, 400, 5000))
    assert [pair.missing_bits for pair in budget.pairs] == [0, 600, 0]
    assert budget.ring_s == pytest.approx(0.6)
    assert budget.rounds_in_stock == 4
    assert "1 of 3 pairs lack 600 bit" in budget.text


def test_enough_in_stock_says_so() -> None:
    budget = forecast("otp", 10, 100, supply(1000, 1000, 5000, rate=0.0))
    assert (budget.verdict, budget.ring_s, budget.rounds_in_stock) == ("in-stock", 0.0, 10)


def test_a_pair_that_gets_no_key_makes_the_run_short_and_is_named() -> None:
    budget = forecast("otp", 10, 100, supply(1000, 400, 5000, rate=0.0))
    assert (budget.verdict, budget.ring_s) == ("short", None)
    assert "alice-carol lacks 600 bit" in budget.text


def test_longer_than_allowed_is_short() -> None:
    assert forecast("otp", 10, 100, supply(0, 0, 0), longest_s=3.0).verdict == "in-time"
    late = forecast("otp", 10, 100, supply(0, 0, 0), longest_s=2.9)
    assert late.verdict == "short"
    assert "more than the 2.9 s allowed" in late.text


def test_a_mode_without_keys_needs_none() -> None:
    assert forecast("plain", 10, 0, supply(0, 0, 0, rate=0.0)).verdict == "none-needed"
    assert simulated_forecast("plain", 10, 4, 0).verdict == "none-needed"


def test_simulated_keys_are_counted_and_called_simulated() -> None:
    budget = simulated_forecast("otp", 10, 200, 1000)
    assert budget.bits_total == 10 * 19_900 * 1000
    assert budget.verdict == "simulated"
    assert "simulated" in budget.text


@given(
    st.integers(1, 50),
    st.integers(1, 10_000),
    st.lists(st.integers(0, 10**6), min_size=3, max_size=3),
)
def test_no_round_in_stock_is_promised_that_is_not_there(rounds: int, bits: int, stock: list[int]) -> None:
    budget = forecast("otp", rounds, bits, supply(*stock))
    assert all(each.stock_bits >= budget.rounds_in_stock * bits for each in budget.pairs)
    assert (budget.rounds_in_stock == rounds) == (budget.verdict == "in-stock")


def test_every_bit_is_in_the_record() -> None:
    ledger = PairLedger(PAIRS[0], 100, 60, 10, 20, 10)
    kept = record([(1, 30), (3, 30)], [(2, 20)], [ledger])
    assert (kept.used_bits, kept.burnt_bits) == (60, 20)
    assert [(each.round, each.bits, each.burnt) for each in kept.rounds] == [
        (1, 30, False),
        (2, 20, True),
        (3, 30, False),
    ]
    assert kept.ledgers == (ledger,)


def test_amounts_read_well() -> None:
    assert [quantity(bits) for bits in (5, 18_100, 6.1e6, 2e9)] == [
        "5 bit",
        "18.1 kbit",
        "6.1 Mbit",
        "2 Gbit",
    ]
    assert [duration(s) for s in (5.25, 600, 36_000)] == ["5.25 s", "10 min", "10 h"]
