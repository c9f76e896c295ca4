"""The pulse carver: what a pattern of voltages on a Mach-Zehnder modulator makes of steady light.

Held at its null by the bias controller, the modulator transmits ``sin^2(pi v / (2 V_pi))`` and, between the pulses, a
residue (finite extinction).  A pattern with one pulse per period gives a train of pulses; anything else - no pattern,
a bias that nobody holds, two pulses in a period - gives light without pulses to interfere, which is flat as far as
slots are concerned.  Source: the transfer curve of a Mach-Zehnder modulator, e.g. Saleh and Teich, Fundamentals of
Photonics, section 21.1.
"""

from __future__ import annotations

import math

import numpy as np

from sim_backends.optics_parts import FWHM_PER_SIGMA, CarverOptics, Drive, PulseTrain, gain

DEFAULT_PERIOD_PS = 10_000.0
"""Period by which flat light is cut into slots; any does."""


def carved(carver: CarverOptics, drive: Drive | None, locked: bool) -> PulseTrain:
    """The light behind the carver, its insertion loss included.

    ``drive`` holds one period of the pattern, which repeats without end; None while nothing plays.
    """
    through = gain(carver.insertion_db)
    if not locked:
        return flat(carver.unlocked_transmission * through)
    if drive is None or not drive.samples.size:
        return flat(gain(carver.extinction_db) * through)
    volts = drive.samples.astype(np.float64) * (drive.amplitude_vpp / 2 * carver.rf_gain)
    passed = np.sin(np.pi / 2 * volts / carver.v_pi_v) ** 2
    period_ps = drive.samples.size * drive.sample_ps
    high = passed > passed.max() / 2
    rises = np.flatnonzero(high & ~np.roll(high, 1))
    if rises.size != 1 or passed.max() < 0.01:
        return flat((float(passed.mean()) + gain(carver.extinction_db)) * through)
    width = int(high.sum())
    first = int(rises[0])
    pulse = float(passed[high].sum()) * drive.sample_ps
    residue_per_ps = pulse * gain(carver.extinction_db) / (carver.gate_ns * 1e3)
    beside = float(passed[~high].sum()) * drive.sample_ps
    return PulseTrain(
        period_ps=period_ps,
        phase_ps=drive.start_ps + (first + width / 2) * drive.sample_ps,
        sigma_ps=width * drive.sample_ps / FWHM_PER_SIGMA,
        pulsed=pulse / period_ps * through,
        flat=(residue_per_ps + beside / period_ps) * through,
    )


def flat(transmission: float) -> PulseTrain:
    """Light without pulses."""
    return PulseTrain(DEFAULT_PERIOD_PS, 0.0, 0.0, 0.0, transmission)


def duty(fwhm_ns: float, period_ns: float) -> float:
    """Mean over peak of a train of Gaussian pulses."""
    return fwhm_ns * math.sqrt(2 * math.pi) / FWHM_PER_SIGMA / period_ns
