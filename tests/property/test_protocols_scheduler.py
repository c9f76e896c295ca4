"""Whatever happens to stocks, demands, users and leases: the ring goes to a pair that can use it, if there is one."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.scheduling.scheduler import (
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
LEASE_S = 10.0

events = st.one_of(
    st.tuples(st.just("stock"), st.sampled_from(PAIRS), st.integers(0, 5000)),
    st.tuples(st.just("demand"), st.sampled_from(PAIRS), st.integers(0, 2000)),
    st.tuples(st.just("user"), st.sampled_from(USERS), st.booleans()),
    st.tuples(st.just("lease"), st.booleans(), st.integers(0, 500)),
    st.tuples(st.just("restart"), st.floats(0, 1e6), st.none()),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=60))
def test_a_pair_that_is_served_can_use_it(history: list[tuple[object, ...]]) -> None:
    policy = Policy(max_wait_s=60.0, rounds_ahead=3)
    state, now = SchedulerState(tuple(PairState(*pair) for pair in PAIRS), policy=policy), 0.0
    absent: set[str] = set()
    for event in history:
        now += 1.0
        match event:
            case ("stock", tuple() as pair, int() as bits):
                state = set_stock(state, pair, bits, now)
            case ("demand", tuple() as pair, int() as bits):
                state = set_demand(state, pair, bits, now)
            case ("user", str() as user, bool() as here):
                state = set_user_available(state, user, here, now)
                (absent.discard if here else absent.add)(user)
            case ("lease", bool() as ok, int() as bits):
                chosen = next_pair(state, now)
                if chosen is not None:
                    now += LEASE_S
                    state = lease_finished(state, chosen, now, LEASE_S, bits if ok else 0, ok)
            case ("restart", float() as clock, None):
                state, now = load(dump(state, now), clock), clock
        chosen = next_pair(state, now)
        usable = [p for p in state.pairs if not absent & set(p.pair) and p.lacking_bits(policy.rounds_ahead)]
        if chosen is None:
            assert all(p.failures for p in usable)
        else:
            assert chosen in [p.pair for p in usable]
        if any(p.lacking_bits(1) and not p.failures for p in usable):
            assert chosen is not None
            assert state.of(chosen).lacking_bits(1)
