"""The way of the light around the loop: powers at every place, and when it is where.

Both directions pass all stations; each is taken in or bypassed.  Pure functions of the parts and of their present
settings, in watts (or any other unit of power) and picoseconds.  ``gaps`` are the shares that pass each gap between two
polarisers, in clockwise order (:mod:`sim_backends.optics_polarization`); none given: all passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sim_backends.optics_parts import PS_PER_KM, RingOptics, StationOptics, gain

Direction = Literal["cw", "ccw"]
DIRECTIONS: tuple[Direction, Direction] = ("cw", "ccw")


@dataclass(frozen=True)
class StationSetting:
    """What one user has set: the switch, and the attenuator (infinite behind a closed shutter)."""

    crossed: bool = True
    attenuation_db: float = 0.0


@dataclass(frozen=True)
class AtStation:
    """Light at one station, per unit of power that enters the loop in this direction."""

    name: str
    sensor: float
    output: float
    """Behind the station, on its way home."""
    free: float
    """At the free port of the tap that the light passes last."""


def station_transmission(station: StationOptics, setting: StationSetting) -> float:
    """Power transmission of a station, the same in both directions."""
    switch = gain(station.switch_db)
    if setting.crossed:
        return switch
    return switch**2 * (1 - station.tap_share) ** 2 * _between_taps(station, setting)


def _between_taps(station: StationOptics, setting: StationSetting) -> float:
    """Power transmission of modulator and attenuator."""
    wanted = setting.attenuation_db
    true_db = max(0.0, (1 + station.attenuator_slope) * wanted + station.attenuator_error_db)
    return gain(station.modulator_db + station.attenuator_db + true_db)


def sensor_share(station: StationOptics, setting: StationSetting) -> float:
    """Share of the light arriving at a station that reaches the sensor of its direction."""
    let_in = gain(station.crosstalk_db) if setting.crossed else gain(station.switch_db)
    return let_in * station.tap_share


def along(
    optics: RingOptics,
    settings: Mapping[str, StationSetting],
    direction: Direction,
    gaps: Sequence[float] = (),
) -> Iterator[AtStation]:
    """The stations in the order in which light of ``direction`` meets them.

    The taps of a station take light of any polarisation, its polariser stands behind the first of them.
    """
    power = 1.0
    for station, km, tap_db, polarized in _met(optics, settings, direction, gaps):
        if station is None:
            return
        power *= gain(km * optics.fibre_loss_db_per_km + tap_db)
        setting = settings[station.name]
        sensor = power * sensor_share(station, setting)
        # What is let in passes one tap, and of the other one its free port instead of the way to the output.
        free = sensor * (1 - station.tap_share) * polarized * _between_taps(station, setting)
        power *= polarized * station_transmission(station, setting)
        yield AtStation(station.name, sensor, power, free)


def around(optics: RingOptics, settings: Mapping[str, StationSetting], gaps: Sequence[float] = ()) -> float:
    """Power transmission of the whole loop, from the coupler back to it, the same both ways."""
    through = gain(optics.length_km * optics.fibre_loss_db_per_km + optics.polarizer_db + optics.tap_db)
    for station in optics.users:
        through *= station_transmission(station, settings[station.name])
    return through * math.prod(gaps)


def backscattered(
    optics: RingOptics,
    settings: Mapping[str, StationSetting],
    direction: Direction,
    gaps: Sequence[float] = (),
) -> float:
    """Light that returns to the coupler where it entered, per unit of power: Rayleigh back-scatter of all stretches.

    A stretch from z1 to z2 behind a loss A gives ``S A^2 (1 - exp(-2 a (z2 - z1))) / (2 a)``; G.652 fibre at 1550 nm
    scatters S = 10^-7.2 per metre back into the fibre (72 dB; -82 dB for a pulse of 1 ns, which lights 0.1 m at once).
    What polarisers take is lost on the way there and on the way back, by the same share.
    """
    per_km = gain(optics.backscatter_db_per_m) * 1e3
    alpha = optics.fibre_loss_db_per_km * math.log(10) / 10
    total, power = 0.0, 1.0
    for station, km, tap_db, polarized in _met(optics, settings, direction, gaps):
        power *= gain(tap_db)
        seen_km = km if alpha == 0 else -math.expm1(-2 * alpha * km) / (2 * alpha)
        total += per_km * power**2 * seen_km
        if station is not None:
            power *= gain(km * optics.fibre_loss_db_per_km)
            power *= polarized * station_transmission(station, settings[station.name])
    return total


def passage_ps(optics: RingOptics, station: StationOptics, direction: Direction) -> float:
    """When light that left the coupler at 0 passes the station's modulator."""
    km = station.position_km if direction == "cw" else optics.length_km - station.position_km
    return km * PS_PER_KM


def _met(
    optics: RingOptics,
    settings: Mapping[str, StationSetting],
    direction: Direction,
    gaps: Sequence[float],
) -> Iterator[tuple[StationOptics | None, float, float, float]]:
    """What light meets: a station or, at last, the loop's other end (None), the fibre before it in km, what a tap at the near
    end of that fibre takes in dB, and what passes its polariser, which a bypassed station has not."""
    clockwise = direction == "cw"
    passed = iter(gaps if clockwise else gaps[::-1])
    last_km = 0.0
    for station in optics.users if clockwise else reversed(optics.users):
        at_km = station.position_km if clockwise else optics.length_km - station.position_km
        tap_db = optics.tap_db if clockwise and last_km == 0.0 else 0.0
        yield station, at_km - last_km, tap_db, 1.0 if settings[station.name].crossed else next(passed, 1.0)
        last_km = at_km
    yield None, optics.length_km - last_km, 0.0, next(passed, 1.0)
