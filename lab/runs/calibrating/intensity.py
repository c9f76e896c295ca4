"""The losses of a user's own station, in bright light that the relay provides and the user does not believe."""

from __future__ import annotations

from collections.abc import Callable

from lab.calibration.finding import Finding
from lab.runs.calibrating.rig import Rig
from orchestrator import runtime
from orchestrator.light.calibration.intensity import dark_readings, intensity_finding, tap_readings
from orchestrator.light.own_station import Direction

AT_TAP_W = 1e-7
"""Far above a sensor's noise behind 30 dB too, and nothing that hurts a part or an eye."""


def intensity(rig: Rig, user: str, pair: tuple[str, str], part: Callable[[float], None]) -> Finding:
    """Sensor zeros in the dark, then taps against free ports, and the attenuator's staircase.

    In between polarisation is aligned in light that detectors bear: the taps take light of any, the station's polariser behind
    them does not, and what it takes would be counted among the station's losses.
    """
    testbed = rig.testbed

    def plug(sensor: Direction, free: bool) -> None:
        rig.hands.plug(user, sensor, free)

    zeros = dark_readings(testbed, user, rig.users[user].station)
    rig.relay_means().align_alone(user)
    began_s = runtime.now()
    with rig.bright(user, AT_TAP_W) as owned:
        readings = tap_readings(owned, plug, testbed.user(user).attenuation_db, part)
    return intensity_finding(testbed, user, zeros, readings, runtime.now() - began_s)
