"""When a user's symbols must leave its generator so that each meets its own pulse, and no other.

Pulse k of a frame passes the user's modulator at ``delay + k slots`` after the first sample of the triggered waveform,
clockwise and counter-clockwise at different delays (calibrated).  The own pulse gets half of its slot; it sits late in
that half, where amplifier and modulator have settled, and the other direction's pulse then falls late into the half of
0 V (:func:`~lab.light_budget.pulse_place`); what it still finds of a driven sample, at stations where the two pass far
from half a slot apart, is charged.  What is less than a sample is made by the phase of the generator's clock, whole
samples by zeros in front.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.light_budget import pulse_place
from lab.testbed import Testbed
from orchestrator.light.own_station import Direction


@dataclass(frozen=True)
class FrameTiming:
    """Layout of a waveform: ``lead_samples`` of 0 V, then the slots; all of it ``fine_delay_ps`` later."""

    lead_samples: int
    fine_delay_ps: float


def frame_timing(testbed: Testbed, user: str, direction: Direction) -> FrameTiming:
    """How ``user`` lays out a frame for the pulses of one direction.

    Raises ValueError where slot 0 passes before the generator can play.  That both directions pass far enough apart is a
    rule of the testbed file.
    """
    protocol = testbed.protocol
    slot_ps = 1e12 / protocol.clock_hz
    cw_ps, ccw_ps = testbed.user(user).modulator_delays_ps
    own_ps, other_ps = (cw_ps, ccw_ps) if direction == "cw" else (ccw_ps, cw_ps)
    start_ps = first_start_ps(own_ps, other_ps, slot_ps)
    if start_ps < 0:
        raise ValueError(
            f"{user}: slot 0 passes before the generator plays; let detector_delays_ps and modulator_delays_ps count from a "
            "pulse one microsecond later"
        )
    return starting(start_ps, slot_ps / protocol.samples_per_slot)


def first_start_ps(own_ps: float, other_ps: float, slot_ps: float) -> float:
    """When the first symbol begins, for the pulse of slot 0 that passes at ``own_ps``."""
    return own_ps - pulse_place(slot_ps / 2, (other_ps - own_ps) % slot_ps)


def starting(start_ps: float, sample_ps: float) -> FrameTiming:
    """A frame whose first slot begins so long after the waveform's first sample, not before it."""
    lead = int(start_ps // sample_ps)
    return FrameTiming(lead, start_ps - lead * sample_ps)
