"""The light of a testbed as its file has it calibrated, for the light budget."""

from __future__ import annotations

import math

from drivers import catalogue
from drivers.catalogue import Row
from lab.light_budget import RISE_NS, PairLight, RelayLight, RingLight, StationLight
from lab.needs import MODULATOR, SENSOR_CCW, SENSOR_CW
from lab.testbed import Testbed

LAUNCH_LIMIT_DB = 65.0
"""Of two attenuators of 45 dB in series, less the 20 dB that the launch opens low by and the last 5 of the first, which stay
unused (:mod:`orchestrator.light.launching`)."""


def ring_light(testbed: Testbed) -> RingLight:
    """The whole ring."""
    ring, calibration, protocol = testbed.ring, testbed.calibration, testbed.protocol
    unmeasured = (0.0,) * len(testbed.users)
    offsets_db = zip(
        calibration.arm_offsets_cw_db or unmeasured, calibration.arm_offsets_ccw_db or unmeasured, strict=True
    )
    return RingLight(
        relay=RelayLight(
            laser_w=ring.laser_power_mw * 1e-3,
            launch_loss_db=ring.launch_loss_db,
            relay_loss_db=ring.relay_loss_db,
            efficiency=calibration.detector_efficiency,
            dark_count=calibration.dark_count_probability,
            visibility=calibration.visibility,
            extinction_db=testbed.carver.extinction_db,
            launch_limit_db=LAUNCH_LIMIT_DB,
        ),
        stations=tuple(
            StationLight(
                user.name,
                user.position_km,
                (user.modulator_delays_ps[0] * 1e-3, user.modulator_delays_ps[1] * 1e-3),
                user.station_loss_db,
                user.sensor_to_output_db,
                _sensor_floor_w(testbed, user.name),
                math.hypot(RISE_NS, _generator(testbed, user.name).edge_ns),
                user.phase_uncertainty_rad,
                offset_db,
            )
            for user, offset_db in zip(testbed.users, offsets_db, strict=True)
        ),
        length_km=ring.length_km,
        fibre_db_per_km=ring.fibre_loss_db_per_km,
        bypass_db=ring.bypass_loss_db,
        clock_hz=protocol.clock_hz,
        samples_per_slot=protocol.samples_per_slot,
        gate_ns=protocol.gate_ns,
        wavelength_nm=ring.wavelength_nm,
        backscatter_db_per_m=ring.backscatter_db_per_m,
        bytes_per_sample=max(_generator(testbed, user.name).bytes_per_sample for user in testbed.users),
    )


def pair_light(testbed: Testbed, first: str, second: str) -> PairLight:
    """The ring with a pair taken in; ValueError unless it is named in ring order."""
    order = testbed.user_names()
    return PairLight(ring_light(testbed), order.index(first), order.index(second))


def _generator(testbed: Testbed, user: str) -> Row:
    """The row of the generator that plays a user's symbols."""
    named = testbed.servers(user)[MODULATOR.name].instrument
    return catalogue.row(next(entry.model for entry in testbed.owned_by(user) if entry.name == named))


def _sensor_floor_w(testbed: Testbed, user: str) -> float | None:
    """The least power that both sensors of a user tell from none and from what their zero may be wrong by."""
    servers, entries = testbed.servers(user), {entry.name: entry for entry in testbed.owned_by(user)}
    sensors = [entries[servers[need.name].instrument] for need in (SENSOR_CW, SENSOR_CCW)]
    floors = [catalogue.row(entry.model).floor_w(entry.options) for entry in sensors]
    known = [floor for floor in floors if floor is not None]
    return max(*known, testbed.uncertainty.sensor_zero_pw * 1e-12) if len(known) == len(floors) else None
