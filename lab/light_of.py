"""The light of a testbed as its file has it calibrated, for the light budget.

Parts that a calibration cannot tell apart stand together in one of them: what is lost between the taps is put to the
modulator, what is lost between laser and loop to the carver.
"""

from __future__ import annotations

import math

from lab.light_budget import GAUSSIAN_AREA, SPLIT_DB, PairLight, RelayLight, RingLight, StationLight
from lab.testbed import Testbed, User

TAP_SHARE = 0.5
LAUNCH_LIMIT_DB = 90.0
"""Two attenuators of 45 dB in series."""


def ring_light(testbed: Testbed) -> RingLight:
    """The whole ring."""
    ring, calibration, carver = testbed.ring, testbed.calibration, testbed.carver
    slot_ns = 1e9 / testbed.protocol.clock_hz
    pulsed_db = -10 * math.log10(carver.pulse_ns * GAUSSIAN_AREA / slot_ns)
    return RingLight(
        relay=RelayLight(
            relay_loss_db=ring.relay_loss_db,
            efficiency=calibration.detector_efficiency,
            dark_count=calibration.dark_count_probability,
            visibility=calibration.visibility,
            laser_w=ring.laser_power_mw * 1e-3,
            carver_db=ring.launch_loss_db - SPLIT_DB - pulsed_db,
            pulse_fwhm_ns=carver.pulse_ns,
            extinction_db=carver.extinction_db,
            circulator_db=0.0,
            launch_limit_db=LAUNCH_LIMIT_DB,
        ),
        stations=tuple(_station(testbed, user) for user in testbed.users),
        length_km=ring.length_km,
        fibre_db_per_km=ring.fibre_loss_db_per_km,
        clock_hz=testbed.protocol.clock_hz,
        samples_per_slot=testbed.protocol.samples_per_slot,
        gate_ns=testbed.protocol.gate_ns,
        wavelength_nm=ring.wavelength_nm,
    )


def pair_light(testbed: Testbed, first: str, second: str) -> PairLight:
    """The ring with a pair taken in; ValueError unless it is named in ring order."""
    order = testbed.user_names()
    return PairLight(ring_light(testbed), order.index(first), order.index(second))


def _station(testbed: Testbed, user: User) -> StationLight:
    switch_db = testbed.ring.bypass_loss_db
    taps_db = -20 * math.log10(1 - TAP_SHARE)
    return StationLight(
        name=user.name,
        position_km=user.position_km,
        switch_db=switch_db,
        tap_share=TAP_SHARE,
        modulator_db=user.station_loss_db - 2 * switch_db - taps_db,
        attenuator_db=0.0,
    )
