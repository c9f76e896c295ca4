"""Polarisation in light phases over real drivers and twins: climbed when nothing is known, and held from then on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from driven_ring import DrivenRing
from turning_ring import turning_content

from orchestrator.light.tracking.polarization import Holding

SLOTS, FRAMES = 1 << 19, 4


class Watched(DrivenRing):
    """Counts what the tagger recorded, and notes what every gap takes in each frame: what no instrument shows."""

    def __init__(self, data: dict[str, Any], folder: Path) -> None:
        super().__init__(data, folder=folder)
        self.exposures = 0
        self.lost_db: list[list[float]] = []
        expose = self.bench.ring.expose

        def counted(*args: Any, **named: Any) -> Any:
            self.exposures += 1
            return expose(*args, **named)

        self.bench.ring.expose = counted  # type: ignore[method-assign]

    def look(self, frame: int) -> None:
        self.lost_db.append([-10 * math.log10(gap) for gap in self.bench.ring.light().gaps])


@pytest.mark.parametrize("controlled", [("relay",), ("alice", "bob")])
def test_a_lease_climbs_what_it_does_not_know_and_after_a_restart_it_holds_it(
    controlled: tuple[str, ...], tmp_path: Path
) -> None:
    """Fibre lies anyhow behind the controllers; the relay climbs for itself, users by what it counts for them."""
    exposed = []
    for _ in range(2):
        ring = Watched(turning_content(controlled, SLOTS, ring_seed=2), tmp_path)
        try:
            ring.look(-1)
            ring.phase(FRAMES, ring.look)
        finally:
            ring.close()
        assert sum(ring.lost_db[0]) > 0.5
        assert max(sum(lost) for lost in ring.lost_db[1:]) < 0.1 * len(controlled)
        exposed.append(ring.exposures)
    assert exposed[0] > FRAMES + 50 * len(controlled)
    assert exposed[1] < FRAMES + 10


def test_light_of_fibre_that_drifts_is_held_and_is_lost_where_nobody_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half an hour in a block; the held gap loses a twentieth of a decibel, the same fibre without hold more than half of one."""
    assert gap_lost_db() < 0.05
    monkeypatch.setattr(Holding, "before", lambda self, frame: None)
    assert gap_lost_db() > 0.5


def gap_lost_db() -> float:
    """What the longest gap of a pair takes in the mean of the last half of a block; everything else of the ring stands still."""
    at = Physics()
    data = turning_content(("bob",), 1 << 21, ring_seed=3, drift=1.0)
    ring = DrivenRing(data, physics=at)
    lost: list[float] = []

    def look(frame: int) -> None:
        lost.append(-10 * math.log10(ring.bench.ring.light().gaps[2]))
        at.now_s += 16.0

    try:
        own = ring.users[1].polarization
        assert own is not None
        own._clock = at
        ring.phase(100, look)
    finally:
        ring.close()
    return sum(lost[50:]) / 50


class Physics:
    """The clock that the ring drifts with, and the party holds by."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
