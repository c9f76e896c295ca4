"""The life of a lease, fencing tokens, and the bookkeeping between nodes and scheduler; all pure."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events.status import BlockReport, LaneStock, Stock
from orchestrator.scheduling.fencing import EpochError, EpochFile, Fence
from orchestrator.scheduling.leases import Phase, RingLeases
from orchestrator.scheduling.ring_schedule import RingSchedule
from orchestrator.scheduling.scheduler import next_pair
from orchestrator.wire.messages import (
    Demand,
    FromPeer,
    LeaseAbort,
    LeaseAccept,
    LeaseDone,
    LeaseGrant,
    LeaseOffer,
    LeaseRefuse,
    LightStatistics,
)

PAIR = ("alice", "bob")
PARTIES = ("relay", "alice", "bob")
EPOCH = 7


def offered(leases: RingLeases, now_s: float = 0.0) -> tuple[int, int]:
    orders = leases.offer(PAIR, 24, 60.0, now_s)
    assert {role for role, _ in orders} == set(PARTIES)
    offer = orders[0][1]
    assert isinstance(offer, LeaseOffer)
    return offer.epoch, offer.number


def granted(leases: RingLeases, now_s: float = 0.0) -> tuple[int, int]:
    token = offered(leases, now_s)
    for role in PARTIES[:-1]:
        assert leases.heard(role, LeaseAccept(*token), now_s) == []
    orders = leases.heard("bob", LeaseAccept(*token), now_s)
    assert [message for _, message in orders] == [LeaseGrant(*token, 60.0)] * 3
    return token


# -- leases ----------------------------------------------------------------------------------------


def test_a_lease_in_being_ends_with_its_orchestrator_whether_its_parties_answer_or_not() -> None:
    """What is granted may be lit: records say how it ended, and an audit finds no light without its lease."""
    leases = RingLeases(EPOCH)
    granted(leases, now_s=1.0)
    orders = leases.stop("the orchestrator stops", 5.0)
    assert {role for role, message in orders if isinstance(message, LeaseAbort)} == set(PARTIES)
    (outcome,) = leases.take_outcomes()
    assert (outcome.ok, outcome.refused, outcome.reason) == (False, False, "the orchestrator stops")
    assert outcome.ring_s == pytest.approx(4.0)
    assert leases.phase is Phase.FREE
    assert leases.stop("the orchestrator stops", 6.0) == []
    offered(leases, 7.0)
    assert len(leases.stop("the orchestrator stops", 8.0)) == 3
    (outcome,) = leases.take_outcomes()
    assert outcome.refused, "nobody was granted anything"


def test_a_lease_that_goes_well() -> None:
    leases = RingLeases(EPOCH)
    token = granted(leases, now_s=1.0)
    for role in PARTIES:
        assert leases.phase is Phase.GRANTED
        assert leases.heard(role, LeaseDone(*token, True, "", LightStatistics(frames=24)), 5.0) == []
    (outcome,) = leases.take_outcomes()
    assert outcome.ok
    assert outcome.ring_s == 4.0
    assert outcome.lease.pair == PAIR
    assert outcome.statistics["bob"].frames == 24
    assert leases.phase is Phase.FREE
    assert leases.take_outcomes() == []


def test_numbers_grow_with_every_offer() -> None:
    leases = RingLeases(EPOCH)
    tokens = []
    for _ in range(3):
        tokens.append(offered(leases))
        leases.abort("next", 0.0)
    assert tokens == [(EPOCH, 1), (EPOCH, 2), (EPOCH, 3)]


def test_the_ring_is_not_offered_twice() -> None:
    leases = RingLeases(EPOCH)
    offered(leases)
    with pytest.raises(ValueError, match="still offered"):
        leases.offer(("alice", "carol"), 24, 60.0, 0.0)


@pytest.mark.parametrize("role", PARTIES)
def test_one_refusal_withdraws_the_offer(role: str) -> None:
    leases = RingLeases(EPOCH)
    token = offered(leases)
    orders = leases.heard(role, LeaseRefuse(*token, "instrument off"), 1.0)
    assert {to for to, _ in orders} == set(PARTIES) - {role}
    assert all(message == LeaseAbort(*token, f"{role}: instrument off") for _, message in orders)
    (outcome,) = leases.take_outcomes()
    assert (outcome.ok, outcome.refused) == (False, True)
    assert leases.phase is Phase.FREE


def test_an_offer_without_answer_is_withdrawn_in_time() -> None:
    leases = RingLeases(EPOCH, offer_timeout_s=5.0)
    token = offered(leases, now_s=10.0)
    leases.heard("alice", LeaseAccept(*token), 11.0)
    assert leases.time(14.9) == []
    assert len(leases.time(15.0)) == 3
    assert "bob, relay" in leases.take_outcomes()[0].reason


@pytest.mark.parametrize("how", ["failed", "aborted", "gone", "too long"])
def test_a_light_phase_that_fails_keeps_the_ring_closed_until_everybody_is_dark(how: str) -> None:
    leases = RingLeases(EPOCH, drain_s=15.0)
    token = granted(leases)
    missing = set(PARTIES)
    if how == "failed":
        orders = leases.heard("alice", LeaseDone(*token, False, "AWG lost"), 2.0)
        missing.discard("alice")
    elif how == "aborted":
        orders = leases.heard("relay", LeaseAbort(*token, "interlock"), 2.0)
    elif how == "gone":
        orders = leases.peer_down("alice", 2.0)
        missing.discard("alice")
    else:
        orders = leases.time(60.0)
    assert all(isinstance(message, LeaseAbort) for _, message in orders)
    assert {to for to, _ in orders} >= missing - {"relay"}
    assert leases.phase is Phase.DRAINING
    for role in sorted(missing):
        assert leases.lease is not None
        leases.heard(role, LeaseDone(*token, False, "aborted"), 61.0)
    (outcome,) = leases.take_outcomes()
    assert (outcome.ok, outcome.refused) == (False, False)
    assert leases.phase is Phase.FREE


def test_a_party_that_never_answers_is_given_up() -> None:
    leases = RingLeases(EPOCH, drain_s=15.0)
    granted(leases)
    leases.abort("stop", 1.0)
    assert leases.time(15.9) == []
    assert leases.phase is Phase.DRAINING
    leases.time(16.0)
    assert leases.phase is Phase.FREE
    assert "never finished: alice, bob, relay" in leases.take_outcomes()[0].reason


@pytest.mark.parametrize("token", [(EPOCH, 2), (EPOCH - 1, 1), (EPOCH + 1, 1), (EPOCH, 0)])
def test_messages_about_other_leases_change_nothing(token: tuple[int, int]) -> None:
    leases = RingLeases(EPOCH)
    right = granted(leases)
    assert right not in (token,)
    for message in (LeaseDone(*token, False), LeaseAbort(*token, "x"), LeaseRefuse(*token, "x")):
        assert leases.heard("alice", message, 1.0) == []
    assert leases.phase is Phase.GRANTED


def test_strangers_to_the_lease_change_nothing() -> None:
    leases = RingLeases(EPOCH)
    token = granted(leases)
    assert leases.heard("carol", LeaseAbort(*token, "x"), 1.0) == []
    assert leases.heard("carol", LeaseDone(*token, True), 1.0) == []
    assert leases.peer_down("carol", 1.0) == []
    assert leases.phase is Phase.GRANTED


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "refuse", "done", "failed", "abort", "down", "time", "offer"]),
        st.sampled_from(PARTIES),
        st.integers(-1, 0),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_at_most_one_lease_has_light_whatever_happens(events: list[tuple[str, str, int]]) -> None:
    """The parties' light, as they see it, is never on for two leases at once."""
    leases = RingLeases(EPOCH, drain_s=1e9)
    lit: dict[str, int] = {}
    number, offers, now_s = 0, 0, 0.0
    for kind, role, back in events:
        now_s += 1.0
        token = (EPOCH, max(1, number + back))
        message: FromPeer | None = {
            "accept": LeaseAccept(*token),
            "refuse": LeaseRefuse(*token, ""),
            "done": LeaseDone(*token, True),
            "failed": LeaseDone(*token, False),
            "abort": LeaseAbort(*token, ""),
        }.get(kind)
        if kind == "offer" and leases.lease is None:
            assert not lit
            orders = leases.offer(PAIR, 24, 1e9, now_s)
            number, offers = number + 1, offers + 1
        elif kind == "down":
            lit.pop(role, None)
            orders = leases.peer_down(role, now_s)
        elif kind == "time":
            orders = leases.time(now_s)
        elif message is not None:
            if kind in ("done", "failed") and token[1] == lit.get(role):
                del lit[role]
            elif kind in ("done", "failed"):
                continue
            orders = leases.heard(role, message, now_s)
        else:
            continue
        for to, order in orders:
            if isinstance(order, LeaseGrant):
                assert to not in lit
                lit[to] = order.number
        assert len(set(lit.values())) <= 1
        assert len(leases.take_outcomes()) <= 1
    if leases.phase is Phase.FREE:
        assert not lit


# -- fencing -----------------------------------------------------------------------------------------


def test_a_fence_lets_only_newer_tokens_through() -> None:
    fence = Fence()
    assert fence.accept(3, 5)
    for epoch, number in ((3, 5), (3, 4), (2, 99), (0, 0)):
        assert not fence.accept(epoch, number)
    assert fence.accept(3, 6)
    assert fence.accept(4, 1)
    assert not fence.accept(3, 7)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_what_passes_a_fence_is_strictly_growing(tokens: list[tuple[int, int]]) -> None:
    fence = Fence()
    passed = [token for token in tokens if fence.accept(*token)]
    assert passed == sorted(set(passed))


def test_a_kept_fence_refuses_a_replaced_orchestrator_after_a_restart(tmp_path: Path) -> None:
    fence = Fence(EpochFile(tmp_path / "fence"))
    assert fence.accept(5, 3)
    again = Fence(EpochFile(tmp_path / "fence"))
    assert not again.accept(4, 100)
    assert again.accept(5, 4)


def test_the_epoch_grows_at_every_start(tmp_path: Path) -> None:
    path = tmp_path / "state" / "epoch"
    assert [EpochFile(path).advance() for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"three", b"-1", b"9" * 30])
def test_a_damaged_epoch_is_an_error_with_a_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "epoch").write_bytes(content)
    with pytest.raises(EpochError, match="larger than every epoch"):
        EpochFile(tmp_path / "epoch").advance()


# -- the schedule ------------------------------------------------------------------------------------


def schedule(users: tuple[str, ...] = ("alice", "bob", "carol")) -> RingSchedule:
    pairs = {(a, b): 1000.0 for i, a in enumerate(users) for b in users[i + 1 :]}
    made = RingSchedule(pairs, users, 0.0)
    for role in ("relay", *users):
        made.party_able(role, True, 0.0)
    return made


def end_lease(ring: RingSchedule, leases: RingLeases, pair: tuple[str, str], now_s: float) -> tuple[int, int]:
    """A good lease of one second."""
    offer = leases.offer(pair, 24, 60.0, now_s - 1.0)[0][1]
    assert isinstance(offer, LeaseOffer)
    token = offer.epoch, offer.number
    for role in ("relay", *pair):
        leases.heard(role, LeaseAccept(*token), now_s - 1.0)
    for role in ("relay", *pair):
        leases.heard(role, LeaseDone(*token, True), now_s)
    (outcome,) = leases.take_outcomes()
    ring.lease_over(outcome, now_s)
    return token


def test_nobody_is_served_without_demand() -> None:
    assert next_pair(schedule().seen(1.0), 1.0) is None


def test_absent_users_are_not_served() -> None:
    ring = schedule()
    ring.demand("alice", Demand("alice", "bob", 1000), 0.0)
    assert next_pair(ring.seen(1.0), 1.0) == ("alice", "bob")
    ring.party_able("bob", False, 1.0)
    assert next_pair(ring.seen(2.0), 2.0) is None


def test_the_stock_of_a_pair_is_what_both_ends_hold() -> None:
    ring = schedule()
    ring.demand("alice", Demand("alice", "bob", 1000), 0.0)
    ring.stock("alice", Stock([LaneStock("bob", "mask", 9000)]), 0.0)
    ring.stock("bob", Stock([LaneStock("alice", "mask", 400)]), 0.0)
    assert ring.state.of(("alice", "bob")).stock_bits == 400
    ring.stock("bob", Stock([LaneStock("alice", "mask", 9000)]), 0.0)
    assert next_pair(ring.seen(1.0), 1.0) is None


def test_the_largest_demand_counts_and_can_be_withdrawn() -> None:
    ring = schedule()
    ring.demand("alice", Demand("alice", "bob", 1000), 0.0)
    ring.demand("bob", Demand("alice", "bob", 3000, deadline_s=10.0), 5.0)
    pair = ring.state.of(("alice", "bob"))
    assert (pair.demand_bits, pair.needed_by_s) == (3000, 15.0)
    ring.demand("bob", Demand("alice", "bob", 0), 6.0)
    assert ring.state.of(("alice", "bob")).demand_bits == 1000
    assert not ring.demand("alice", Demand("alice", "mallory", 1), 6.0)


def test_a_refused_offer_is_repeated_later_and_later() -> None:
    ring = schedule(("alice", "bob"))
    ring.demand("alice", Demand("alice", "bob", 1000), 0.0)
    leases, now_s, waits = RingLeases(EPOCH), 100.0, []
    for _ in range(8):
        token = offered(leases, now_s)
        leases.heard("bob", LeaseRefuse(*token, "busy"), now_s)
        ring.lease_over(leases.take_outcomes()[0], now_s)
        start_s = now_s
        while next_pair(ring.seen(now_s), now_s) is None:
            now_s += 0.125
        waits.append(now_s - start_s)
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    end_lease(ring, leases, PAIR, now_s)
    offered(leases, now_s)
    leases.heard("bob", LeaseRefuse(EPOCH, 10, "busy"), now_s)
    ring.lease_over(leases.take_outcomes()[0], now_s)
    assert next_pair(ring.seen(now_s + 0.25), now_s + 0.25) == PAIR


def test_a_failed_light_phase_lets_another_pair_go_first() -> None:
    ring = schedule()
    for pair in (("alice", "bob"), ("alice", "carol")):
        ring.demand(pair[0], Demand(*pair, 1000), 0.0)
    leases = RingLeases(EPOCH)
    assert next_pair(ring.seen(1.0), 1.0) == ("alice", "bob")
    token = granted(leases, 1.0)
    leases.heard("relay", LeaseDone(*token, False, "laser"), 2.0)
    for role in PAIR:
        leases.heard(role, LeaseDone(*token, False), 2.0)
    ring.lease_over(leases.take_outcomes()[0], 2.0)
    assert next_pair(ring.seen(2.0), 2.0) == ("alice", "carol")


def test_light_that_ended_early_holds_a_pair_up_for_a_moment_and_not_once_its_party_is_back() -> None:
    ring, leases, now_s, waits = schedule(("alice", "bob")), RingLeases(EPOCH), 100.0, []
    ring.demand("alice", Demand("alice", "bob", 1000), 0.0)

    def fail(now_s: float) -> None:
        token = granted(leases, now_s)
        for role in ("relay", *PAIR):
            leases.heard(role, LeaseDone(*token, False, "laser"), now_s)
        ring.lease_over(leases.take_outcomes()[0], now_s)

    for _ in range(4):
        fail(now_s)
        start_s = now_s
        while next_pair(ring.seen(now_s), now_s) is None:
            now_s += 0.125
        waits.append(now_s - start_s)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    for back in ("relay", "bob"):
        fail(now_s)
        assert next_pair(ring.seen(now_s), now_s) is None
        ring.party_able(back, True, now_s)
        assert next_pair(ring.seen(now_s), now_s) == PAIR


def test_the_first_block_measures_the_rate_and_the_ring_stays() -> None:
    ring = schedule()
    ring.demand("alice", Demand("alice", "bob", 1000), 0.0)
    token = end_lease(ring, RingLeases(EPOCH), PAIR, 10.0)
    report = BlockReport(*token, "alice", "bob", True, secret_bits=54321)
    assert ring.block_reported(report, 12.0)
    assert not ring.block_reported(report, 12.0)
    assert ring.state.of(PAIR).rate_bps == 54321.0
    assert ring.state.holder == PAIR


def test_a_block_reported_before_the_last_party_is_done_counts_as_well() -> None:
    ring, leases = schedule(), RingLeases(EPOCH)
    assert ring.block_reported(BlockReport(EPOCH, 1, "alice", "bob", True, secret_bits=500), 9.0)
    end_lease(ring, leases, PAIR, 10.0)
    assert ring.state.of(PAIR).rate_bps == 500.0
    assert not ring.block_reported(BlockReport(EPOCH, 1, "alice", "bob", True, secret_bits=500), 11.0)


def test_blocks_in_work_count_as_stock() -> None:
    ring, leases = schedule(), RingLeases(EPOCH)
    ring.demand("alice", Demand("alice", "bob", 1000), 0.0)
    token = end_lease(ring, leases, PAIR, 10.0)
    ring.block_reported(BlockReport(*token, "alice", "bob", True, secret_bits=4000), 10.0)
    for user, peer in (PAIR, PAIR[::-1]):
        ring.stock(user, Stock([LaneStock(peer, "mask", 4000)]), 10.0)
    assert next_pair(ring.seen(10.0), 10.0) == PAIR
    end_lease(ring, leases, PAIR, 11.0)
    assert next_pair(ring.seen(11.0), 11.0) is None
    assert next_pair(ring.seen(500.0), 500.0) == PAIR


def test_rates_and_demands_survive_a_restart_and_presence_does_not() -> None:
    before = schedule()
    before.demand("alice", Demand("alice", "bob", 1000), 0.0)
    before.block_reported(BlockReport(EPOCH, 1, "alice", "bob", True, secret_bits=500), 0.5)
    end_lease(before, RingLeases(EPOCH), PAIR, 1.0)
    users = ("alice", "bob", "carol")
    after = RingSchedule({pair.pair: 1.0 for pair in before.state.pairs}, users, 5000.0)
    assert after.restore(before.dump(2.0), 5000.0)
    assert after.state.of(PAIR).rate_bps == 500.0
    assert next_pair(after.seen(5001.0), 5001.0) is None
    for role in PARTIES:
        after.party_able(role, True, 5002.0)
    assert next_pair(after.seen(5003.0), 5003.0) == PAIR


@pytest.mark.parametrize("data", [b"", b"\xc1", b"garbage" * 10])
def test_an_unusable_schedule_changes_nothing(data: bytes) -> None:
    ring = schedule()
    before = ring.state
    assert not ring.restore(data, 1.0)
    other = RingSchedule({("dave", "erin"): 1.0}, ("dave", "erin"), 0.0)
    assert not ring.restore(other.dump(0.0), 1.0)
    assert ring.state == before
