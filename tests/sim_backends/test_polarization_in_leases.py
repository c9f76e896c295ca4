"""Polarisation in light phases over real drivers and twins: climbed when nothing is known, and held from then on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driven_ring import DrivenRing
from turning_ring import turning_content

from lab.calibration.polarization_hold import Hold
from lab.testbed import Testbed
from orchestrator.light.aligning import Meter
from orchestrator.light.messages import LightAborted
from orchestrator.light.tracking.polarization import Holding, OwnPolarization
from orchestrator.light.tracking.polarization_kept import FILE, Kept, KeptSettings
from orchestrator.wire.channel import ChannelError

pytestmark = pytest.mark.early

SLOTS, FRAMES = 1 << 19, 4


class Watched(DrivenRing):
    """Counts what the tagger recorded, and notes what every gap takes in each frame: what no instrument shows."""

    def __init__(self, data: dict[str, Any], folder: Path, **named: Any) -> None:
        super().__init__(data, folder=folder, **named)
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


@pytest.mark.parametrize("silent", ["before", "while"])
def test_a_controller_that_does_not_answer_costs_no_block(silent: str, tmp_path: Path) -> None:
    """While frames go on it stays where it stands, and what was kept stays; while a lease begins the lease ends by its name."""
    data = turning_content(("alice",), SLOTS, ring_seed=2)
    ring = Watched(data, tmp_path)
    twin: Any = ring.bench.twins["polarization_alice"]
    try:
        ring.phase(1)
        kept = (tmp_path / "alice" / FILE).read_bytes()

        def die(frame: int) -> None:
            twin.faults.drop_replies(1_000)

        if silent == "before":
            die(0)
            with pytest.raises(LightAborted, match="polarization_alice"):
                ring.phase(2)
        else:
            phase = ring.phase(12, lambda frame: die(frame) if frame == 0 else None)
            assert phase.slots == 12 * SLOTS
            assert phase.clicks > 0
        assert (tmp_path / "alice" / FILE).read_bytes() == kept
    finally:
        ring.close()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_relay_that_lies_about_counts_costs_light_and_adds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of the climb are a third to all of the true ones, at random: the user sends no more than with its light aligned."""
    honest = sent(DrivenRing(turning_content(("alice",), SLOTS, ring_seed=2)))
    rng = np.random.default_rng(5)
    true_count = Meter.count
    monkeypatch.setattr(Meter, "count", lambda self: int(true_count(self) * rng.uniform(0.3, 1.0)))
    lied = sent(DrivenRing(turning_content(("alice",), SLOTS, ring_seed=2)))
    assert max(lied) <= max(honest) * 1.02


def sent(ring: DrivenRing) -> list[float]:
    """What alice really sends in each frame; empty where the lies end in a refusal."""
    mu: list[float] = []
    try:
        ring.phase(FRAMES, lambda frame: mu.append(ring.bench.ring.mean_photon_number("alice", "ccw")))
    except (LightAborted, ChannelError):
        mu.append(0.0)
    finally:
        ring.close()
    return mu


def test_at_the_end_of_its_range_a_block_goes_on_and_the_next_lease_climbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fibre turns within a block, and the controller has nothing to turn with; the next lease has its whole range."""
    at = Physics()
    data = turning_content(("alice",), 1 << 20, ring_seed=4, drift=1.0)
    ring = Watched(data, tmp_path, pair=("alice", "dave"), physics=at)
    own = ring.users[0].polarization
    assert own is not None
    own._clock = at
    begin = OwnPolarization.begin_hold

    def narrow(self: OwnPolarization, testbed: Testbed, kept: Kept) -> Hold:
        hold = begin(self, testbed, kept)
        hold._low, hold._high = hold._at - 0.01, hold._at + 0.01
        return hold

    def turn(frame: int) -> None:
        ring.look(frame)
        at.now_s += 1_100.0 if frame == 3 else 0.1

    def kept() -> Kept:
        found = KeptSettings(tmp_path / "alice").get("alice-dave", own.controller.axes)
        assert found is not None
        return found

    try:
        ring.phase(1)
        assert kept().must_climb == ""
        with monkeypatch.context() as patched:
            patched.setattr(OwnPolarization, "begin_hold", narrow)
            assert ring.phase(40, turn).slots == 40 << 20
        assert ring.lost_db[-1][1] > 0.3
        assert "is at the end of its range" in kept().must_climb
        ring.phase(2, ring.look)
        assert kept().must_climb == ""
        assert max(lost[1] for lost in ring.lost_db[-2:]) < 0.1
    finally:
        ring.close()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_light_of_fibre_that_drifts_is_held_and_is_lost_where_nobody_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A block of twenty minutes: the held gap loses less than a twentieth of a decibel, the same fibre without hold half of one."""
    held_db = gap_lost_db()
    monkeypatch.setattr(Holding, "before", lambda self, frame: None)
    free_db = gap_lost_db()
    assert sum(held_db) / len(held_db) < 0.05
    assert max(free_db) > 0.5


def gap_lost_db(seed: int = 2, frames: int = 200) -> list[float]:
    """What the gap behind alice takes in each frame of a block with dave."""
    at = Physics()
    data = turning_content(("alice",), 1 << 21, ring_seed=seed, drift=1.0)
    ring = DrivenRing(data, ("alice", "dave"), physics=at)
    lost: list[float] = []

    def look(frame: int) -> None:
        lost.append(-10 * math.log10(ring.bench.ring.light().gaps[1]))
        at.now_s += 6.0

    try:
        own = ring.users[0].polarization
        assert own is not None
        own._clock = at
        ring.phase(frames, look)
    finally:
        ring.close()
    return lost


class Physics:
    """The clock that the ring drifts with, and the party holds by."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
