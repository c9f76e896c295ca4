"""Thorlabs power meter: watts whatever the front panel says, and no number where nothing was measured."""

import time
from collections.abc import Iterator

import pytest

from drivers.links import scpi_visa
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
)
from drivers.powermeters.thorlabs_pm100d import ThorlabsPM100D
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin

E = b"\n"


class FakeTransport:
    """Records what is sent with its time limit; answers from a table, "no error" to error queries."""

    def __init__(self, answers: dict[bytes, str]) -> None:
        self.sent: list[bytes] = []
        self.limits_s: list[float] = []
        self.answers = answers

    def send(self, parts: tuple[bytes | memoryview, ...], deadline: float) -> None:
        self.asked = b"".join(bytes(part) for part in parts)
        if self.asked == b"SYSTem:ERRor?\n":
            return
        self.sent.append(self.asked)
        self.limits_s.append(deadline - time.monotonic())

    def read_line(self, deadline: float) -> bytes:
        if self.asked == b"SYSTem:ERRor?\n":
            return b'+0,"No error"'
        return self.answers[self.sent[-1].strip()].encode()

    def trouble(self) -> str:
        return ""

    def close(self) -> None:
        return None


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
        b"SENSe:AVERage:COUNt?": "1",
        b"MEASure:POWer?": "1.5E-6",
    }
    fake = FakeTransport(answers)
    monkeypatch.setattr(scpi_visa, "_open_transport", lambda *_: fake)
    meter = ThorlabsPM100D("meter", "TCPIP::h::2000::SOCKET", timeout_s=2.0)
    meter.connect()
    meter.wavelength_nm.set(1550.12)
    meter.averaging.set(10_000)
    assert meter.power_w.get() == 1.5e-6
    meter.auto_range.set(False)
    assert fake.sent == [
        b"*IDN?\n",
        b"SENSe:POWer:UNIT W" + E,
        b"SENSe:AVERage:COUNt?\n",
        b"SENSe:CORRection:WAVelength 1550.12" + E,
        b"SENSe:AVERage:COUNt 10000" + E,
        b"MEASure:POWer?\n",
        b"SENSe:POWer:RANGe:AUTO 0" + E,
    ]
    assert fake.limits_s[5] == pytest.approx(2.0 + 6.0, rel=0.1)
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
    with pytest.raises(InstrumentRefusedError, match="no measurement"):
        setup.meter.power_w.get()


def test_over_range_in_a_manual_range(setup: Setup) -> None:
    setup.meter.link.command("SENSe:POWer:RANGe 1E-6")
    assert setup.meter.auto_range.get() is False
    with pytest.raises(InstrumentRefusedError):
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


def test_the_sensor_may_be_narrower_than_the_driver(setup: Setup) -> None:
    meter = ThorlabsPM100D("wide", setup.meter.address, wavelength_limits_nm=(400.0, 2000.0))
    meter.connect()
    with pytest.raises(InstrumentRefusedError) as caught:
        meter.wavelength_nm.set(500.0)
    assert caught.value.code == -222
    meter.close()


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
