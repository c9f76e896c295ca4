"""The light of a file: what its generators' edges and words cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from drivers import catalogue
from lab.light_of import pair_light, ring_light
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, load_testbed
from orchestrator.protocols.four_phase.ring_plan import Trust, uncertainties


def with_generator(model: str, user: str, clock_hz: float = 100e6) -> Testbed:
    testbed = load_testbed(template_path("simulated-four-node"))
    instruments = tuple(
        each.model_copy(update={"model": model}) if each.name == f"awg_{user}" else each
        for each in testbed.instruments
    )
    protocol = testbed.protocol.model_copy(update={"clock_hz": clock_hz})
    return testbed.model_copy(update={"instruments": instruments, "protocol": protocol})


def test_edges_and_words_are_those_of_each_users_generator() -> None:
    row = catalogue.row("keysight-33622a")
    light = ring_light(with_generator("keysight-33622a", "carol", 25e6))
    assert [each.rise_ns for each in light.stations] == [1.5, 1.5, math.hypot(1.5, row.edge_ns), 1.5]
    assert light.duty == pytest.approx(116e6 / (25e6 * 2 * row.bytes_per_sample))
    fast = ring_light(with_generator("tektronix-awg70002a", "carol"))
    assert {each.rise_ns for each in fast.stations} == {1.5}
    assert fast.bytes_per_sample == 4


def test_a_slower_edge_lets_the_other_direction_take_more_of_the_phase_along() -> None:
    fast, slow = (
        pair_light(with_generator(model, "dave"), "alice", "dave")
        for model in ("tektronix-awg70002a", "keysight-33622a")
    )
    assert slow.memory[0] == fast.memory[0]
    assert slow.memory[1] > 10 * fast.memory[1]


def test_a_longer_slot_has_more_gates_beside_the_pulse() -> None:
    pair = pair_light(with_generator("tektronix-awg70002a", "dave"), "alice", "dave")
    pair = replace(pair, ring=replace(pair.ring, relay=replace(pair.ring.relay, extinction_db=40.0)))
    slow = replace(pair, ring=replace(pair.ring, clock_hz=25e6))
    for mine, theirs in zip(uncertainties(pair, Trust()), uncertainties(slow, Trust()), strict=True):
        assert (mine.gates_per_slot, theirs.gates_per_slot) == (10.0, 40.0)
        assert theirs.mu_upper(0.01) > mine.mu_upper(0.01)
