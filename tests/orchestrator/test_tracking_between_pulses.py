"""Light between pulses: what of it the carver lets through."""

from __future__ import annotations

import numpy as np
import pytest

from lab.calibration.gates import GateCounts
from orchestrator.light.tracking.between_pulses import between_pulses

SLOTS, GATE_NS, SLOT_NS = 20_000_000, 1.0, 10.0
PULSE, DARK, SCATTERED = 0.01, 3e-7, 7e-4
"""A pulse per slot at both detectors, dark counts per gate, and scattered light for every photon of either direction."""


def counts(rng: np.random.Generator, *, through: float = 0.0, scattered: float = 1.0) -> GateCounts:
    """``through`` of a pulse passes the carver in a gate; ``scattered`` times the mean comes back."""
    per_gate = DARK + scattered * SCATTERED * PULSE / 2 + through * PULSE / 2
    empty = GateCounts(np.zeros(2), np.zeros(2), SLOTS, GATE_NS, SLOT_NS)
    quiet = rng.poisson(per_gate * SLOTS * empty.quiet_ns / GATE_NS, 2)
    inside = rng.poisson([(PULSE + per_gate) * SLOTS, per_gate * SLOTS])
    return GateCounts(inside.astype(np.float64), quiet.astype(np.float64), SLOTS, GATE_NS, SLOT_NS)


@pytest.mark.parametrize("scattered", [0.3, 1.0, 3.0])
def test_dark_counts_and_scattered_light_are_known(scattered: float) -> None:
    for seed in range(300):
        found = between_pulses(counts(np.random.default_rng(seed), scattered=scattered), DARK, SCATTERED)
        assert found is not None
        assert not found.is_let_through


def test_what_the_carver_lets_through_beside_them_is_seen_and_said_in_db_of_a_pulse() -> None:
    found = between_pulses(counts(np.random.default_rng(1), through=10**-1.5), DARK, SCATTERED)
    assert found is not None
    assert found.is_let_through
    assert found.counted_db == pytest.approx(-15, abs=0.3)
    assert found.known_db == pytest.approx(10 * np.log10(3 * SCATTERED + 2 * DARK / PULSE), abs=0.1)


def test_in_the_dark_nothing_is_said() -> None:
    nothing = GateCounts(np.zeros(2), np.zeros(2), SLOTS, GATE_NS, SLOT_NS)
    assert between_pulses(nothing, DARK, SCATTERED) is None
