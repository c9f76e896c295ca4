"""What the wall is told of each pair: the key that a round of the running training takes of it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from lab.dashboard.pairs_now import PairsNow
from lab.runs.following.observer import Heard
from orchestrator.events.status import FL_SERVER, ORCHESTRATOR, BlockReport, Learning, PairStatus

PAIR = PairStatus("alice", "bob", 50_000, 0, 0, 1000.0, False, True)
RUN = Learning("run-1", "otp", "running", 10, round_bits=18_100)


@pytest.mark.parametrize(
    ("state", "bits"), [("running", 18_100), ("waiting", 18_100), ("finished", 0), ("failed", 0)]
)
def test_a_pair_has_the_key_of_a_round_while_a_run_goes_on(state: str, bits: int) -> None:
    pairs = PairsNow(lambda pair: None)
    pairs.note(Heard(ORCHESTRATOR, PAIR, 1.0))
    assert [each.round_bits for each in pairs.now(2.0)] == [0]
    pairs.note(Heard(FL_SERVER, RUN, 2.0))
    pairs.note(Heard(FL_SERVER, replace(RUN, state=state), 3.0))
    assert [each.round_bits for each in pairs.now(4.0)] == [bits]


def test_another_hub_has_told_of_no_run() -> None:
    pairs = PairsNow(lambda pair: None)
    pairs.note(Heard(FL_SERVER, RUN, 1.0))
    pairs.forget()
    pairs.note(Heard(ORCHESTRATOR, PAIR, 2.0))
    assert [each.round_bits for each in pairs.now(3.0)] == [0]


LACKS = replace(PAIR, demand_bits=60_000)
OTHER = replace(LACKS, first="alice", second="carol")


def blocks(pairs: PairsNow, pair: PairStatus, *stored_s: float) -> None:
    """Blocks of a pair that were stored then."""
    for number, at_s in enumerate(stored_s):
        block = BlockReport(1, number, *pair.pair, True, secret_bits=9)
        pairs.note(Heard(pair.first, block, at_s))


def unserved_s(pairs: PairsNow, now_s: float) -> dict[str, float]:
    return {each.pair.second: each.unserved_s for each in pairs.now(now_s)}


def test_a_pair_that_waits_for_its_turn_is_not_unserved_for_as_many_turns_as_pairs_lack_key() -> None:
    pairs = PairsNow(lambda pair: None)
    for each in (LACKS, OTHER):
        pairs.note(Heard(ORCHESTRATOR, each, 0.0))
    assert unserved_s(pairs, 59.0) == {"bob": 59.0, "carol": 59.0}, "nobody's block was stored"
    blocks(pairs, LACKS, 55.0, 90.0)
    assert unserved_s(pairs, 100.0) == {"bob": 10.0, "carol": 40.0}
    blocks(pairs, LACKS, 110.0)
    assert unserved_s(pairs, 125.0) == {"bob": 15.0, "carol": 65.0}, "two turns went by, and none was its own"
    blocks(pairs, OTHER, 126.0)
    assert unserved_s(pairs, 130.0) == {"bob": 4.0, "carol": 4.0}
    assert unserved_s(pairs, 190.0) == {"bob": 64.0, "carol": 64.0}, "nothing was stored any more"


@pytest.mark.parametrize(
    "why", [{"failures": 1, "fault": "tags differ"}, {"available": False, "reason": "carol is away"}]
)
def test_a_pair_that_fails_or_is_away_has_no_turn_to_wait_for(why: dict[str, Any]) -> None:
    pairs = PairsNow(lambda pair: None)
    for each in (LACKS, replace(OTHER, **why)):
        pairs.note(Heard(ORCHESTRATOR, each, 0.0))
    blocks(pairs, LACKS, 20.0, 55.0)
    assert unserved_s(pairs, 61.0) == {"bob": 6.0, "carol": 61.0}


def test_a_pair_alone_is_unserved_since_its_own_block() -> None:
    pairs = PairsNow(lambda pair: None)
    pairs.note(Heard(ORCHESTRATOR, LACKS, 0.0))
    blocks(pairs, OTHER, 50.0)
    assert unserved_s(pairs, 61.0) == {"bob": 61.0}, (
        "others lack nothing, so that it waits for no turn of theirs"
    )
