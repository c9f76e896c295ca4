"""The light in the ring: from the laser through carver, launch, fibre and stations back to the clicks.

The relay's coupler sends half of every pulse around the loop each way.  All stations that are taken in act on both
directions, at different times; what one modulates for the other's direction, and what none does, follows from times
and voltages alone.  Nothing here knows which users form a pair.

Powers become photons through the photon energy h c / wavelength; what the coupler makes of the amplitudes and how
photons become clicks is :mod:`sim_backends.optics_kernel`.  :class:`Ring` is thread-safe: simulated instruments set its
state from their own threads.  Its times count from the start of an exposure.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sim_backends import optics_kernel as kernel
from sim_backends.optics_carver import carved, levels_of, mean_transmission
from sim_backends.optics_parts import (
    LIGHT_SPEED_M_S,
    PS_PER_KM,
    TAU_PER_RISE,
    CarverOptics,
    Clicks,
    DetectorOptics,
    Drive,
    PulseTrain,
    RingOptics,
    StationOptics,
    gain,
    require,
)
from sim_backends.optics_way import (
    DIRECTIONS,
    AtStation,
    Direction,
    StationSetting,
    along,
    around,
    backscattered,
    passage_ps,
)

__all__ = [
    "CarverOptics",
    "Clicks",
    "DetectorOptics",
    "Direction",
    "Drive",
    "Ring",
    "RingOptics",
    "StationOptics",
]

PLANCK_J_S: Final = 6.62607015e-34
DETECTORS: Final = 2


class Ring:
    """The state of the light, set by the simulated instruments, and the clicks that follow from it.

    At first the laser is off, nothing plays into the carver, whose bias is 0 V, every station is bypassed with
    its attenuator at 0 dB, and the detectors have no bias.
    """

    def __init__(self, optics: RingOptics, detectors: tuple[DetectorOptics, DetectorOptics]) -> None:
        self.optics = optics
        self.detectors = detectors
        self._stations = {user.name: user for user in optics.users}
        self._lock = threading.Lock()
        self._laser_w = 0.0
        self._wavelength_m = 1550e-9
        self._launch_db: dict[str, float] = {}
        self._carver_drive: Drive | None = None
        self._carver_levels = levels_of(optics.carver, None)
        self._carver_bias_v = 0.0
        self._train = carved(optics.carver, None, 0.0)
        self._settings = {name: StationSetting() for name in self._stations}
        self._bias_ua = (0.0, 0.0)
        self._latched = [False, False]

    # State, set by the instruments

    def set_laser(self, power_w: float, wavelength_nm: float) -> None:
        """Emitted power (0 = off) and wavelength of the laser."""
        require(power_w >= 0 and wavelength_nm > 0, "laser power and wavelength", (power_w, wavelength_nm))
        with self._lock:
            self._laser_w, self._wavelength_m = power_w, wavelength_nm * 1e-9
            self._heat()

    def set_launch(self, part: str, attenuation_db: float) -> None:
        """One of the attenuators between laser and loop, which stand in series; infinite behind a closed shutter."""
        with self._lock:
            self._launch_db[part] = attenuation_db
            self._heat()

    def set_carver_drive(self, drive: Drive | None) -> None:
        """One period of the pattern that repeats on the carver; ``start_ps`` is its phase.  None: 0 V."""
        with self._lock:
            self._carver_drive = drive
            self._carver_levels = levels_of(self.optics.carver, drive)
            self._carve()

    def set_carver_bias(self, bias_v: float) -> None:
        """The voltage on the carver's bias electrode."""
        with self._lock:
            self._carver_bias_v = bias_v
            self._carve()

    def set_switch(self, user: str, crossed: bool) -> None:
        """Take a station in (False, bar) or bypass it (True, cross)."""
        self._change(user, lambda setting: replace(setting, crossed=crossed))

    def set_user_attenuation(self, user: str, attenuation_db: float) -> None:
        """The attenuator of a station, infinite behind a closed shutter."""
        self._change(user, lambda setting: replace(setting, attenuation_db=attenuation_db))

    def set_detectors(self, bias_ua: Sequence[float], enabled: bool) -> None:
        """Bias currents of D1 and D2; a detector without bias sees nothing, has no dark counts, and unlatches."""
        require(len(bias_ua) >= DETECTORS, "two bias currents needed", list(bias_ua))
        with self._lock:
            self._bias_ua = (float(bias_ua[0]), float(bias_ua[1])) if enabled else (0.0, 0.0)
            for d, bias in enumerate(self._bias_ua):
                self._latched[d] &= bias > 0
            self._heat()

    # Read-outs

    def carver_power_w(self, bias_v: float) -> float:
        """Mean light behind the carver, if it were at this bias: the launch attenuators come after it."""
        with self._lock:
            return self._laser_w * mean_transmission(self.optics.carver, self._carver_levels, bias_v)

    def sensor_power_w(self, user: str, direction: Direction) -> float:
        """Average power on one of the two sensors of a station."""
        self._known(user)
        with self._lock:
            entering = sum(self._entering_w(direction, self._train))
            return entering * self._at(user, direction).sensor

    def mean_photon_number(self, user: str, direction: Direction) -> float:
        """Photons per pulse that leave the user's station in one direction: what no instrument shows."""
        self._known(user)
        with self._lock:
            train = self._train
            pulsed, _ = self._entering_w(direction, train)
            return self._photons(pulsed * self._at(user, direction).output, train.period_ps)

    def home_transmission(self, user: str, direction: Direction) -> float:
        """From a station's output to the detectors, both ports together and their efficiency left out."""
        self._known(user)
        with self._lock:
            home = around(self.optics, self._settings) * gain(self.optics.relay_loss_db)
            return home / self._at(user, direction).output

    def detector_count_rates(self) -> list[float]:
        """Expected clicks per second of D1 and D2 in the present light, with all modulators at 0 V."""
        with self._lock:
            train = self._train
            fields, receiver = self._fields(train), self._receiver(train)
        optics = self.optics
        # Phase noise scales the interference term, and so does this phase: cos(p) = cos(offset) e^{-s^2/2}.
        phase = math.acos(math.cos(optics.loop_phase_rad) * math.exp(-(optics.phase_noise_rad**2) / 2))
        light = kernel.split(fields, phase)
        rates = []
        for d in range(DETECTORS):
            mean = light[d] * receiver.efficiency[d] + receiver.leak_per_slot[d]
            rate = -math.expm1(-mean) * 1e12 / train.period_ps + receiver.flat_per_ps[d] * 1e12
            rate *= 1 + receiver.afterpulse_probability[d]
            rates.append(float(rate / (1 + rate * (receiver.dead_ps[d] + receiver.recovery_ps[d]) * 1e-12)))
        return rates

    def latched(self) -> tuple[bool, bool]:
        """Which detectors are stuck in the normal state: what only a rate of zero shows."""
        with self._lock:
            return self._latched[0], self._latched[1]

    # Clicks

    def expose(
        self, drives: Mapping[str, Drive], duration_ps: int, seed: int, *, carver_shift_ps: float = 0.0
    ) -> Clicks:
        """Play the users' waveforms on the light for ``duration_ps`` and return every click.

        ``carver_shift_ps`` moves the pulses in time.  The same seed in the same state gives the same clicks.  Tags
        outside ``0 <= time < duration_ps`` are dropped.
        """
        require(duration_ps >= 0, "an exposure cannot last", duration_ps)
        for user in drives:
            self._known(user)
        with self._lock:
            train = self._train
            train = replace(train, phase_ps=(train.phase_ps + carver_shift_ps) % train.period_ps)
            fields, receiver = self._fields(train), self._receiver(train)
            modulators = self._modulators(drives, train)
        optics = self.optics
        origin_ps = train.phase_ps + optics.length_km * PS_PER_KM
        first = math.ceil((-max(receiver.delay_ps) - origin_ps) / train.period_ps)
        end = math.ceil((duration_ps - min(receiver.delay_ps) - origin_ps) / train.period_ps)
        incoming = fields.cw**2 + fields.ccw_parallel**2 + fields.ccw_orthogonal**2
        exposure = kernel.Exposure(
            origin_ps=float(origin_ps),
            first_slot=first,
            n_slots=max(end, first),
            slot_ps=float(train.period_ps),
            duration_ps=float(duration_ps),
            bright=float(incoming * max(receiver.efficiency) * (1 + 1e-12) * optics.thinning_margin),
            phase_offset_rad=float(optics.loop_phase_rad),
            phase_noise_rad=float(optics.phase_noise_rad),
        )
        return _draw(fields, modulators, receiver, exposure, seed)

    # Inside (with the lock held where state is read)

    def _known(self, user: str) -> None:
        if user not in self._stations:
            raise ValueError(f"no user {user!r} in the ring; there are {', '.join(self._stations)}")

    def _change(self, user: str, change: Callable[[StationSetting], StationSetting]) -> None:
        self._known(user)
        with self._lock:
            self._settings[user] = change(self._settings[user])
            self._heat()

    def _carve(self) -> None:
        """The launched light after a change of pattern or bias."""
        self._train = carved(self.optics.carver, self._carver_drive, self._carver_bias_v)
        self._heat()

    def _entering_w(self, direction: Direction, train: PulseTrain) -> tuple[float, float]:
        """Average power that enters the loop in one direction: in pulses, and flat in time."""
        share = self.optics.splitter_ratio if direction == "cw" else 1 - self.optics.splitter_ratio
        launched = self._laser_w * gain(sum(self._launch_db.values()) + self.optics.circulator_db) * share
        return launched * train.pulsed, launched * train.flat

    def _at(self, user: str, direction: Direction) -> AtStation:
        return next(each for each in along(self.optics, self._settings, direction) if each.name == user)

    def _photons(self, power_w: float, period_ps: float) -> float:
        return power_w * self._wavelength_m / (PLANCK_J_S * LIGHT_SPEED_M_S) * period_ps * 1e-12

    def _fields(self, train: PulseTrain) -> kernel.Fields:
        """Amplitudes back at the coupler."""
        through = around(self.optics, self._settings) * gain(self.optics.relay_loss_db)
        cw, ccw = (
            math.sqrt(self._photons(self._entering_w(direction, train)[0] * through, train.period_ps))
            for direction in DIRECTIONS
        )
        overlap = self.optics.visibility
        return kernel.Fields(
            cw=cw,
            ccw_parallel=ccw * overlap,
            ccw_orthogonal=ccw * math.sqrt(1 - overlap**2),
            transmission=math.sqrt(self.optics.splitter_ratio),
        )

    def _flat_photons_per_ps(self, train: PulseTrain) -> float:
        """Light without pulses at either detector: what the carver lets through, and back-scatter, half to each."""
        through = around(self.optics, self._settings)
        total_w = 0.0
        for direction in DIRECTIONS:
            pulsed, flat = self._entering_w(direction, train)
            total_w += flat * through
            total_w += (pulsed + flat) * backscattered(self.optics, self._settings, direction)
        return self._photons(total_w * gain(self.optics.relay_loss_db), 1.0) / 2

    def _leaked_photons(self, train: PulseTrain) -> float:
        """Photons per slot that reach D1 without passing the loop."""
        pulsed = sum(self._entering_w(direction, train)[0] for direction in DIRECTIONS)
        return self._photons(pulsed * gain(self.optics.leak_db), train.period_ps)

    def _receiver(self, train: PulseTrain) -> kernel.Receiver:
        d1, d2 = self.detectors
        # A latched detector sees as little as one without bias.
        bias_ua = [
            0.0 if latched else bias for latched, bias in zip(self._latched, self._bias_ua, strict=True)
        ]
        live = [detector.efficiency(bias) for detector, bias in zip(self.detectors, bias_ua, strict=True)]
        dark = [
            detector.dark_rate_per_s(bias) * 1e-12
            for detector, bias in zip(self.detectors, bias_ua, strict=True)
        ]
        flat = self._flat_photons_per_ps(train)
        leaked = self._leaked_photons(train)
        spread = [math.hypot(detector.jitter_ps, train.sigma_ps) for detector in (d1, d2)]
        return kernel.Receiver(
            efficiency=(live[0], live[1]),
            flat_per_ps=(dark[0] + flat * live[0], dark[1] + flat * live[1]),
            leak_per_slot=(leaked * live[0], 0.0),
            leak_ps=float(self.optics.leak_delay_ps - self.optics.length_km * PS_PER_KM),
            dead_ps=(d1.dead_time_ns * 1e3, d2.dead_time_ns * 1e3),
            recovery_ps=(d1.recovery_ns * 1e3, d2.recovery_ns * 1e3),
            jitter_ps=(spread[0], spread[1]),
            delay_ps=(float(d1.delay_ps), float(d2.delay_ps)),
            afterpulse_probability=(float(d1.afterpulse_probability), float(d2.afterpulse_probability)),
            afterpulse_ps=(d1.afterpulse_decay_ns * 1e3, d2.afterpulse_decay_ns * 1e3),
        )

    def _heat(self) -> None:
        """Latch the detectors that absorb more than they can cool."""
        if not any(self._bias_ua):
            return
        train = self._train
        fields = self._fields(train)
        light = kernel.split(fields, self.optics.loop_phase_rad)
        flat = self._flat_photons_per_ps(train) * 1e12
        for d, detector in enumerate(self.detectors):
            absorbed = (light[d] / train.period_ps * 1e12 + flat) * detector.efficiency_max
            if d == 0:
                absorbed += self._leaked_photons(train) / train.period_ps * 1e12 * detector.efficiency_max
            if self._bias_ua[d] > 0 and absorbed > detector.latch_rate_hz:
                self._latched[d] = True

    def _modulators(
        self, drives: Mapping[str, Drive], train: PulseTrain
    ) -> tuple[kernel.Modulator, kernel.Modulator]:
        """What acts on the light on its way; ValueError for more than two stations that play."""
        acting = [
            (self._stations[user], drive)
            for user, drive in drives.items()
            if not self._settings[user].crossed and drive.samples.size
        ]
        names = [station.name for station, _ in acting]
        require(len(acting) <= 2, "two stations in the ring can modulate at once", names)
        acting += [(self.optics.users[0], Drive(np.empty(0, np.float32), 1.0, 0.0))] * (2 - len(acting))
        first, second = (self._modulator(station, drive, train) for station, drive in acting)
        return first, second

    def _modulator(self, station: StationOptics, drive: Drive, train: PulseTrain) -> kernel.Modulator:
        """One waveform, and where pulses meet it."""
        tau_ps = station.rise_ns * 1e3 * TAU_PER_RISE
        cw, ccw = (
            kernel.Place(
                start=(train.phase_ps + passage_ps(self.optics, station, direction) - drive.start_ps)
                / drive.sample_ps,
                step=train.period_ps / drive.sample_ps,
            )
            for direction in DIRECTIONS
        )
        return kernel.Modulator(
            samples=_read_only(drive.samples),
            full_scale_rad=math.pi * station.rf_gain * drive.amplitude_vpp / 2 / station.v_pi_v,
            poles=drive.sample_ps / tau_ps if tau_ps > 0 else math.inf,
            cw=cw,
            ccw=ccw,
        )


def _draw(
    fields: kernel.Fields,
    modulators: tuple[kernel.Modulator, kernel.Modulator],
    receiver: kernel.Receiver,
    exposure: kernel.Exposure,
    seed: int,
) -> Clicks:
    """Run the kernel with buffers of the expected size, again with larger ones if chance wants more."""
    noise = sum(receiver.flat_per_ps) * exposure.duration_ps
    n_slots = exposure.n_slots - exposure.first_slot
    expected = (-math.expm1(-exposure.bright) * 2 + sum(receiver.leak_per_slot)) * n_slots + noise
    if min(receiver.dead_ps) > 0:
        expected = min(expected, DETECTORS * n_slots * exposure.slot_ps / min(receiver.dead_ps))
    expected *= 1 + max(receiver.afterpulse_probability)
    capacity = int(expected + 8 * math.sqrt(expected)) + 64
    while True:
        buffer = kernel.ClickBuffer(np.empty(capacity, np.uint8), np.empty(capacity, np.int64))
        count = kernel.draw(fields, *modulators, receiver, exposure, kernel.seeded_state(seed), buffer)
        if count <= capacity:
            break
        capacity = count
    return Clicks(buffer.detector[:count], buffer.time_ps[:count])


def _read_only(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A read-only view, so that the kernel is compiled for one type of array only."""
    if samples.dtype != np.float32 or samples.ndim != 1 or not samples.flags.c_contiguous:
        raise ValueError("a drive needs a 1-d contiguous float32 array of samples")
    view = samples.view()
    view.flags.writeable = False
    return view
