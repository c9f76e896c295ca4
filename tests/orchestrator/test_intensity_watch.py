"""A sensor that takes its time: read while frames go on, at places of the user's choosing, and to the very end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from user_phase import Phase

from drivers.links.errors import LinkBrokenError
from orchestrator.light.intensity_watch import PLACES, IntensityWatch
from orchestrator.light.messages import Armed, Finished, LightAborted, LightMissing
from orchestrator.randomness import random_into

READING_S = 0.3


class SlowSensor:
    """Takes :data:`READING_S` for each reading; ``power_w`` says what it is then."""

    def __init__(self, power_w: Callable[[], float]) -> None:
        self.ended_s: list[float] = []
        self._power_w = power_w

    def __call__(self) -> float:
        time.sleep(READING_S)
        self.ended_s.append(time.monotonic())
        return self._power_w()


def slow(phase: Phase) -> SlowSensor:
    sensor = SlowSensor(phase.station.sensor_ccw.source)
    phase.station.sensor_ccw.source = sensor
    return sensor


def test_frames_go_on_while_a_reading_runs_and_the_block_waits_for_one_that_ends_after_them() -> None:
    phase = Phase(n_frames=20).start()
    phase.light_on()
    sensor = slow(phase)
    phase.frame(0)
    begun_s = time.monotonic()
    for index in range(1, 20):
        phase.frame(index)
    over_s = time.monotonic()
    assert over_s - begun_s < READING_S, "frames waited for the sensor"
    assert phase.hear() == Finished()
    assert sensor.ended_s[-1] > over_s
    assert len(sensor.ended_s) == 2, "to trim, and beside the frames"
    phase.light_off()
    phase.end()
    assert phase.error is None


@pytest.mark.parametrize(
    ("readings", "ends"),
    [
        ([1.0, 1.1, 1.0], False),
        ([1.0, 1.15, 1.05, 0.95, 0.95], False),
        ([1.0, 1.1, 1.05, 1.0, 1.05], True),
        ([1.0, 9.0, 1.0], True),
    ],
)
def test_a_reading_that_is_too_bright_is_taken_again_and_their_mean_is_judged(
    readings: list[float], ends: bool
) -> None:
    phase = Phase(n_frames=2).start()
    phase.light_on()
    right_w, left = phase.station.sensor_ccw.source(), list(readings)
    phase.station.sensor_ccw.source = lambda: right_w * (left.pop(0) if left else readings[-1])
    if ends:
        assert "dB off the planned" in phase.given_up()
    else:
        for index in range(2):
            phase.frame(index)
        assert phase.hear() == Finished()
    assert not left
    phase.light_off()
    phase.end()


def test_light_that_is_missing_for_a_moment_is_waited_for() -> None:
    """The relay closes its launch to bring a detector back."""
    phase = Phase(n_frames=3).start()
    phase.light_on()
    right_w = phase.station.sensor_ccw.source()
    phase.frame(0)
    phase.station.shine(0.0)
    threading.Timer(0.5, lambda: phase.station.shine(right_w)).start()
    for index in (1, 2):
        phase.frame(index)
    assert phase.hear() == Finished()
    phase.light_off()
    phase.end()
    assert phase.error is None


@pytest.mark.parametrize("missing", [True, False])
def test_a_block_that_is_over_waits_for_no_light_and_takes_no_bright_reading_again(missing: bool) -> None:
    """A station that goes dark as its user gives up would else hold that up by all that missing light is waited for."""
    began, taken = threading.Event(), 0

    def read() -> float:
        nonlocal taken
        taken += 1
        began.set()
        over.wait(5)
        if missing:
            raise LightMissing("dark")
        return 2.0

    over = threading.Event()
    watch = IntensityWatch(read, lambda actual: True, lambda actual: None, random_into, lambda: 0.0, 1.0)
    watch.begin()
    assert began.wait(5)
    closing = threading.Thread(target=watch.close, daemon=True)
    closing.start()
    while not watch._over:
        time.sleep(1e-3)
    over.set()
    closing.join(5)
    assert not closing.is_alive()
    assert taken == 1


def test_the_first_frame_waits_for_the_other_users_slow_sensor() -> None:
    lost: list[str] = []
    phase = Phase(n_frames=2, timeout_s=0.3)
    run = phase.light.run
    phase.light.run = lambda *given, **more: run(*given, **more, on_lost=lost.append)  # type: ignore[method-assign]
    phase.start()
    phase.light_on()
    time.sleep(0.8)
    for index in range(2):
        phase.frame(index)
    assert phase.hear() == Finished()
    phase.light_off()
    phase.end()
    assert not lost


def test_light_that_is_bright_in_the_last_frame_ends_the_block() -> None:
    phase = Phase(n_frames=3).start()
    phase.light_on()
    slow(phase)
    for index in range(3):
        if index == 2:
            phase.station.sensor_ccw.source._power_w = lambda: 1e-9  # type: ignore[attr-defined]
        phase.frame(index)
    assert "dB off the planned" in phase.given_up()
    phase.light_off()
    assert phase.end()[-1] == "bypass"


def test_an_instrument_that_fails_beside_the_frames_is_told_as_it_is() -> None:
    phase = Phase(n_frames=2).start()
    phase.light_on()
    calls = iter([phase.station.sensor_ccw.source()])

    def fails() -> float:
        for power_w in calls:
            return power_w
        raise LinkBrokenError("no answer", instrument="sensors_alice", address="memory")

    phase.station.sensor_ccw.source = fails
    assert "sensors_alice" in phase.given_up()
    phase.light_off()
    phase.end()
    assert isinstance(phase.error, LinkBrokenError)


def test_where_in_a_frame_a_reading_begins_is_drawn_each_time() -> None:
    now, began, places = [0.0], threading.Event(), Counter[int]()
    watch = IntensityWatch(
        lambda: began.set() or 1.0, lambda mean: False, lambda mean: None, random_into, lambda: now[0], 1.0
    )
    watch.begin()
    watch.finish()
    for _ in range(300):
        now[0] += 1.5
        began.clear()
        for place in range(PLACES):
            watch.at(place)
            if began.wait(0.0) or watch._running is not None:
                places[place] += 1
                break
        watch.finish()
    assert min(places[place] for place in range(PLACES)) > 60
    watch.at(0)
    assert watch._running is None, "not due again"


def test_a_sensor_is_free_when_the_light_phase_is_over() -> None:
    phase = Phase(n_frames=2).start()
    phase.light_on()
    sensor = slow(phase)
    assert phase.hear() == Armed(0)
    phase.light_off()
    phase.end()
    assert isinstance(phase.error, LightAborted)
    count = len(sensor.ended_s)
    time.sleep(1.2 * READING_S)
    assert len(sensor.ended_s) == count
