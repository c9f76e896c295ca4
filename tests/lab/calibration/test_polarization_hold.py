"""Holding against fibre that walks: what is lost, what would be lost without, and when it says that it cannot."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
from one_gap import Controller, Gap

from lab.calibration.polarization import Climbed, climb
from lab.calibration.polarization_hold import Hold

CONTROLLERS: tuple[Controller, Controller] = ("squeezers", "paddles")
FRAME_S = 0.29
"""Of a frame of 2^22 slots with its upload."""
COUNTS = 40_000
"""Of such a frame at one click in a hundred slots."""


def held(controller: Controller, seed: int, walk_rad: float = 0.02) -> tuple[Gap, Hold, Climbed]:
    gap = Gap(controller, seed)
    found = climb(
        gap.axes,
        gap.held,
        gap.apply,
        gap.count,
        dark_counts=gap.dark,
        rng=np.random.default_rng(seed),
    )
    hold = Hold(
        gap.axes, found, walk_rad=walk_rad, dark_counts=gap.dark, rng=np.random.default_rng([seed, 1])
    )
    return gap, hold, found


@dataclass
class Held:
    """What was lost in each frame, and the most that the settings at first would have lost (dB)."""

    lost_db: np.ndarray
    without_db: float

    def worst_minute_db(self) -> float:
        frames = round(60 / FRAME_S)
        return max(self.lost_db[n : n + frames].mean() for n in range(0, len(self.lost_db), frames))


def frames(gap: Gap, hold: Hold, seconds: float, walk_rad: float, *, turns: int = 1) -> Held:
    """``turns``: so many controllers share the frames, and this one has every so many."""
    gap.counts = COUNTS
    alone, lost, without = copy.deepcopy(gap.controller).jones(hold.settings), [], []
    step_s = turns * FRAME_S
    for _ in range(round(seconds / step_s)):
        gap.drift(walk_rad * np.sqrt(step_s))
        settings = gap.apply(hold.next())
        lost.append(gap.lost_db())
        without.append(-20 * np.log10(abs((gap.fibre @ alone)[0, 0])))
        hold.counted(gap.count(), step_s, settings)
        if hold.must_climb:
            break
    return Held(np.array(lost), float(max(without)))


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_walk_is_followed_that_would_cost_decibels(controller: Controller) -> None:
    """Ten minutes of fibre that turns by 0.7 rad about each axis meanwhile."""
    without = []
    for seed in range(2):
        gap, hold, _ = held(controller, seed, walk_rad=0.03)
        found = frames(gap, hold, 600.0, 0.03)
        assert hold.must_climb == ""
        assert found.lost_db.mean() < 0.05
        assert found.worst_minute_db() < 0.1
        without.append(found.without_db)
    assert max(without) > 0.5


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_an_hour_below_a_tenth_of_a_decibel(controller: Controller, seed: int) -> None:
    """Alone, and as one of three controllers that take turns."""
    for turns in (1, 3):
        gap, hold, _ = held(controller, seed)
        found = frames(gap, hold, 3600.0, 0.02, turns=turns)
        assert hold.must_climb == ""
        assert found.worst_minute_db() < 0.1
        assert np.quantile(found.lost_db, 0.99) < 0.15


def test_fibre_that_rests_costs_no_more_than_the_dithers() -> None:
    gap, hold, found = held("squeezers", 1)
    assert hold.settings == found.settings
    assert frames(gap, hold, 120.0, 0.0).lost_db.mean() < 0.03


def test_the_first_frame_is_not_dithered_and_then_they_come_in_pairs() -> None:
    gap, hold, found = held("squeezers", 2)
    gap.counts = COUNTS
    assert hold.next() == found.settings
    hold.counted(gap.count(), 0.0)
    for _ in range(5):
        at = np.array(hold.settings)
        there = np.array(hold.next())
        gap.apply(list(there))
        hold.counted(gap.count(), FRAME_S)
        back = np.array(hold.next())
        gap.apply(list(back))
        hold.counted(gap.count(), FRAME_S)
        assert there - at == pytest.approx(at - back)
        assert 0.001 < np.linalg.norm(there - at) < 0.5


def test_actuators_come_home_from_the_ends_of_their_ranges_at_no_loss() -> None:
    gap, hold, _ = held("squeezers", 0)
    hold._at = np.clip(
        hold._at + np.array([4.0, 0.0, 0.0, 0.0]), -4.6, 4.6
    )  # a whole wave, to within a tenth
    far = float(np.abs(hold.settings).max())
    found = frames(gap, hold, 600.0, 0.0)
    assert hold.must_climb == ""
    assert float(np.abs(hold.settings).max()) < far - 0.5
    assert found.lost_db[-200:].mean() < 0.05


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_light_that_goes_is_no_reason_to_wander(controller: Controller) -> None:
    """A rate that falls by a fifth for another reason is followed; one that falls by half is told."""
    gap, hold, _ = held(controller, 3)
    frames(gap, hold, 60.0, 0.0)
    steady = gap.count
    gap.count = lambda: round(0.8 * steady())  # type: ignore[method-assign]
    assert frames(gap, hold, 60.0, 0.0).lost_db.mean() < 0.1
    assert hold.must_climb == ""
    gap.count = lambda: round(0.5 * steady())  # type: ignore[method-assign]
    frames(gap, hold, 120.0, 0.0)
    assert "the rate has fallen by" in hold.must_climb


def test_fibre_that_turns_at_once_is_told_or_followed() -> None:
    """Somebody moves a cable: by half a turn, which no dither sees the way back from."""
    told = 0
    for seed in range(4):
        gap, hold, _ = held("squeezers", seed)
        frames(gap, hold, 30.0, 0.0)
        gap.drift(1.5)
        found = frames(gap, hold, 240.0, 0.0)
        told += bool(hold.must_climb)
        assert hold.must_climb or found.lost_db[-50:].mean() < 0.1
    assert told < 4


def test_an_actuator_without_range_left_is_told() -> None:
    gap, hold, _ = held("squeezers", 1)
    hold._low, hold._high = hold._at - 0.05, hold._at + 0.05  # nothing to turn with
    frames(gap, hold, 600.0, 0.1)
    assert hold.must_climb
