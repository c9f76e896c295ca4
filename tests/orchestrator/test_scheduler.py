"""The ring scheduler: its four rules, and a simulation against round-robin."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from orchestrator.scheduling.scheduler import (
    Pair,
    PairState,
    Policy,
    SchedulerState,
    dump,
    lease_finished,
    load,
    next_pair,
    set_demand,
    set_stock,
    set_user_available,
)

USERS = ("alice", "bob", "carol", "dave")
PAIRS = tuple(itertools.combinations(USERS, 2))
AB, AC, AD, BC, BD, CD = PAIRS


def make(demand_bits: int = 1000, rate_bps: float = 10.0, policy: Policy | None = None) -> SchedulerState:
    """Six pairs with the same rate, nothing in stock."""
    state = SchedulerState(
        tuple(PairState(*pair, rate_bps=rate_bps) for pair in PAIRS), policy=policy or Policy()
    )
    for pair in PAIRS:
        state = set_demand(state, pair, demand_bits, 0.0)
    return state


def stocked(stocks: dict[Pair, int], **options: int) -> SchedulerState:
    """The given stocks, one round's key for all others."""
    state = make(**options)
    for pair in PAIRS:
        state = set_stock(state, pair, stocks.get(pair, 1000), 0.0)
    return state


def test_only_a_pair_that_lacks_key_is_served() -> None:
    assert next_pair(stocked({BD: 999}), 0.0) == BD


def test_without_demand_the_ring_rests() -> None:
    assert next_pair(make(demand_bits=0), 0.0) is None
    assert next_pair(SchedulerState(()), 0.0) is None


def test_the_shortest_need_goes_first() -> None:
    state = stocked({AB: 100, CD: 600, AC: 500})
    assert next_pair(state, 0.0) == CD
    state = lease_finished(state, CD, 1.0, 1.0, 0, ok=False)
    assert next_pair(state, 1.0) == AC


def test_the_holder_keeps_the_ring_until_it_has_enough() -> None:
    state = lease_finished(stocked({AB: 0, CD: 140}), AB, 10.0, 10.0, 100)
    assert next_pair(state, 10.0) == AB
    state = lease_finished(state, AB, 20.0, 10.0, 900)
    assert next_pair(state, 20.0) == CD


def test_a_long_need_steps_aside_for_one_that_is_shorter_by_more_than_the_switches() -> None:
    """Applications fill their stock while a round waits for a little key of another pair."""
    state = lease_finished(set_demand(stocked({AB: 0}), AB, 100_000, 0.0), AB, 10.0, 10.0, 100)
    state = set_stock(state, CD, 900, 10.0)
    assert next_pair(state, 10.0) == CD
    assert (
        next_pair(set_demand(state, AB, 240, 10.0), 10.0) == AB
    )  # 14 s against 10 s and two switches of 2 s
    assert next_pair(set_demand(state, AB, 241, 10.0), 10.0) == CD
    assert (
        next_pair(msgspec.structs.replace(state, block_s=1e6), 10.0) == AB
    )  # no lease is shorter than a block
    state = lease_finished(state, CD, 22.0, 10.0, 100)
    assert next_pair(state, 22.0) == AB


def test_a_failed_lease_loses_the_ring_and_backs_off_twice_as_long_each_time() -> None:
    state, now = stocked({AB: 0}), 0.0
    pauses = []
    for _ in range(7):
        assert next_pair(state, now) == AB
        state = lease_finished(state, AB, now, 1.0, 0, ok=False)
        began = now
        while next_pair(state, now) != AB:
            now += 1.0
        pauses.append(now - began)
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    recovered = lease_finished(state, AB, now, 1.0, 10)
    assert next_pair(recovered, now) == AB


def test_a_failing_pair_does_not_keep_others_from_the_next_round() -> None:
    state = lease_finished(stocked({AB: 0}), AB, 0.0, 1.0, 0, ok=False)
    assert next_pair(state, 1.0) in {AC, AD, BC, BD, CD}
    assert next_pair(state, 10.0) == AB


def test_free_time_prepares_later_rounds_level_by_level() -> None:
    state = stocked(dict.fromkeys(PAIRS, 3000) | {BC: 2100, AD: 2500})
    assert next_pair(state, 0.0) == AD
    state = lease_finished(state, AD, 50.0, 50.0, 500)
    assert next_pair(state, 50.0) == BC
    full = stocked(dict.fromkeys(PAIRS, 8000))
    assert next_pair(full, 0.0) is None


def test_an_endangered_deadline_comes_first() -> None:
    state = stocked({AB: 900, CD: 0})
    for_later = set_demand(state, CD, 1000, 0.0, needed_by_s=10_000.0)
    assert next_pair(for_later, 0.0) == AB
    soon = set_demand(state, CD, 1000, 0.0, needed_by_s=110.0)
    assert next_pair(soon, 0.0) == CD
    both = set_demand(soon, AB, 1000, 0.0, needed_by_s=50.0)
    assert next_pair(both, 0.0) == AB


def test_the_longest_wait_wins_once_it_is_too_long() -> None:
    state = lease_finished(stocked({AB: 130, CD: 110, AC: 90}), AB, 100.0, 10.0, 10)
    assert next_pair(state, 299.0) == AB
    assert next_pair(state, 300.0) in {CD, AC}
    served = lease_finished(state, CD, 310.0, 10.0, 10)
    assert next_pair(served, 310.0) == AC


def test_waiting_counts_from_the_moment_of_need() -> None:
    """A pair that had enough for an hour is not overdue when its key is consumed."""
    state = lease_finished(stocked({AB: 0}), AB, 3600.0, 10.0, 40)
    state = set_stock(state, CD, 0, 3600.0)
    assert next_pair(state, 3601.0) == AB
    assert state.of(CD).waiting_since_s == 3600.0
    assert set_stock(state, CD, 1000, 3700.0).of(CD).waiting_since_s is None


def test_pairs_of_an_absent_user_are_passed_over() -> None:
    state = stocked({AB: 0, CD: 500, BC: 900})
    state = set_user_available(state, "carol", False, 0.0)
    assert next_pair(state, 0.0) == AB
    state = set_user_available(state, "bob", False, 0.0)
    assert next_pair(state, 0.0) == AD  # the only pair left prepares its next round
    state = set_user_available(state, "carol", True, 5.0)
    assert next_pair(state, 5.0) == CD
    state = set_user_available(state, "bob", True, 5.0)
    assert next_pair(state, 5.0) == BC
    for user in USERS:
        state = set_user_available(state, user, False, 6.0)
    assert next_pair(state, 1e6) is None


def test_rates_are_learnt_per_second_of_ring() -> None:
    state = make(rate_bps=10.0)
    for i in range(40):
        state = lease_finished(state, AB, float(i), 30.0, 3000)
    assert state.of(AB).rate_bps == pytest.approx(100.0, rel=1e-3)
    assert state.of(AB).stock_bits == 120_000
    assert state.of(CD).rate_bps == 10.0
    one = lease_finished(make(), AB, 0.0, 30.0, 3000).of(AB).rate_bps
    assert 10.0 < one < 50.0
    assert lease_finished(make(), AB, 0.0, 0.0, 0, ok=False).of(AB).rate_bps == 10.0
    with pytest.raises(ValueError, match="lease"):
        lease_finished(state, AB, 0.0, -1.0, 0)


def test_a_dead_line_is_tried_but_never_hogs() -> None:
    state = stocked({AB: 0, CD: 0})
    state = msgspec.structs.replace(
        state,
        pairs=tuple(msgspec.structs.replace(p, rate_bps=0.0) if p.pair == AB else p for p in state.pairs),
    )
    assert next_pair(state, 0.0) == CD
    state = lease_finished(state, CD, 299.0, 10.0, 10)
    assert next_pair(state, 300.0) == AB


def test_ring_time_that_pairs_lack() -> None:
    state = stocked({AB: 0, CD: 500})
    assert state.of(AB).ring_s(1) == pytest.approx(100.0)
    assert sum(p.ring_s(1) for p in state.pairs) == pytest.approx(100 + 50)
    assert sum(p.ring_s(1) for p in stocked({}).pairs) == 0.0


def test_an_unknown_pair_is_named() -> None:
    with pytest.raises(KeyError, match="bob-alice"):
        set_stock(make(), ("bob", "alice"), 1, 0.0)


def test_state_survives_a_restart_on_another_clock() -> None:
    state = lease_finished(stocked({AB: 0, CD: 100}), AB, 1000.0, 10.0, 10)
    state = set_demand(state, CD, 1000, 1000.0, needed_by_s=1500.0)
    state = set_user_available(state, "dave", False, 1000.0)
    again = load(dump(state, 1010.0), 5.0)
    assert again.of(AB).last_served_s == pytest.approx(-5.0)
    assert again.of(CD).needed_by_s == pytest.approx(495.0)
    assert again.absent_users == {"dave"}
    assert load(dump(again, 5.0), 1010.0) == state
    for offset in (0.0, 200.0, 400.0):
        assert next_pair(again, 5.0 + offset) == next_pair(state, 1010.0 + offset)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", dump(make(), 0.0)[:-1], b"\xff" * 100])
def test_a_damaged_state_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a scheduler state"):
        load(data, 0.0)


Choose = Callable[[SchedulerState, float], Pair | None]


@dataclass
class Run:
    """What a simulated ring achieved."""

    round_times_s: list[float]
    longest_wait_s: float


LEASE_S = 10.0
SWITCH_S = 3.0
TRAINING_S = 30.0


def simulate(choose: Choose, seed: int, rounds: int = 12) -> Run:
    """Six pairs of unequal true rates; a round starts when all hold its key, consumes it, and trains for 30
    s.

    Leases last 10 s, handing the ring to another pair costs 3 s of it, and yields fluctuate by 10 %.
    """
    rng = np.random.default_rng(seed)
    rates = dict(zip(PAIRS, rng.lognormal(np.log(20e3), 0.6, 6), strict=True))
    demand = 1_000_000
    state = make(demand_bits=demand, rate_bps=20e3, policy=Policy(switch_s=SWITCH_S, max_wait_s=400.0))
    for pair in PAIRS:
        state = set_stock(state, pair, int(rng.integers(0, 3 * demand)), 0.0)
    now = ready_since = 0.0
    since = dict.fromkeys(PAIRS, 0.0)
    times, longest = [], 0.0
    while len(times) < rounds:
        pair = choose(state, now)
        if pair is None:
            now += 1.0
        else:
            light = LEASE_S - (SWITCH_S if pair != state.holder else 0.0)
            now += LEASE_S
            bits = int(rates[pair] * light * rng.normal(1.0, 0.1))
            state = lease_finished(state, pair, now, light, bits)
            since[pair] = now
        for p in state.pairs:
            if p.lacking_bits(1):
                longest = max(longest, now - since[p.pair])
            else:
                since[p.pair] = now
        if now >= ready_since + TRAINING_S and not any(p.lacking_bits(1) for p in state.pairs):
            times.append(now - ready_since)
            ready_since = now
            for p in state.pairs:
                state = set_stock(state, p.pair, p.stock_bits - demand, now)
    return Run(times, longest)


def round_robin() -> Choose:
    """Every pair in turn."""
    turn = itertools.cycle(PAIRS)
    return lambda state, now: next(turn)


def round_robin_of_the_needy() -> Choose:
    """Every pair that lacks the next round's key in turn; the others in turn when none does."""
    turn = itertools.cycle(PAIRS)

    def choose(state: SchedulerState, now: float) -> Pair:
        needy = {p.pair for p in state.pairs if p.lacking_bits(1)}
        return next(pair for pair in turn if not needy or pair in needy)

    return choose


def test_the_next_round_comes_sooner_than_with_round_robin() -> None:
    mean = {
        name: np.mean([np.mean(simulate(make_choice(), seed).round_times_s) for seed in range(20)])
        for name, make_choice in {
            "ours": lambda: next_pair,
            "round-robin": round_robin,
            "needy": round_robin_of_the_needy,
        }.items()
    }
    assert mean["ours"] < 0.7 * mean["round-robin"]
    assert mean["ours"] < 0.85 * mean["needy"]


def test_every_single_draw_is_at_least_as_good() -> None:
    for seed in range(20):
        ours, theirs = (np.mean(simulate(c, seed).round_times_s) for c in (next_pair, round_robin()))
        assert ours < theirs


def test_nobody_waits_longer_than_promised_in_the_simulation() -> None:
    bound = 400.0 + 6 * LEASE_S
    assert max(simulate(next_pair, seed).longest_wait_s for seed in range(20)) <= bound


def test_an_insatiable_pair_starves_nobody() -> None:
    """One pair always needs the least and never has enough; all others still get their leases."""
    state = make(demand_bits=10**9, policy=Policy(switch_s=0.0, max_wait_s=60.0))
    now, served = 0.0, dict.fromkeys(PAIRS, 0.0)
    for _ in range(500):
        state = set_stock(state, AB, 10**9 - 1, now)
        pair = next_pair(state, now)
        assert pair is not None
        now += LEASE_S
        state = lease_finished(state, pair, now, LEASE_S, 1)
        served[pair] = now
        assert all(now - at <= 60.0 + 6 * LEASE_S for at in served.values())
