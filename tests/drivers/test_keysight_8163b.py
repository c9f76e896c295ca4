"""Keysight 8163B: watts of the right head whatever an earlier user left, small powers as they are, and zeros in the dark."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scripted_transport import FakeTransport

from drivers.links import scpi_visa
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkClosedError,
    MalformedReplyError,
    NoReadingError,
    NotReadyError,
    PreemptedError,
    WrongInstrumentError,
)
from drivers.powermeters.keysight_8163b import Keysight8163B
from drivers.powermeters.keysight_sensors import PART_S, ZERO_S, parse_acquisition, parts_of
from sim_backends.powermeters.keysight_8163b import HEAD_81634B, Keysight8163BTwin
from sim_backends.servers import Call

OWN_LIGHT_W = 0.64e-12
QUICK = replace(HEAD_81634B, speed=math.inf)
"""With all its errors, and nothing takes time but a zero."""


def near(power_w: float) -> Any:
    """By default pytest takes 1 pW for nothing."""
    return pytest.approx(power_w, rel=1e-6, abs=0.0)


class Setup:
    """Two heads in light that the test turns; a zero ends when the test says so."""

    def __init__(self, **options: Any) -> None:
        self.light_w = {1: OWN_LIGHT_W, 2: 0.97e-12}
        self.now = 0.0
        self.looked = threading.Event()
        """Set whenever a measurement looks at the light."""
        self.ends: list[tuple[float, Callable[[], None]]] = []
        options = {"head": HEAD_81634B.exact(zero_s=10.0), **options}
        self.twin = Keysight8163BTwin(read_power_w=self.power_w, schedule=self.schedule, **options)
        self.meter = Keysight8163B(
            "meter", self.twin.serve("127.0.0.1", 0), pause=self.pause, clock=lambda: self.now
        )

    def power_w(self, slot: int) -> float:
        self.looked.set()
        return self.light_w[slot]

    def schedule(self, delay_s: float, action: Callable[[], None]) -> None:
        self.ends.append((self.now + delay_s, action))

    def pause(self, seconds: float) -> None:
        self.now += max(seconds, 0.5)
        due, self.ends = [e for e in self.ends if e[0] <= self.now], [e for e in self.ends if e[0] > self.now]
        for _, action in due:
            action()

    def close(self) -> None:
        self.meter.close()
        self.twin.close()


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    setup.meter.connect()
    yield setup
    setup.close()


REST = {
    b"*IDN?": "Agilent Technologies,8163B,MY48208514,V5.25(72637)",
    b"*OPC?": "1",
    **{
        query.replace("#", str(slot)).encode(): answer
        for slot in (1, 2)
        for query, answer in {
            "SLOT#:EMPTy?": "+0",
            "SLOT#:IDN?": "Agilent Technologies,81634B,DE48200123,V5.25",
            "SENSe#:FUNCtion:STATe?": "NONE,PROGRESS",
            "INITiate#:CONTinuous?": "+0",
            "TRIGger#:INPut?": "IGN",
            "SENSe#:POWer:REFerence:STATe?": "+0",
            "SENSe#:CORRection?": "+0.00000000E+000",
            "SENSe#:POWer:UNIT?": "+1",
            "SENSe#:POWer:RANGe:AUTO?": "+1",
            "SENSe#:POWer:ATIMe?": "+1.00000000E-001",
            "SENSe#:POWer:WAVelength? MIN": "+8.00000000E-007",
            "SENSe#:POWer:WAVelength? MAX": "+1.65000000E-006",
            "SENSe#:POWer:WAVelength?": "+1.55012500E-006",
            "SENSe#:CORRection:COLLect:ZERO?": "+0",
            "READ#:POWer?": "-2.10000000E-015",
        }.items()
    },
}


def test_bytes_of_each_command_and_their_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransport(REST, end="\r")
    monkeypatch.setattr(scpi_visa, "_open_transport", lambda *_: fake)
    meter = Keysight8163B("meter", "TCPIP::h::5025::SOCKET")
    meter.connect()
    assert fake.sent[:11] == [
        b"*IDN?\n",
        b"SLOT1:EMPTy?\n",
        b"SLOT1:IDN?\n",
        b"SENSe1:FUNCtion:STATe?\n",
        b"INITiate1:CONTinuous?\n",
        b"TRIGger1:INPut?\n",
        b"SENSe1:POWer:REFerence:STATe?\n",
        b"SENSe1:CORRection?\n",
        b"SENSe1:POWer:UNIT?\n",
        b"SENSe1:POWer:RANGe:AUTO?\n",
        b"SENSe1:POWer:ATIMe?\n",
    ]
    fake.sent.clear()
    fake.limits_s.clear()
    meter.slot2.wavelength_nm(1550.125)
    assert meter.slot1.power_w() == -2.1e-15
    assert fake.limits_s[-1] == pytest.approx(2.0 + 2 * PART_S, rel=0.05), "of one part, not of the reading"
    meter.slot1.zero()
    assert fake.sent == [
        b"SENSe2:POWer:WAVelength? MIN\n",
        b"SENSe2:POWer:WAVelength? MAX\n",
        b"SENSe2:POWer:WAVelength 1.550125000E-06\n",
        b"SENSe2:POWer:WAVelength?\n",
        *[b"READ1:POWer?\n"] * 10,
        b"SENSe1:CORRection:COLLect:ZERO\n",
        b"*OPC?\n",
        b"SENSe1:CORRection:COLLect:ZERO?\n",
    ]
    assert fake.limits_s[14:16] == pytest.approx([ZERO_S, ZERO_S], rel=0.1)
    meter.close()


def test_each_slot_reads_its_own_light(setup: Setup) -> None:
    assert setup.meter.slot1.power_w() == near(0.64e-12)
    assert setup.meter.slot2.power_w() == near(0.97e-12)
    assert setup.meter.slot1.floor_w() == 1e-14
    assert setup.meter.slot1.head() == "81634B SIM000011"


def test_known_state_whoever_used_it_before() -> None:
    setup = Setup(left_by_someone=True)
    setup.meter.connect()
    state = setup.twin.state()
    for name, held in {
        "unit": "W", "relative": False, "correction_db": 0.0, "auto_range": True, "continuous": False,
        "trigger": "IGN", "function": "NONE", "averaging_s": PART_S,
    }.items():  # fmt: skip
        assert state[name] == {1: held, 2: held}, name
    assert state["errors"] == 0
    assert setup.meter.slot1.power_w() == near(OWN_LIGHT_W * 1550 / 1310)  # as told: 1310 nm
    setup.meter.slot1.wavelength_nm(np.float64(1550.0))
    assert setup.meter.slot1.power_w() == near(OWN_LIGHT_W)
    setup.close()


@pytest.mark.parametrize("power_w", [0.5, float("nan"), float("inf")])
def test_what_is_no_measurement_is_an_error(setup: Setup, power_w: float) -> None:
    setup.light_w[1] = power_w
    with pytest.raises(NoReadingError, match=r"meter at TCPIP.*no value"):
        setup.meter.slot1.power_w()
    assert setup.meter.slot2.power_w() == near(0.97e-12)


def test_a_reading_below_the_floor_is_as_it_is_and_its_mean_is_right() -> None:
    setup = Setup(head=QUICK, rng=np.random.default_rng(3))
    setup.meter.connect()
    setup.light_w = {1: 0.0, 2: 0.0}
    setup.meter.slot1.zero()
    setup.light_w[1] = 5e-15  # half of the floor
    for averaging_s in (0.1, 0.4):
        setup.meter.slot1.averaging_s(averaging_s)
        readings = np.array([setup.meter.slot1.power_w() for _ in range(400)])
        assert (readings < 0).sum() > 100
        assert readings.std() == pytest.approx(HEAD_81634B.noise_w / averaging_s**0.5, rel=0.15, abs=0)
    setup.close()


def test_a_glance_is_short_and_changes_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransport(REST, end="\r")
    monkeypatch.setattr(scpi_visa, "_open_transport", lambda *_: fake)
    meter = Keysight8163B("meter", "TCPIP::h::5025::SOCKET")
    meter.connect()
    fake.sent.clear()
    fake.limits_s.clear()
    assert meter.slot1.glance_w() == -2.1e-15
    assert fake.sent == [b"READ1:POWer?\n"]
    assert max(fake.limits_s) < 2.3, "nobody waits for a whole reading"
    meter.close()


def test_the_noise_of_a_glance_is_that_of_its_time_and_the_next_reading_is_quiet() -> None:
    setup = Setup(head=QUICK, rng=np.random.default_rng(3))
    setup.meter.connect()
    setup.light_w = {1: 0.0, 2: 0.0}
    setup.meter.slot1.zero()
    setup.meter.slot1.averaging_s(0.4)
    glances, readings = np.array(
        [(setup.meter.slot1.glance_w(), setup.meter.slot1.power_w()) for _ in range(300)]
    ).T
    assert glances.std() == pytest.approx(HEAD_81634B.noise_w / PART_S**0.5, rel=0.15, abs=0)
    assert readings.std() == pytest.approx(HEAD_81634B.noise_w / 0.4**0.5, rel=0.15, abs=0)
    setup.close()


@pytest.mark.parametrize(("averaging_s", "parts"), [(1e-4, 1), (0.1, 1), (0.11, 2), (1.0, 10), (10.0, 100)])
def test_an_averaging_time_is_that_of_all_parts_together(
    setup: Setup, averaging_s: float, parts: int
) -> None:
    setup.meter.slot1.averaging_s(averaging_s)
    assert parts_of(averaging_s) == parts
    held: Any = setup.twin.state()["averaging_s"]
    assert held[1] == pytest.approx(averaging_s / parts)
    assert setup.meter.slot1.averaging_s() == averaging_s
    assert setup.meter.slot1.power_w() == near(OWN_LIGHT_W)


def test_whoever_looks_while_a_long_reading_is_under_way_waits_for_one_part_of_it() -> None:
    """Ten seconds of averaging in real time; a look at either head comes back while it goes on, and spoils nothing."""
    setup = Setup(head=replace(HEAD_81634B.exact(), speed=1.0))
    setup.meter.close()
    setup.meter = Keysight8163B("real_time", setup.meter.address, averaging_s=10.0)
    setup.meter.connect()
    ends: list[BaseException] = []

    def read() -> None:
        try:
            setup.meter.slot1.power_w()
        except LinkClosedError as error:
            ends.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    assert setup.looked.wait(5)
    begun_s = time.monotonic()
    assert [each.glance_w() for each in (setup.meter.slot1, setup.meter.slot2)] == [
        near(0.64e-12),
        near(0.97e-12),
    ]
    assert time.monotonic() - begun_s < 4 * PART_S + 0.3
    assert reading.is_alive()
    setup.meter.close()
    reading.join(5)
    assert [type(error) for error in ends] == [LinkClosedError]
    setup.twin.close()


def test_a_zero_in_the_dark_takes_the_error_away() -> None:
    off, zeroed = [], []
    for seed in range(12):
        setup = Setup(head=QUICK, rng=np.random.default_rng(seed))
        setup.light_w = {1: 0.0, 2: 0.0}
        setup.meter.connect()
        setup.meter.slot1.averaging_s(10.0)
        for found in (off, zeroed):
            found.append(np.mean([setup.meter.slot1.power_w() for _ in range(3)]))
            setup.meter.slot1.zero()
        setup.close()
    assert np.abs(off).max() <= 5e-14 + 6 * HEAD_81634B.noise_w / 30**0.5
    assert np.std(off) == pytest.approx(5e-14 / 3**0.5, rel=0.5, abs=0)
    assert np.std(zeroed) == pytest.approx(HEAD_81634B.noise_w / 10**0.5, rel=0.6, abs=0)


def test_two_heads_of_one_seed_are_the_same_and_scales_differ() -> None:
    def scale(seed: int) -> float:
        setup = Setup(head=QUICK, rng=np.random.default_rng(seed))
        setup.light_w = {1: 1e-9, 2: 1e-9}
        setup.meter.connect()
        found = setup.meter.slot1.power_w() / 1e-9
        setup.close()
        return float(found)

    scales = [scale(seed) for seed in range(8)]
    assert scale(0) == scales[0]
    assert np.ptp(scales) > 0.02
    assert np.abs(np.array(scales) - 1).max() < 0.051


def test_a_zero_takes_its_time_and_says_when_light_was_there(setup: Setup) -> None:
    setup.meter.slot1.zero()  # its own light was taken for darkness
    assert 10.0 <= setup.now < 11.0
    assert setup.meter.slot1.power_w() == pytest.approx(0.0, abs=1e-20)
    assert setup.meter.slot2.power_w() == near(0.97e-12)
    setup.light_w[1] = 1e-9
    with pytest.raises(InstrumentRefusedError, match=r"slot1 found no zero \(code 1\).*no light reaches it"):
        setup.meter.slot1.zero()


def test_a_zero_that_never_ends(setup: Setup) -> None:
    setup.schedule = lambda delay_s, action: None  # type: ignore[method-assign]
    setup.twin.sensors._schedule = setup.schedule
    with pytest.raises(NotReadyError, match=r"slot1 zero: not done after 60.0 s"):
        setup.meter.slot1.zero()
    with pytest.raises(NoReadingError):
        setup.meter.slot1.power_w()


def test_made_safe_while_another_thread_waits_for_a_zero(setup: Setup) -> None:
    paused, ends = threading.Event(), []

    def pause(seconds: float) -> None:
        paused.set()
        setup.meter.link.urgently(lambda: None)

    setup.meter._pause = pause

    def zero() -> None:
        try:
            setup.meter.slot1.zero()
        except PreemptedError as error:
            ends.append(str(error))

    thread = threading.Thread(target=zero)
    thread.start()
    assert paused.wait(5)
    thread.join(5)
    assert "slot1 zero" in ends[0]


@pytest.mark.parametrize(
    ("heads", "says"),
    [(("81634B", "81635A"), "slot 2 holds a 81635A, not an 81634B"), (("", "81634B"), "slot 1 is empty")],
)
def test_another_head_or_none_is_refused(heads: tuple[str, str], says: str) -> None:
    setup = Setup(heads=heads)
    with pytest.raises(WrongInstrumentError, match=says):
        setup.meter.connect()
    setup.close()


def test_another_mainframe_is_refused() -> None:
    setup = Setup(model="8164B")
    with pytest.raises(WrongInstrumentError, match="8164B, not as 8163A or 8163B"):
        setup.meter.connect()
    setup.close()


def test_limits(setup: Setup) -> None:
    for wavelength_nm in (799.0, 1651.0):
        with pytest.raises(LimitError, match="nm"):
            setup.meter.slot1.wavelength_nm(wavelength_nm)
    for number, averaging_s in enumerate((9e-5, 10.1)):
        with pytest.raises(LimitError, match=r"0\.0001\.\.10 s"):
            setup.meter.slot1.averaging_s(averaging_s)
        with pytest.raises(LimitError, match="averaging_s is"):
            Keysight8163B(f"other{number}", "nowhere", averaging_s=averaging_s)


def test_a_head_that_reaches_less_than_its_data_sheet(setup: Setup) -> None:
    setup.twin._device.add("SENSe#:POWer:WAVelength?", lambda call: "+1.20000000E-006")
    setup.twin._device._commands.insert(0, setup.twin._device._commands.pop())
    setup.twin._device._find.cache_clear()
    with pytest.raises(LimitError, match=r"slot1: 1550 nm is outside 1200\.\.1200 nm"):
        setup.meter.slot1.wavelength_nm(1550.0)


def test_settings_come_back_after_a_power_cycle(setup: Setup) -> None:
    setup.meter.slot2.wavelength_nm(1310.0)
    setup.meter.slot2.averaging_s(0.25)
    port = int(setup.meter.address.split("::")[2])
    setup.twin.close()
    with pytest.raises(LinkBrokenError):
        setup.meter.slot2.power_w()
    fresh = Keysight8163BTwin(read_power_w=setup.power_w, head=HEAD_81634B.exact(), left_by_someone=True)
    fresh.serve("127.0.0.1", port)
    assert setup.meter.slot2.power_w() == near(0.97e-12 * 1550 / 1310)
    assert fresh.state()["sensor_wavelength_nm"][2] == pytest.approx(1310.0)  # type: ignore[index]
    assert fresh.state()["averaging_s"] == {1: 0.1, 2: pytest.approx(0.25 / 3)}
    assert setup.meter.slot2.averaging_s() == 0.25
    fresh.close()


class Stubborn(Keysight8163BTwin):
    """Acknowledges a command and does nothing."""

    def __init__(self, notation: str, **options: Any) -> None:
        super().__init__(head=HEAD_81634B.exact(), **options)
        self._device.add(notation, self.ignore)
        self._device._commands.insert(0, self._device._commands.pop())

    def ignore(self, call: Call) -> None:
        return None


def test_a_correction_that_stays_is_said_and_only_that_slot_is_refused() -> None:
    twin = Stubborn("SENSe1:CORRection")
    twin.sensors.all[0].correction_db = 3.0
    meter = Keysight8163B("meter", twin.serve("127.0.0.1", 0))
    meter.connect()
    with pytest.raises(InstrumentRefusedError, match=r"SENSe1:CORRection reads back '\+3.00000000E\+000'"):
        meter.slot1.power_w()
    assert meter.slot2.power_w() == 0.0
    meter.close()
    twin.close()


def test_an_acquisition_that_goes_on_is_refused() -> None:
    twin = Stubborn("SENSe#:FUNCtion:STATe", left_by_someone=True)
    meter = Keysight8163B("meter", twin.serve("127.0.0.1", 0))
    with pytest.raises(InstrumentRefusedError, match="slot1 goes on acquiring data after 'MINMax,STOP'"):
        meter.connect()
    meter.close()
    twin.close()


def test_only_known_acquisitions_are_understood(setup: Setup) -> None:
    assert parse_acquisition("NONE,PROGRESS") == ""
    assert parse_acquisition("LOGGING_STABILITY,COMPLETE") == "LOGGing,STOP"
    assert parse_acquisition('"minmax","PROGRESS"') == "MINMax,STOP"
    assert parse_acquisition(" NONE ") == ""
    with pytest.raises(ValueError, match="none of NONE"):
        parse_acquisition("")
    setup.twin._device.add("SENSe2:FUNCtion:STATe?", lambda call: "+7")
    setup.twin._device._commands.insert(0, setup.twin._device._commands.pop())
    setup.twin._device._find.cache_clear()
    with pytest.raises(MalformedReplyError, match="'SENSe2:FUNCtion:STATe"):
        setup.meter.connect()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("SENSe1:POWer:ATIMe 11", -222),
        ("SENSe1:POWer:WAVelength 700NM", -222),
        ("SENSe1:POWer:UNIT MAYBE", -224),
        ("SENSe3:POWer:UNIT 1", -303),
        ("SENSe1:FUNCtion:STATe LOGG,STAR;:SENSe1:POWer:ATIMe 2", -221),
        ("SENSe2:FUNCtion:STATe LOGG,STAR;:SENSe2:FUNCtion:STATe MINM,STOP", -221),
        ("SENSe2:CORRection:COLLect:ZERO;:SENSe2:POWer:ATIMe 2", -221),
        ("SENSe1:POWER:ATIM 5V", -104),
    ],
)
def test_the_instrument_refuses_with_its_own_codes(setup: Setup, command: str, code: int) -> None:
    with pytest.raises(InstrumentRefusedError) as caught:
        setup.meter.link.command(command)
    assert caught.value.code == code


def test_over_range_in_a_manual_range(setup: Setup) -> None:
    setup.meter.link.command("SENS1:POW:RANG:AUTO 0;:SENS1:POW:RANG -100DBM")
    with pytest.raises(NoReadingError):
        setup.meter.slot1.power_w()
    setup.meter.connect()
    assert setup.meter.slot1.power_w() == near(OWN_LIGHT_W)


def test_a_reading_takes_its_averaging_time_and_shows_the_mean_of_the_light_in_it() -> None:
    """As the light goes out half-way, half of it is read; the box answers others meanwhile."""
    setup = Setup(head=replace(HEAD_81634B.exact(), speed=10.0))
    setup.meter.connect()
    setup.meter.slot1.averaging_s(4.0)
    read: list[float] = []
    reading = threading.Thread(target=lambda: read.append(setup.meter.slot1.power_w()))
    begun_s = time.monotonic()
    reading.start()
    device = setup.twin._device
    while time.monotonic() - begun_s < 0.2:
        with device.lock:
            assert not read
        time.sleep(0.01)
    setup.light_w[1] = 0.0
    reading.join()
    assert time.monotonic() - begun_s >= 0.4
    assert 0.3 * OWN_LIGHT_W < read[0] < 0.7 * OWN_LIGHT_W
    assert setup.meter.slot1.power_w() == 0.0
    setup.close()
