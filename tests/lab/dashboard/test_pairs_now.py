"""What the wall is told of each pair: the key that a round of the running training takes of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from lab.dashboard.pairs_now import PairsNow
from lab.runs.following.observer import Heard
from orchestrator.events.status import FL_SERVER, ORCHESTRATOR, Learning, PairStatus

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
