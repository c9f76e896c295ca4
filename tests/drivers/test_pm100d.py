"""Thorlabs power meter: watts whatever the front panel says, and no number where nothing was measured."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_transport import FakeTransport

from drivers.links import scpi_visa
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
    NoReadingError,
)
from drivers.powermeters.thorlabs_pm100d import ThorlabsPM100D, parse_sensor
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin


class Setup:
    def __init__(self) -> None:
        self.power_w = 2.5e-6
        self.twin = PM100DTwin(read_power_w=lambda: self.power_w)
        self.meter = ThorlabsPM100D("meter", self.twin.serve("127.0.0.1", 0))
        self.meter.connect()


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    yield setup
    setup.meter.close()
    setup.twin.close()


def test_bytes_of_each_command_and_time_limit_grows_with_averaging(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        b"*IDN?": "Thorlabs,PM100D,P1,2.4.0",
        b"SENSe:POWer:UNIT?": "W",
        b"SENSe:CORRection:LOSS:INPut:MAGNitude?": "0.00000000E+00",
        b"SENSe:POWer:REFerence:STATe?": "0",
        b"SENSe:POWer:RANGe:AUTO?": "1",
        b"SENSe:AVERage:COUNt?": "1",
        b"SENSe:CORRection:WAVelength? MIN": "8.00000000E+02",
        b"SENSe:CORRection:WAVelength? MAX": "1.70000000E+03",
        b"SENSe:CORRection:WAVelength?": "1.55012500E+03",
        b"MEASure:POWer?": "1.5E-6",
    }
    fake = FakeTransport(answers)
    monkeypatch.setattr(scpi_visa, "_open_transport", lambda *_: fake)
    meter = ThorlabsPM100D("meter", "TCPIP::h::2000::SOCKET", timeout_s=2.0)
    meter.connect()
    assert fake.sent == [
        b"*IDN?\n",
        b"SENSe:CORRection:COLLect:ZERO:ABORt\n",
        b"SENSe:POWer:UNIT?\n",
        b"SENSe:CORRection:LOSS:INPut:MAGNitude 0\n",
        b"SENSe:CORRection:LOSS:INPut:MAGNitude?\n",
        b"SENSe:POWer:REFerence:STATe 0\n",
        b"SENSe:POWer:REFerence:STATe?\n",
        b"SENSe:POWer:RANGe:AUTO?\n",
        b"SENSe:AVERage:COUNt?\n",
        b"SENSe:CORRection:WAVelength?\n",
        b"SENSe:CORRection:WAVelength? MIN\n",
        b"SENSe:CORRection:WAVelength? MAX\n",
    ]
    fake.sent.clear()
    meter.wavelength_nm.set(1550.125)
    answers[b"SENSe:AVERage:COUNt?"] = "10000"
    meter.averaging.set(10_000)
    assert meter.power_w.get() == 1.5e-6
    assert fake.sent == [
        b"SENSe:CORRection:WAVelength? MIN\n",
        b"SENSe:CORRection:WAVelength? MAX\n",
        b"SENSe:CORRection:WAVelength 1550.125\n",
        b"SENSe:CORRection:WAVelength?\n",
        b"SENSe:AVERage:COUNt 10000\n",
        b"SENSe:AVERage:COUNt?\n",
        b"MEASure:POWer?\n",
    ]
    assert fake.limits_s[-1] == pytest.approx(2.0 + 6.0, rel=0.1)
    meter.close()


def test_power_follows_the_light(setup: Setup) -> None:
    assert setup.meter.power_w.get() == pytest.approx(2.5e-6)
    setup.power_w = -3e-11
    assert setup.meter.power_w.get() == pytest.approx(-3e-11)


def test_connect_sets_watts_where_an_earlier_user_left_dbm(setup: Setup) -> None:
    setup.meter.link.command("SENSe:POWer:UNIT DBM")
    assert setup.meter.power_w.get() == pytest.approx(-26.02, abs=0.01)
    setup.meter.connect()
    assert setup.meter.power_w.get() == pytest.approx(2.5e-6)


@pytest.mark.parametrize("power_w", [0.5, float("nan"), float("inf")])
def test_what_is_no_measurement_is_an_error(setup: Setup, power_w: float) -> None:
    setup.power_w = power_w
    with pytest.raises(NoReadingError, match="no value"):
        setup.meter.power_w.get()


def test_over_range_in_a_manual_range(setup: Setup) -> None:
    setup.meter.link.command("SENSe:POWer:RANGe 1E-6")
    assert setup.meter.auto_range.get() is False
    with pytest.raises(NoReadingError):
        setup.meter.power_w.get()
    setup.meter.auto_range.set(True)
    assert setup.meter.power_w.get() == pytest.approx(2.5e-6)


def test_limits(setup: Setup) -> None:
    for wavelength_nm in (799.0, 1701.0):
        with pytest.raises(LimitError, match="nm"):
            setup.meter.wavelength_nm.set(wavelength_nm)
    for count in (0, 10_001):
        with pytest.raises(ValueError, match=str(count)):
            setup.meter.averaging.set(count)
    assert setup.twin.state()["wavelength_nm"] == 1550.0
    assert setup.twin.state()["averaging"] == 1


@pytest.mark.parametrize("says_its_range", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
def test_a_wavelength_that_the_sensor_head_does_not_reach(
    says_its_range: bool, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silicon head: refused by its own range, else by its error, else by what reads back."""
    twin = PM100DTwin(wavelength_limits_nm=(400.0, 1100.0), quiet=quiet)
    meter = ThorlabsPM100D("silicon", twin.serve("127.0.0.1", 0))
    meter.connect()
    if not says_its_range:
        ask = meter.link.query_float
        monkeypatch.setattr(
            meter.link,
            "query_float",
            lambda command, **how: ask(command.partition("? ")[0].rstrip("?") + "?", **how),
        )
    with pytest.raises((LimitError, InstrumentRefusedError), match="1550"):
        meter.wavelength_nm.set(1550.12)
    assert meter.wavelength_nm.get() == 1100.0
    meter.close()
    twin.close()


def test_settings_come_back_after_a_power_cycle(setup: Setup) -> None:
    setup.meter.wavelength_nm.set(1310.0)
    setup.meter.averaging.set(30)
    setup.meter.auto_range.set(True)
    port = int(setup.meter.address.split("::")[2])
    setup.twin.close()
    with pytest.raises(LinkBrokenError):
        setup.meter.power_w.get()
    fresh = PM100DTwin(read_power_w=lambda: 4e-6)
    fresh.serve("127.0.0.1", port)
    assert setup.meter.power_w.get() == pytest.approx(4e-6)
    assert (fresh.state()["wavelength_nm"], fresh.state()["averaging"]) == (1310.0, 30)
    fresh.close()


def test_a_silent_meter_gives_an_error_and_no_old_value(setup: Setup) -> None:
    assert setup.meter.power_w.get() == pytest.approx(2.5e-6)
    setup.meter.link.timeout_s = 0.1
    setup.twin.faults.drop_replies(1)
    with pytest.raises(LinkTimeoutError):
        setup.meter.power_w.get()
    setup.twin.faults.garbage(1)
    with pytest.raises(MalformedReplyError):
        setup.meter.power_w.get()
    setup.power_w = 1e-3
    assert setup.meter.power_w.get() == pytest.approx(1e-3)


def test_known_state_whoever_used_it_before() -> None:
    twin = PM100DTwin(read_power_w=lambda: 2.5e-6, left_by_someone=True)
    meter = ThorlabsPM100D("meter", twin.serve("127.0.0.1", 0))
    meter.connect()
    assert meter.power_w.get() == pytest.approx(2.5e-6)
    state = twin.state()
    assert (state["unit"], state["loss_db"], state["delta"]) == ("W", 0.0, False)
    assert (state["auto_range"], state["averaging"], state["errors"]) == (True, 1, 0)
    assert meter.sensor.get() == "S155C SIM00001"
    meter.wavelength_nm.set(np.float64(1550.125))
    assert twin.state()["wavelength_nm"] == 1550.125
    meter.close()
    twin.close()


class Stubborn(PM100DTwin):
    """Acknowledges a loss correction and keeps another."""

    def __init__(self) -> None:
        super().__init__(read_power_w=lambda: 1e-6)
        self._device.loss_db = 3.0
        self._device._put = lambda *_: None  # type: ignore[method-assign]


def test_a_correction_that_stays_is_said_and_no_power_is_read() -> None:
    twin = Stubborn()
    meter = ThorlabsPM100D("meter", twin.serve("127.0.0.1", 0))
    meter.connect()
    with pytest.raises(
        InstrumentRefusedError, match=r"LOSS:INPut:MAGNitude reads back '3.00000000E\+00', not 0"
    ):
        meter.power_w.get()
    assert meter.wavelength_nm.get() == 1550.0
    twin._device.loss_db = 0.0
    assert meter.power_w.get() == pytest.approx(1e-6)
    meter.close()
    twin.close()


@pytest.mark.parametrize("model", ["PM100D", "PM100USB", "PM101U", "PM103E", "PM16-120", "PM400"])
def test_models_of_the_family(model: str) -> None:
    twin = PM100DTwin(model=model)
    meter = ThorlabsPM100D("meter", twin.serve("127.0.0.1", 0))
    assert meter.connect().model == model
    meter.close()
    twin.close()


@given(text=st.text(max_size=60))
def test_only_six_fields_are_a_sensor_head(text: str) -> None:
    try:
        words = parse_sensor(text)
    except ValueError:
        return
    assert text.count(",") >= 5
    assert words


def test_a_head_for_energy_only_is_told() -> None:
    assert parse_sensor("ES111C,1,01-Jan-2024,3,1,2") == "ES111C 1 (measures no power)"
    with pytest.raises(ValueError, match="not of the form"):
        parse_sensor("1")


def test_another_head_after_a_power_cycle_is_told_once() -> None:
    first = PM100DTwin(read_power_w=lambda: 1e-6)
    meter = ThorlabsPM100D("meter", first.serve("127.0.0.1", 0))
    meter.connect()
    meter.wavelength_nm.set(1550.0)
    port = int(meter.address.split("::")[2])
    first.close()
    second = PM100DTwin(read_power_w=lambda: 2e-6, wavelength_limits_nm=(400.0, 1100.0))
    second.serve("127.0.0.1", port)
    with pytest.raises(LimitError, match=r"1550 nm is outside 400\.\.1100 nm"):
        meter.power_w.get()
    meter.wavelength_nm.set(980.0)
    assert meter.power_w.get() == pytest.approx(2e-6)
    meter.close()
    second.close()


def test_the_floor_is_the_heads_or_an_option(setup: Setup) -> None:
    assert setup.meter.floor_w() == 1e-9  # S155C
    setup.twin._device.add("SYSTem:SENSor:IDN?", lambda call: "S154C,1,01-Jan-2024,1,18,289")
    setup.twin._device._commands.insert(0, setup.twin._device._commands.pop())
    setup.twin._device._find.cache_clear()
    assert setup.meter.floor_w() == 1e-10


def test_the_floor_of_a_strange_head_is_not_made_up() -> None:
    twin = PM100DTwin(read_power_w=lambda: 1e-6)
    twin._device.add("SYSTem:SENSor:IDN?", lambda call: "X1,1,01-Jan-2024,1,18,289")
    twin._device._commands.insert(0, twin._device._commands.pop())
    address = twin.serve("127.0.0.1", 0)
    meter, told = ThorlabsPM100D("meter", address), ThorlabsPM100D("told", address, floor_w=5e-12)
    with pytest.raises(NoReadingError, match="head X1 is not known; give it as option floor_w"):
        meter.floor_w()
    assert told.floor_w() == 5e-12
    with pytest.raises(LimitError, match=r"floor_w is -110 W"):  # it was meant in dBm
        ThorlabsPM100D("wrong", address, floor_w=-110.0)
    meter.close()
    told.close()
    twin.close()


def test_a_zero_takes_away_what_is_read_in_the_dark() -> None:
    power_w = {"now": 3e-9}
    twin = PM100DTwin(read_power_w=lambda: power_w["now"], schedule=lambda delay_s, action: action())
    meter = ThorlabsPM100D("meter", twin.serve("127.0.0.1", 0))
    meter.connect()
    assert meter.power_w() == pytest.approx(3e-9)
    meter.zero()
    assert meter.power_w() == 0.0
    power_w["now"] = 1e-6
    assert meter.power_w() == pytest.approx(0.997e-6)
    meter.close()
    twin.close()


def test_a_measurement_takes_its_samples_and_is_as_noisy_as_they_leave_it() -> None:
    twin = PM100DTwin(read_power_w=lambda: 1e-6, noise_w=1e-9, speed=1.0, rng=np.random.default_rng(1))
    meter = ThorlabsPM100D("meter", twin.serve("127.0.0.1", 0))
    meter.connect()
    one = np.array([meter.power_w() for _ in range(100)])
    meter.averaging(300)
    begun_s = time.monotonic()
    assert meter.power_w() == pytest.approx(1e-6, abs=5e-9 / 300**0.5)
    assert time.monotonic() - begun_s >= 300 * 3e-4
    assert one.std() == pytest.approx(1e-9, rel=0.3, abs=0)
    meter.close()
    twin.close()
