"""A user measures what lies between its sensors and its output: bright light, a fibre that is moved, a staircase.

Nothing here hears the relay: it has been asked for light that sensors see well, and what it does is no matter
(:mod:`lab.calibration.intensity`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import fmean, stdev
from typing import TypeAlias

import numpy as np

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Curve, Finding, Measured
from lab.calibration.intensity import IntensityFit, Moved, TapReading, fit_intensity
from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator.light.own_station import Direction, OwnStation, StationInstruments
from orchestrator.randomness import local_generator

BEYOND_DB = (0.0, 1.0, 2.0, 4.0, 7.0, 10.0, 15.0)
"""Settings of the attenuator, from its base."""
REPEATS = 2
AT_TAPS = 3
"""Readings with both sensors at their taps, each time."""
DARK_READINGS = 10
DARK_SIGMAS = 4.0

Plug: TypeAlias = Callable[[Direction, bool], None]
"""Has a sensor's fibre moved to the free port of the far tap (True), or back to its own tap (False)."""
COURSE: tuple[Moved, ...] = ("", "cw", "", "ccw", "")


def dark_readings(testbed: Testbed, user: str, owned: StationInstruments) -> dict[Direction, Measured]:
    """What both sensors read in the dark, zeroed just before behind the own switch in bypass; pW.

    The switch does not keep all light out, and light that comes while a sensor takes its zero is missing from every
    later reading.  So they are read with the station taken in: whoever lit them meanwhile would have to know when to stop,
    and lets them read too much, or less than nothing.  Raises CalibrationRefusedError, with the station left dark.
    """
    if not owned.switch.crossed():
        raise CalibrationRefusedError(f"{user}: the station is in the ring", "close the launch first")
    for sensor in owned.sensors.values():
        sensor.zero()
    owned.attenuator.block()
    owned.switch.crossed(False)
    zeros: dict[Direction, Measured] = {}
    try:
        for direction, sensor in owned.sensors.items():
            read = [sensor.power_w() * 1e12 for _ in range(DARK_READINGS)]
            zeros[direction] = Measured(fmean(read), stdev(read) / math.sqrt(len(read)), "pW")
    finally:
        OwnStation(testbed, user, owned).bypass_if_dark()
    charged_pw = testbed.uncertainty.sensor_zero_pw
    owned.left_w.clear()
    for direction, found in zeros.items():
        value, sigma = found.value, found.uncertainty
        assert isinstance(value, float)
        assert isinstance(sigma, float)
        if abs(value) > charged_pw + DARK_SIGMAS * sigma:
            raise CalibrationRefusedError(
                f"{user}: zeroed, the {direction} sensor reads {value:.3g} pW in the dark, and {charged_pw:g} pW are allowed",
                "light reached it while it was zeroed, or still does: is the launch closed",
            )
        owned.left_w[direction] = value * 1e-12
    return zeros


def tap_readings(
    owned: StationInstruments, plug: Plug, base_db: float, part: Callable[[float], None]
) -> list[TapReading]:
    """Read both sensors with none, one, none, the other and none of them at its free port.

    The station is taken in, and light passes.  Both sensors are back at their taps in the end, whatever happens.
    """
    readings: list[TapReading] = []
    total = sum(AT_TAPS if not moved else len(BEYOND_DB) * REPEATS for moved in COURSE)
    for moved in COURSE:
        try:
            if moved:
                plug(moved, True)
            for set_db in _settings(moved, base_db):
                owned.attenuator.attenuation_db(set_db)
                readings.append(_read(owned, moved, set_db))
                part(len(readings) / total)
        finally:
            if moved:
                plug(moved, False)
    owned.attenuator.attenuation_db(base_db)
    return readings


def _settings(moved: Moved, base_db: float) -> Iterator[float]:
    if not moved:
        yield from [base_db] * AT_TAPS
        return
    for index in local_generator().permutation(len(BEYOND_DB) * REPEATS):
        yield base_db + BEYOND_DB[index % len(BEYOND_DB)]


def _read(owned: StationInstruments, moved: Moved, set_db: float) -> TapReading:
    """Clockwise, counter-clockwise, clockwise: what drifts evenly drops out of the ratio."""
    before, other, after = owned.sensor_cw.power_w(), owned.sensor_ccw.power_w(), owned.sensor_cw.power_w()
    return TapReading(moved, set_db, math.sqrt(max(before, 0.0) * max(after, 0.0)), other)


def intensity_finding(
    testbed: Testbed, user: str, zeros: dict[Direction, Measured], readings: list[TapReading], light_s: float
) -> Finding:
    """What a user's readings say of its station.  Raises CalibrationRefusedError."""
    base_db, bypass_db = testbed.user(user).attenuation_db, testbed.ring.bypass_loss_db
    fit = fit_intensity(readings, base_db)
    return Finding(
        step=Step.INTENSITY,
        owner=user,
        values={
            "sensor_to_output_db": fit.sensor_to_output(bypass_db),
            "station_loss_db": fit.station_loss(bypass_db),
            "attenuator_slope": Measured(fit.slope, fit.slope_sigma),
        },
        figures={f"zero_{direction}_pw": each for direction, each in zeros.items()},
        settings={"attenuation_db": base_db, "bypass_loss_db": bypass_db},
        quality={"scatter_db": fit.scatter_db, "readings": float(len(readings))},
        counts={},
        curves=[_curve(user, base_db, readings, fit)],
        light_s=light_s,
    )


def _curve(user: str, base_db: float, readings: list[TapReading], fit: IntensityFit) -> Curve:
    """Loss from tap to free port by setting: measured as fitted plus what is left over."""
    settings = [base_db + each for each in BEYOND_DB]
    measured: dict[str, list[float]] = {}
    fitted: dict[str, list[float]] = {}
    for name, loss_db, sign in (("cw", fit.losses_db[0], -1), ("ccw", fit.losses_db[1], 1)):
        line = [loss_db + fit.slope * (each - base_db) for each in settings]
        off = [
            np.mean(
                [
                    sign * left
                    for left, reading in zip(fit.residuals_db, readings, strict=True)
                    if reading.moved == name and reading.set_db == setting
                ]
            )
            for setting in settings
        ]
        measured[name] = [at + float(each) for at, each in zip(line, off, strict=True)]
        fitted[name] = line
    return Curve(
        f"From tap to free port of {user}",
        "set at the attenuator / dB",
        "loss / dB",
        settings,
        measured,
        fitted,
        {name: [fit.scatter_db / math.sqrt(REPEATS)] * len(settings) for name in measured},
    )
