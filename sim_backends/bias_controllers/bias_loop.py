"""Finding a point of a Mach-Zehnder modulator's curve by the light behind it, and following it.

The curve is periodic in the bias with the same extremes everywhere, so the point nearest to no bias is taken.  Nothing is
known of the modulator but the power that comes out at a bias; without light nothing is found.
"""

from __future__ import annotations

from collections.abc import Callable

Power = Callable[[float], float]
"""The mean power (W) behind the modulator at a bias (V)."""

RANGE_V = 10.0
SCAN_V = 0.25
FINEST_V = 1e-3
FOLLOW_V = 0.04
LEAST_LIGHT_W = 1e-6
"""Below this at its brightest the loop sees no light; the figure is ours."""


def extremes(power: Power) -> tuple[float, float] | None:
    """Least and greatest power over the range of the bias; None in the dark."""
    powers = [power(bias_v) for bias_v in _grid()]
    return (min(powers), max(powers)) if max(powers) >= LEAST_LIGHT_W else None


def find(power: Power, point: str, ratio: float = 2.0) -> float | None:
    """The bias of ``null``, ``peak``, ``quad+``, ``quad-``, or of 1/``ratio`` of the peak on a slope; None in the dark."""
    found = extremes(power)
    if found is None:
        return None
    error = _error(power, point, found, ratio)
    grid = _grid()
    inner = range(1, len(grid) - 1)
    least = [i for i in inner if error(grid[i]) <= min(error(grid[i - 1]), error(grid[i + 1]))]
    right = [i for i in least if _slope_fits(power, point, grid[i])] or least
    if not right:
        return None
    return _refined(error, min((grid[i] for i in right), key=abs), SCAN_V)


def follow(power: Power, point: str, bias_v: float, ratio: float = 2.0) -> float | None:
    """The bias of the same point after a small drift; None in the dark."""
    found = extremes(power)
    return None if found is None else _refined(_error(power, point, found, ratio), bias_v, FOLLOW_V)


def _grid() -> list[float]:
    steps = round(RANGE_V / SCAN_V)
    return [step * SCAN_V for step in range(-steps, steps + 1)]


def _error(power: Power, point: str, found: tuple[float, float], ratio: float) -> Callable[[float], float]:
    """What is least at the point."""
    low, high = found
    wanted = {
        "null": low - high,
        "peak": 2 * high - low,
        "quad+": (low + high) / 2,
        "quad-": (low + high) / 2,
    }
    level = wanted.get(
        point, high / ratio
    )  # for the extremes one that is never reached: the scan steps over them
    return lambda bias_v: abs(power(bias_v) - level)


def _slope_fits(power: Power, point: str, bias_v: float) -> bool:
    if point[-1] not in "+-":
        return True
    return (power(bias_v + SCAN_V) > power(bias_v - SCAN_V)) is (point[-1] == "+")


def _refined(error: Callable[[float], float], bias_v: float, step_v: float) -> float:
    while step_v > FINEST_V:
        bias_v = min((bias_v - step_v, bias_v, bias_v + step_v), key=error)
        step_v /= 1.5
    return bias_v
