"""The bias loop of the simulated controller finds and follows points of a curve that it knows by its light only."""

from __future__ import annotations

import math

import pytest

from sim_backends.bias_controllers.bias_loop import FOLLOW_V, Power, find, follow


def modulator(null_v: float, half_wave_v: float = 5.0, light_w: float = 2e-3, floor: float = 1e-4) -> Power:
    return lambda bias_v: light_w * (math.sin(math.pi / 2 * (bias_v - null_v) / half_wave_v) ** 2 + floor)


@pytest.mark.parametrize("null_v", [-4.9, -1.23, 0.0, 0.07, 3.3])
@pytest.mark.parametrize("half_wave_v", [3.5, 5.0, 6.0])
def test_every_point_is_found_nearest_to_no_bias(null_v: float, half_wave_v: float) -> None:
    power = modulator(null_v, half_wave_v)
    wanted = {"null": 0.0, "peak": half_wave_v, "quad+": half_wave_v / 2, "quad-": -half_wave_v / 2}
    for point, offset_v in wanted.items():
        nearest = min((null_v + offset_v + 2 * n * half_wave_v for n in range(-4, 5)), key=abs)
        found = find(power, point)
        assert found is not None
        assert abs(found) <= abs(nearest) + 0.01
        away = (found - null_v - offset_v) / (2 * half_wave_v)
        assert away == pytest.approx(round(away), abs=5e-3 / (2 * half_wave_v)), point


def test_a_share_of_the_peak_on_either_slope() -> None:
    power = modulator(1.0, floor=0.0)
    for point, slope in (("power+", 1), ("power-", -1)):
        found = find(power, point, ratio=4.0)
        assert found is not None
        assert power(found) == pytest.approx(power(6.0) / 4.0, rel=1e-2)
        assert (power(found + 0.1) - power(found)) * slope > 0


def test_a_drift_is_followed() -> None:
    bias_v = find(modulator(1.0), "null")
    for step in range(1, 51):
        assert bias_v is not None
        bias_v = follow(modulator(1.0 + step * FOLLOW_V / 2), "null", bias_v)
    assert bias_v == pytest.approx(1.0 + 25 * FOLLOW_V, abs=5e-3)


def test_nothing_is_found_in_the_dark() -> None:
    dark = modulator(1.0, light_w=1e-7)
    assert find(dark, "null") is None
    assert follow(dark, "null", 1.0) is None
