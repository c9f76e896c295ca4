"""The one line that says whether the ring is well, from facts with ages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from lab.runs.following.verdict import EXIT_CODES, GRACE_S, SILENCE_S, UNUSED_S, Facts, verdict
from orchestrator.events.status import Alarm, Learning, PairStatus, PeerStatus, RingStatus

ROLES = ("relay", "alice", "bob", "carol")
PAIRS = (("alice", "bob"), ("alice", "carol"), ("bob", "carol"))
FREE = RingStatus("free", 40.0)


def pair(names: tuple[str, str], **fields: Any) -> PairStatus:
    return changed(PairStatus(*names, 0, 0, 0, 1000.0, False, True), **fields)


def facts(**fields: Any) -> Facts:
    """A ring with relay and three users where nobody wants anything."""
    well = Facts(
        expected=ROLES,
        peers={role: (PeerStatus(role, True), 60.0) for role in ROLES},
        pairs=tuple((pair(names), 60.0) for names in PAIRS),
        ring=(FREE, 0.5),
    )
    return replace(well, **fields)


def without(*roles: str, age_s: float = 27.0) -> dict[str, Any]:
    """Some roles are gone, and the pairs with them."""
    peers = {role: (PeerStatus(role, role not in roles), age_s if role in roles else 60.0) for role in ROLES}
    gone = set(roles)
    pairs = tuple(
        (pair(names, available="relay" not in gone and not gone & set(names)), age_s) for names in PAIRS
    )
    return {"peers": peers, "pairs": pairs}


def wants(names: tuple[str, str] = PAIRS[0], **fields: Any) -> tuple[tuple[PairStatus, float], ...]:
    return tuple(
        (pair(each, **({"demand_bits": 500} | fields if each == names else {})), 1.0) for each in PAIRS
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "IDLE 40 s: nobody asked for key"),
        ({"pairs": wants(stock_bits=500)}, "IDLE 40 s: there is as much key as was asked for"),
        ({"pairs": wants()[:1], "ring": (RingStatus("free", 2.0), 0.0)}, "RUNNING 2 s: between two leases; alice-bob want key"),
        ({"pairs": wants(in_work_bits=800)}, "RUNNING 40 s: blocks of alice-bob are worked on"),
        ({"ring": (RingStatus("granted", 3.0, "alice", "bob", 7), 1.0)}, "RUNNING 4 s: alice-bob"),
        (without("relay"), "RING STOPPED 27 s: relay gone"),
        (without("alice", "bob", age_s=12.0), "RING STOPPED 12 s: alice gone, bob gone"),
        (without("carol"), "DEGRADED 27 s: carol gone"),
        ({"pairs": wants(failures=3, failing_s=20.0, fault="QBER 11 %")}, "RING STOPPED 21 s: alice-bob: QBER 11 %"),
        ({"pairs": wants(failures=1, failing_s=0.0, fault="busy")}, "DEGRADED 1 s: alice-bob fails: busy"),
        ({"pairs": wants()}, "DEGRADED 40 s: key is asked for and no lease is given"),
        ({"alarms": (("bob", Alarm("low-water", "auth_ab below 16 kbit", "alice"), 9.0),)}, "DEGRADED 9 s: minor alarm of bob: low-water with alice: auth_ab below 16 kbit"),
        ({"learning": (Learning("r1", "otp", "failed", 10, 0, 10, reason="every round was aborted"), 5.0)}, "DEGRADED 5 s: training r1 failed: every round was aborted"),
        (
            {
                "learning": (Learning("r1", "otp", "running", 10, 4), 50.0),
                "peers": dict(facts().peers or {}) | {"fl-server": (PeerStatus("fl-server", False), 6.0)},
            },
            "DEGRADED 6 s: training r1 was left by its server after 4 of 10 rounds",
        ),
        ({"link": "nothing listens", "link_age_s": 8.0}, "NO ANSWER 8 s: no link to the orchestrator: nothing listens"),
        ({"heard_s": 7.0}, "NO ANSWER 7 s: the orchestrator is linked and says nothing"),
        ({"ring": None, "link_age_s": 0.4}, "NO ANSWER 0 s: the orchestrator has not told its state yet"),
    ],
)  # fmt: skip
def test_each_rule(changes: dict[str, Any], line: str) -> None:
    assert verdict(facts(**changes)).line == line


def test_a_relay_whose_instruments_failed_stops_the_ring_as_well() -> None:
    peers = dict(facts().peers or {}) | {
        "relay": (PeerStatus("relay", True, False, "detectors: no answer"), 4.0)
    }
    said = verdict(facts(peers=peers))
    assert said.line == "RING STOPPED 4 s: relay not ready: detectors: no answer"
    assert said.exit_code == 3


def test_one_pair_that_fails_beside_others_that_work_is_no_standstill() -> None:
    pairs = (
        (pair(PAIRS[0], demand_bits=10, failures=9, failing_s=99.0, fault="no key"), 0.0),
        (pair(PAIRS[1], demand_bits=10), 0.0),
    )
    said = verdict(facts(pairs=pairs, ring=(RingStatus("granted", 1.0, *PAIRS[1]), 0.0)))
    assert (said.state, said.text) == ("degraded", "alice-bob fails: no key")


def test_many_problems_are_named_up_to_a_number() -> None:
    alarms = tuple(("bob", Alarm("store", f"n{n}"), float(n)) for n in range(6))
    said = verdict(facts(alarms=alarms))
    assert said.text.endswith("n2 and 3 more")
    assert said.age_s == 5.0


AGES = st.floats(0.0, 1e6)
PEER = st.tuples(
    st.builds(PeerStatus, peer=st.just("x"), present=st.booleans(), ready=st.booleans(), reason=st.text(max_size=5)), AGES
)  # fmt: skip
SEEN_PAIR = st.tuples(
    st.builds(
        PairStatus,
        first=st.sampled_from(ROLES[1:]),
        second=st.sampled_from(ROLES[1:]),
        stock_bits=st.integers(0, 9),
        demand_bits=st.integers(0, 9),
        in_work_bits=st.integers(0, 9),
        rate_bps=st.floats(0, 1e6),
        measured=st.booleans(),
        available=st.booleans(),
        failures=st.integers(0, 3),
        failing_s=AGES,
    ),
    AGES,
)
ANY = st.builds(
    Facts,
    expected=st.just(ROLES),
    link=st.sampled_from(["", "", "", "gone"]),
    link_age_s=AGES,
    heard_s=st.floats(0.0, 2 * SILENCE_S),
    peers=st.dictionaries(st.sampled_from(ROLES), PEER),
    pairs=st.lists(SEEN_PAIR, max_size=4).map(tuple),
    ring=st.none()
    | st.tuples(
        st.builds(RingStatus, phase=st.sampled_from(["free", "granted"]), for_s=AGES, first=st.just("alice"), second=st.just("bob")),
        AGES,
    ),
)  # fmt: skip


@given(ANY)
def test_no_facts_are_without_a_verdict_and_a_dead_ring_is_never_well(any_facts: Facts) -> None:
    said = verdict(any_facts)
    assert said.age_s >= 0.0
    assert said.text
    well = EXIT_CODES[said.state] == 0
    peers = any_facts.peers or {}
    here = [role for role in ROLES if role in peers and peers[role][0].present and peers[role][0].ready]
    if any_facts.link or any_facts.heard_s > SILENCE_S or any_facts.ring is None:
        assert said.state == "no answer"
    elif "relay" not in here or (any_facts.pairs and not any(each.available for each, _ in any_facts.pairs)):
        assert said.state == "stopped"
    elif len(here) < len(ROLES):
        assert not well


@given(ANY, st.floats(0.0, 1e5))
def test_a_problem_does_not_go_away_by_waiting(any_facts: Facts, later_s: float) -> None:
    """As long as the orchestrator speaks and says nothing new, what is wrong stays wrong and only grows older."""

    def aged(pairs: Any) -> Any:
        return tuple((item, age_s + later_s) for item, age_s in pairs)

    later = replace(
        any_facts,
        link_age_s=any_facts.link_age_s + later_s,
        peers={role: (item, age_s + later_s) for role, (item, age_s) in (any_facts.peers or {}).items()},
        pairs=aged(any_facts.pairs),
        ring=None if any_facts.ring is None else (any_facts.ring[0], any_facts.ring[1] + later_s),
    )
    before, after = verdict(any_facts), verdict(later)
    if before.exit_code:
        assert after.exit_code >= before.exit_code
    if after.state == before.state and before.state != "no answer":
        assert after.age_s >= before.age_s


def test_the_thresholds_are_in_order() -> None:
    assert 1.0 < SILENCE_S <= GRACE_S < UNUSED_S
