"""The pulse carver: what a pattern of voltages on a Mach-Zehnder modulator makes of steady light.

The modulator transmits ``sin^2(pi v / (2 V_pi))``, v being pattern and bias together from the null on, and between the
pulses a residue (finite extinction).  A pattern of equal pulses at equal distances gives a train of pulses; anything
else - no pattern, a bias far from the null, pulses of two kinds - gives light without pulses to interfere, which is flat
as far as slots are concerned.  Source: the transfer curve of a Mach-Zehnder modulator, e.g. Saleh and Teich, Fundamentals of
Photonics, section 21.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_backends.optics_parts import FWHM_PER_SIGMA, CarverOptics, Drive, PulseTrain, gain

DEFAULT_PERIOD_PS = 10_000.0
"""Period by which flat light is cut into slots; any does."""


def carved(carver: CarverOptics, drive: Drive | None, from_null_v: float) -> PulseTrain:
    """The light behind the carver, its insertion loss included.

    ``drive`` holds one period of the pattern, which repeats without end; None while nothing plays.  ``from_null_v`` is the
    voltage on the bias electrode, of the same half-wave voltage, less that of the null.
    """
    through = gain(carver.insertion_db)
    if drive is None or not drive.samples.size:
        return flat(float(_passed(carver, np.zeros(1), from_null_v)[0]) * through)
    volts = drive.samples.astype(np.float64) * (drive.amplitude_vpp / 2 * carver.rf_gain)
    passed = _passed(carver, volts, from_null_v)
    high = passed > passed.max() / 2
    rises = np.flatnonzero(high & ~np.roll(high, 1))
    pulses = rises.size
    if not pulses or not _alike(high, rises):
        return flat(float(passed.mean()) * through)
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


@dataclass(frozen=True)
class Levels:
    """The voltages of a pattern and how often each comes: 1-d float64, and shares of 1."""

    volts: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]


def levels_of(carver: CarverOptics, drive: Drive | None) -> Levels:
    """The levels of a pattern: a controller asks for the mean at one bias after the other."""
    if drive is None or not drive.samples.size:
        return Levels(np.zeros(1), np.ones(1))
    found, counts = np.unique(drive.samples, return_counts=True)
    return Levels(
        found.astype(np.float64) * (drive.amplitude_vpp / 2 * carver.rf_gain), counts / counts.sum()
    )


def mean_transmission(carver: CarverOptics, levels: Levels, from_null_v: float) -> float:
    """Mean light behind the carver over light in front of it, finite extinction left out: what a bias controller sees."""
    passed = float(np.dot(levels.shares, _passed(carver, levels.volts, from_null_v)))
    return passed * gain(carver.insertion_db)


def _passed(
    carver: CarverOptics, volts: npt.NDArray[np.float64], from_null_v: float
) -> npt.NDArray[np.float64]:
    half_waves = (volts + from_null_v) / carver.v_pi_v
    passed: npt.NDArray[np.float64] = np.sin(np.pi / 2 * half_waves) ** 2
    return passed


def _alike(high: npt.NDArray[np.bool_], rises: npt.NDArray[np.intp]) -> bool:
    """Whether a pattern repeats itself from each rise to the next."""
    spacing, rest = divmod(high.size, rises.size)
    return rest == 0 and bool(np.all(high == np.roll(high, spacing)))


def flat(transmission: float) -> PulseTrain:
    """Light without pulses."""
    return PulseTrain(DEFAULT_PERIOD_PS, 0.0, 0.0, 0.0, transmission)
