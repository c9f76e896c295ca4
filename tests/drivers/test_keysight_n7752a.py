"""Keysight N7752A: attenuators and sensors in one box do not get in each other's way."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drivers import kinds
from drivers.attenuators.keysight_n7752a import KeysightN7752A
from drivers.catalogue import row
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    NoReadingError,
    NotReadyError,
    PreemptedError,
    WrongInstrumentError,
)
from sim_backends.attenuators.keysight_n7752a import SENSOR_N7752A, N7752ATwin


class Setup:
    def __init__(self, **options: Any) -> None:
        self.light_w = {5: 2e-9, 6: 3e-9}
        self.seen: list[tuple[int, float, bool]] = []
        options = {"sensor": SENSOR_N7752A.exact(), **options}
        self.twin = N7752ATwin(
            on_channel=lambda *seen: self.seen.append(seen),
            read_power_w=lambda slot: self.light_w[slot],
            **options,
        )
        self.box = KeysightN7752A("box", self.twin.serve("127.0.0.1", 0))

    def close(self) -> None:
        self.box.close()
        self.twin.close()


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup(schedule=lambda delay_s, action: action())
    setup.box.connect()
    yield setup
    setup.close()


def near(power_w: float) -> Any:
    return pytest.approx(power_w, rel=1e-6, abs=0.0)


def test_each_channel_of_each_kind_is_its_own_slot(setup: Setup) -> None:
    offers = row("keysight-n7752a").offers
    for channel, db in zip(offers[kinds.ATTENUATOR], (12.5, 20.0), strict=True):
        getattr(setup.box, channel).attenuation_db(db)
    setup.box.ch3.let_through()
    assert setup.seen == [(1, 12.5, False), (3, 20.0, False), (3, 20.0, True)]
    readings = [getattr(setup.box, channel).power_w() for channel in offers[kinds.POWER_SENSOR]]
    assert readings == [near(2e-9), near(3e-9)]
    assert [setup.box.ch5.floor_w(), setup.box.ch6.floor_w()] == [1e-11, 1e-11]


def test_wavelengths_of_attenuators_and_sensors_are_set_apart(setup: Setup) -> None:
    setup.box.ch1.tune(1310.0)
    setup.box.ch6.wavelength_nm(1540.0)
    state = setup.twin.state()
    assert state["wavelength_nm"] == pytest.approx({1: 1310.0, 3: 1550.0})
    assert state["sensor_wavelength_nm"] == pytest.approx({5: 1550.0, 6: 1540.0})
    assert setup.box.ch6.power_w() == near(3e-9 * 1550 / 1540)


def test_known_state_whoever_used_it_before() -> None:
    setup = Setup(left_by_someone=True)
    setup.box.connect()
    state = setup.twin.state()
    for name, held in {"offset_db": 0.0, "controls_power": False, "open_at_power_on": False}.items():
        assert state[name] == {1: held, 3: held}
    for name, held in {"unit": "W", "correction_db": 0.0, "continuous": False, "averaging_s": 0.1}.items():
        assert state[name] == {5: held, 6: held}
    assert state["errors"] == 0
    setup.box.ch1.attenuation_db(20.0)  # which a sensor that measures by itself would never let end
    setup.close()


@pytest.mark.parametrize(("slot", "works"), [(2, True), (4, True), (5, False), (7, False)])
def test_both_slots_of_a_pair_are_one_attenuator_and_a_sensor_is_none(
    setup: Setup, slot: int, works: bool
) -> None:
    if works:
        setup.box.link.command(f"INP{slot}:ATT 9")
        assert setup.seen == [(slot - 1, 9.0, False)]
        return
    with pytest.raises(InstrumentRefusedError) as caught:
        setup.box.link.command(f"INP{slot}:ATT 9")
    assert caught.value.code == -303
    assert setup.seen == []


def test_an_attenuator_that_is_not_as_it_must_be_holds_no_sensor_back(setup: Setup) -> None:
    setup.twin._device.add("INPut1:OFFSet", lambda call: None)
    setup.twin._device._commands.insert(0, setup.twin._device._commands.pop())
    setup.twin._device._find.cache_clear()
    setup.twin.attenuators.all[0].offset_db = 10.0
    setup.box.connect()
    with pytest.raises(InstrumentRefusedError, match="INPut1:OFFSet"):
        setup.box.ch1.let_through()
    assert setup.box.ch5.power_w() == near(2e-9)
    setup.box.ch3.let_through()
    assert setup.twin.state()["open"] == {1: False, 3: True}


def test_a_sensor_that_measures_by_itself_keeps_a_filter_from_being_done(setup: Setup) -> None:
    setup.twin.sensors.all[1].continuous = True  # somebody at the box
    setup.box._settle_margin_s = 0.05
    with pytest.raises(NotReadyError, match="ch1 attenuation 3 dB: not done"):
        setup.box.ch1.attenuation_db(3.0)


def test_dark_at_once_while_another_thread_waits_for_a_zero() -> None:
    setup = Setup(sensor=SENSOR_N7752A.exact(zero_s=30.0))
    setup.box.connect()
    setup.box.ch1.let_through()
    ends: list[InstrumentError] = []

    def zero() -> None:
        try:
            setup.box.ch5.zero()
        except InstrumentError as error:
            ends.append(error)

    thread = threading.Thread(target=zero, daemon=True)
    thread.start()
    deadline = time.monotonic() + 5
    while not setup.twin.state()["zeroing"][5] and time.monotonic() < deadline:  # type: ignore[index]
        time.sleep(1e-3)
    begun = time.monotonic()
    setup.box.safe_state()
    assert time.monotonic() - begun < 1.0
    assert setup.twin.is_safe()
    thread.join(5)
    assert isinstance(ends[0], PreemptedError)
    with pytest.raises(NoReadingError):  # the sensor goes on with it
        setup.box.ch5.power_w()
    setup.close()


def test_after_a_power_cut_shutters_are_closed_and_all_settings_as_they_were(setup: Setup) -> None:
    setup.box.ch3.attenuation_db(17.0)
    setup.box.ch5.averaging_s(1.0)
    setup.box.ch3.let_through()
    port = int(setup.box.address.split("::")[2])
    setup.twin.close()
    fresh = N7752ATwin(read_power_w=lambda slot: 1e-9, sensor=SENSOR_N7752A.exact(), left_by_someone=True)
    with pytest.raises(InstrumentError):
        setup.box.ch6.power_w()
    fresh.serve("127.0.0.1", port)
    setup.box.ch6.power_w()
    assert setup.box.ch5.averaging_s() == 1.0
    state = fresh.state()
    assert state["open"] == {1: False, 3: False}
    assert state["attenuation_db"] == {1: 1.0, 3: 17.0}
    assert state["averaging_s"] == {5: 0.1, 6: 0.1}
    fresh.close()


def test_the_family_is_told_apart() -> None:
    setup = Setup(model="N7764A")
    with pytest.raises(WrongInstrumentError, match="N7764A, not as N7752A"):
        setup.box.connect()
    with pytest.raises(LimitError, match=r"averaging_s is 0\.001 s, which is outside 0\.002\.\.10 s"):
        KeysightN7752A("quick", "nowhere", averaging_s=1e-3)
    setup.close()


def test_its_sensors_do_not_see_a_stations_own_light() -> None:
    setup = Setup(sensor=replace(SENSOR_N7752A, speed=math.inf), rng=np.random.default_rng(1))
    setup.box.connect()
    setup.box.ch5.averaging_s(10.0)
    setup.light_w[5] = 1e-12  # a tenth of its floor
    readings = np.array([setup.box.ch5.power_w() for _ in range(10)])
    assert abs(readings.mean() - 1e-12) > 1e-12  # the zero error alone is more
    setup.close()
