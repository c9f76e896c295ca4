"""Climbing with the controllers' own fibre in the way: it gets there, knows how well, and refuses what cannot be climbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from one_gap import Controller, Gap

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.polarization import Climbed, climb

CONTROLLERS: tuple[Controller, Controller] = ("squeezers", "paddles")


def climbed(gap: Gap, start: Sequence[float] | None = None, target_db: float = 0.05) -> Climbed:
    return climb(
        gap.axes,
        gap.held if start is None else start,
        gap.apply,
        gap.count,
        dark_counts=gap.dark,
        target_db=target_db,
        rng=np.random.default_rng(11),
    )


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_best_is_reached_within_a_twentieth_of_a_decibel_from_anywhere(controller: Controller) -> None:
    readings, within = [], []
    for seed in range(20):
        gap = Gap(controller, seed)
        found = climbed(gap)
        assert gap.lost_db() < 0.05, seed
        assert found.below_best_db <= 0.05
        assert found.settings == [float(each) for each in gap.held]
        assert found.readings == gap.readings
        assert abs(found.rate - gap.counts * gap.passes()) < 5 * found.rate_sigma
        within.append(gap.lost_db() <= found.below_best_db)
        readings.append(found.readings)
    assert sum(within) >= 18, "said with 95 % confidence"
    assert np.mean(readings) < 150
    assert len(set(readings)) > 3, "it stops by what it sees"


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_with_fewer_counts_it_takes_more_readings_and_is_as_good(controller: Controller) -> None:
    many, few = Gap(controller, 3, counts=1e5), Gap(controller, 3, counts=5e3)
    assert climbed(few).readings > 2 * climbed(many).readings
    assert max(few.lost_db(), many.lost_db()) < 0.05


def test_what_it_says_of_the_way_up_is_so() -> None:
    gap = Gap("squeezers", 4)
    gap.apply([1.0, -1.0, 2.0, -2.0])
    before = gap.passes()
    found = climbed(gap)
    assert found.gained_db == pytest.approx(10 * np.log10(gap.passes() / before), abs=0.2)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_actuators_at_the_ends_of_their_ranges_are_unwound(controller: Controller) -> None:
    for seed in range(4):
        gap = Gap(controller, seed)
        ends = [gap.axes.low, gap.axes.high] * 2
        found = climbed(gap, ends[: gap.axes.count])
        assert gap.lost_db() < 0.05
        room = 0.05 * (gap.axes.high - gap.axes.low)
        assert gap.axes.low + room < min(found.settings) <= max(found.settings) < gap.axes.high - room


def test_a_controller_without_range_to_get_there_is_refused_with_what_to_do() -> None:
    """A unit whose piezos take a tenth of their voltage: the summit is beyond."""
    gap = Gap("squeezers", 0)
    gap.axes = replace(gap.axes, low=-0.5, high=0.5)
    with pytest.raises(
        CalibrationRefusedError, match=r"actuator .* at the end of its range; give the"
    ) as caught:
        climbed(gap, [0.0] * 4)
    assert "fibre" in caught.value.check


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_what_does_not_respond_is_refused(controller: Controller) -> None:
    gap = Gap(controller, 5)
    full = gap.counts
    gap.passes = lambda settings=None: 0.5  # type: ignore[method-assign]
    with pytest.raises(CalibrationRefusedError, match="does not respond to any actuator"):
        climbed(gap)
    assert gap.counts == full


@pytest.mark.parametrize("counts", [0.0, 1.0])
def test_dark_counts_are_no_light_to_climb_on(counts: float) -> None:
    for seed in range(5):
        gap = Gap("squeezers", seed, counts=counts, dark=400.0)
        with pytest.raises(
            CalibrationRefusedError, match="above the dark ones, wherever the actuators stand"
        ):
            climbed(gap)


def test_light_below_its_dark_counts_is_climbed_with_patience_or_refused() -> None:
    """10 counts above 400 dark ones: 400 readings at a point do not tell a percent."""
    gap = Gap("squeezers", 1, counts=150.0, dark=400.0)
    with pytest.raises(CalibrationRefusedError, match="too few to climb on; count longer"):
        climbed(gap)


def test_fibre_that_turns_faster_than_it_is_climbed_is_refused() -> None:
    gap = Gap("squeezers", 2)
    steady = gap.count

    def count() -> int:
        gap.drift(0.3)
        return steady()

    gap.count = count  # type: ignore[method-assign]
    with pytest.raises(CalibrationRefusedError, match="they still do not repeat; look for"):
        climbed(gap)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_two_hundred_more(controller: Controller) -> None:
    """What may be gained nearby is told with 95 % confidence."""
    lost, missed = [], []
    for seed in range(1000, 1200):
        gap = Gap(controller, seed)
        found = climbed(gap)
        lost.append(gap.lost_db())
        missed.append(lost[-1] > found.below_best_db)
    assert sum(missed) <= 20
    assert max(lost) < 0.05


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(1184, id="turning all of them by 20 to 40 degrees gains 0.4 dB"),
        pytest.param(1085, id="between two tops that are 0.07 dB higher"),
        pytest.param(1050, id="beyond one of the two tops a paddle ends"),
    ],
)
def test_a_ridge_of_three_paddles_is_followed_to_its_summit(seed: int) -> None:
    gap = Gap("paddles", seed)
    climbed(gap)
    assert gap.lost_db() < 0.05
