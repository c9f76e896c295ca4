"""The bias controller's driver: a point is held in the light only, and the attenuator closes whatever it was left at."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from drivers.bias_controllers.thorlabs_mbx import ThorlabsMBX
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkTimeoutError,
    NotReadyError,
    WrongInstrumentError,
)
from sim_backends.bias_controllers.thorlabs_mbx import ThorlabsMBXTwin
from sim_backends.switches.thorlabs_osw22 import ThorlabsOSW22Twin


class Modulator:
    """Light behind a modulator with its null at ``null_v`` and a half-wave voltage of 5 V."""

    def __init__(self) -> None:
        self.null_v, self.light_w = 1.2, 2e-3

    def __call__(self, bias_v: float) -> float:
        return self.light_w * math.sin(math.pi / 2 * (bias_v - self.null_v) / 5.0) ** 2


Build = Callable[..., tuple[ThorlabsMBX, ThorlabsMBXTwin, Modulator]]


@pytest.fixture
def build() -> Iterator[Build]:
    opened: list[Any] = []

    def make(lock_timeout_s: float = 5.0, **options: Any) -> tuple[ThorlabsMBX, ThorlabsMBXTwin, Modulator]:
        modulator = Modulator()
        twin = ThorlabsMBXTwin(power=modulator, **options)
        opened.append(twin)
        driver = ThorlabsMBX(f"mbx{len(opened)}", twin.serve(), timeout_s=0.5, lock_timeout_s=lock_timeout_s)
        opened.append(driver)
        driver.connect()
        return driver, twin, modulator

    yield make
    for each in reversed(opened):
        each.close()


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r"])
@pytest.mark.parametrize("acknowledges", ["few", "all"])
def test_it_takes_either_way_of_answering(build: Build, line_end: bytes, acknowledges: str) -> None:
    driver, twin, _ = build(line_end=line_end, acknowledges=acknowledges)
    driver.hold("null")
    assert driver.locked() is True
    assert driver.bias_v() == pytest.approx(1.2, abs=5e-3)
    driver.voa.attenuation_db(3.0)
    driver.manual_bias_v(-1.25)
    assert (driver.voa.attenuation_db(), driver.manual_bias_v(), driver.mode()) == (3.0, -1.25, "null")
    driver.safe_state()
    assert twin.is_safe()
    assert driver.voa.attenuation_db() == 20.0


@pytest.mark.parametrize(
    ("point", "bias_v"), [("null", 1.2), ("peak", -3.8), ("quad+", 3.7), ("quad-", -1.3)]
)
def test_every_point_is_held(build: Build, point: Any, bias_v: float) -> None:
    driver, twin, _ = build(calibration_s=0.2)
    assert driver.mode() == "off"
    assert driver.locked() is False
    driver.hold(point)
    assert driver.locked() is True
    assert twin.state()["bias_v"] == pytest.approx(bias_v, abs=5e-3)
    driver.mode("off")
    assert driver.locked() is False
    with pytest.raises(LimitError, match="no point to hold"):
        driver.hold("valley")  # type: ignore[arg-type]


def test_in_the_dark_nothing_is_held(build: Build) -> None:
    driver, _, modulator = build(lock_timeout_s=0.3)
    modulator.light_w = 0.0
    with pytest.raises(NotReadyError, match=r"null is not held after 0\.3 s; 0 mW .* is the laser on"):
        driver.hold("null")
    modulator.light_w = 2e-3
    driver.hold("null")
    modulator.light_w = 0.0
    assert driver.locked() is False


def test_a_point_that_is_held_is_not_found_anew(build: Build) -> None:
    driver, twin, modulator = build()
    driver.hold("null")
    twin._calibration_s = 3600.0
    driver.hold("null")
    driver.mode("null")
    modulator.null_v = 1.22  # the loop follows without a calibration
    twin.tick()
    assert driver.bias_v() == pytest.approx(1.22, abs=5e-3)
    assert driver.locked() is True


def test_a_lost_line_closes_the_attenuator_and_leaves_the_bias(build: Build) -> None:
    driver, twin, _ = build()
    driver.hold("null")
    driver.voa.attenuation_db(3.0)
    twin._calibration_s = 3600.0
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        driver.mode()
    assert driver.mode() == "null"
    assert driver.locked() is True
    assert twin.is_safe()


def test_an_attenuator_found_wide_open_is_closed(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        driver, twin, _ = build(left_by_someone=True)
    assert "found off or at constant power" in caplog.text
    assert twin.is_safe()
    assert driver.voa.attenuation_db() == 20.0
    assert driver.mode() == "manual"  # a bias does no harm behind a closed attenuator


def test_one_that_attenuates_is_left_as_it_is_found(build: Build) -> None:
    driver, _, _ = build(kept_attenuation_db=7.0)
    assert driver.voa.attenuation_db() == 7.0


def test_the_attenuator_as_a_part_of_the_light(build: Build) -> None:
    driver, twin, _ = build()
    voa = driver.voa
    driver.hold("peak")
    voa.tune(1550.12)
    assert driver.ask("SYS:WAVE?") == "1550"
    voa.attenuation_db(3.0)
    voa.let_through()
    assert voa.reached() is True
    assert voa.power_mw() == pytest.approx(2.0 * 10**-0.3, rel=1e-3)
    driver.write("VOA:POWER: 0")  # by hand: then it attenuates least
    with pytest.raises(InstrumentRefusedError, match=r"'VOA:POWER\?' says 0"):
        voa.attenuation_db()
    voa.let_through()
    assert voa.attenuation_db() == 3.0
    voa.block()
    assert twin.is_safe()
    with pytest.raises(LimitError, match=r"850 nm is not in the bands"):
        voa.tune(850.0)


def test_a_refusal_is_told_in_the_instruments_words(build: Build) -> None:
    driver, _, _ = build()
    with pytest.raises(InstrumentRefusedError, match="'LASER:POWER: 1' was refused: Err: Undefined header"):
        driver.write("LASER:POWER: 1")
    with pytest.raises(InstrumentRefusedError, match=r"'VOA:ATTEN: 0\.2' was refused: Err: Parameter error"):
        driver.write("VOA:ATTEN: 0.2")
    assert driver.mode() == "off"


def test_an_instrument_with_a_laser_of_its_own_is_refused() -> None:
    with closing(ThorlabsMBXTwin(model="MX10B")) as twin:
        driver = ThorlabsMBX("mbx", twin.serve(), timeout_s=0.2)
        with closing(driver), pytest.raises(WrongInstrumentError, match="answered with 'MX10B'"):
            driver.connect()


def test_a_switch_is_no_bias_controller() -> None:
    with closing(ThorlabsOSW22Twin()) as twin:
        driver = ThorlabsMBX("mbx", twin.serve(), timeout_s=0.2)
        with (
            closing(driver),
            pytest.raises(LinkTimeoutError, match=r"mbx at .*'SYSTEM:MODEL\?' was not answered"),
        ):
            driver.connect()
