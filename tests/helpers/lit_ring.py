"""A lit ring with nothing hidden, and what a pair of users counts on it: shared by the tests of the light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim_backends.optics import Clicks, DetectorOptics, Direction, Drive, Ring, RingOptics, StationOptics

SLOT_PS, GATE_PS, SAMPLE_PS = 10_000.0, 1_000.0, 5_000.0
PS_PER_KM = 1.468 / 299_792_458.0 * 1e15
V_PI_V, RF_GAIN, AMPLITUDE_VPP = 4.0, 20.0, 0.5
FULL_SCALE_RAD = math.pi * RF_GAIN * AMPLITUDE_VPP / 2 / V_PI_V
SYMBOL_RAD = np.array([0.0, math.pi, math.pi / 2, -math.pi / 2])
POSITIONS_KM = {"alice": 0.75, "bob": 2.25, "carol": 3.75, "dave": 5.25}
STATIONS = tuple(StationOptics(name, km, V_PI_V, RF_GAIN) for name, km in POSITIONS_KM.items())
RING = RingOptics(STATIONS, length_km=6.0, fibre_loss_db_per_km=0.2, relay_loss_db=3.0, visibility=0.99)
DETECTOR = DetectorOptics(efficiency_max=0.75, dark_count_probability=1e-7, gate_ns=1.0)
BIAS_UA = (20.0, 20.0)
PULSES = Drive(np.eye(1, 25, dtype=np.float32)[0], 400.0, 0.5)
"""One sample of 0.4 ns a slot on the carver, at its peak: pulse 0 leaves the coupler at 0.2 ns."""
FIRST_PS = 200.0
BRIGHT_MW = 2.0


def lit(
    optics: RingOptics = RING,
    detector: DetectorOptics = DETECTOR,
    pair: Sequence[str] = ("alice", "bob"),
    launch_db: float = 56.0,
) -> Ring:
    """A ring whose relay does everything right, with the stations of ``pair`` taken in."""
    carver = replace(optics.carver, rf_gain=16.0)
    ring = Ring(replace(optics, carver=carver), (detector, detector))
    for user in pair:
        ring.set_switch(user, False)
    ring.set_laser(BRIGHT_MW * 1e-3, 1550.12)
    ring.set_carver_drive(PULSES)
    ring.set_launch("launch", launch_db)
    ring.set_detectors(BIAS_UA, True)
    return ring


def passage_ps(user: str, direction: Direction) -> float:
    """When pulse 0 passes the modulator of a user, from the start."""
    km = POSITIONS_KM[user] if direction == "cw" else 6.0 - POSITIONS_KM[user]
    return FIRST_PS + km * PS_PER_KM


def frame(
    user: str,
    direction: Direction,
    symbols: npt.NDArray[np.int64],
    *,
    position_ps: float = 4_000.0,
    sample_ps: float = SAMPLE_PS,
) -> Drive:
    """The waveform that puts symbol ``k`` on pulse ``k`` of one direction, ``position_ps`` after its sample's edge."""
    samples = np.zeros(2 * symbols.size, np.float32)
    samples[::2] = SYMBOL_RAD[symbols] / FULL_SCALE_RAD
    return Drive(samples, sample_ps, AMPLITUDE_VPP, start_ps=passage_ps(user, direction) - position_ps)


@dataclass(frozen=True)
class Counted:
    """Slots with exactly one click in the gate where both users chose one basis; ``of`` all slots of one basis."""

    right: int
    wrong: int
    of: int

    @property
    def gain(self) -> float:
        return (self.right + self.wrong) / self.of

    @property
    def qber(self) -> float:
        return self.wrong / (self.right + self.wrong)


def slots_of(clicks: Clicks, detector: int, n_slots: int, arrival_ps: float) -> npt.NDArray[np.int64]:
    """Slots of one detector's clicks within the gate."""
    times = clicks.of(detector) - arrival_ps
    slots = np.rint(times / SLOT_PS).astype(np.int64)
    inside = (np.abs(times - slots * SLOT_PS) <= GATE_PS / 2) & (slots >= 0) & (slots < n_slots)
    return np.unique(slots[inside])


def count(
    ring: Ring,
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    drives: dict[str, Drive],
    *,
    seed: int = 1,
    arrival_ps: float = FIRST_PS + 6.0 * PS_PER_KM,
) -> Counted:
    """Play ``drives`` and compare the clicks with the symbols of both users."""
    n_slots = first.size
    clicks = ring.expose(drives, int(n_slots * SLOT_PS + 6.1 * PS_PER_KM), seed)
    d1, d2 = (slots_of(clicks, detector, n_slots, arrival_ps) for detector in (0, 1))
    one = np.setxor1d(d1, d2, assume_unique=True)
    same_basis = first // 2 == second // 2
    kept = one[same_basis[one]]
    equal = first[kept] == second[kept]
    right = int(np.count_nonzero(equal == np.isin(kept, d1, assume_unique=True)))
    return Counted(right, kept.size - right, int(np.count_nonzero(same_basis)))


def symbols(seed: int, n_slots: int = 1 << 20) -> npt.NDArray[np.int64]:
    """Random symbols, int64 of shape (n_slots,): 0, 1 of basis X, 2, 3 of Y."""
    return np.random.default_rng(seed).integers(0, 4, n_slots)
