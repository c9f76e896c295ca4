"""The public pattern on the pulse carver: one short pulse a slot, again and again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lab.testbed import Testbed

SHORTEST_SAMPLES = 2400
"""What waveform generators of this class ask for at least; the pattern repeats itself inside."""


def carver_pattern(testbed: Testbed) -> tuple[npt.NDArray[np.float32], float]:
    """The pattern (1-d float32, in [-1, 1] of amplitude/2) and its sample rate in Hz.

    One sample is as long as a pulse; its level drives the modulator from its null to its peak.  Raises ValueError
    where slots are no whole number of pulses long, or the amplitude does not reach the peak.
    """
    carver = testbed.carver
    slot_ns = 1e9 / testbed.protocol.clock_hz
    per_slot = round(slot_ns / carver.pulse_ns)
    if per_slot < 2 or abs(per_slot * carver.pulse_ns - slot_ns) > 1e-6 * slot_ns:
        raise ValueError(
            f"pulse_ns is {carver.pulse_ns:g}: a slot of {slot_ns:g} ns must be a whole number of pulses long"
        )
    level = carver.v_pi_v / (carver.rf_gain * carver.awg_amplitude_vpp / 2)
    if level > 1 + 1e-9:
        raise ValueError(
            f"the carver's drive reaches {carver.v_pi_v / level:g} V and its peak needs {carver.v_pi_v:g} V; "
            "raise rf_gain or the amplitude"
        )
    slot = np.zeros(per_slot, np.float32)
    slot[0] = min(level, 1.0)
    return np.tile(slot, -(-SHORTEST_SAMPLES // per_slot)), per_slot * testbed.protocol.clock_hz
