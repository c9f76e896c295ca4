"""What the wall shows: each rule of red, amber and blue, and a ring that is well."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from lab.dashboard.lamp import PairNow, Plan, lamp
from lab.runs.following.verdict import Facts
from orchestrator.events.status import BlockReport, PairStatus, PeerStatus, RingStatus

PAIR = PairStatus("alice", "dave", 500_000, 0, 0, 9000.0, True, True)
BLOCK = BlockReport(1, 7, "alice", "dave", True, qber=0.007, secret_bits=50_000, light_s=1.0)
PLAN = Plan(qber=0.007, qber_limit=0.06, rate_bps=50_000.0)
NOW = PairNow(PAIR, BLOCK, PLAN)
PEERS = {name: (PeerStatus(name, True), 100.0) for name in ("relay", "alice", "dave")}
FREE = RingStatus("free", 12.0)
LEASED = RingStatus("granted", 2.0, "alice", "dave", 8)


def facts(ring: RingStatus = FREE, pair: PairStatus = PAIR, **peers: tuple[PeerStatus, float]) -> Facts:
    return Facts(
        tuple(PEERS), peers={**PEERS, **peers}, pairs=((pair, 1.0),), ring=(ring, 0.0), link_age_s=100
    )


def test_a_ring_that_nobody_asks_is_blue_and_says_so() -> None:
    said = lamp(facts(), (NOW,), {}, 0.5)
    assert (said.colour, said.word, said.about, said.problems) == ("blue", "IDLE", "nobody asked for key", ())
    assert said.for_s == 12.0


def test_a_leased_ring_that_is_well_is_green() -> None:
    said = lamp(facts(LEASED), (NOW,), {}, 0.5)
    assert (said.colour, said.word, said.about, said.for_s) == ("green", "KEYING", "alice-dave", 2.0)


def test_nobody_answers() -> None:
    said = lamp(Facts((), link="gone", link_age_s=3.0), (), {}, None)
    assert (said.colour, said.word) == ("red", "NO ANSWER")


def test_the_relay_gone_stops_the_ring() -> None:
    said = lamp(facts(relay=(PeerStatus("relay", False), 27.0)), (NOW,), {}, None)
    assert (said.colour, said.word, said.about, said.for_s) == ("red", "STOPPED", "relay gone", 27.0)


LACKS = replace(PAIR, demand_bits=600_000)
RED: dict[str, tuple[Facts, PairNow, dict[str, Any], str]] = {
    "role missing": (facts(alice=(PeerStatus("alice", False), 6.0)), NOW, {}, "alice is missing"),
    "instrument unreachable": (
        facts(alice=(PeerStatus("alice", True, False, "no answer", ("attenuator",)), 1.0)),
        NOW,
        {},
        "alice does not reach attenuator: no answer",
    ),
    "demand without a block": (
        facts(LEASED, LACKS),
        PairNow(LACKS, BLOCK, PLAN, unserved_s=61.0),
        {},
        "alice-dave has lacked key for 61 s and no block was stored",
    ),
    "QBER at its limit": (
        facts(),
        PairNow(PAIR, replace(BLOCK, qber=0.0601), PLAN),
        {},
        "alice-dave: QBER 6.01 % is at its limit of 6 %",
    ),
    "safe state not confirmed": (
        facts(),
        NOW,
        {"relay": {"text": "relay: laser COULD NOT BE MADE SAFE", "state": {"unsafe": {"laser": "mute"}}}},
        "the safe state of relay is not confirmed: relay: laser COULD NOT BE MADE SAFE",
    ),
    "stock under one round and falling": (
        facts(),
        PairNow(PAIR, BLOCK, PLAN, lasts_s=40.0, falls=True, round_bits=600_000),
        {},
        "alice-dave has less key than a round takes, and it falls",
    ),
}


@pytest.mark.parametrize("why", RED)
def test_red(why: str) -> None:
    told, pair, interlocks, text = RED[why]
    said = lamp(told, (pair,), interlocks, 0.5)
    assert said.colour == "red"
    assert text in [each.text for each in said.problems if each.colour == "red"]


AMBER: dict[str, tuple[PairNow, float, str]] = {
    "QBER above the plan": (
        PairNow(PAIR, replace(BLOCK, qber=0.011), PLAN),
        0.5,
        "alice-dave: QBER 1.10 %, planned 0.70 %",
    ),
    "slow": (
        PairNow(PAIR, replace(BLOCK, secret_bits=34_000), PLAN),
        0.5,
        "alice-dave: 68 % of the planned key rate",
    ),
    "two aborted": (
        PairNow(replace(PAIR, failures=2, fault="tags differ"), BLOCK, PLAN),
        0.5,
        "alice-dave: 2 leases or blocks in a row gave no key: tags differ",
    ),
    "disk": (NOW, 0.03, "the disk is nearly full: 3.0 % are free"),
}


@pytest.mark.parametrize("why", AMBER)
def test_amber(why: str) -> None:
    pair, free, text = AMBER[why]
    said = lamp(facts(LEASED), (pair,), {}, free)
    assert said.colour == "amber"
    assert [each.text for each in said.problems] == [text]


@pytest.mark.parametrize(
    "pair",
    [
        PairNow(PAIR, replace(BLOCK, qber=0.0104), PLAN),
        PairNow(PAIR, replace(BLOCK, secret_bits=36_000), PLAN),
        PairNow(PAIR, None, PLAN, unserved_s=59.0),
        PairNow(PAIR, BLOCK, None),
        PairNow(PAIR, BLOCK, PLAN, lasts_s=40.0, round_bits=600_000),
        PairNow(replace(PAIR, failures=1), BLOCK, PLAN),
    ],
)
def test_what_is_not_beyond_a_limit_says_nothing(pair: PairNow) -> None:
    assert lamp(facts(LEASED), (pair,), {}, 0.06).colour == "green"


def test_a_role_that_is_missed_for_a_moment_is_no_alarm() -> None:
    said = lamp(facts(LEASED, alice=(PeerStatus("alice", False), 4.0)), (NOW,), {}, None)
    assert said.problems == ()
