"""The pulse carver: what a pattern of voltages on a Mach-Zehnder modulator makes of steady light.

Held at its null by the bias controller, the modulator transmits ``sin^2(pi v / (2 V_pi))`` and, between the pulses, a
residue (finite extinction).  A pattern of equal pulses at equal distances gives a train of pulses; anything else - no pattern,
a bias that nobody holds, pulses of two kinds - gives light without pulses to interfere, which is flat as far as
slots are concerned.  Source: the transfer curve of a Mach-Zehnder modulator, e.g. Saleh and Teich, Fundamentals of
Photonics, section 21.1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

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
    high = passed > passed.max() / 2
    rises = np.flatnonzero(high & ~np.roll(high, 1))
    pulses = rises.size
    if passed.max() < 0.01 or not pulses or not _alike(high, rises):
        return flat((float(passed.mean()) + gain(carver.extinction_db)) * through)
    period_ps = passed.size * drive.sample_ps / pulses
    width = int(high.sum()) // pulses
    first = int(rises[0])
    pulse = float(passed[high].sum()) * drive.sample_ps / pulses
    residue_per_ps = pulse * gain(carver.extinction_db) / (carver.gate_ns * 1e3)
    beside = float(passed[~high].sum()) * drive.sample_ps / pulses
    return PulseTrain(
        period_ps=period_ps,
        phase_ps=drive.start_ps + (first + width / 2) * drive.sample_ps,
        sigma_ps=width * drive.sample_ps / FWHM_PER_SIGMA,
        pulsed=pulse / period_ps * through,
        flat=(residue_per_ps + beside / period_ps) * through,
    )


def _alike(high: npt.NDArray[np.bool_], rises: npt.NDArray[np.intp]) -> bool:
    """Whether a pattern repeats itself from each rise to the next."""
    spacing, rest = divmod(high.size, rises.size)
    return rest == 0 and bool(np.all(high == np.roll(high, spacing)))


def flat(transmission: float) -> PulseTrain:
    """Light without pulses."""
    return PulseTrain(DEFAULT_PERIOD_PS, 0.0, 0.0, 0.0, transmission)


def duty(fwhm_ns: float, period_ns: float) -> float:
    """Mean over peak of a train of Gaussian pulses."""
    return fwhm_ns * math.sqrt(2 * math.pi) / FWHM_PER_SIGMA / period_ns
