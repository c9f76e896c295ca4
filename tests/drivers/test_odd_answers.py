"""Instruments whose firmware says what others say in another form, or that somebody left in an odd state.

Each ends in the right value, or in an error that names instrument and address: never a Python error of the parser, never
a value that nobody measured, never light.  What is odd replaces single answers of a twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from every_driver import Rig, rigged

from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    MalformedReplyError,
    NoReadingError,
    WrongInstrumentError,
)
from drivers.links.ieee488 import ProgramMessage

PM100D, N7764A, AWG = "thorlabs-pm100d", "keysight-n7764a", "tektronix-awg70002a"
PEER = {PM100D: "Thorlabs,PM100D,P0000001,2.4.0", AWG: "TEKTRONIX,AWG70002A,B020123,FV:5.3.0128.0"}


@contextmanager
def says(twin: Any, odd: Mapping[str, str | None]) -> Iterator[None]:
    """``twin`` gives these answers; None: it says nothing and does nothing."""
    usual = twin._device.execute

    def execute(message: ProgramMessage) -> bytes | None:
        text = message.text.decode("ascii")
        if text not in odd:
            return usual(message)
        said = odd[text]
        return None if said is None else said.encode("latin-1") + b"\n"

    with patch.object(twin._device, "execute", execute):
        yield


def quoted(identity: str) -> str:
    return ",".join(f'"{field}"' for field in identity.split(","))


RIGHT: list[tuple[str, str, str, Callable[[Any], Any], Any]] = [
    *(
        (N7764A, "OUTPut1:STATe?", said, lambda d: d.ch1.shutter_open(), on)
        for said, on in (("1.0E+00", True), ("01", True), ("+0.0", False), ("OFF", False), ('"ON"', True))
    ),
    (PM100D, "SENSe:POWer:RANGe:AUTO?", "1.0", lambda d: d.auto_range(), True),
    (PM100D, "SENSe:AVERage:COUNt?", "+1.0E+00", lambda d: d.averaging(), 1),
    (PM100D, "SYSTem:SENSor:IDN?", '"S155C, fibre","1","2026","1","18","33"', lambda d: d.sensor(), "S155C, fibre 1"),
    (PM100D, "*IDN?", quoted(PEER[PM100D]), lambda d: d.identify().model, "PM100D"),
    (PM100D, "*IDN?", f'"{PEER[PM100D]}"', lambda d: d.identify().firmware, "2.4.0"),
    (AWG, "*IDN?", quoted(PEER[AWG]), lambda d: d.identify().serial_number, "B020123"),
    (AWG, "AWGControl:RSTATe?", "+1", lambda d: d.run_state(), "waiting for trigger"),
    (AWG, "OUTPut1:STATe?", "0.0", lambda d: d.output(), False),
    *(
        (PM100D, "SYSTem:ERRor?", said, lambda d: d.averaging(1), None)
        for said in ("0", "+0", "+0,No error", "0,'No error'", "00, No error")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "query", "said", "ask", "right"), RIGHT)
def test_the_same_in_other_words(
    model: str, query: str, said: str, ask: Callable[[Any], Any], right: Any
) -> None:
    with rigged(model) as rig, says(rig.twin, {query: said}):
        found = ask(rig.driver)
        assert found == right
        assert type(found) is type(right)


WRONG: list[tuple[str, str, str, Callable[[Any], Any], type[InstrumentError]]] = [
    (N7764A, "OUTPut1:STATe?", "2", lambda d: d.ch1.shutter_open(), MalformedReplyError),
    (N7764A, "OUTPut1:STATe?", "0.5", lambda d: d.ch1.shutter_open(), MalformedReplyError),
    (N7764A, "INPut1:WAVelength?", "1550.12", lambda d: d.ch1.wavelength_nm(), MalformedReplyError),
    (N7764A, "INPut1:WAVelength?", "0", lambda d: d.ch1.wavelength_nm(), MalformedReplyError),
    (PM100D, "SENSe:CORRection:WAVelength?", "1.55E-6", lambda d: d.wavelength_nm(), MalformedReplyError),
    (PM100D, "SENSe:AVERage:COUNt?", "2.5", lambda d: d.averaging(), MalformedReplyError),
    (PM100D, "SENSe:CORRection:WAVelength? MAX", "9.91E37", lambda d: d.wavelength_nm(1300.0), NoReadingError),
    (PM100D, "MEASure:POWer?", "1E999", lambda d: d.power_w(), NoReadingError),
    (PM100D, "MEASure:POWer?", "1.0E-6 W", lambda d: d.power_w(), MalformedReplyError),
    (PM100D, "SYSTem:ERRor?", "-100,'Command error'", lambda d: d.averaging(1), InstrumentRefusedError),
    (PM100D, "SYSTem:ERRor?", "-113", lambda d: d.averaging(1), InstrumentRefusedError),
    (PM100D, "SYSTem:ERRor?", "-222,Data out of range", lambda d: d.averaging(1), InstrumentRefusedError),
    (PM100D, "SYSTem:ERRor?", "1.5E-6", lambda d: d.averaging(1), MalformedReplyError),
    (PM100D, "*IDN?", '"Thorlabs","PM100D', lambda d: d.identify(), MalformedReplyError),
    (AWG, "*IDN?", '"TEKTRONIX","AWG5014C","B1","1"', lambda d: d.identify(), WrongInstrumentError),
    (AWG, "AWGControl:RSTATe?", "3", lambda d: d.run_state(), MalformedReplyError),
    (AWG, "SOURce1:VOLTage?", "9.91E37", lambda d: d.amplitude_vpp(), NoReadingError),
]  # fmt: skip


@pytest.mark.parametrize(("model", "query", "said", "ask", "kind"), WRONG)
def test_what_cannot_be_meant_is_an_error_with_place(
    model: str, query: str, said: str, ask: Callable[[Any], Any], kind: type[InstrumentError]
) -> None:
    with rigged(model) as rig, says(rig.twin, {query: said}), pytest.raises(kind) as caught:
        ask(rig.driver)
    assert caught.value.address == rig.driver.address
    assert caught.value.instrument.startswith(rig.driver.name)


# As somebody left it


def test_a_wavelength_that_the_head_does_not_reach_is_no_basis_of_a_power() -> None:
    """Somebody changed the sensor head: what is stored was right for the other one."""
    with rigged(PM100D, prepare=lambda twin: setattr(twin._device, "wavelength_nm", 2400.0)) as rig:
        with pytest.raises(LimitError, match="wavelength_nm") as caught:
            rig.driver.power_w()
        assert caught.value.address == rig.driver.address
        rig.driver.wavelength_nm(1550.0)
        assert rig.driver.power_w() == pytest.approx(rig.twin.light.power_w)


def test_a_correction_that_is_there_and_stays_is_not_taken_for_one_that_is_missing() -> None:
    with rigged(PM100D, prepare=lambda twin: setattr(twin._device, "loss_db", 10.0)) as rig:
        rig.twin._device.loss_db = 10.0
        usual = rig.twin._device._put

        def out_of_range(attribute: str, call: Any, low: float, high: float) -> None:
            usual(attribute, call, 1.0, high)  # the firmware takes no 0 dB

        with patch.object(rig.twin._device, "_put", out_of_range):
            rig.driver.state.hold()
            with pytest.raises(InstrumentRefusedError, match="LOSS"):
                rig.driver.power_w()


@pytest.mark.parametrize("said", ["DIR", "DIRECT", "dir"])
def test_a_direct_path_is_told_in_each_of_its_forms(said: str) -> None:
    with rigged(AWG) as rig, says(rig.twin, {"OUTPut1:PATH DIRect": None, "OUTPut1:PATH?": said}):
        rig.driver.state.hold()
        assert not rig.driver.state.missing


# Free text


def no_place_for(rig: Rig, action: Callable[[], object]) -> None:
    rig.desk.listen()
    with pytest.raises(LimitError) as caught:
        action()
    assert caught.value.address == rig.driver.address
    assert rig.desk.replies == []


@pytest.mark.parametrize("model", [PM100D, N7764A, AWG, "thorlabs-mbx", "thorlabs-osw22"])
@pytest.mark.parametrize("text", ["SENSe:POWer:UNIT \u00b5W?", "*IDN?\n*OPT?", "\u2212 1", ""])
def test_free_text_is_one_line_of_ascii(model: str, text: str) -> None:
    with rigged(model) as rig:
        no_place_for(rig, lambda: rig.driver.ask(text))
        no_place_for(rig, lambda: rig.driver.write(text))


@pytest.mark.parametrize("text", ["hello", "0x100", "-1", "", "0x66 \u00e4"])
def test_a_register_is_a_number_of_one_byte(text: str) -> None:
    with rigged("nkt-basik") as rig:
        no_place_for(rig, lambda: rig.driver.ask(text))


@pytest.mark.parametrize("text", ["0x8D zz", "0x8D", "0x8D 123", "hello 00", f"0x8D {'00' * 241}"])
def test_a_register_is_written_with_bytes(text: str) -> None:
    with rigged("nkt-basik") as rig:
        no_place_for(rig, lambda: rig.driver.write(text))


# Already on, beyond a limit of the set-up


def test_a_shutter_found_open_below_the_least_attenuation_is_closed() -> None:
    def leave(twin: Any) -> None:
        for command in (b"INP1:ATT 3", b"OUTP1:STAT ON", b"INP3:ATT 20", b"OUTP3:STAT ON"):
            twin._device.execute(ProgramMessage(command))

    with rigged(N7764A, prepare=leave, min_attenuation_db=10.0) as rig:
        assert rig.driver.ch1.shutter_open() is False
        assert rig.driver.ch2.shutter_open() is True


def test_an_output_found_on_above_the_greatest_amplitude_is_switched_off() -> None:
    def leave(twin: Any) -> None:
        for command in (b"SOUR1:VOLT 0.5", b"OUTP1:STAT ON"):
            twin._device.execute(ProgramMessage(command))

    with rigged(AWG, prepare=leave, max_amplitude_vpp=0.3) as rig:
        assert rig.driver.output() is False
