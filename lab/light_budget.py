"""The light of a pair from the laser to the clicks: what every part takes, what sensors read, what comes back unasked.

The laser's light is attenuated (the *launch*), cut into pulses by the carver and halved by the coupler; one half runs
clockwise around the loop, one counter-clockwise.  Both pass the same stations, so they arrive equally bright whatever
the stations lose: one number, the photons ``x`` per slot that arrive from a user, sets all others.  The first user of
a pair, in ring order, modulates the counter-clockwise light and the second the clockwise one; what either lets out of
the own direction (``mu``) goes home without passing the partner, what passes in the other direction is brighter by
what the partner still takes (*other light*).

A station is a switch, a tap, the modulator, the attenuator, another tap and the switch again; a bypassed one is a
pass of the switch.  The tap that light meets first feeds the sensor of that direction, before all that it loses inside.
Other direction and own one are told apart in time alone, half a slot from each other.

*Back-scatter.*  Every metre of fibre sends back a fixed part of the light in it, :data:`BACKSCATTER_DB` for standard
fibre at 1550 nm (Rayleigh; -82 dB for a pulse of 1 ns, in manuals of reflectometers).  A train of pulses makes it flat in
time: a gate gets gate over slot of it.  It is unpolarised against the signal, and the coupler gives half of it to each
detector.  Light of one narrow laser makes a standing speckle of it: where a limit is checked, :data:`SPECKLE` times
the mean is.

Nothing here looks at an instrument or a file, and nothing knows a protocol.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

PLANCK_J_S = 6.62607015e-34
LIGHT_SPEED_M_S = 299_792_458.0
BACKSCATTER_DB = -72.0
"""Light scattered back by a metre of fibre over light in it."""
SPECKLE = 3.0
NS_PER_KM = 1.468 / LIGHT_SPEED_M_S * 1e12
"""Transit time of standard fibre at 1550 nm (group index of ITU-T G.652 fibre)."""
SEPARATION_LIMITS = (0.3, 0.7)
"""Where in a slot the other direction's pulse may pass a station, from the own one."""
DARK_W = 0.3e-12
"""Above what an 81634B reads in the dark, below what any launched light gives it in one of the two directions."""
SETTLED, LATEST = 0.8, 0.9
"""Where in its half of a slot a pulse sits: so far from the edge that driver and modulator have settled, or later if the
other direction's pulse needs it, while jitter and drift of delays still fit before the next edge."""
LATCHING_CPS = 1e7
"""Counts per second that a nanowire detector surely survives; a few times as many and it stays normal."""


RISE_NS = 1.5
"""Of driver and modulator, 10 to 90 %."""


@dataclass(frozen=True, slots=True)
class StationLight:
    """Where a station stands, what it loses, and when light passes its modulator.

    ``loss_db``: taken in, its attenuator at 0 dB.  ``sensor_over_output_db``, ``passes_ns``: clockwise and
    counter-clockwise; the power that a sensor reads over what of it leaves the station, and when a pulse passes, from
    any moment.  ``sensor_floor_w``: the least power that its sensors tell from none, None where nobody knows.
    ``rise_ns``: of generator, driver and modulator, 10 to 90 %, a single pole.
    """

    name: str
    position_km: float
    passes_ns: tuple[float, float]
    loss_db: float = 11.92
    sensor_over_output_db: tuple[float, float] = (8.31, 8.31)
    sensor_floor_w: float | None = 1e-14
    rise_ns: float = RISE_NS
    phase_uncertainty_rad: float | None = None
    """Of each of its phases, where a calibration found it."""
    arm_offsets_db: tuple[float, float] = (0.0, 0.0)
    """Clockwise and counter-clockwise: what its own light loses on the way to a click, by the reading of its own sensor,
    beyond fibre, bypassed stations and relay.  Most of it is the sensor's scale."""


@dataclass(frozen=True, slots=True)
class RelayLight:
    """The relay's parts; losses in dB.

    ``launch_loss_db``: from the laser into one direction of the loop with the launch attenuators at 0 dB, all light that
    is no pulse included; ``launch_limit_db`` the most that may be planned of them.  ``relay_loss_db`` stands between a
    loop end and a detector.  ``extinction_db``: light of a pulse over light of an empty gate.
    """

    laser_w: float
    launch_loss_db: float
    relay_loss_db: float
    efficiency: float
    dark_count: float
    visibility: float
    extinction_db: float
    launch_limit_db: float = 65.0

    @property
    def detection_db(self) -> float:
        """From a loop end to a click."""
        return self.relay_loss_db - 10 * math.log10(self.efficiency)


@dataclass(frozen=True, slots=True)
class RingLight:
    """The loop with its relay, its stations in ring order, and its clock.

    ``link_bytes_per_s``: how fast samples reach a generator, which needs ``bytes_per_sample``.
    """

    relay: RelayLight
    stations: tuple[StationLight, ...]
    length_km: float
    fibre_db_per_km: float = 0.2
    bypass_db: float = 0.6
    clock_hz: float = 100e6
    samples_per_slot: int = 2
    gate_ns: float = 1.0
    wavelength_nm: float = 1550.12
    backscatter_db_per_m: float = BACKSCATTER_DB
    link_bytes_per_s: float = 116e6
    bytes_per_sample: int = 4

    @property
    def slot_ns(self) -> float:
        """One period of the clock."""
        return 1e9 / self.clock_hz

    @property
    def duty(self) -> float:
        """Light over time on a bench: fresh samples must reach the generators before they can be played."""
        return min(
            1.0, self.link_bytes_per_s / (self.clock_hz * self.samples_per_slot * self.bytes_per_sample)
        )

    def watts(self, photons_per_slot: float) -> float:
        """Mean power of a train of pulses."""
        return photons_per_slot / self.photons_per_slot(1.0)

    def photons_per_slot(self, power_w: float) -> float:
        """Mean photons in a slot of a train of pulses."""
        return photons_per_slot(power_w, self.wavelength_nm, self.clock_hz)

    def separation_ns(self, station: StationLight) -> float:
        """From clockwise to counter-clockwise light at a station, modulo the slot."""
        return (station.passes_ns[1] - station.passes_ns[0]) % self.slot_ns


@dataclass(frozen=True, slots=True)
class SensorReadings:
    """What the two sensors of a station are expected to read, in watts."""

    own_w: float
    other_w: float


@dataclass(frozen=True, slots=True)
class LightBudget:
    """The figures of one intensity: what to set, and what will be seen.

    ``backscatter_per_gate`` is the mean count per gate and detector, ``detector_rate_cps`` what each detector counts
    in a second of light when the symbols are random.
    """

    launch_attenuation_db: float
    sensors: tuple[SensorReadings, SensorReadings]
    backscatter_per_gate: float
    detector_rate_cps: float


def all_bypassed(ring: RingLight, but: str = "") -> PairLight:
    """The ring with nobody in it, or one user: a pair whose stations lose no more than a pass of the switch."""
    stations = tuple(
        station if station.name == but else replace(station, loss_db=ring.bypass_db)
        for station in ring.stations
    )
    return PairLight(replace(ring, stations=stations), 0, 1)


@dataclass(frozen=True)
class PairLight:
    """The light of a ring with two stations taken in, by their places in ring order."""

    ring: RingLight
    first: int
    second: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.second < len(self.ring.stations):
            raise ValueError(f"a pair is two stations in ring order, got {self.first} and {self.second}")

    @property
    def stations(self) -> tuple[StationLight, StationLight]:
        """First and second user."""
        return self.ring.stations[self.first], self.ring.stations[self.second]

    @property
    def arms_db(self) -> tuple[float, float]:
        """From either user's output, as it is measured there, to a click."""
        first, second = self.stations
        ring, after = self.ring, len(self.ring.stations) - 1 - self.second
        loss_a = ring.fibre_db_per_km * first.position_km + ring.bypass_db * self.first
        loss_b = ring.fibre_db_per_km * (ring.length_km - second.position_km) + ring.bypass_db * after
        own_a, own_b = first.arm_offsets_db[1], second.arm_offsets_db[0]
        return loss_a + own_a + ring.relay.detection_db, loss_b + own_b + ring.relay.detection_db

    @property
    def between_db(self) -> float:
        """From one user's output to the other's input, either way."""
        first, second = self.stations
        bypassed = self.second - self.first - 1
        fibre_km = second.position_km - first.position_km
        return self.ring.fibre_db_per_km * fibre_km + self.ring.bypass_db * bypassed

    @property
    def loop_db(self) -> float:
        """Once around."""
        ring = self.ring
        bypassed_db = ring.bypass_db * (len(ring.stations) - 2)
        return ring.fibre_db_per_km * ring.length_km + bypassed_db + sum(s.loss_db for s in self.stations)

    @property
    def other_light(self) -> tuple[float, float]:
        """Photons of the other direction per own photon at either user's output.

        The own light has passed the partner, the other has yet to; both arrive equally bright.
        """
        first, second = self.stations
        loss_a, loss_b = self.arms_db
        ahead_of_a = self.between_db + second.loss_db + loss_b
        ahead_of_b = self.between_db + first.loss_db + loss_a
        return _ratio(ahead_of_a - loss_a), _ratio(ahead_of_b - loss_b)

    @property
    def memory(self) -> tuple[float, float]:
        """The fraction of an own phase that the modulator has when the other direction's pulse passes."""
        a, b = (self.ring.separation_ns(station) for station in self.stations)
        first, second = (station.rise_ns for station in self.stations)
        # The first user's own light is the counter-clockwise one, from which to the other it is the rest of the slot.
        return self._phase_left(self.ring.slot_ns - a, first), self._phase_left(b, second)

    @property
    def backscatter_behind_closed_stations(self) -> float:
        """The part of the back-scatter that is left when neither station lets light through."""
        closed = [
            replace(station, loss_db=math.inf) if place in (self.first, self.second) else station
            for place, station in enumerate(self.ring.stations)
        ]
        return self._all_returned(replace(self.ring, stations=tuple(closed))) / self._all_returned(self.ring)

    @cached_property
    def backscatter(self) -> float:
        """Mean counts per gate and detector for every photon that arrives from a user."""
        entering = _ratio(self.loop_db + self.ring.relay.detection_db)
        of_a_detector = 0.5 * self._all_returned(self.ring) * _ratio(-self.ring.relay.detection_db)
        return entering * of_a_detector * self.ring.gate_ns / self.ring.slot_ns

    def budget(self, mu_a: float) -> LightBudget:
        """The figures when ``mu_a`` photons per slot leave the first user."""
        ring, (first, second) = self.ring, self.stations
        loss_a, loss_b = self.arms_db
        arriving = mu_a * _ratio(-loss_a)
        mu_b = arriving * _ratio(loss_b)
        # The counter-clockwise way to the first user's output is the loop without her way home.
        to_output_db = self.loop_db - (loss_a - ring.relay.detection_db)
        all_db = 10 * math.log10(ring.relay.laser_w / ring.watts(mu_a))
        launch_db = all_db - to_output_db - ring.relay.launch_loss_db
        rho_a, rho_b = self.other_light
        sensors = (
            _readings(first, "ccw", ring.watts(mu_a), rho_a),
            _readings(second, "cw", ring.watts(mu_b), rho_b),
        )
        scattered = self.backscatter * arriving
        dark_cps = ring.relay.dark_count / ring.gate_ns * 1e9
        cps = (arriving + scattered * ring.slot_ns / ring.gate_ns) * ring.clock_hz + dark_cps
        return LightBudget(launch_db, sensors, scattered, cps)

    def unworkable(self, mu_a: float, *, monitored: bool) -> Iterator[str]:
        """Why a ring could not be run at this intensity, a sentence with its figures each.

        ``monitored``: the sensors must see the own light.
        """
        ring, budget = self.ring, self.budget(mu_a)
        low_ns, high_ns = (part * ring.slot_ns for part in SEPARATION_LIMITS)
        for station, sensor in zip(self.stations, budget.sensors, strict=True):
            if not low_ns <= (apart := ring.separation_ns(station)) <= high_ns:
                yield (
                    f"at {station.name} the two directions pass {apart:.2f} ns apart modulo the slot of "
                    f"{ring.slot_ns:g} ns, not {low_ns:g} to {high_ns:g} ns: trim the fibre by "
                    f"{abs(apart - ring.slot_ns / 2) / NS_PER_KM * 1e3:.2f} m on one side"
                )
            if monitored and (why := _unseen(station, sensor.own_w)):
                yield f'{why}: take a better sensor, or plan with monitoring = "calibrated"'
        launch_db = budget.launch_attenuation_db
        if launch_db > ring.relay.launch_limit_db:
            yield (
                f"the launch must be attenuated by {launch_db:.1f} dB, and its attenuators allow "
                f"{ring.relay.launch_limit_db:g} dB: lower the laser's power"
            )
        if launch_db < 0:
            yield f"the light is {-launch_db:.1f} dB too weak with the launch wide open: raise the laser's power"
        if budget.detector_rate_cps > LATCHING_CPS:
            yield (
                f"each detector would count {budget.detector_rate_cps:.2g} per second; above {LATCHING_CPS:.0e} it may "
                "latch: plan with less light"
            )

    def _phase_left(self, to_other_ns: float, rise_ns: float) -> float:
        """What a pulse so long after the own one finds of the own sample, or of the next one's beginning."""
        ring, tau_ns = self.ring, rise_ns / math.log(9)
        after_edge_ns = pulse_place(ring.slot_ns / 2, to_other_ns) + to_other_ns
        falling_ns = after_edge_ns - ring.slot_ns / 2
        rising_ns = after_edge_ns - ring.slot_ns
        left = math.exp(-falling_ns / tau_ns) if falling_ns > 0 else 1.0
        return min(left - math.expm1(-max(rising_ns, 0.0) / tau_ns), 1.0)

    def _all_returned(self, ring: RingLight) -> float:
        return sum(self._returned(ring, range(len(ring.stations))[::step]) for step in (1, -1))

    def _returned(self, ring: RingLight, order: range) -> float:
        """Light that comes back out of a loop end over the light that went in, stations met in this order."""
        scatter = _ratio(ring.backscatter_db_per_m) * 1e3
        per_km = 2 * math.log(10) / 10 * ring.fibre_db_per_km
        back, loss_db, at_km = 0.0, 0.0, 0.0
        for index in (*order, None):
            end_km = ring.length_km
            if index is not None:
                position_km = ring.stations[index].position_km
                end_km = position_km if order.step > 0 else ring.length_km - position_km
            km = end_km - at_km
            seen_km = -math.expm1(-per_km * km) / per_km if per_km else km
            back += scatter * seen_km * _ratio(-2 * loss_db)
            loss_db += ring.fibre_db_per_km * km
            if index is not None:
                taken_in = index in (self.first, self.second)
                loss_db += ring.stations[index].loss_db if taken_in else ring.bypass_db
            at_km = end_km
        return back


def _unseen(station: StationLight, own_w: float) -> str:
    floor_w, seen = (
        station.sensor_floor_w,
        f"{station.name}'s own light at the sensor is {own_w * 1e12:.3g} pW",
    )
    if floor_w is None:
        return f"{seen}, and nobody says how little that sensor tells from none (its option floor_w)"
    return f"{seen}, below the {floor_w * 1e12:.3g} pW that it tells from none" if own_w < floor_w else ""


def pulse_place(half: float, to_other: float) -> float:
    """When the own pulse passes after the edge of its half slot, if the other direction's follows ``to_other`` later.

    In any unit of time.  Both sit :data:`SETTLED` after an edge where the distance of the two allows it.
    """
    return min(max(SETTLED * half, (1 + SETTLED) * half - to_other), LATEST * half)


def photons_per_slot(power_w: float, wavelength_nm: float, clock_hz: float) -> float:
    """Mean photons in one slot of light of average power ``power_w``: P lambda / (h c f)."""
    return power_w * wavelength_nm * 1e-9 / (PLANCK_J_S * LIGHT_SPEED_M_S * clock_hz)


def _readings(
    station: StationLight, own: Literal["cw", "ccw"], output_w: float, other_light: float
) -> SensorReadings:
    cw, ccw = map(_ratio, station.sensor_over_output_db)
    of_own, of_other = (cw, ccw) if own == "cw" else (ccw, cw)
    return SensorReadings(output_w * of_own, output_w * other_light * of_other)


def _ratio(db: float) -> float:
    return math.exp(db * (math.log(10) / 10))
