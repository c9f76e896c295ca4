"""Pairs that make no key until they are calibrated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from failing_queue import FailingDatabase, FailingStore

from orchestrator.scheduling import suspending
from orchestrator.scheduling.entries import Entry, QueueError, Work
from orchestrator.scheduling.leases import Lease, Outcome
from orchestrator.scheduling.queue_store import QUEUE_FILE
from orchestrator.scheduling.ring_queue import RingQueue
from orchestrator.scheduling.suspending import IN_A_ROW, Suspensions
from orchestrator.wire.messages import calibration

AB, AC = PAIRS = (("alice", "bob"), ("alice", "carol"))
RUNNABLE = ("phase", "visibility")


class World:
    """Queue and suspensions of an orchestrator that can be killed and come back."""

    def __init__(self, folder: Path) -> None:
        FailingDatabase.full = False
        self.path, self.now_s, self.number = folder / QUEUE_FILE, 1000.0, 0
        self.open()

    def open(self) -> None:
        self.store = FailingStore(self.path)
        clocks: dict[str, Callable[[], float]] = {"clock": lambda: self.now_s, "wall": lambda: 1.7e9}
        self.queue = RingQueue(self.store, PAIRS, (*RUNNABLE, "intensity"), **clocks)
        self.suspensions = Suspensions(self.queue, self.store, RUNNABLE, **clocks)

    def restart(self) -> None:
        self.store.close()
        self.open()

    def refuse(self, steps: tuple[str, ...] = ("phase", "visibility")) -> None:
        self.suspensions.refused(AB, "error rate 1.20 % in X does not fit", steps)

    def calibrations(self) -> list[Entry]:
        return [entry for entry in self.queue.entries if entry.work.kind == "calibration"]

    def lease(self, entry: Entry, ok: bool = True) -> None:
        """A lease for the next step of a calibration, to its end."""
        self.number += 1
        lease = Lease(1, self.number, *AB, 4, 10.0, calibration(entry.steps_left[0]), entry.number)
        self.queue.lit(lease)
        self.queue.lease_over(Outcome(lease, ok, False, "" if ok else "a fit on noise", 1.0))
        self.suspensions.time()

    def calibrate(self) -> None:
        """What is queued is done."""
        (entry,) = self.calibrations()
        for _ in entry.steps_left:
            self.lease(self.calibrations()[0])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_refused_block_suspends_its_pair_and_queues_the_steps_once(world: World) -> None:
    for _ in range(3):
        world.refuse()
    (entry,) = world.calibrations()
    assert entry.work.steps == ("phase", "visibility")
    assert entry.work.pairs == (AB,)
    assert "error rate 1.20 %" in entry.work.note
    why = world.suspensions.why(AB)
    assert "suspended: error rate 1.20 %" in why
    assert f"entry {entry.number}" in why
    assert world.suspensions.why(AC) == ""
    assert any("alice-bob suspended" in line.what for line in world.queue.history(None, 10))


def test_it_makes_key_again_when_all_steps_are_done(world: World) -> None:
    world.refuse()
    (entry,) = world.calibrations()
    world.lease(entry)
    assert world.suspensions.why(AB) != ""
    world.lease(world.calibrations()[0])
    assert world.suspensions.why(AB) == ""
    assert any("makes key again" in line.what for line in world.queue.history(None, 10))


def test_calibrations_that_do_not_mend_are_not_repeated_for_ever(world: World) -> None:
    for _ in range(IN_A_ROW):
        world.refuse()
        world.calibrate()
        assert world.suspensions.why(AB) == ""
    world.refuse()
    assert world.calibrations() == []
    assert "3 times in a row" in world.suspensions.why(AB)
    assert "qunetlab queue resume --pair alice-bob" in world.suspensions.why(AB)
    world.suspensions.time()
    assert world.suspensions.why(AB) != ""


def test_key_in_between_counts_from_the_start_again(world: World) -> None:
    for _ in range(2 * IN_A_ROW):
        world.refuse()
        world.calibrate()
        world.suspensions.made_key(AB)
    world.refuse()
    assert len(world.calibrations()) == 1


def test_three_failures_of_its_calibration_leave_it_suspended(world: World) -> None:
    world.refuse()
    for _ in range(3):
        world.lease(world.calibrations()[0], ok=False)
    assert world.calibrations() == []
    why = world.suspensions.why(AB)
    assert "failed (a fit on noise)" in why
    assert "qunetlab queue resume --pair alice-bob" in why
    world.refuse()
    assert world.calibrations() == []


def test_an_aborted_calibration_leaves_it_suspended_until_an_operator_resumes(world: World) -> None:
    world.refuse()
    world.queue.abort("olga", world.calibrations()[0].number)
    world.suspensions.time()
    assert "aborted" in world.suspensions.why(AB)
    world.suspensions.resume("olga", AB)
    assert world.suspensions.why(AB) == ""
    assert world.queue.history(None, 1)[0].who == "olga"
    with pytest.raises(QueueError, match="alice-bob is not suspended"):
        world.suspensions.resume("olga", AB)
    world.refuse()
    assert len(world.calibrations()) == 1


def test_a_pair_that_was_suspended_before_stays_so_for_who_mends_what_came_since(world: World) -> None:
    world.refuse()
    with pytest.raises(QueueError, match="alice-bob was suspended before"):
        world.suspensions.resume("eve", AB, since=1.7e9 + 1)
    assert world.suspensions.why(AB) != ""
    world.suspensions.resume("eve", AB, since=1.7e9)
    assert world.suspensions.why(AB) == ""


def test_steps_that_need_hands_say_what_to_do(world: World) -> None:
    world.refuse(("intensity",))
    assert world.calibrations() == []
    assert "`qunetlab calibrate intensity --pair alice,bob` with roles stopped" in world.suspensions.why(AB)


def test_a_restart_forgets_nothing(world: World) -> None:
    world.refuse()
    before = world.suspensions.why(AB)
    world.restart()
    assert world.suspensions.why(AB) == before
    world.refuse()
    world.calibrate()
    world.restart()
    assert world.suspensions.why(AB) == ""
    for _ in range(IN_A_ROW - 1):
        world.refuse()
        world.calibrate()
    world.restart()
    world.refuse()
    assert "3 times in a row" in world.suspensions.why(AB)


def test_killed_before_the_suspension_was_written_the_entry_in_the_queue_is_waited_for(world: World) -> None:
    work = Work("calibration", "olga", (AB,), steps=("delays", "phase", "visibility")[1:])
    entry = world.queue.add(work)
    world.refuse()
    assert [each.number for each in world.calibrations()] == [entry.number]
    world.calibrate()
    assert world.suspensions.why(AB) == ""


def test_calibrated_while_no_orchestrator_looked(world: World) -> None:
    world.refuse()
    (entry,) = world.calibrations()
    for _ in entry.work.steps:
        world.number += 1
        current = world.calibrations()[0]
        lease = Lease(1, world.number, *AB, 4, 10.0, calibration(current.steps_left[0]), current.number)
        world.queue.lit(lease)
        world.queue.lease_over(Outcome(lease, True, False, "", 1.0))
    world.restart()
    world.suspensions.time()
    assert world.suspensions.why(AB) == ""


def test_a_full_disk_suspends_all_the_same_and_is_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailingDatabase, "full", True)
    world.refuse()
    assert "could not be queued" in world.suspensions.why(AB)
    monkeypatch.setattr(FailingDatabase, "full", False)
    world.now_s += suspending.WRITE_AGAIN_S
    world.suspensions.time()
    world.restart()
    assert "could not be queued" in world.suspensions.why(AB)


def test_only_what_is_queued_is_said_to_be(world: World) -> None:
    world.refuse(("intensity", "phase"))
    assert world.calibrations()[0].work.steps == ("phase",)
    assert "calibrates (phase)" in world.suspensions.why(AB)
