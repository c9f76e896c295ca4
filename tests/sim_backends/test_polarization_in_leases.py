"""Polarisation in light phases over real drivers and twins: climbed when nothing is known, and held from then on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from driven_ring import DrivenRing
from turning_ring import turning_content

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
