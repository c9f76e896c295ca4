"""Pulses per second of the light model on one core, as JSON lines: python tests/benchmarks/bench_optics.py.

The waveforms are far larger than the processor's caches and hold random symbols of four phases, as in
operation, so the figure includes the cache misses that a real frame causes.
"""

from __future__ import annotations

import math
import time

import numpy as np
from measuring import Figure, emit

from sim_backends.optics import DetectorOptics, Drive, Ring, RingOptics, StationOptics

FRAME_SLOTS = 1 << 22
CLOCK_HZ = 100e6
V_PI_V, RF_GAIN, AMPLITUDE_VPP = 4.0, 20.0, 0.5


def optics_pulses_per_s(n_slots: int = 1 << 26, click_probability: float = 0.01) -> Figure:
    """Simulate at least ``n_slots`` slots in frames of 2^22 with two users modulating.

    ``click_probability`` is that of either detector clicking in a slot.  Compiling is not counted.
    ``cpu_seconds`` is processor time of the thread: less than ``seconds`` where others keep the machine busy.
    """
    ring = _ring(click_probability)
    drives = {"first": _waveform(1, gate=1), "second": _waveform(2, gate=0)}
    frame_ps = round(FRAME_SLOTS / CLOCK_HZ * 1e12)
    ring.expose(drives, frame_ps, seed=0)
    frames = max(1, -(-n_slots // FRAME_SLOTS))
    clicks = 0
    begin, cpu_begin = time.perf_counter(), time.thread_time()
    for frame in range(frames):
        clicks += ring.expose(drives, frame_ps, seed=frame).time_ps.size
    seconds, cpu_seconds = time.perf_counter() - begin, time.thread_time() - cpu_begin
    pulses = frames * FRAME_SLOTS
    return {
        "value": pulses / seconds,
        "unit": "pulses/s",
        "click_probability": clicks / pulses,
        "clicks_per_s": clicks / seconds,
        "pulses": pulses,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def optics() -> dict[str, Figure]:
    """The ring model alone, on one core."""
    return {"optics_pulses_per_s": optics_pulses_per_s()}


def _ring(click_probability: float) -> Ring:
    users = tuple(
        StationOptics(name, km, v_pi_v=V_PI_V, rf_gain=RF_GAIN, monitor_ratio=1.0)
        for name, km in (("first", 2.0), ("second", 4.0))
    )
    optics = RingOptics(
        clock_hz=CLOCK_HZ,
        samples_per_slot=2,
        users=users,
        length_km=6.0,
        fibre_loss_db_per_km=0.2,
        station_pass_loss_db=0.6,
        relay_loss_db=3.0,
        visibility=0.99,
    )
    detector = DetectorOptics(
        efficiency_max=0.75, dark_count_probability=1e-7, gate_ns=1.0, dead_time_ns=20.0, jitter_ps=30.0
    )
    ring = Ring(optics, (detector, detector))
    ring.set_laser(1e-3, 1550.0)
    ring.set_launch(30.0, True)
    ring.set_detectors([25.0, 25.0], True)
    ring.set_armed(("first", "second"))
    for user, loss_db in zip(("first", "second"), ring.arm_loss_db("first", "second"), strict=True):
        mu = -math.log1p(-click_probability) / 2 * 10 ** (loss_db / 10)
        ring.set_user_attenuation(user, 10 * math.log10(ring.mean_photon_number(user) / mu))
    return ring


def _waveform(seed: int, gate: int) -> Drive:
    rad = np.array([0.0, np.pi, np.pi / 2, -np.pi / 2], np.float32)
    wave = np.zeros((FRAME_SLOTS, 2), np.float32)
    symbols = np.random.default_rng(seed).integers(0, 4, FRAME_SLOTS)
    wave[:, gate] = rad[symbols] * (V_PI_V / (np.pi * RF_GAIN * AMPLITUDE_VPP / 2))
    return Drive(wave.reshape(-1), 2 * CLOCK_HZ, AMPLITUDE_VPP)


if __name__ == "__main__":
    for probability, slots in ((1e-1, 1 << 24), (1e-2, 1 << 26), (1e-3, 1 << 28), (1e-4, 1 << 30)):
        emit("optics_pulses_per_s", **optics_pulses_per_s(slots, probability))
