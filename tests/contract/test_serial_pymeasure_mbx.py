"""The bias controller's twin as pymeasure drives it: its ThorlabsMBXSeries over a real terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from pymeasure.instruments.thorlabs.thorlabsmbxseries import (
    MzmMode,
    RgbPowerMode,
    ThorlabsMBXSeries,
    VoaMode,
)

from sim_backends.bias_controllers.thorlabs_mbx import ThorlabsMBXTwin

LIGHT_MW, NULL_V, HALF_WAVE_V = 2.0, 1.2, 5.0


def power_w(bias_v: float) -> float:
    return LIGHT_MW * 1e-3 * math.sin(math.pi / 2 * (bias_v - NULL_V) / HALF_WAVE_V) ** 2


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def twin(request: pytest.FixtureRequest) -> Iterator[ThorlabsMBXTwin]:
    with closing(ThorlabsMBXTwin(power=power_w, left_by_someone=request.param)) as twin:
        yield twin


@pytest.fixture
def controller(twin: ThorlabsMBXTwin) -> Iterator[ThorlabsMBXSeries]:
    """As pymeasure opens it: commands and replies that end in CR."""
    controller = ThorlabsMBXSeries(f"ASRL{twin.serve()}::INSTR", visa_library="@py")
    yield controller
    controller.adapter.close()


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5.0
    while not done():
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("mode", "bias_v"),
    [
        (MzmMode.AUTONULL, NULL_V),
        (MzmMode.AUTOPEAK, NULL_V - HALF_WAVE_V),
        (MzmMode.AUTOQUADPOS, NULL_V + HALF_WAVE_V / 2),
        (MzmMode.AUTOQUADNEG, NULL_V - HALF_WAVE_V / 2),
    ],
)
def test_a_point_is_found(controller: ThorlabsMBXSeries, mode: MzmMode, bias_v: float) -> None:
    controller.mzm.mode = mode
    assert controller.mzm.mode is mode
    controller.mzm.calibrate()
    until(lambda: not controller.mzm.is_calibrating)
    assert controller.mzm.is_stable is True
    assert controller.mzm.voltage == pytest.approx(bias_v, abs=5e-3)
    assert controller.mzm.power == pytest.approx(1e3 * power_w(bias_v), abs=4e-3)


def test_a_bias_by_hand(controller: ThorlabsMBXSeries) -> None:
    controller.mzm.voltage_setpoint = -2.5004
    controller.mzm.mode = MzmMode.MANUAL
    assert controller.mzm.voltage_setpoint == -2.5
    assert controller.mzm.voltage == -2.5
    controller.mzm.ratio_setpoint = 5.004
    assert controller.mzm.ratio_setpoint == 5.0
    controller.mzm.mode = MzmMode.OFF
    assert controller.mzm.voltage == 0.0
    assert controller.mzm.is_stable is False


def test_the_attenuator_at_constant_attenuation(controller: ThorlabsMBXSeries) -> None:
    controller.mzm.voltage_setpoint = 6.2
    controller.mzm.mode = MzmMode.MANUAL  # the peak
    controller.voa.attenuation_setpoint = 5
    controller.voa.mode = VoaMode.ATTENUATION
    controller.voa.enabled = True
    assert controller.voa.mode is VoaMode.ATTENUATION
    assert controller.voa.enabled is True
    assert controller.voa.attenuation_setpoint == controller.voa.attenuation == 5
    assert controller.voa.attenuation_error == 0
    assert controller.voa.is_stable is True
    assert controller.voa.power == pytest.approx(LIGHT_MW * 10**-0.5, rel=1e-5)
    controller.voa.enabled = False  # then it attenuates least
    assert controller.voa.power == pytest.approx(LIGHT_MW, rel=1e-5)


def test_the_attenuator_at_constant_power(controller: ThorlabsMBXSeries) -> None:
    controller.mzm.voltage_setpoint = 6.2
    controller.mzm.mode = MzmMode.MANUAL
    controller.voa.enabled = True
    controller.voa.power_setpoint = 0.5
    controller.voa.mode = VoaMode.POWER
    assert controller.voa.mode is VoaMode.POWER
    assert controller.voa.power_setpoint == 0.5
    assert controller.voa.power == pytest.approx(0.5, rel=1e-5)
    controller.voa.attenuation_setpoint = 20  # kept for the other mode
    assert controller.voa.power == pytest.approx(0.5, rel=1e-5)
    controller.voa.mode = VoaMode.ATTENUATION
    assert controller.voa.attenuation == 20


def test_the_lights_under_the_box(controller: ThorlabsMBXSeries) -> None:
    controller.rgb.mode = RgbPowerMode.WHITE
    controller.rgb.rgb = (55, 65, 75)
    controller.rgb.white = 50
    assert controller.rgb.mode is RgbPowerMode.WHITE
    assert controller.rgb.rgb == (55, 65, 75)
    assert controller.rgb.white == 50
