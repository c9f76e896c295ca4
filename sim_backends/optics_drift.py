"""What drifts in the simulated ring, and how far: pure functions of time, from the ring's seed and each value's name.

A value wanders as a sum of sinusoids, one an octave, with random phases and frequencies, whose powers rise with their
periods as those of a random walk: from the fastest period on it walks, and beyond the slowest it goes no further.  All
offsets are 0 at t = 0, for which the values of the ring hold that a survey writes down.  The same seed and time give the
same ring; nothing is kept between.

Time is that of the ring's physics, which may run faster than the bench (:class:`PhysicsClock`): what instruments need
for warming up, moving or counting is timed by the bench alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import numpy as np

from sim_backends.optics_parts import PS_PER_KM, CarverOptics, DetectorOptics, RingOptics, StationOptics
from sim_backends.optics_polarization import NOT_TURNED, RELAY, Jones, as_fibre_lies, turned

STEP_S = 0.1
"""Drift goes in steps of this: the fastest period is six hundred times as long."""
MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0


@dataclass(frozen=True)
class Course:
    """How a kind of value wanders: root mean square of its offset in the long run, and the periods it holds."""

    rms: float
    fastest_s: float
    slowest_s: float


# All chosen; what each is chosen from stands beside it.
LOOP_PHASE = Course(1.0, 10 * MINUTE_S, DAY_S)
"""Times the order of the testbed's [simulation]: both ways share the fibre, so only what changes within a round trip is
left - a milliradian on a spool, up to a radian in deployed fibre."""
ROOM_K = Course(0.7, HOUR_S, DAY_S)
"""An air-conditioned laboratory keeps +-1 K over a day."""
STATION_K = Course(0.5, 20 * MINUTE_S, 6 * HOUR_S)
"""Of one rack, on top of the room."""
FIBRE_PS_PER_KM_K = 40.0
"""Of the delay, in standard single-mode fibre in its usual coating: about 37 to 40 in the literature."""
V_PI_PER_K = -5e-4
"""The electro-optic coefficient of lithium niobate rises by about as much."""
AMPLIFIER_DB_PER_K = -0.02
"""Of power gain, typical for a driver amplifier."""
RELAY_DB = Course(0.1, HOUR_S, 12 * HOUR_S)
LAUNCH_DB = Course(0.1, HOUR_S, 12 * HOUR_S)
STATION_DB = Course(0.1, HOUR_S, 12 * HOUR_S)
"""Connectors and pigtails: tenths of a decibel over hours."""
CARVER_NULL_V = Course(0.5, 30 * MINUTE_S, DAY_S)
"""Bias of a lithium-niobate modulator: a good part of V_pi over hours, the reason why controllers follow it."""
EFFICIENCY = Course(0.003, HOUR_S, DAY_S)
DARK_COUNTS = Course(0.05, HOUR_S, DAY_S)
CRITICAL_CURRENT = Course(0.005, HOUR_S, DAY_S)
"""Of a nanowire, relative: its temperature moves by some ten millikelvin."""
POLARIZATION_RAD = Course(0.8, MINUTE_S, 2 * DAY_S)
"""Each component of the rotation by a kilometre of fibre: a walk of 2.5e-5 rad^2 a second, which on 6 km costs 0.2 dB in
ten minutes and decibels in hours - between a spool, quiet for an hour, and aerial fibre, gone in a minute."""


def seeded(seed: int, name: str) -> np.random.Generator:
    """Randomness of one name, so that one more name changes no other."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


class Wander:
    """One value's offset as a function of time (s), 0 at 0."""

    def __init__(self, course: Course, rng: np.random.Generator) -> None:
        octaves = max(1, round(math.log2(course.slowest_s / course.fastest_s)))
        periods_s = course.slowest_s / 2.0 ** (np.arange(octaves) + rng.uniform(0, 1, octaves))
        phases = rng.uniform(0, 2 * math.pi, octaves)
        rises = course.rms * np.sqrt(periods_s / periods_s.sum())
        self._modes = [
            (float(rise), 2 * math.pi / float(period_s), float(phase), math.sin(float(phase)))
            for rise, period_s, phase in zip(rises, periods_s, phases, strict=True)
        ]

    def __call__(self, t_s: float) -> float:
        """The offset."""
        return sum(
            rise * (math.sin(omega * t_s + phase) - start) for rise, omega, phase, start in self._modes
        )


@dataclass(frozen=True)
class PhysicsClock:
    """Seconds of the ring's physics: ``time_scale`` of them for each of the bench since ``begun_s``."""

    bench: Callable[[], float]
    time_scale: float
    begun_s: float

    def __call__(self) -> float:
        """The time; 0 when the bench was built."""
        return (self.bench() - self.begun_s) * self.time_scale


@dataclass(frozen=True)
class Drifted:
    """What a ring has become at a time."""

    t_s: float
    optics: RingOptics
    detectors: tuple[DetectorOptics, DetectorOptics]
    stretches: tuple[Jones, ...]


@dataclass(frozen=True)
class Drift:
    """The ring at any time, from what it was at t = 0.

    ``scale`` multiplies all offsets, 0 for none; ``loop_phase_rad`` is the order of the loop phase's.  Behind the places
    in ``controlled`` fibre lies as it lies; elsewhere it was laid so that it turns nothing at t = 0.
    """

    seed: int = 0
    scale: float = 0.0
    loop_phase_rad: float = 0.0
    controlled: Collection[str] = ()
    _wanders: dict[str, Wander] = field(default_factory=dict, repr=False, compare=False)

    def at(self, optics: RingOptics, detectors: tuple[DetectorOptics, DetectorOptics], t_s: float) -> Drifted:
        """Everything."""
        return Drifted(
            t_s, self.optics(optics, t_s), self.detectors(detectors, t_s), self.stretches(optics, t_s)
        )

    def optics(self, built: RingOptics, t_s: float) -> RingOptics:
        """Losses, phases, lengths and drives."""
        if self.scale == 0.0:
            return built
        longer = 1 + FIBRE_PS_PER_KM_K / PS_PER_KM * self._off("room", ROOM_K, t_s)
        phase_rad = self.loop_phase_rad * self._off("loop phase", LOOP_PHASE, t_s)
        return replace(
            built,
            users=tuple(self._station(user, longer, t_s) for user in built.users),
            length_km=built.length_km * longer,
            relay_loss_db=max(0.0, built.relay_loss_db + self._off("relay loss", RELAY_DB, t_s)),
            circulator_db=max(0.0, built.circulator_db + self._off("launch loss", LAUNCH_DB, t_s)),
            carver=replace(built.carver, null_bias_v=self.null_bias_v(built.carver, t_s)),
            loop_phase_rad=built.loop_phase_rad + phase_rad,
        )

    def null_bias_v(self, built: CarverOptics, t_s: float) -> float:
        """The bias at which the carver passes least."""
        return built.null_bias_v + self._off("carver null", CARVER_NULL_V, t_s)

    def detectors(
        self, built: tuple[DetectorOptics, DetectorOptics], t_s: float
    ) -> tuple[DetectorOptics, DetectorOptics]:
        """D1 and D2."""
        if self.scale == 0.0:
            return built
        return self._detector("D1", built[0], t_s), self._detector("D2", built[1], t_s)

    def stretches(self, built: RingOptics, t_s: float) -> tuple[Jones, ...]:
        """What each piece of fibre between neighbouring stations, the loop's ends included, makes of polarisation."""
        places = (RELAY, *(user.name for user in built.users))
        at_km = (0.0, *(user.position_km for user in built.users), built.length_km)
        return tuple(self._stretch(place, at_km[k + 1] - at_km[k], t_s) for k, place in enumerate(places))

    def _stretch(self, begins: str, km: float, t_s: float) -> Jones:
        name = f"fibre behind {begins}"
        far = math.sqrt(km)
        x, y, z = (self._off(f"{name} {axis}", POLARIZATION_RAD, t_s) * far for axis in "xyz")
        lies = as_fibre_lies(seeded(self.seed, name)) if begins in self.controlled else NOT_TURNED
        matrix: Jones = turned(x, y, z) @ lies
        return matrix

    def _station(self, built: StationOptics, longer: float, t_s: float) -> StationOptics:
        warmer_k = self._off("room", ROOM_K, t_s) + self._off(f"{built.name} rack", STATION_K, t_s)
        return replace(
            built,
            position_km=built.position_km * longer,
            v_pi_v=built.v_pi_v * (1 + V_PI_PER_K * warmer_k),
            rf_gain=built.rf_gain * 10 ** (AMPLIFIER_DB_PER_K * warmer_k / 20),
            modulator_db=max(0.0, built.modulator_db + self._off(f"{built.name} loss", STATION_DB, t_s)),
        )

    def _detector(self, name: str, built: DetectorOptics, t_s: float) -> DetectorOptics:
        darker = self._off(f"{name} dark counts", DARK_COUNTS, t_s)
        better = self._off(f"{name} efficiency", EFFICIENCY, t_s)
        return replace(
            built,
            efficiency_max=min(1.0, built.efficiency_max * (1 + better)),
            dark_count_probability=built.dark_count_probability * math.exp(darker),
            critical_ua=built.critical_ua * (1 + self._off(f"{name} critical", CRITICAL_CURRENT, t_s)),
        )

    def _off(self, name: str, course: Course, t_s: float) -> float:
        """The offset of one value; what it is drawn from is kept."""
        if self.scale == 0.0:
            return 0.0
        if name not in self._wanders:
            self._wanders[name] = Wander(course, seeded(self.seed, f"{name} drift"))
        return self.scale * self._wanders[name](t_s)
