"""What is due: for which owners, in whose light, and once for all pairs that share it."""

from __future__ import annotations

import pytest

from lab.calibration.book import Book, now
from lab.calibration.steps import Step
from lab.runs.calibrating.runner import Due, plan

USERS = ("alice", "bob", "carol", "dave")
PAIRS = [(first, second) for place, first in enumerate(USERS) for second in USERS[place + 1 :]]
Pair = tuple[str, str]


def due(*asked: Pair, steps: tuple[Step, ...] = ()) -> list[Due]:
    return plan(USERS, PAIRS, Book(ring="0" * 16), now(), steps=steps, asked=asked)


def of(step: Step, found: list[Due]) -> list[tuple[str, Pair]]:
    return [(each.owner, each.pair) for each in found if each.step is step]


def test_all_pairs_of_a_ring_share_what_they_can() -> None:
    """Each user once, the relay once, and every arm: alice never stands second and dave never first."""
    found = due()
    ab, cd = ("alice", "bob"), ("carol", "dave")
    assert of(Step.PHASE, found) == [("alice", ab), ("bob", ab), ("carol", cd), ("dave", cd)]
    assert of(Step.VISIBILITY, found) == of(Step.REFERENCE, found) == [("relay", ab)]
    arms = [pair for _, pair in of(Step.ARM_LOSS, found)]
    assert arms == [ab, ("bob", "carol"), cd]
    assert {pair[0] for pair in arms} == {pair[0] for pair in PAIRS}
    assert {pair[1] for pair in arms} == {pair[1] for pair in PAIRS}
    assert len(found) == len(set(found))


@pytest.mark.parametrize("again", [(), (("alice", "carol"),)])
def test_several_pairs_are_calibrated_in_one_run(again: tuple[Pair, ...]) -> None:
    ac, bc = ("alice", "carol"), ("bob", "carol")
    found = due(ac, bc, *again, steps=(Step.PHASE, Step.ARM_LOSS, Step.VISIBILITY))
    assert of(Step.PHASE, found) == [("alice", ac), ("bob", bc), ("carol", ac)]
    assert of(Step.ARM_LOSS, found) == [("relay", ac), ("relay", bc)], "bob as the first user is another arm"
    assert of(Step.VISIBILITY, found) == [("relay", ac)]
    assert of(Step.ARM_LOSS, due(ac, bc, ("alice", "bob"))) == [
        ("relay", ac),
        ("relay", bc),
        ("relay", ("alice", "bob")),
    ]
