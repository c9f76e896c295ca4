"""Who gets the ring among the entries of the queue: the rules one by one, and random mixes against the bound."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pytest
from bench_scheduler import ALLOWED, bound_s, figures, measure_mix
from due_bound import CLOSE, CannotBeMetError, due_bound_s, least_weighted_s
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from ring_mixes import Ours, draw_mix, simulate

from orchestrator.scheduling import claims as rules
from orchestrator.scheduling.claims import Claim, Turn, next_turn, owed_after, ring_time_s, service_order
from orchestrator.scheduling.scheduler import (
    Pair,
    PairState,
    Policy,
    SchedulerState,
    lease_finished,
    set_user_available,
)

AB, AC, BC = PAIRS = (("alice", "bob"), ("alice", "carol"), ("bob", "carol"))
BLOCK_S, RATE_BPS = 10.0, 100.0


def ring(holder: Pair | None = None, switch_s: float = 2.0, **policy: float) -> SchedulerState:
    """Three pairs of 100 bit/s; a block takes 10 s and gives 1000 bits."""
    pairs = tuple(PairState(*pair, rate_bps=RATE_BPS) for pair in PAIRS)
    return SchedulerState(pairs, holder, policy=Policy(switch_s=switch_s, **policy), block_s=BLOCK_S)


def key(number: int, lacking: Mapping[Pair, int], priority: int = 0, due_s: float | None = None) -> Claim:
    return Claim(number, priority, due_s, lacking)


def served(*claims: Claim, state: SchedulerState | None = None, now_s: float = 0.0) -> int | None:
    turn = next_turn(claims, state or ring(), now_s)
    return None if turn is None else turn.number


def test_ring_time_is_whole_blocks_switches_and_the_calibrations_that_come_first() -> None:
    one, both = key(1, {AB: 1001}), key(2, {AB: 500, AC: 3000})
    assert ring_time_s(one, [one], ring()) == 2 + 20
    assert ring_time_s(one, [one], ring(AB)) == 20
    assert ring_time_s(both, [both], ring(AB)) == 10 + 2 + 30
    step = Claim(3, step_s=60.0, pair=AC)
    assert ring_time_s(both, [both, step], ring(AB)) == 10 + 60 + 2 + 30
    assert ring_time_s(step, [step], ring()) == 62
    assert ring_time_s(Claim(4, step_s=60.0), [], ring()) == 60


def test_the_largest_weight_over_ring_time_goes_first() -> None:
    short, long = key(2, {AC: 1000}), key(1, {AB: 10_000})
    assert served(long, short) == 2
    assert served(key(1, {AB: 10_000}, priority=4), short) == 1
    assert served(key(1, {AB: 10_000}, priority=2), short) == 2


def test_the_first_to_come_goes_first_among_equals() -> None:
    assert served(key(2, {AC: 1000}), key(1, {AB: 1000})) == 1


def test_the_ring_stays_unless_another_is_worth_the_switch() -> None:
    staying = key(2, {AC: 2000})
    assert served(key(1, {AB: 2000}), staying, state=ring(AC)) == 2
    assert served(key(1, {AB: 1000}), staying, state=ring(AC)) == 1


def test_a_claim_that_would_be_late_goes_first_and_one_that_cannot_be_met_has_no_say() -> None:
    short, long = key(1, {AC: 1000}), key(2, {AB: 5000}, due_s=200.0)
    assert served(short, long, now_s=100.0) == 1
    assert served(short, long, now_s=140.0) == 2
    assert served(short, long, now_s=149.0) == 1
    sooner = key(3, {BC: 1000}, due_s=180.0)
    assert served(short, long, sooner, now_s=130.0) == 3, "long is met only if sooner is served now"


def test_a_step_goes_before_key_of_its_pair_whoever_asked_for_it_first() -> None:
    urgent, step = key(1, {AB: 1000}, priority=3), Claim(2, priority=-3, step_s=30.0, pair=AB)
    assert next_turn([urgent, step], ring(), 0.0) == Turn(2, AB, True)
    assert next_turn([urgent, Claim(2, priority=-3, step_s=30.0, pair=AC)], ring(), 0.0) == Turn(1, AB, False)


def test_a_calibration_preempts_key_between_blocks() -> None:
    order = key(1, {AB: 100_000})
    state = lease_finished(ring(AB), AB, 10.0, BLOCK_S, 1000)
    assert served(order, state=state) == 1
    assert served(order, Claim(2, step_s=60.0), state=state) == 2


def test_pairs_that_cannot_be_served_hold_nobody_up() -> None:
    state = set_user_available(ring(), "carol", False, 0.0)
    assert served(key(1, {AC: 10}), state=state) is None
    assert next_turn([key(1, {AC: 10, AB: 5000})], state, 0.0) == Turn(1, AB, False)
    assert served(Claim(1, step_s=5.0, pair=BC), key(2, {AB: 9000}), state=state) == 2
    assert served(Claim(1, step_s=5.0), state=state) == 1
    failed = lease_finished(ring(), AB, 0.0, 1.0, 0, ok=False)
    assert served(key(1, {AB: 10}), key(2, {AC: 90_000}), state=failed) == 2
    assert served() is None


def test_an_endless_stream_of_urgent_work_starves_nobody() -> None:
    """Short orders of the highest priority, each with a due time, arrive faster than the ring serves them."""
    state, owed_s, now_s, number = ring(), 0.0, 0.0, 1
    lacking = {AB: 5000}
    stream: list[Claim] = []
    while lacking[AB] > 0:
        number += 1
        stream.append(key(number, {AC: 1000}, priority=10, due_s=now_s + 15.0))
        claims = [key(1, dict(lacking), priority=-10), *stream]
        turn = next_turn(claims, state, now_s, owed_s=owed_s)
        assert turn is not None
        assert turn.pair is not None
        ring_s = BLOCK_S + (0.0 if turn.pair == state.holder else 2.0)
        now_s += ring_s
        state = lease_finished(state, turn.pair, now_s, BLOCK_S, 1000)
        owed_s = owed_after(owed_s, claims, turn.number, ring_s, state)
        if turn.number == 1:
            lacking[AB] -= 1000
        else:
            stream = [each for each in stream if each.number != turn.number]
        assert now_s < 6 * 12 / state.policy.oldest_share, "five blocks with their switches at its share"
    assert now_s > 5 * BLOCK_S / state.policy.oldest_share / 2, "and no more than its share"


def test_alone_nothing_is_saved_up() -> None:
    claim = key(1, {AB: 10})
    assert owed_after(5.0, [claim], 1, 100.0, ring()) == 0.0
    others = [claim, key(2, {AC: 10})]
    assert owed_after(5.0, others, 2, 100.0, ring()) == pytest.approx(6.0)
    assert owed_after(5.0, others, 1, 100.0, ring()) == 0.0


claims_drawn = st.lists(
    st.builds(
        Claim,
        number=st.integers(1, 50),
        priority=st.integers(-10, 10),
        due_s=st.none() | st.floats(-1e4, 1e4),
        lacking=st.dictionaries(st.sampled_from(PAIRS), st.integers(1, 10**9), min_size=1),
        step_s=st.just(0.0) | st.floats(1.0, 1e4),
        pair=st.none() | st.sampled_from(PAIRS),
    ),
    max_size=6,
    unique_by=lambda claim: claim.number,
)


@settings(max_examples=200, deadline=None)
@given(
    claims_drawn,
    st.sets(st.sampled_from(["alice", "bob", "carol"])),
    st.none() | st.sampled_from(PAIRS),
    st.floats(0, 1e4),
)
def test_whoever_is_served_can_use_the_ring_and_it_rests_only_if_nobody_can(
    claims: list[Claim], absent: set[str], holder: Pair | None, owed_s: float
) -> None:
    state = ring(holder)
    for user in absent:
        state = set_user_available(state, user, False, 0.0)
    turn = next_turn(claims, state, 0.0, owed_s=owed_s)
    here = [pair for pair in PAIRS if not absent & set(pair)]

    def usable(claim: Claim) -> bool:
        if claim.step_s:
            return claim.pair is None or claim.pair in here
        return any(pair in here for pair in claim.lacking)

    if turn is None:
        assert not any(map(usable, claims))
        return
    (chosen,) = [claim for claim in claims if claim.number == turn.number]
    assert usable(chosen)
    assert turn.is_step == bool(chosen.step_s)
    if turn.is_step:
        assert turn.pair == chosen.pair
    else:
        assert turn.pair in here
        assert turn.pair in chosen.lacking
        assert not any(each.step_s and each.pair == turn.pair for each in claims)


# -- against the bound ---------------------------------------------------------------------------------


def lp_schedule_s(weights: list[float], needs_s: list[int], releases_s: list[int]) -> float:
    """The programme's optimum in closed form: at any time the job here with the largest weight over need."""
    left, busy, now_s = list(needs_s), [0.0] * len(needs_s), 0
    while any(left):
        here = [j for j in range(len(left)) if left[j] and releases_s[j] <= now_s]
        if here:
            j = max(here, key=lambda j: weights[j] / needs_s[j])
            busy[j] += now_s + 0.5
            left[j] -= 1
        now_s += 1
    return sum(w * (b / p + p / 2) for w, b, p in zip(weights, busy, needs_s, strict=True))


jobs_drawn = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 6), st.none() | st.integers(0, 12)),
    min_size=1,
    max_size=4,
)
"""Weight, need, release, and room before it is due."""


@settings(max_examples=40, deadline=None)
@given(jobs_drawn)
def test_the_bound_is_the_programmes_optimum_and_no_schedule_is_below_it(
    jobs: list[tuple[int, int, int, int | None]],
) -> None:
    weights = np.array([float(weight) for weight, *_ in jobs])
    needs, releases = (np.array([job[i] for job in jobs]) for i in (1, 2))
    dues = np.array([np.inf if room is None else float(r + p + room) for _, p, r, room in jobs])
    free = np.full(len(jobs), np.inf)
    without = due_bound_s(weights, needs.astype(float), releases.astype(float), free)
    closed = lp_schedule_s(list(weights), list(needs), list(releases))
    assert without == pytest.approx(closed, rel=2 * CLOSE)
    assert without <= closed * (1 + 1e-9)
    least = least_weighted_s(weights, needs, releases, dues)
    if np.isinf(least):
        with pytest.raises(CannotBeMetError):
            due_bound_s(weights, needs.astype(float), releases.astype(float), dues)
        return
    bound = due_bound_s(weights, needs.astype(float), releases.astype(float), dues)
    assert without * (1 - CLOSE) <= bound <= least * (1 + 1e-9)


def test_the_bound_knows_what_a_due_time_costs() -> None:
    """The short heavy job has to wait for the long light one, which nothing but its due time puts first."""
    weights, needs, releases = np.array([4.0, 1.0]), np.array([10.0, 90.0]), np.zeros(2)
    assert due_bound_s(weights, needs, releases, np.array([np.inf, np.inf])) == pytest.approx(140.0, rel=1e-3)
    held = due_bound_s(weights, needs, releases, np.array([np.inf, 90.0]))
    assert held == pytest.approx(4 * 100.0 + 90.0, rel=1e-3)


def check_mixes(seeds: range) -> None:
    for seed in seeds:
        over = measure_mix(seed).over_bound
        assert 1.0 - CLOSE <= over["ours"] <= ALLOWED, f"mix {seed}"
        assert over["ours"] < min(over["round-robin"], over["first come"]), f"mix {seed}"


def test_mixes_stay_near_the_bound_and_beat_round_robin_and_first_come() -> None:
    check_mixes(range(8))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_mixes_stay_near_the_bound_and_beat_round_robin_and_first_come() -> None:
    check_mixes(range(1000))


def test_the_check_notices_a_rule_that_serves_the_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rules._worth
    monkeypatch.setattr(rules, "_worth", lambda candidate: -right(candidate))
    with pytest.raises(AssertionError, match="mix"):
        check_mixes(range(3))


def check_due_mixes(seeds: range) -> None:
    measured = [measure_mix(seed, due_part=0.2) for seed in seeds]
    told = figures(measured)
    met = {rule: of["due_met"] for rule, of in told.items()}
    assert met["ours"] >= 0.94 * sum(each.most_met for each in measured)
    assert met["ours"] > 1.2 * max(met["round-robin"], met["first come"])
    assert told["ours"]["mean"] < 1.04
    assert told["ours"]["beyond"] <= 0.05 * len(measured)
    for each in measured:
        assert min(each.over_bound.values()) >= 1.0 - CLOSE


def test_due_times_are_met_near_the_bound_of_schedules_that_meet_them() -> None:
    check_due_mixes(range(12))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_mixes_with_due_times_stay_near_the_bound_of_schedules_that_meet_them() -> None:
    check_due_mixes(range(1000))


def test_the_check_notices_a_rule_that_forgets_due_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_promised", lambda candidates, now_s: [])
    with pytest.raises(AssertionError):
        check_due_mixes(range(12))


def test_five_hundred_entries_are_put_in_order_in_less_than_a_frame_takes() -> None:
    """2016 pairs of 64 users, every second entry with a due time."""
    users = [f"u{i}" for i in range(64)]
    pairs = list(combinations(users, 2))
    rng = np.random.default_rng(5)
    state = SchedulerState(tuple(PairState(*pair, rate_bps=RATE_BPS) for pair in pairs), block_s=BLOCK_S)
    claims = [
        key(
            n,
            {pairs[rng.integers(len(pairs))]: int(rng.integers(1, 9)) * 1000},
            int(rng.integers(-2, 3)),
            float(rng.uniform(0, 2e4)) if n % 2 else None,
        )
        for n in range(500)
    ]
    order = service_order(claims, state, 0.0)
    assert sorted(each.number for each in order) == list(range(500))
    begun_s = time.thread_time()
    assert next_turn(claims, state, 0.0) is not None
    assert time.thread_time() - begun_s < 1.0


def test_a_mix_without_switching_and_losses_of_one_job_reaches_the_bound() -> None:
    """What is left between schedule and bound is no slip of the simulation."""
    from dataclasses import replace as changed

    mix = draw_mix(0)
    first = next(job for job in mix.jobs if job.bits)
    alone = changed(mix, jobs=(changed(first, number=0),), seed=3)
    result = simulate(alone, Ours())
    assert result.weighted_s(alone) == pytest.approx(bound_s(alone, result), rel=0.03)


def test_the_state_keeps_the_length_of_a_block() -> None:
    state = replace(ring(), block_s=0.0)
    state = lease_finished(state, AB, 30.0, 30.0, 3000)
    assert state.block_s == 30.0
    assert 30.0 < lease_finished(state, AB, 90.0, 60.0, 3000).block_s < 60.0
