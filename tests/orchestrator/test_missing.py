"""Calibrations whose parties are missing: how long they are waited for, and what is told then."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.scheduling.entries import Entry, Work
from orchestrator.scheduling.leases import Lease, Outcome
from orchestrator.scheduling.missing import PATIENCE_S, Missing
from orchestrator.scheduling.queue_store import QUEUE_FILE, QueueStore
from orchestrator.scheduling.ring_queue import RingQueue
from orchestrator.wire.messages import KEY, calibration

AB = ("alice", "bob")


class World:
    """A queue on a clock of its own; ``away`` is why its pair cannot be served."""

    def __init__(self, folder: Path) -> None:
        self.now_s, self.away, self.leases = 1000.0, "", 0
        self.queue = RingQueue(
            QueueStore(folder / QUEUE_FILE),
            (AB,),
            ("phase", "visibility"),
            clock=lambda: self.now_s,
            wall=lambda: 1.7e9,
        )
        self.missing = Missing(self.queue, lambda pair: self.away, lambda: self.now_s)

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.missing.look()

    def lease(self, entry: Entry, *, refused: bool = False, reason: str = "") -> None:
        """An offer for the entry that is refused, or light that fails."""
        self.leases += 1
        lease = Lease(1, self.leases, *AB, 4, 10.0, calibration("phase"), entry.number)
        if not refused:
            self.queue.lit(lease)
        outcome = Outcome(lease, False, refused, reason, ring_s=0.0 if refused else 1.0)
        self.queue.lease_over(outcome)
        self.missing.lease_over(outcome)

    def calibration(self, *steps: str) -> Entry:
        return self.queue.add(Work("calibration", "olga", (AB,), steps=steps))

    @property
    def open(self) -> list[int]:
        return [entry.number for entry in self.queue.entries]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_who_left_in_the_middle_is_waited_for_and_then_the_entry_fails_with_what_to_do(world: World) -> None:
    entry = world.calibration("phase", "visibility")
    world.lease(entry, reason="bob is gone")
    world.away = "bob is gone"
    world.after(0.0)
    world.after(PATIENCE_S - 1.0)
    assert world.open == [entry.number]
    world.after(1.0)
    assert world.open == []
    (closed,) = world.queue.closed(1)
    assert (closed.state, closed.reason) == (
        "failed",
        "given up after 10 minutes: bob is gone; once that is over, "
        "`qunetlab queue add calibration phase visibility --pair alice-bob`",
    )
    assert "given up after 10 minutes" in world.queue.history(entry.number, 1)[0].what


def test_who_comes_back_in_time_is_waited_for_anew_the_next_time(world: World) -> None:
    entry = world.calibration("phase")
    world.lease(entry, reason="bob is gone")
    for _ in range(3):
        world.away = "bob is gone"
        world.after(1.0)
        world.after(PATIENCE_S - 1.0)
        world.away = ""
        world.after(1.0)
    world.after(10 * PATIENCE_S)
    assert world.open == [entry.number]


def test_offers_that_are_refused_all_the_time_are_no_way_to_wait_for_ever(world: World) -> None:
    entry = world.calibration("phase")
    world.lease(entry, reason="bob is gone")
    refusal = "bob: the epoch cannot be stored: No space left on device"
    for _ in range(3):
        world.lease(entry, refused=True, reason=refusal)
        world.after(PATIENCE_S / 2)
    (closed,) = world.queue.closed(1)
    assert closed.state == "failed"
    assert refusal in closed.reason


def test_what_has_not_begun_waits_as_long_as_it_takes_and_so_does_key(world: World) -> None:
    later = world.calibration("phase")
    order = world.queue.add(Work("key", "olga", (AB,), 100))
    world.queue.lit(Lease(1, 99, *AB, 4, 10.0, KEY, order.number))
    world.queue.lease_over(Outcome(Lease(1, 99, *AB, 4, 10.0, KEY, order.number), False, False, "gone", 1.0))
    world.away = "bob is gone"
    world.after(0.0)
    world.after(100 * PATIENCE_S)
    assert world.open == [later.number, order.number]
