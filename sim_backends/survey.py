"""The calibrated values of a simulated ring, as a faultless calibration would write them into the testbed file.

A bundled file holds them, so that it can be run at once; a ring that nobody has calibrated has the values of its
order instead.  The only place where hidden values become public ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lab.needs import ATTENUATOR, CARVER, CARVER_BIAS, MODULATOR, candidates
from lab.testbed import Testbed
from orchestrator.light.carving import carver_pattern
from sim_backends.optics_carver import carved
from sim_backends.optics_hidden import lines_of, ring_of
from sim_backends.optics_parts import PS_PER_KM, Drive
from sim_backends.optics_way import DIRECTIONS, passage_ps

LEAD_PS = 1_000_000.0
"""Slot 0 leaves the coupler this long after the trigger, so that every generator plays when it comes."""


def surveyed(data: Mapping[str, Any], testbed: Testbed) -> dict[str, Any]:
    """The content of a testbed file with every calibrated value as it really is; ``testbed`` is the same file."""
    ring, lines = ring_of(testbed), lines_of(testbed)
    optics = ring.optics
    slot_ps = 1e12 / testbed.protocol.clock_hz
    generator = testbed.servers("relay")[CARVER.name].instrument
    pattern, rate_hz = carver_pattern(testbed)
    start_ps = lines.trigger_ps[generator] + lines.latency_ps[generator]
    train = carved(
        optics.carver,
        Drive(pattern, 1e12 / rate_hz, testbed.carver.awg_amplitude_vpp, start_ps),
        from_null_v=0.0,
    )
    first_ps = train.phase_ps + math.ceil((LEAD_PS - train.phase_ps) / slot_ps) * slot_ps
    edge_ps = lines.trigger_ps.get(testbed.cabling.trigger_source, 0.0)
    delays = [
        round(first_ps + optics.length_km * PS_PER_KM + detector.delay_ps - edge_ps)
        for detector in ring.detectors
    ]
    users = []
    for entry, station in zip(data["users"], optics.users, strict=True):
        awg = testbed.servers(entry["name"])[MODULATOR.name].instrument
        started_ps = lines.trigger_ps[awg] + lines.latency_ps[awg]
        set_db = testbed.user(entry["name"]).attenuation_db
        attenuator_db = (
            station.attenuator_db + (1 + station.attenuator_slope) * set_db + station.attenuator_error_db
        )
        behind_db = station.modulator_db + attenuator_db + station.switch_db
        tap_db = -10 * math.log10(1 - station.tap_share)
        users.append(
            {
                **entry,
                "position_km": round(station.position_km, 5),
                "v_pi_v": round(station.v_pi_v, 4),
                "rf_gain": round(station.rf_gain, 4),
                "station_loss_db": round(behind_db + station.switch_db + 2 * tap_db, 3),
                # The sensor gets the other half of the light that its tap lets through.
                "sensor_to_output_db": [
                    round(behind_db + 2 * tap_db + 10 * math.log10(station.tap_share), 3) for _ in DIRECTIONS
                ],
                "modulator_delays_ps": [
                    round(first_ps + passage_ps(optics, station, direction) - started_ps)
                    for direction in DIRECTIONS
                ],
            }
        )
    launch_db = optics.circulator_db - 10 * math.log10(train.pulsed / 2)
    bias = testbed.servers("relay")[CARVER_BIAS.name].instrument
    if candidates(ATTENUATOR, [entry for entry in testbed.instruments if entry.name == bias]):
        launch_db += testbed.carver.attenuation_db
    return {
        **data,
        "ring": {
            **data["ring"],
            "length_km": optics.length_km,
            "fibre_loss_db_per_km": round(optics.fibre_loss_db_per_km, 4),
            "relay_loss_db": round(optics.relay_loss_db + optics.polarizer_db, 3),
            "launch_loss_db": round(launch_db, 3),
        },
        "carver": {**data.get("carver", {}), "rf_gain": testbed.carver.rf_gain},
        "calibration": {
            "visibility": optics.visibility,
            "dark_count_probability": float(
                f"{sum(d.dark_count_probability for d in ring.detectors) / 2:.4g}"
            ),
            "detector_efficiency": round(sum(d.efficiency_max for d in ring.detectors) / 2, 4),
            "detector_delays_ps": delays,
            "loop_phase_rad": round(optics.loop_phase_rad, 5),
        },
        "users": users,
    }
