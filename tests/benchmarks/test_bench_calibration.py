"""The figures of fresh rings: errors are of the truth, pulls of what was said, and a planted error is seen."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from bench_calibration import RingRow, kept_rows, shown, table
from true_ring import compared, truth
from uncalibrated_ring import uncalibrated_ring


def test_a_finding_that_is_off_the_truth_is_counted_and_a_whole_slot_is_not(tmp_path: Path) -> None:
    ring = uncalibrated_ring(tmp_path, ring_seed=7)
    true = truth(ring.path)
    first_ps, second_ps = true["relay"]["detector_delays_ps"]
    cw_ps, ccw_ps = true["alice"]["modulator_delays_ps"]
    half_turn_v = true["alice"]["v_pi_v"]["ccw"]
    findings = [
        {
            "step": "pulses",
            "owner": "relay",
            "partner": "alice-bob",
            "values": {
                "detector_delays_ps": {
                    "value": [first_ps + 20_004.0, second_ps + 20_000.0],
                    "uncertainty": [5, 5],
                }
            },
        },
        {
            "step": "phase",
            "owner": "alice",
            "partner": "bob",
            "values": {
                "modulator_delays_ps": {
                    "value": [cw_ps + 20_000.0, ccw_ps + 19_970.0],
                    "uncertainty": [10, 10],
                },
                "v_pi_v": {"value": 1.002 * half_turn_v, "uncertainty": 0.001 * half_turn_v},
                "phase_uncertainty_rad": {"value": 0.01, "uncertainty": 0.0},
            },
        },
    ]
    found = compared(findings, true)
    assert [(each.kind, each.owner) for each in found] == [
        *[("detector_delays_ps", "relay")] * 2,
        *[("modulator_delays_ps", "alice")] * 2,
        ("v_pi_v", "alice"),
    ]
    assert [each.error for each in found] == pytest.approx([4, 0, 0, -30, 0.2], abs=1e-6)
    assert [each.pull for each in found] == pytest.approx([0.8, 0, 0, -3, 2], abs=1e-3)
    row = RingRow(7, ("alice", "bob"), [], found, 60.0, 100.0, 20.0, [90, 96], [100, 100], [95, 95])
    assert row.made_over_planned == 0.93
    assert "4 of   5 within 2 sigma, worst -3.00 (delay at modulators of alice)" in shown(row)
    told = table([row, replace(row, seed=8, made_bits=[101, 99])])
    assert "1 within 5 %, 0.930 to 1.000" in told
    assert "80.0 %        3.00" in told
    (tmp_path / "rings.jsonl").write_text(json.dumps(asdict(row)) + "\n")
    assert kept_rows(tmp_path / "rings.jsonl") == {7: row}


def test_a_ring_without_key_says_why_and_has_no_rate() -> None:
    row = RingRow(3, ("alice", "bob"), ["phase of bob: too few clicks"], [], 0, 0, 0, [], [], [], "no light")
    assert math.isnan(row.made_over_planned)
    assert "refused: phase of bob: too few clicks" in shown(row)
    assert "no light" in shown(row)
    assert "made/planned" not in table([row])
