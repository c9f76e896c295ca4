"""The light of one moment: powers, fields and rates everywhere, from parts and settings as they are.

Nothing here changes: :class:`sim_backends.optics.Ring` takes such a picture for every exposure and read-out.  Powers
become photons through the photon energy h c / wavelength.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from sim_backends import optics_kernel as kernel
from sim_backends.attacks.light import NOBODY, Eavesdropper
from sim_backends.optics_parts import (
    LIGHT_SPEED_M_S,
    PS_PER_KM,
    TAU_PER_RISE,
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

PLANCK_J_S: Final = 6.62607015e-34
DETECTORS: Final = 2


@dataclass(frozen=True)
class Light:
    """The light in a ring.

    ``gaps``: what passes each gap between two polarisers, in clockwise order; ``launched_w``: laser behind the launch
    attenuators; ``bias_ua``: of D1 and D2, 0 for one that sees nothing.
    """

    optics: RingOptics
    detectors: tuple[DetectorOptics, DetectorOptics]
    settings: Mapping[str, StationSetting]
    gaps: Sequence[float]
    train: PulseTrain
    launched_w: float
    wavelength_m: float
    bias_ua: tuple[float, float]
    eve: Eavesdropper = NOBODY

    def shifted(self, shift_ps: float) -> Light:
        """The same light with its pulses moved in time."""
        phase_ps = (self.train.phase_ps + shift_ps) % self.train.period_ps
        return replace(self, train=replace(self.train, phase_ps=phase_ps))

    def entering_w(self, direction: Direction) -> tuple[float, float]:
        """Average power that enters the loop in one direction: in pulses, and flat in time."""
        share = self.optics.splitter_ratio if direction == "cw" else 1 - self.optics.splitter_ratio
        launched_w = self.launched_w * gain(self.optics.circulator_db) * share * self.eve.brightness
        return launched_w * self.train.pulsed, launched_w * self.train.flat

    def at(self, user: str, direction: Direction) -> AtStation:
        """The light at a station."""
        met = along(self.optics, self.settings, direction, self.gaps)
        return next(each for each in met if each.name == user)

    def home(self) -> float:
        """Power transmission from one loop end around to a detector."""
        return around(self.optics, self.settings, self.gaps) * self._received()

    def _received(self) -> float:
        """Of the light that leaves the loop: what reaches the detectors."""
        return gain(self.optics.relay_loss_db) / self.eve.brightness

    def photons(self, power_w: float, period_ps: float) -> float:
        """Mean photons that a power brings in a time."""
        return power_w * self.wavelength_m / (PLANCK_J_S * LIGHT_SPEED_M_S) * period_ps * 1e-12

    @cached_property
    def fields(self) -> kernel.Fields:
        """Amplitudes back at the coupler."""
        home, period_ps = self.home(), self.train.period_ps
        cw, ccw = (
            math.sqrt(self.photons(self.entering_w(direction)[0] * home, period_ps))
            for direction in DIRECTIONS
        )
        overlap = self.optics.visibility
        return kernel.Fields(
            cw=cw,
            ccw_parallel=ccw * overlap,
            ccw_orthogonal=ccw * math.sqrt(1 - overlap**2),
            transmission=math.sqrt(self.optics.splitter_ratio),
        )

    @cached_property
    def flat_photons_per_ps(self) -> float:
        """Light without pulses at either detector: what the carver lets through, and back-scatter, half to each."""
        through = around(self.optics, self.settings, self.gaps)
        total_w = 0.0
        for direction in DIRECTIONS:
            pulsed, flat = self.entering_w(direction)
            total_w += flat * through
            total_w += (pulsed + flat) * backscattered(self.optics, self.settings, direction, self.gaps)
        return self.photons(total_w * self._received(), 1.0) / 2

    def leaked_photons(self) -> float:
        """Photons per slot that reach D1 without passing the loop."""
        pulsed = sum(self.entering_w(direction)[0] for direction in DIRECTIONS) / self.eve.brightness
        return self.photons(pulsed * gain(self.optics.leak_db), self.train.period_ps)

    def receiver(self) -> kernel.Receiver:
        """Both detectors in this light."""
        d1, d2 = self.detectors
        live = [
            detector.efficiency(bias) for detector, bias in zip(self.detectors, self.bias_ua, strict=True)
        ]
        dark = [
            detector.dark_rate_per_s(bias) * 1e-12
            for detector, bias in zip(self.detectors, self.bias_ua, strict=True)
        ]
        flat = self.flat_photons_per_ps
        leaked = self.leaked_photons()
        spread = [math.hypot(detector.jitter_ps, self.train.sigma_ps) for detector in (d1, d2)]
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

    def count_rates(self) -> list[float]:
        """Expected clicks per second of D1 and D2, with all modulators at 0 V."""
        receiver, period_ps = self.receiver(), self.train.period_ps
        # Phase noise scales the interference term, and so does this phase: cos(p) = cos(offset) e^{-s^2/2}.
        noise = math.exp(-(self.optics.phase_noise_rad**2) / 2) * (1 - self.eve.turned)
        light = kernel.split(self.fields, math.acos(math.cos(self.optics.loop_phase_rad) * noise))
        rates = []
        for d in range(DETECTORS):
            mean = light[d] * receiver.efficiency[d] + receiver.leak_per_slot[d]
            rate = -math.expm1(-mean) * 1e12 / period_ps + receiver.flat_per_ps[d] * 1e12
            rate *= 1 + receiver.afterpulse_probability[d]
            rates.append(float(rate / (1 + rate * (receiver.dead_ps[d] + receiver.recovery_ps[d]) * 1e-12)))
        return rates

    def too_hot(self) -> tuple[bool, bool]:
        """Which detectors absorb more than they can cool."""
        if not any(self.bias_ua):
            return False, False
        per_s = 1e12 / self.train.period_ps
        light = kernel.split(self.fields, self.optics.loop_phase_rad)
        flat = self.flat_photons_per_ps * 1e12
        first, second = (
            bias > 0 and (photons * per_s + flat) * detector.efficiency_max > detector.latch_rate_hz
            for photons, detector, bias in zip(
                (light[0] + self.leaked_photons(), light[1]), self.detectors, self.bias_ua, strict=True
            )
        )
        return first, second

    def modulators(self, drives: Mapping[str, Drive]) -> tuple[kernel.Modulator, kernel.Modulator]:
        """What acts on the light on its way; ValueError for more than two stations that play."""
        acting = [
            (station, drives[station.name])
            for station in self.optics.users
            if station.name in drives
            and not self.settings[station.name].crossed
            and drives[station.name].samples.size
        ]
        names = [station.name for station, _ in acting]
        require(len(acting) <= 2, "two stations in the ring can modulate at once", names)
        acting += [(self.optics.users[0], Drive(np.empty(0, np.float32), 1.0, 0.0))] * (2 - len(acting))
        first, second = (self._modulator(station, drive) for station, drive in acting)
        return first, second

    def _modulator(self, station: StationOptics, drive: Drive) -> kernel.Modulator:
        """One waveform, and where pulses meet it."""
        tau_ps = math.hypot(station.rise_ns * 1e3, drive.rise_ps) * TAU_PER_RISE
        cw, ccw = (
            kernel.Place(
                start=(self.train.phase_ps + passage_ps(self.optics, station, direction) - drive.start_ps)
                / drive.sample_ps,
                step=self.train.period_ps / drive.sample_ps,
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


def _read_only(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A read-only view, so that the kernel is compiled for one type of array only."""
    if samples.dtype != np.float32 or samples.ndim != 1 or not samples.flags.c_contiguous:
        raise ValueError("a drive needs a 1-d contiguous float32 array of samples")
    view = samples.view()
    view.flags.writeable = False
    return view
