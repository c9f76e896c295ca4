"""Keysight N7764A: slot numbers, settling, shutters closed whenever something went wrong."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scripted_transport import FakeTransport

from drivers.attenuators.keysight_n7764a import KeysightN7764A
from drivers.links import scpi_visa
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    MalformedReplyError,
    NotReadyError,
    PreemptedError,
    WrongInstrumentError,
)
from sim_backends.attenuators.keysight_n7764a import N7764ATwin


class Motor:
    """Ends of moves, run when the test says so."""

    def __init__(self) -> None:
        self.moves: deque[tuple[float, Callable[[], None]]] = deque()
        self.now = 0.0

    def schedule(self, delay_s: float, action: Callable[[], None]) -> None:
        self.moves.append((self.now + delay_s, action))

    def pause(self, seconds: float) -> None:
        self.now += seconds
        for due, action in list(self.moves):
            if due <= self.now:
                self.moves.remove((due, action))
                action()


class Setup:
    def __init__(self) -> None:
        self.motor = Motor()
        self.light: list[tuple[int, float, bool]] = []
        self.twin = N7764ATwin(
            on_channel=lambda *seen: self.light.append(seen),
            schedule=self.motor.schedule,
            speed_db_per_s=10.0,
        )
        self.voa = KeysightN7764A(
            "voa", self.twin.serve("127.0.0.1", 0), pause=self.motor.pause, clock=lambda: self.motor.now
        )
        self.voa.connect()


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    yield setup
    setup.voa.close()
    setup.twin.close()


SLOTS = tuple(KeysightN7764A.ATTENUATORS.values())
REST = {
    b"*IDN?": "Keysight Technologies,N7764A,MY1,1.0",
    b"*OPC?": "1",
    **{f"OUTPut{slot}:POWer:CONTRol?".encode(): "0" for slot in SLOTS},
    **{f"INPut{slot}:OFFSet?".encode(): "+0.00000000E+000" for slot in SLOTS},
    **{f"OUTPut{slot}:POWer:UNit?".encode(): "+1" for slot in SLOTS},
    **{f"OUTPut{slot}:STATe:APOWeron?".encode(): "0" for slot in SLOTS},
    **{f"INPut{slot}:ATTenuation?".encode(): "+1.25000000E+001" for slot in SLOTS},
    **{f"INPut{slot}:ATTenuation:SPEed?".encode(): "+1.00000000E+003" for slot in SLOTS},
    **{f"OUTPut{slot}:STATe?".encode(): "0" for slot in SLOTS},
}


def test_bytes_of_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransport(
        {**REST, b"INPut1:WAVelength?": "+1.55012500E-006", b"OUTPut7:STATe?": "1"}, end="\r"
    )
    monkeypatch.setattr(scpi_visa, "_open_transport", lambda *_: fake)
    voa = KeysightN7764A("voa", "TCPIP::h::5025::SOCKET")
    voa.connect()
    assert fake.sent[:7] == [
        b"*IDN?\n",
        b"OUTPut1:POWer:CONTRol?\n",
        b"INPut1:OFFSet?\n",
        b"OUTPut1:POWer:UNit 1\n",
        b"OUTPut1:POWer:UNit?\n",
        b"OUTPut1:STATe:APOWeron 0\n",
        b"OUTPut1:STATe:APOWeron?\n",
    ]
    fake.sent.clear()
    voa.ch2.attenuation_db.set(12.5)
    voa.ch4.shutter_open.set(True)
    voa.ch1.wavelength_nm.set(1550.125)
    fake.answers[b"OUTPut7:STATe?"] = "0"
    voa.safe_state()
    assert fake.sent == [
        b"INPut3:ATTenuation?\n",
        b"INPut3:ATTenuation:SPEed?\n",
        b"INPut3:ATTenuation 12.5000\n",
        b"*OPC?\n",
        b"INPut3:ATTenuation?\n",
        b"INPut7:ATTenuation?\n",
        b"INPut7:ATTenuation:SPEed?\n",
        b"OUTPut7:STATe 1\n",
        b"*OPC?\n",
        b"OUTPut7:STATe?\n",
        b"INPut1:WAVelength 1.550125000E-06\n",
        b"INPut1:WAVelength?\n",
        b"OUTPut:STATe:ALL OFF\n",
        b"OUTPut1:STATe?\n",
        b"OUTPut3:STATe?\n",
        b"OUTPut5:STATe?\n",
        b"OUTPut7:STATe?\n",
    ]
    voa.close()


def test_each_channel_reaches_its_own_light(setup: Setup) -> None:
    for number, channel in enumerate(setup.voa.channels, 1):
        channel.attenuation_db.set(10.0 + number)
        assert channel.attenuation_db.get() == pytest.approx(10.0 + number)
        assert setup.light[-1] == (number, 10.0 + number, False)
        channel.shutter_open.set(True)
        assert setup.light[-1] == (number, 10.0 + number, True)
    assert setup.twin.state()["attenuation_db"] == {1: 11.0, 2: 12.0, 3: 13.0, 4: 14.0}


def test_the_setter_returns_once_the_filter_has_arrived(setup: Setup) -> None:
    setup.voa.ch1.attenuation_db.set(20.0)
    assert setup.motor.now == pytest.approx(2.0, abs=0.01)
    assert setup.light == [(1, 20.0, False)]
    setup.voa.ch1.shutter_open.set(True)
    assert setup.motor.now == pytest.approx(2.0 + 2.5, abs=0.02)


def test_a_shutter_closes_at_once(setup: Setup) -> None:
    setup.voa.ch1.shutter_open.set(True)
    before = setup.motor.now
    setup.voa.ch1.shutter_open.set(False)
    assert setup.motor.now == before
    assert setup.light[-1] == (1, 0.0, False)


def test_a_stuck_filter_is_an_error(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(seconds: float) -> None:
        setup.motor.now += seconds

    setup.voa._pause = stuck
    with pytest.raises(NotReadyError, match=r"ch1 attenuation 30 dB: not done after 5.0 s"):
        setup.voa.ch1.attenuation_db.set(30.0)


@pytest.mark.parametrize("value", [-0.1, 45.1, float("nan")])
def test_attenuation_limits(setup: Setup, value: float) -> None:
    with pytest.raises(LimitError, match=r"0\.\.45 dB"):
        setup.voa.ch1.attenuation_db.set(value)
    assert setup.light == []


@pytest.mark.parametrize("value", [1259.9, 1640.1])
def test_wavelength_limits(setup: Setup, value: float) -> None:
    with pytest.raises(LimitError, match="nm"):
        setup.voa.ch1.wavelength_nm.set(value)


def test_wavelength_reads_back_in_nanometres(setup: Setup) -> None:
    setup.voa.ch3.wavelength_nm.set(1550.12)
    assert setup.voa.ch3.wavelength_nm.get() == pytest.approx(1550.12, abs=1e-6)
    assert setup.voa.ch1.wavelength_nm.get() == pytest.approx(1550.0)


def test_safe_state_closes_all_shutters_and_confirms(setup: Setup) -> None:
    for channel in setup.voa.channels:
        channel.shutter_open.set(True)
    for _ in range(2):
        setup.voa.safe_state()
        assert setup.twin.state()["open"] == {1: False, 2: False, 3: False, 4: False}


def test_safe_state_says_which_shutter_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTransport({**REST, b"OUTPut3:STATe?": "1"}, end="\r")
    monkeypatch.setattr(scpi_visa, "_open_transport", lambda *_: fake)
    voa = KeysightN7764A("voa", "TCPIP::h::5025::SOCKET")
    with pytest.raises(NotReadyError, match="shutters of ch2 report open"):
        voa.safe_state()
    assert b"OUTPut3:STATe OFF\n" in fake.sent
    voa.close()


def test_a_lost_link_comes_back_with_shutters_closed_and_attenuations_restored(setup: Setup) -> None:
    setup.voa.ch2.attenuation_db.set(17.0)
    setup.voa.ch2.wavelength_nm.set(1310.0)
    setup.voa.ch2.shutter_open.set(True)
    port = int(setup.voa.address.split("::")[2])
    setup.twin.close()
    with pytest.raises(LinkBrokenError):
        setup.voa.ch1.attenuation_db.get()
    fresh = N7764ATwin(schedule=setup.motor.schedule)
    fresh.serve("127.0.0.1", port)
    assert setup.voa.ch1.attenuation_db.get() == 0.0
    state = fresh.state()
    assert state["attenuation_db"] == {1: 0.0, 2: 17.0, 3: 0.0, 4: 0.0}
    assert state["wavelength_nm"] == pytest.approx({1: 1550.0, 2: 1310.0, 3: 1550.0, 4: 1550.0})
    assert state["open"] == {1: False, 2: False, 3: False, 4: False}
    fresh.close()


def test_shutters_close_when_only_the_connection_broke(setup: Setup) -> None:
    setup.voa.ch1.shutter_open.set(True)
    setup.twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        setup.voa.ch1.shutter_open.get()
    assert setup.voa.ch1.shutter_open.get() is False
    assert setup.light[-1][2] is False


def test_a_sister_model_is_refused() -> None:
    twin = N7764ATwin(model="N7762A")
    voa = KeysightN7764A("voa", twin.serve("127.0.0.1", 0))
    with pytest.raises(WrongInstrumentError, match="N7762A, not as N7764A"):
        voa.connect()
    voa.close()
    twin.close()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("INPut1:ATTenuation 45.5", -222),
        ("INPut1:ATTenuation -1", -222),
        ("OUTPut1:STATe MAYBE", -224),
        ("INPut1:OFFSet 10DB;:INPut1:ATTenuation 5", -221),
        ("INPut9:ATTenuation 5", -303),
        ("INPut1:ATTEN 5", -113),
        ("INPut1:WAVelength 1700NM", -222),
        ("INPut1:ATTenuation 5V", -104),
        ("INPut1:ATTenuation", -109),
    ],
)
def test_the_instrument_refuses_with_its_own_codes(setup: Setup, command: str, code: int) -> None:
    with pytest.raises(InstrumentRefusedError) as caught:
        setup.voa.link.command(command)
    assert caught.value.code == code


def test_both_slots_of_a_pair_and_units_reach_the_same_attenuator(setup: Setup) -> None:
    setup.voa.link.command("INP2:ATT 9000MDB")
    setup.motor.pause(10.0)
    assert setup.twin.state()["attenuation_db"] == {1: 9.0, 2: 0.0, 3: 0.0, 4: 0.0}
    setup.voa.link.command("inp:att:all MAX;:output1:channel1:state on")
    setup.motor.pause(10.0)
    assert setup.twin.state()["attenuation_db"] == {1: 45.0, 2: 45.0, 3: 45.0, 4: 45.0}
    assert setup.twin.state()["open"] == {1: True, 2: False, 3: False, 4: False}


def test_known_state_whoever_used_it_before() -> None:
    twin = N7764ATwin(left_by_someone=True)
    voa = KeysightN7764A("voa", twin.serve("127.0.0.1", 0))
    voa.connect()
    state = twin.state()
    assert state["offset_db"] == dict.fromkeys((1, 2, 3, 4), 0.0)
    assert state["controls_power"] == state["open_at_power_on"] == dict.fromkeys((1, 2, 3, 4), False)
    assert state["attenuation_db"] == dict.fromkeys((1, 2, 3, 4), 1.0)
    assert voa.ch1.attenuation_db.get() == pytest.approx(1.0)
    assert state["errors"] == 0
    voa.ch1.attenuation_db.set(np.float32(20.0))
    assert twin.state()["attenuation_db"] == {1: 20.0, 2: 1.0, 3: 1.0, 4: 1.0}
    voa.close()
    twin.close()


def test_a_stored_attenuation_below_the_limit_opens_no_shutter(setup: Setup) -> None:
    strict = KeysightN7764A("strict", setup.voa.address, min_attenuation_db=10.0)
    strict.connect()
    with pytest.raises(LimitError, match=r"ch2 holds .* 0 dB, which is outside 10\.\.45 dB"):
        strict.ch2.shutter_open.set(True)
    with pytest.raises(LimitError):
        strict.ch2.attenuation_db.set(9.9)
    assert setup.light == []
    strict.close()


class Stubborn(N7764ATwin):
    """Keeps the offset of channel 1 and acknowledges the command."""

    def __init__(self) -> None:
        super().__init__()
        self.attenuators.all[0].offset_db = 10.0
        self._device.add("INPut1:OFFSet", lambda call: None)
        self._device._commands.insert(0, self._device._commands.pop())


def test_an_offset_that_stays_is_said_and_nothing_is_let_through() -> None:
    twin = Stubborn()
    voa = KeysightN7764A("voa", twin.serve("127.0.0.1", 0))
    voa.connect()
    for action in (lambda: voa.ch1.shutter_open.set(True), lambda: voa.ch1.attenuation_db.set(20.0)):
        with pytest.raises(
            InstrumentRefusedError, match=r"INPut1:OFFSet reads back '\+1.00000000E\+001', not 0"
        ):
            action()
    assert twin.is_safe()
    voa.close()
    twin.close()


@pytest.mark.parametrize("moving", ["attenuation", "shutter"])
def test_dark_at_once_while_another_thread_waits_for_a_slow_move(moving: str) -> None:
    twin = N7764ATwin(speed_db_per_s=2.0)
    voa = KeysightN7764A("voa", twin.serve("127.0.0.1", 0))
    voa.connect()
    slot = voa.ch1
    twin.attenuators.all[0].shutter = twin.attenuators.all[0].is_open = moving == "attenuation"
    ends: list[BaseException | None] = []

    def move() -> None:
        try:
            slot.attenuation_db.set(40.0) if moving == "attenuation" else slot.shutter_open.set(True)
            ends.append(None)
        except InstrumentError as error:
            ends.append(error)

    thread = threading.Thread(target=move)
    thread.start()
    while not twin.state()["moving"][1]:  # type: ignore[index]
        time.sleep(1e-3)
    begun = time.monotonic()
    voa.safe_state()
    assert time.monotonic() - begun < 1.0
    assert twin.is_safe()
    thread.join(timeout=2.0)
    assert not thread.is_alive()
    assert isinstance(ends[0], (PreemptedError, InstrumentRefusedError))
    assert twin.is_safe()
    assert voa.ch1.shutter_open.get() is False
    voa.close()
    twin.close()


def test_made_safe_between_a_command_and_its_wait(setup: Setup) -> None:
    wait = setup.voa.wait_settled

    def late(travel_s: float, what: str, since: int) -> None:
        setup.voa.safe_state()
        wait(travel_s, what, since)

    setup.voa.wait_settled = late  # type: ignore[method-assign]
    with pytest.raises(PreemptedError, match="ch1 attenuation 30 dB"):
        setup.voa.ch1.attenuation_db.set(30.0)
    assert setup.motor.now == 0.0


def test_safe_before_connecting_with_old_errors_queued() -> None:
    twin = N7764ATwin(left_by_someone=True)
    voa = KeysightN7764A("voa", twin.serve("127.0.0.1", 0))
    voa.safe_state()
    assert twin.is_safe()
    voa.close()
    twin.close()


@pytest.mark.parametrize("speed", [0.0, -1.0, 1e6])
def test_a_speed_that_no_attenuator_has_is_no_time_to_wait(setup: Setup, speed: float) -> None:
    setup.twin.attenuators.all[0].speed_db_per_s = speed
    with pytest.raises(MalformedReplyError, match="speed"):
        setup.voa.ch1.attenuation_db(20.0)
    with pytest.raises(MalformedReplyError, match="speed"):
        setup.voa.ch1.shutter_open(True)
    assert setup.twin.is_safe()
