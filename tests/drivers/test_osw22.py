"""The switch driver: it moves when it is told to and never else, and believes no stale answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from serial.tools.list_ports_common import ListPortInfo

from drivers.links.errors import (
    LimitError,
    LinkBrokenError,
    NotReadyError,
    PreemptedError,
    WrongInstrumentError,
)
from drivers.links.serial_ports import usb_serial_number
from drivers.switches.thorlabs_osw22 import ThorlabsOSW22
from sim_backends.attenuators.oz_dd100 import OzDD100Twin
from sim_backends.switches.thorlabs_osw22 import ThorlabsOSW22Twin

Build = Callable[..., tuple[ThorlabsOSW22, ThorlabsOSW22Twin, list[bool]]]


@pytest.fixture
def build() -> Iterator[Build]:
    """A connected switch, its twin, and the positions that the twin came to rest in."""
    opened: list[Any] = []

    def make(
        move_timeout_s: float = 2.0, **options: Any
    ) -> tuple[ThorlabsOSW22, ThorlabsOSW22Twin, list[bool]]:
        rests: list[bool] = []
        twin = ThorlabsOSW22Twin(on_switch=rests.append, **options)
        opened.append(twin)
        driver = ThorlabsOSW22(
            f"osw{len(opened)}", twin.serve(), timeout_s=0.5, move_timeout_s=move_timeout_s
        )
        opened.append(driver)
        driver.connect()
        return driver, twin, rests

    yield make
    for each in reversed(opened):
        each.close()


def test_it_moves_when_it_is_told_to(build: Build) -> None:
    driver, _, rests = build()
    assert driver.crossed() is False
    driver.crossed(True)
    assert driver.crossed() is True
    driver.crossed(False)
    assert rests == [False, True, False]
    assert driver.identity is not None
    assert (driver.identity.vendor, driver.identity.model, driver.identity.firmware) == (
        "Thorlabs",
        "OSW22-1550E",
        "v1.0",
    )


@pytest.mark.parametrize("crossed", [False, True])
def test_nothing_else_moves_it(build: Build, crossed: bool) -> None:
    """Neither connecting nor a cut line nor the safe state; in a ring with light each position can be the wrong one."""
    driver, twin, rests = build(crossed=crossed)
    driver.safe_state()
    driver.connect()
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        driver.crossed()
    driver.safe_state()
    with driver:
        assert driver.crossed() is crossed
    assert rests == [crossed]


def test_the_first_answer_after_somebodys_move_is_not_believed(build: Build) -> None:
    driver, twin, _ = build(left_by_someone=True)
    assert twin.state()["crossed"] is True
    assert driver.crossed.cache.get() is True
    assert driver.crossed() is True


def test_a_switch_that_does_not_move_is_told(build: Build) -> None:
    driver, _, rests = build(switch_s=3600.0, move_timeout_s=0.2)
    with pytest.raises(NotReadyError, match="moving to cross"):
        driver.crossed(True)
    assert driver.crossed() is False
    assert rests == [False]


def test_making_safe_gives_up_a_wait_for_a_move(build: Build) -> None:
    driver, twin, _ = build(switch_s=3600.0, move_timeout_s=60.0)
    ended: list[BaseException] = []

    def move() -> None:
        try:
            driver.crossed(True)
        except BaseException as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    waiter = threading.Thread(target=move)
    waiter.start()
    deadline = time.monotonic() + 5.0
    while not twin.state()["moving"]:
        assert time.monotonic() < deadline
    driver.safe_state()
    waiter.join(5.0)
    assert [type(error) for error in ended] == [PreemptedError]


def test_by_hand_the_same_commands(build: Build) -> None:
    driver, _, rests = build()
    driver.write("S 2")
    assert driver.ask("S?") == "2"
    assert driver.ask("T?") == "0"
    for wrong in ("S 3", "X", ""):
        with pytest.raises(LimitError, match="no command"):
            driver.write(wrong)
    assert rests == [False, True]


def test_another_instrument_is_told_from_a_switch() -> None:
    with closing(OzDD100Twin(left_by_someone=True)) as twin:
        driver = ThorlabsOSW22("osw", twin.serve(), timeout_s=0.2)
        with closing(driver), pytest.raises(WrongInstrumentError, match=r"osw at .*'S\?' is answered"):
            driver.connect()


def test_switches_on_swapped_ports_are_noticed(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol has no serial number; that of the USB port is asked of the system."""
    driver, _, _ = build()
    port = ListPortInfo(driver.address)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda include_links=False: [port])
    port.serial_number = "M00902593"
    assert driver.identify().serial_number == usb_serial_number("hwgrep://M00902593") == "M00902593"
    with pytest.raises(WrongInstrumentError, match="swapped"):
        driver.connect()
