"""Drivers of polarisation controllers: they move when they are told to and never else, and what they say of it is true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    MalformedReplyError,
    NotReadyError,
    PreemptedError,
    WrongInstrumentError,
)
from drivers.polarization.oz_epc400 import OzEPC400
from drivers.polarization.thorlabs_mpc320 import ThorlabsMPC320
from sim_backends.attenuators.oz_dd100 import OzDD100Twin
from sim_backends.optics_polarization import Jones
from sim_backends.polarization.fibre import PaddledFibre, SqueezedFibre
from sim_backends.polarization.oz_epc400 import OzEPC400Twin
from sim_backends.polarization.thorlabs_mpc320 import ThorlabsMPC320Twin

Build = Callable[..., tuple[Any, Any, list[Jones]]]


def builder(driver: type, make_twin: Callable[..., Any]) -> Callable[[], Iterator[Build]]:
    @pytest.fixture
    def build() -> Iterator[Build]:
        """A connected controller, its twin, and what that told of the light."""
        opened: list[Any] = []

        def make(connect: bool = True, **options: Any) -> tuple[Any, Any, list[Jones]]:
            told: list[Jones] = []
            keywords = {each: options.pop(each) for each in ("move_timeout_s", "settle_s") if each in options}
            twin = make_twin(on_jones=told.append, **options)
            opened.append(twin)
            made = driver(f"controller{len(opened)}", twin.serve(), timeout_s=0.5, **keywords)
            opened.append(made)
            if connect:
                made.connect()
            return made, twin, told

        yield make
        for each in reversed(opened):
            each.close()

    return build


epc = builder(OzEPC400, OzEPC400Twin)
mpc = builder(ThorlabsMPC320, ThorlabsMPC320Twin)


# EPC-400


def test_voltages_reach_the_fibre(epc: Build) -> None:
    driver, twin, told = epc()
    driver.actuators([1.0, -2.5, 0.0, 4.999])
    assert driver.actuators() == [1.0, -2.5, 0.0, 4.999]
    assert twin.state()["voltages_mv"] == [1000, -2500, 0, 4999]
    expected = SqueezedFibre.made(np.random.default_rng(0), 0.0).jones([1.0, -2.5, 0.0, 4.999])
    assert np.allclose(told[-1], expected)


def test_only_what_changes_is_sent(epc: Build) -> None:
    """9600 baud: a dither of one squeezer must not take four commands."""
    driver, _, _ = epc()
    driver.actuators([1.0, 2.0, 3.0, 4.0])
    sent: list[bytes] = []
    driver.link.tap = lambda direction, data: sent.append(data) if direction == "sent" else None
    driver.actuators([1.0, 2.1, 3.0, 4.0])
    assert [each for each in sent if each.startswith(b"V") and each != b"V?\r\n"] == [b"V2,2100\r\n"]


def test_a_unit_that_scrambles_with_its_outputs_off_is_brought_to_dc_with_its_voltages(epc: Build) -> None:
    driver, twin, _ = epc(left_by_someone=True)
    assert twin.state() == {"voltages_mv": [1200, -3400, 0, 4999], "mode": "DC", "output": True}
    driver.mode("AC")
    assert twin.state()["mode"] == "AC"
    driver.actuators(driver.actuators())
    assert driver.mode() == "DC"


def test_a_unit_that_scrambles_changes_the_light_by_itself(epc: Build) -> None:
    _, twin, told = epc(connect=False, left_by_someone=True)
    twin._output = True
    deadline = time.monotonic() + 5
    while len(told) < 3 or np.allclose(told[-1], told[-2]):
        assert time.monotonic() < deadline


def test_nothing_else_changes_voltages(epc: Build) -> None:
    driver, twin, _ = epc()
    driver.actuators([1.0, 2.0, 3.0, 4.0])
    driver.safe_state()
    driver.connect()
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        driver.actuators()
    driver.safe_state()
    with driver:
        assert driver.actuators() == [1.0, 2.0, 3.0, 4.0]
    assert twin.state()["voltages_mv"] == [1000, 2000, 3000, 4000]


def test_a_unit_that_restarted_gets_its_voltages_back(epc: Build) -> None:
    driver, twin, _ = epc()
    driver.actuators([1.0, 2.0, 3.0, 4.0])
    assert driver.ask("RESET") == "Reset"
    assert twin.state()["voltages_mv"] == [0, 0, 0, 0]
    driver.connect()
    assert twin.state()["voltages_mv"] == [1000, 2000, 3000, 4000]


@pytest.mark.parametrize("wrong", [[1.0] * 3, [1.0] * 5, []])
def test_another_number_of_voltages_is_refused(epc: Build, wrong: list[float]) -> None:
    driver, twin, _ = epc()
    with pytest.raises(LimitError, match="nothing was sent"):
        driver.actuators(wrong)
    assert twin.state()["voltages_mv"] == [0] * 4


def test_a_firmware_without_serial_number_version_and_output_switch_works(epc: Build) -> None:
    driver, twin, _ = epc(connect=False)
    known = twin._execute
    unknown = ("SN?", "VER?", "ENABLE1")
    with patch.object(twin, "_execute", lambda command: None if command in unknown else known(command)):
        identity = driver.connect()
        assert (identity.serial_number, identity.firmware) == ("", "")
        driver.actuators([1.0, 2.0, 3.0, 4.0])
        with pytest.raises(InstrumentRefusedError, match="Error!"):
            driver.ask("SN?")


@pytest.mark.parametrize(
    ("question", "odd"),
    [
        ("V?", "Voltage(mV): CH1 +2200 CH2 +5000 CH3 -1000"),
        ("V?", "Voltage(mV): CH1 +2200 CH2 +5000 CH3 -1000 CH3 -4000"),
        ("V?", "Voltage(mV): CH1 +2200 CH2 +9000 CH3 -1000 CH4 -4000"),
        ("V?", "Work Mode: DC"),
        ("M?", "Work Mode: DC/AC"),
        ("F?", "Frequency(Hz): CH1 007  CH2 017  CH3 037  CH4 x"),
    ],
)
def test_an_answer_that_cannot_be_meant_is_an_error_with_place(epc: Build, question: str, odd: str) -> None:
    driver, twin, _ = epc()
    known = twin._execute
    reading = {"V?": driver.actuators, "M?": driver.mode, "F?": driver.frequencies}[question]
    with (
        patch.object(twin, "_execute", lambda command: odd if command == question else known(command)),
        pytest.raises(MalformedReplyError, match=r"controller\d at"),
    ):
        reading()


def test_instruments_of_one_maker_are_told_apart() -> None:
    with (
        closing(OzDD100Twin()) as other,
        closing(OzEPC400("epc", other.serve(), timeout_s=0.2)) as driver,
        pytest.raises(WrongInstrumentError, match=r"WF\? is answered without .* this is no EPC-400"),
    ):
        driver.connect()


# MPC320


def test_paddles_move_together_and_are_waited_for(mpc: Build) -> None:
    driver, twin, told = mpc()
    driver.speed_percent(100)
    driver.actuators([10.0, 90.0, 170.0])
    assert driver.moving() is False
    found = driver.actuators()
    assert found == pytest.approx([10.0, 90.0, 170.0], abs=0.125)
    assert np.allclose(told[-1], PaddledFibre.made(np.random.default_rng(0), 0.0).jones(found))
    assert twin.state() == {"counts": [81, 725, 1370], "moving": [False] * 3, "speed_percent": 100}


def test_a_paddle_that_is_there_already_is_not_moved(mpc: Build) -> None:
    """One that misses by a count or two would otherwise never come to rest."""
    driver, twin, _ = mpc(miss_counts=2)
    driver.actuators([10.0, 20.0, 30.0])
    rests = twin.state()["counts"]
    sent: list[bytes] = []
    driver.link.tap = lambda direction, data: sent.append(data[:2]) if direction == "sent" else None
    driver.actuators([10.0, 20.0, 30.0])
    assert twin.state()["counts"] == rests
    assert b"\x53\x04" not in sent


def test_a_paddle_that_does_not_arrive_is_told(mpc: Build) -> None:
    driver, _, _ = mpc(left_by_someone=True, move_timeout_s=0.1)
    with pytest.raises(NotReadyError, match="moving the paddles: not done"):
        driver.actuators([170.0, 0.0, 170.0])


def test_making_safe_gives_up_a_wait_and_lets_a_paddle_arrive(mpc: Build) -> None:
    driver, twin, _ = mpc(left_by_someone=True)
    ended: list[BaseException] = []

    def move() -> None:
        try:
            driver.actuators([60.0, 140.0, 80.0])
        except BaseException as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    waiter = threading.Thread(target=move)
    waiter.start()
    deadline = time.monotonic() + 5.0
    while not any(twin.state()["moving"]):
        assert time.monotonic() < deadline
    driver.safe_state()
    waiter.join(5.0)
    assert [type(error) for error in ended] == [PreemptedError]
    while any(twin.state()["moving"]):
        assert time.monotonic() < deadline + 5.0
    assert driver.actuators() == pytest.approx([60.0, 140.0, 80.0], abs=0.125)


def test_connecting_moves_nothing_and_ends_what_is_said_unasked(mpc: Build) -> None:
    driver, twin, told = mpc(left_by_someone=True)
    assert twin._updates is False
    assert twin.state()["counts"] == [37, 1201, 666]
    driver.safe_state()
    driver.connect()
    assert len(told) == 1


def test_a_unit_that_talks_unasked_is_still_understood(mpc: Build) -> None:
    driver, _, _ = mpc()
    driver.write("0x0011")  # somebody wants its status again and again
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert driver.actuators() == [0.0, 0.0, 0.0]
        assert driver.speed_percent() == 50


def test_another_apt_unit_is_refused(mpc: Build) -> None:
    with pytest.raises(WrongInstrumentError, match="a K10CR1 answers; this driver knows the MPC320 only"):
        mpc(model="K10CR1")


@pytest.mark.parametrize("wrong", ["", "0", "x", "0x0490 1 2 3", "0x0490 256", "70000"])
def test_by_hand_what_is_no_message_is_refused(mpc: Build, wrong: str) -> None:
    driver, _, _ = mpc()
    with pytest.raises(LimitError, match="nothing was sent"):
        driver.write(wrong)


def test_by_hand_questions_are_answered(mpc: Build) -> None:
    driver, _, _ = mpc()
    assert driver.ask("0x0211 1") == "0102"
    assert driver.ask("0x0531") == "000032000000190019001900"
    with pytest.raises(LimitError, match="none of the questions"):
        driver.ask("0x0999")
