"""When pulses pass a user's modulator: how its frames are spread over a slot, and what their clicks say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lab.calibration.delays import DRIVEN, TURN_RAD, DelayFit, Played, check_delays, fit_delays
from lab.calibration.finding import Curve, Finding, Measured
from lab.calibration.separation import separation
from lab.calibration.steps import Step
from lab.light_of import ring_light
from lab.testbed import Testbed
from orchestrator.light.calibration.levels import N_LEVELS, expected_half_wave_v
from orchestrator.light.timing import FrameTiming, first_start_ps, starting
from orchestrator.light.user import ScannedFrame

STARTS = 20
"""Over a slot: an edge of 1.5 ns is met by three of them."""
TAU_PER_RISE = 1 / math.log(9)
"""Time constant of a single pole over its rise time from 10 to 90 %."""


def scan_levels(testbed: Testbed, user: str) -> npt.NDArray[np.float32]:
    """A turn by TURN_RAD for a quarter of all values of a byte, 0 V for the others; float32 (256,) in [-1, 1]."""
    full_v = testbed.user(user).awg_amplitude_vpp / 2
    levels = np.zeros(N_LEVELS, np.float32)
    levels[: round(DRIVEN * N_LEVELS)] = min(
        1.0, TURN_RAD / math.pi * expected_half_wave_v(testbed, user) / full_v
    )
    return levels


def scan_timings(testbed: Testbed, user: str) -> list[FrameTiming]:
    """Starts spread over a slot, about when the first light passes as far as the file knows."""
    slot_ps = 1e12 / testbed.protocol.clock_hz
    sample_ps = slot_ps / testbed.protocol.samples_per_slot
    first_ps = min(testbed.user(user).modulator_delays_ps) // slot_ps * slot_ps
    return [starting(first_ps + index * slot_ps / STARTS, sample_ps) for index in range(STARTS)]


def check_timings(testbed: Testbed, fit: DelayFit) -> list[FrameTiming]:
    """A frame for each direction, as the delays found have it."""
    slot_ps = 1e12 / testbed.protocol.clock_hz
    sample_ps = slot_ps / testbed.protocol.samples_per_slot
    cw_ps, ccw_ps = fit.delays_ps
    starts = [first_start_ps(*each, slot_ps) for each in ((cw_ps, ccw_ps), (ccw_ps, cw_ps))]
    return [starting(start_ps, sample_ps) for start_ps in starts]


def scan_fit(testbed: Testbed, user: str, frames: Sequence[ScannedFrame]) -> DelayFit:
    """What a user's scan says of its delays.  Raises CalibrationRefusedError, also where no fibre is right for them."""
    slot_ps = 1e12 / testbed.protocol.clock_hz
    rise_ns = ring_light(testbed).stations[testbed.user_names().index(user)].rise_ns
    fit = fit_delays(
        played(testbed, frames), testbed.user(user).modulator_delays_ps, slot_ps, rise_ns * TAU_PER_RISE * 1e3
    )
    separation(fit.delays_ps, fit.sigma_ps, slot_ps * 1e-3)
    return fit


def played(testbed: Testbed, frames: Sequence[ScannedFrame]) -> list[Played]:
    """What the fit takes."""
    protocol = testbed.protocol
    sample_ps = 1e12 / protocol.clock_hz / protocol.samples_per_slot
    return [
        Played(
            each.timing.lead_samples * sample_ps + each.timing.fine_delay_ps,
            each.slots,
            each.outcomes,
            each.driven,
            protocol.slots_per_frame,
        )
        for each in frames
    ]


def delays_finding(
    testbed: Testbed,
    user: str,
    partner: str,
    fit: DelayFit,
    frames: Sequence[ScannedFrame],
    checked: Sequence[ScannedFrame],
) -> Finding:
    """A scan and the frames that were laid out by what it found.  Raises CalibrationRefusedError where they do not fit."""
    slot_ps = 1e12 / testbed.protocol.clock_hz
    check_delays(fit, played(testbed, checked), slot_ps)
    frames = [*frames, *checked]
    pulses = len(frames) * testbed.protocol.slots_per_frame
    return Finding(
        step=Step.DELAYS,
        owner=user,
        partner=partner,
        values={"modulator_delays_ps": Measured(list(fit.delays_ps), list(fit.sigma_ps), "ps")},
        figures={
            "rise_ns": Measured(fit.tau_ps / TAU_PER_RISE * 1e-3, 0.0, "ns"),
            "turn_rad": Measured(fit.turn_rad, 0.0, "rad"),
            "loop_phase_rad": Measured(fit.phase_rad, 0.0, "rad"),
        },
        settings={"starts": float(STARTS), "driven": DRIVEN, "pulses": float(pulses)},
        quality={"contrast": fit.contrast, "chi2": fit.chi2, "degrees_of_freedom": float(fit.degrees)},
        counts={
            f"D{d + 1}, clockwise {a}, counter-clockwise {b}": fit.counts.clicks[:, d, a, b]
            .astype(int)
            .tolist()
            for d in (0, 1)
            for a, b in ((0, 0), (1, 0), (0, 1))
        },
        curves=[_curve(user, fit, slot_ps * 1e-3)],
        light_s=pulses / testbed.protocol.clock_hz,
    )


def separation_finding(testbed: Testbed, user: str, partner: str, sigma_ps: tuple[float, float]) -> Finding:
    """What follows from a user's delays, known to one sigma.  Raises CalibrationRefusedError."""
    slot_ns = 1e9 / testbed.protocol.clock_hz
    cw_ps, ccw_ps = testbed.user(user).modulator_delays_ps
    apart = separation((cw_ps, ccw_ps), sigma_ps, slot_ns)
    return Finding(
        step=Step.SEPARATION,
        owner=user,
        partner=partner,
        values={"separation_ns": apart},
        figures={},
        settings={"slot_ns": slot_ns},
        quality={},
        counts={},
        curves=[],
        light_s=0.0,
    )


def _curve(user: str, fit: DelayFit, slot_ns: float) -> Curve:
    """The part of D1 where the symbol of one direction alone is driven, by start."""
    clicks = fit.counts.clicks.sum(axis=1)
    starts_ns = np.arange(clicks.shape[0]) * slot_ns / clicks.shape[0]
    places = {"clockwise": (1, 0), "counter-clockwise": (0, 1)}
    measured = {
        name: fit.counts.clicks[:, 0, a, b] / np.maximum(clicks[:, a, b], 1)
        for name, (a, b) in places.items()
    }
    fitted = {name: fit.expected[:, a, b] for name, (a, b) in places.items()}
    return Curve(
        f"Phase of {user}'s light, by when a symbol begins",
        "begin in the slot / ns",
        "part of D1 among clicks",
        starts_ns.tolist(),
        {name: each.tolist() for name, each in measured.items()},
        {name: each.tolist() for name, each in fitted.items()},
        {
            name: np.sqrt(fitted[name] * (1 - fitted[name]) / np.maximum(clicks[:, a, b], 1)).tolist()
            for name, (a, b) in places.items()
        },
    )
