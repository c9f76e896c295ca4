"""Pulses per second of the light model on one core, as JSON lines: python tests/benchmarks/bench_optics.py.

Everything is on that costs time: both directions through both modulators with their rise time, back-scatter, residue
and leakage, dead time, recovery and jitter.  The waveforms are far larger than the processor's caches and hold random
symbols of four phases, as in operation, so the figure includes the cache misses that a real frame causes.
"""

from __future__ import annotations

import math
import time
from statistics import median

import numpy as np
from measuring import Figure, emit

from sim_backends.optics import (
    CarverOptics,
    DetectorOptics,
    Direction,
    Drive,
    Ring,
    RingOptics,
    StationOptics,
)
from sim_backends.optics_parts import PS_PER_KM

FRAME_SLOTS = 1 << 22
SLOT_PS, SAMPLE_PS = 10_000.0, 5_000.0
V_PI_V, RF_GAIN, AMPLITUDE_VPP = 4.0, 20.0, 0.5
LENGTH_KM = 6.0
PULSES = Drive(np.eye(1, 25, dtype=np.float32)[0], 400.0, 0.5)
"""One peak of 0.4 ns a slot on the carver."""
PASSED: tuple[tuple[str, Direction, float], ...] = (("first", "ccw", 2.25), ("second", "cw", 3.75))
"""Users with the direction that they modulate and their places in km, in ring order."""


def optics_pulses_per_s(n_slots: int = 1 << 26, click_probability: float = 0.01) -> Figure:
    """Simulate at least ``n_slots`` slots in frames of 2^22 with two users modulating.

    ``click_probability`` is that of either detector clicking in a slot.  Compiling is not counted.
    ``cpu_pulses_per_s`` is the median over the frames by processor time of the thread: what a quiet core gives.
    """
    ring = _ring(click_probability)
    drives = {user: _waveform(seed, *passed) for seed, (user, *passed) in enumerate(PASSED)}
    frame_ps = round(FRAME_SLOTS * SLOT_PS)
    ring.expose(drives, frame_ps, seed=0)
    frames = max(1, -(-n_slots // FRAME_SLOTS))
    clicks, cpu_seconds = 0, []
    begin = time.perf_counter()
    for frame in range(frames):
        cpu_begin = time.thread_time()
        clicks += ring.expose(drives, frame_ps, seed=frame).time_ps.size
        cpu_seconds.append(time.thread_time() - cpu_begin)
    seconds = time.perf_counter() - begin
    pulses = frames * FRAME_SLOTS
    return {
        "value": pulses / seconds,
        "unit": "pulses/s",
        "click_probability": clicks / pulses,
        "clicks_per_s": clicks / seconds,
        "pulses": pulses,
        "seconds": seconds,
        "cpu_pulses_per_s": FRAME_SLOTS / median(cpu_seconds),
    }


def optics() -> dict[str, Figure]:
    """The ring model alone, on one core."""
    return {"optics_pulses_per_s": optics_pulses_per_s()}


def _ring(click_probability: float) -> Ring:
    """Everything on, and so much launch attenuation that either detector clicks in this share of the slots."""
    optics = RingOptics(
        users=tuple(StationOptics(user, km, V_PI_V, RF_GAIN) for user, _, km in PASSED),
        length_km=LENGTH_KM,
        fibre_loss_db_per_km=0.2,
        relay_loss_db=3.0,
        carver=CarverOptics(rf_gain=16.0, extinction_db=35.0),
        visibility=0.99,
        backscatter_db_per_m=72.0,
        leak_db=55.0,
        leak_delay_ps=LENGTH_KM * PS_PER_KM + SLOT_PS / 2,
    )
    detector = DetectorOptics(
        efficiency_max=0.75,
        dark_count_probability=1e-7,
        gate_ns=1.0,
        dead_time_ns=20.0,
        recovery_ns=5.0,
        jitter_ps=30.0,
    )
    ring = Ring(optics, (detector, detector))
    for user, *_ in PASSED:
        ring.set_switch(user, False)
    ring.set_laser(2e-3, 1550.12)
    ring.set_carver_drive(PULSES)
    ring.set_launch("launch", 60.0)
    ring.set_detectors((20.0, 20.0), True)
    arriving = sum(
        ring.mean_photon_number(user, direction) * ring.home_transmission(user, direction)
        for user, direction, _ in PASSED
    )
    wanted = -math.log1p(-click_probability) / detector.efficiency(20.0)
    ring.set_launch("launch", 60.0 + 10 * math.log10(arriving / wanted))
    return ring


def _waveform(seed: int, direction: Direction, position_km: float) -> Drive:
    """Random symbols on the pulses of one direction, each 4 ns after its sample's edge."""
    rad = np.array([0.0, np.pi, np.pi / 2, -np.pi / 2], np.float32)
    wave = np.zeros((FRAME_SLOTS, 2), np.float32)
    symbols = np.random.default_rng(seed).integers(0, 4, FRAME_SLOTS)
    wave[:, 0] = rad[symbols] * (V_PI_V / (np.pi * RF_GAIN * AMPLITUDE_VPP / 2))
    km = position_km if direction == "cw" else LENGTH_KM - position_km
    start_ps = PULSES.sample_ps / 2 + km * PS_PER_KM - 4_000.0
    return Drive(wave.reshape(-1), SAMPLE_PS, AMPLITUDE_VPP, start_ps)


if __name__ == "__main__":
    for probability, slots in ((1e-1, 1 << 24), (1e-2, 1 << 26), (1e-3, 1 << 28), (1e-4, 1 << 30)):
        emit("optics_pulses_per_s", **optics_pulses_per_s(slots, probability))
