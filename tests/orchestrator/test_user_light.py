"""What a user does with its station while light may be in the ring: in the dark in, in the dark out, and else shut."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from station_in_memory import StationInMemory, sensor_w
from user_phase import MU, PATIENCE_S, Phase, small_testbed

from drivers.links.errors import LinkBrokenError
from orchestrator import runtime
from orchestrator.light.intensity_watch import IntensityWatch
from orchestrator.light.leaving import leave_within
from orchestrator.light.messages import (
    Armed,
    Finished,
    FrameLost,
    LightAbort,
    LightAborted,
    LightOn,
    announce,
)
from orchestrator.light.own_station import OwnStation
from orchestrator.light.user import UserLight
from orchestrator.randomness import random_into
from orchestrator.wire.codec import decode


def test_a_station_is_taken_in_dark_and_leaves_only_after_the_launch_is_closed() -> None:
    phase = Phase().start()
    assert phase.station.log == ["block", "in", "let through"]
    phase.light_on()
    for index in range(2):
        phase.frame(index)
    assert phase.hear() == Finished()
    assert phase.station.log == ["block", "in", "let through"], "light is on still"
    phase.light_off()
    assert phase.end() == ["block", "in", "let through", "bypass"]
    assert phase.error is None


def test_a_switch_that_stays_in_bypass_is_told_before_anybody_is_asked_for_light() -> None:
    phase = Phase()
    phase.station.switch.crossed = lambda value=None: True  # type: ignore[method-assign]
    phase._thread.start()
    with pytest.raises(LightAborted, match="alice: the switch stays in bypass"):
        phase.hear()
    phase.light_off()
    assert "let through" not in phase.end()
    assert "is it powered" in str(phase.error)


@pytest.mark.parametrize("left_over", [[], [FrameLost(0)], [LightAbort("of the other"), b"\xc1"]])
def test_a_user_that_gives_up_says_so_at_once_and_waits_in_the_dark_for_the_launch(
    left_over: list[Any],
) -> None:
    """Whatever is on its way to it does not take the place of the relay's word."""
    phase = Phase().start()
    phase.light_on(factor=1.2)
    phase.station.attenuator.attenuation_db = lambda value=None: 0.0  # type: ignore[method-assign]
    assert "dB off the planned" in phase.given_up()
    phase.say(*left_over)
    assert phase.station.attenuator.shut or phase._thread.is_alive()
    phase.light_off()
    assert phase.end() == ["block", "in", "let through", "block", "bypass"]


def test_a_block_that_the_relay_gives_up_at_the_end_is_given_up() -> None:
    """The other user did not come to the end of it."""
    phase = Phase(n_frames=1).start()
    phase.light_on()
    phase.frame(0)
    assert phase.hear() == Finished()
    phase.say(LightAbort("bob's light was off its plan"))
    phase.light_off()
    assert phase.end()[-1] == "bypass"
    assert "bob's light was off its plan" in str(phase.error)


def test_a_relay_that_closes_the_launch_first_needs_no_second_word() -> None:
    phase = Phase().start()
    phase.light_on()
    assert phase.hear() == Armed(0)
    phase.light_off()
    assert phase.end()[-2:] == ["block", "bypass"]
    assert "got LightOff" in str(phase.error)


def gone(phase: Phase) -> None:
    phase.relay.close()


def flooding(phase: Phase) -> None:
    phase.say(LightAbort("broken"), *([FrameLost(0)] * 50))


@pytest.mark.parametrize("lost", [gone, flooding])
def test_without_the_relays_word_a_station_stays_in_and_shut_until_it_is_dark(
    lost: Callable[[Phase], None],
) -> None:
    phase = Phase(timeout_s=0.5).start()
    phase.light_on()
    assert phase.hear() == Armed(0)
    lost(phase)
    assert set(phase.end()[3:]) == {"block"}
    assert phase.station.attenuator.shut
    phase.light.step_aside_if_dark()
    phase.light.set_up()
    assert "bypass" not in phase.station.log, "there is light still"
    assert not phase.station.sensor_cw.zeroed, "a zero taken in light would hide it"
    assert "alice stays in the ring behind its closed attenuator: its sensors read" in phase.light.stays_in()
    phase.station.shine(0.0)
    phase.light.step_aside_if_dark()
    assert phase.station.log[-1] == "bypass"
    assert phase.light.stays_in() == ""


def test_a_user_that_ends_waits_a_moment_for_the_dark(monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase(timeout_s=0.5).start()
    phase.light_on()
    assert phase.hear() == Armed(0)
    gone(phase)
    phase.end()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            phase.station.shine(0.0)

    monkeypatch.setattr(runtime, "sleep", sleep)
    clock = iter(range(100))
    monkeypatch.setattr(runtime, "now", lambda: float(next(clock)))
    leave_within(phase.light, 2.0)
    assert phase.light.stays_in(), "it is lit still, and patience has an end"
    leave_within(phase.light, 5.0)
    assert (len(waited), phase.light.stays_in()) == (3, "")
    leave_within(phase.light, 5.0)
    assert len(waited) == 3


def test_a_station_does_not_step_aside_while_a_light_phase_runs() -> None:
    phase = Phase().start()
    phase.light.step_aside_if_dark()
    assert phase.station.log == ["block", "in", "let through"], "the launch may open at any moment"
    phase.light_off()
    assert phase.end()[-1] == "bypass"


def test_an_attenuator_that_fails_does_not_keep_the_relay_from_being_told() -> None:
    phase = Phase().start()
    phase.light_on()
    assert phase.hear() == Armed(0)

    def fails(value: float | None = None) -> float:
        raise LinkBrokenError("no answer", instrument="voa_alice", address="memory")

    phase.station.attenuator.attenuation_db = phase.station.attenuator.block = fails  # type: ignore[assignment,method-assign]
    phase.say(announce(0, np.zeros(0, np.uint32), np.zeros(0, np.uint8)))
    phase.station.generator.triggers = 2
    with pytest.raises(LightAborted, match="more than one trigger"):
        phase.hear()
    phase.light_off()
    assert phase.end()[-1] == "bypass"
    assert "voa_alice" in str(phase.error)


def test_a_sensor_that_somebody_turned_to_another_colour_is_told() -> None:
    """Its reading would be wrong by a quarter of a decibel, and no other check would see it."""
    phase = Phase().start()
    phase.station.sensor_ccw.set_nm = 1650.0
    phase.light_on()
    reason = decode(phase.relay.recv(PATIENCE_S), LightAbort).reason
    assert "alice: the ccw sensor is set to 1650 nm and the light has 1550.12 nm" in reason
    phase.light_off()
    phase.end()


def test_out_of_the_ring_the_sensors_take_their_zero() -> None:
    station = StationInMemory()
    light = UserLight(small_testbed(), "alice", station.generator, station.owned)
    station.switch.in_bypass = False
    station.sensor_cw.set_nm = station.sensor_ccw.set_nm = 1310.0
    light.set_up()
    assert station.log == ["block", "bypass"]
    assert (station.sensor_cw.zeroed, station.sensor_ccw.zeroed) == (1, 1)
    assert station.sensor_cw.set_nm == station.sensor_ccw.set_nm == small_testbed().ring.wavelength_nm


def test_light_that_is_too_bright_is_trimmed_and_light_that_is_too_dim_is_not() -> None:
    """To half of what it may drift by, .07 dB: less is within the noise of its readings, and left to the relay."""
    for factor, least_db, most_db in ((1.3, 1.06, 1.09), (1.01, 0.0, 0.0), (0.9, 0.0, 0.0)):
        phase = Phase(n_frames=1).start()
        phase.light_on(factor)
        phase.frame(0)
        assert phase.hear() == Finished()
        trimmed_db = phase.station.attenuator.value_db - small_testbed().user("alice").attenuation_db
        assert least_db <= trimmed_db <= most_db
        assert math.isclose(
            phase.station.output_photons(small_testbed(), "alice", "ccw"),
            min(factor, 10**0.007) * MU,
            rel_tol=0.005,
        )
        phase.light_off()
        phase.end()


def station_at(factor: float) -> tuple[StationInMemory, OwnStation]:
    """Alice's, in the ring, in light that leaves it ``factor`` times as bright as planned."""
    station = StationInMemory()
    own = OwnStation(small_testbed(), "alice", station.owned)
    own.take_in()
    station.shine(factor * sensor_w(small_testbed(), "alice", "ccw", MU))
    return station, own


def test_light_that_rises_between_frames_is_brought_back_and_none_is_given_back() -> None:
    """Above half of what it may drift by, to a quarter; both directions pass the attenuator, so the other user feels it."""
    station, own = station_at(1.0)
    beyond_db = []
    for off_db in (0.05, 0.12, 0.3, 0.12, -0.05, -0.5):
        station.shine(10 ** (off_db / 10) * sensor_w(small_testbed(), "alice", "ccw", MU))
        correction = own.follow(MU, own.output_photons("ccw"))
        beyond_db.append(station.attenuator.value_db - small_testbed().user("alice").attenuation_db)
        if correction is not None:
            assert correction.after == pytest.approx(beyond_db[-1])
    assert beyond_db == pytest.approx([0.0, 0.09, 0.27, 0.27, 0.27, 0.27])


def test_the_noise_of_readings_darkens_no_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the light, as of a good sensor that averages for ten seconds, over as many readings as a long block has."""
    monkeypatch.setattr("orchestrator.light.user.READ_EVERY_S", 0.0)
    phase, rng = Phase(n_frames=60).start(), np.random.default_rng(5)
    phase.light_on()
    right_w = phase.station.sensor_ccw.source()
    phase.station.sensor_ccw.source = lambda: right_w * (1 + 0.011 * rng.standard_normal())
    for index in range(60):
        phase.frame(index)
    assert phase.hear() == Finished()
    assert phase.station.sensor_ccw.reads > 60
    trimmed_db = phase.station.attenuator.value_db - small_testbed().user("alice").attenuation_db
    assert trimmed_db < 0.05
    phase.light_off()
    phase.end()


def test_an_honest_block_ends_as_too_bright_by_the_noise_of_readings_once_in_hundreds() -> None:
    """Readings of a hundredth and a half, light .08 dB above its plan as losses known to a tenth allow: .14 dB end a block."""
    rng, ended, blocks = np.random.default_rng(11), 0, 1000
    for _ in range(blocks):
        station, own = station_at(10**0.008)
        right_w = station.sensor_ccw.source()
        station.sensor_ccw.source = lambda right_w=right_w: right_w * (1 + 0.015 * rng.standard_normal())
        own.trim("ccw", MU)
        watch = IntensityWatch(
            lambda own=own: own.intensity("ccw", MU),
            lambda actual, own=own: own.is_bright(MU, actual),
            lambda actual, own=own: own.judge("ccw", MU, actual),
            random_into,
            lambda: 0.0,
            1.0,
        )
        try:
            watch.finish()
        except LightAborted:
            ended += 1
    print(f"{ended} of {blocks} blocks ended")
    assert ended <= blocks / 125


@pytest.mark.parametrize(("left_w", "taken_off_w"), [(2e-14, 2e-14), (-3e-14, -3e-14), (9e-13, 5e-14)])
def test_what_a_zero_leaves_is_taken_off_as_far_as_the_proof_charges_for_it(
    left_w: float, taken_off_w: float
) -> None:
    station = StationInMemory()
    own = OwnStation(small_testbed(), "alice", owned := station.owned)
    station.shine(left_w)
    own.set_up()
    again = OwnStation(small_testbed(), "alice", owned)
    own_w = sensor_w(small_testbed(), "alice", "ccw", MU)
    station.attenuator.value_db = small_testbed().user("alice").attenuation_db
    station.shine(own_w + left_w)
    assert again.output_photons("ccw") == pytest.approx(MU * (own_w + left_w - taken_off_w) / own_w)
    again.tune()
    assert station.sensor_ccw.zeroed == 1, "values were found with this zero"


def test_a_block_whose_light_creeps_up_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """To .13 dB above its plan once the last such step was met, of .14 that may be: as when polarisation is found again."""
    monkeypatch.setattr("orchestrator.light.user.READ_EVERY_S", 0.0)
    phase, rise_db = Phase(n_frames=100).start(), 0.0
    phase.light_on()
    for index in range(100):
        phase.frame(index)
        beyond_db = phase.station.attenuator.value_db - small_testbed().user("alice").attenuation_db
        if beyond_db > rise_db - 0.08 and rise_db < 0.6:
            rise_db = beyond_db + 0.13
            phase.station.shine(10 ** (rise_db / 10) * sensor_w(small_testbed(), "alice", "ccw", MU))
    assert phase.hear() == Finished()
    phase.light_off()
    phase.end()
    assert phase.error is None
    assert rise_db > 0.4


@pytest.mark.parametrize("power_w", [0.0, -1e-15])
def test_a_dark_sensor_is_told_with_what_to_check(power_w: float) -> None:
    phase = Phase().start()
    phase.station.shine(power_w)
    phase.say(LightOn())
    reason = decode(phase.relay.recv(PATIENCE_S), LightAbort).reason
    for what in ("alice", "ccw sensor", "launch open", "switch in", "taps not swapped"):
        assert what in reason
    assert phase.station.generator.frames_armed == 0
    phase.light_off()
    phase.end()
