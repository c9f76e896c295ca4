"""From a testbed file to the ring of light that the simulator hides behind the instruments.

The layout of the ring is that of the file's public part; how good everything is - visibility, efficiency,
dark counts, noise - comes from its [simulation] section.  The detectors' bias plateau is chosen: half the
efficiency at 60 % of the configured bias current, full efficiency well below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_backends.optics import DetectorOptics, Ring, RingOptics, StationOptics

if TYPE_CHECKING:
    from lab.testbed import Testbed

HALF_BIAS, BIAS_WIDTH = 0.6, 0.1
"""Bias of half the efficiency and width of the rise, as fractions of the configured bias current."""


def ring_of(testbed: Testbed) -> Ring:
    """The ring of a testbed with a [simulation] section, dark and with detectors off."""
    simulation = testbed.simulation
    if simulation is None:
        raise ValueError(f"testbed {testbed.name!r} has no [simulation] section")
    layout, protocol = testbed.ring, testbed.protocol
    optics = RingOptics(
        clock_hz=protocol.clock_hz,
        samples_per_slot=protocol.samples_per_slot,
        users=tuple(
            StationOptics(user.name, user.position_km, user.v_pi_v, user.rf_gain, user.monitor_ratio)
            for user in testbed.users
        ),
        length_km=layout.length_km,
        fibre_loss_db_per_km=layout.fibre_loss_db_per_km,
        station_pass_loss_db=layout.station_pass_loss_db,
        relay_loss_db=layout.relay_loss_db,
        visibility=simulation.visibility,
        splitter_ratio=simulation.splitter_ratio,
        phase_noise_rad=simulation.phase_noise_rad,
        phase_offset_rad=simulation.phase_offset_rad,
    )
    pair = zip(testbed.detectors.bias_ua, testbed.calibration.detector_delays_ps, strict=True)
    first, second = (
        DetectorOptics(
            efficiency_max=simulation.detector_efficiency,
            dark_count_probability=simulation.dark_count_probability,
            gate_ns=protocol.gate_ns,
            dead_time_ns=simulation.dead_time_ns,
            jitter_ps=simulation.jitter_ps,
            delay_ps=delay_ps,
            afterpulse_probability=simulation.afterpulse_probability,
            bias_half_ua=HALF_BIAS * bias_ua,
            bias_width_ua=BIAS_WIDTH * bias_ua,
        )
        for bias_ua, delay_ps in pair
    )
    return Ring(optics, (first, second))
