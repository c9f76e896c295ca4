"""Every symbol meets its own pulse, whatever the delays of a station are, and the other direction's meets 0 V."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, parse_testbed
from orchestrator.light.symbols import SymbolFrame, drive_table
from orchestrator.light.timing import frame_timing
from orchestrator.protocols.four_phase.symbols import FourPhases

SLOT_PS, SLOTS = 10_000, 32
Direction = Literal["cw", "ccw"]


@cache
def bundled() -> Testbed:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    return parse_testbed(data, Path("t"))


def with_delays(own_ps: int, other_ps: int, direction: Direction, samples_per_slot: int) -> Testbed:
    testbed = bundled()
    delays = (own_ps, other_ps) if direction == "cw" else (other_ps, own_ps)
    alice = testbed.users[0].model_copy(update={"modulator_delays_ps": delays})
    protocol = testbed.protocol.model_copy(update={"samples_per_slot": samples_per_slot})
    return testbed.model_copy(update={"users": (alice, *testbed.users[1:]), "protocol": protocol})


directions = st.sampled_from(["cw", "ccw"])
sample_counts = st.sampled_from([2, 4, 8])


@settings(max_examples=200, deadline=None)
@given(
    own_ps=st.integers(5_000, 60_000_000),
    apart_ps=st.integers(4_000, 5_900),
    turns=st.integers(0, 3000),
    direction=directions,
    samples_per_slot=sample_counts,
)
def test_a_pulse_passes_late_in_its_own_half_and_the_other_late_in_the_half_of_0_v(
    own_ps: int, apart_ps: int, turns: int, direction: Direction, samples_per_slot: int
) -> None:
    """The other direction's pulse may pass any number of slots earlier or later."""
    other_ps = own_ps + apart_ps + (turns - 1500) * SLOT_PS
    testbed = with_delays(own_ps, other_ps, direction, samples_per_slot)
    timing = frame_timing(testbed, "alice", direction)
    sample_ps, half_ps = SLOT_PS / samples_per_slot, SLOT_PS / 2
    assert timing.lead_samples >= 0
    assert 0 <= timing.fine_delay_ps < sample_ps
    start_ps = timing.lead_samples * sample_ps + timing.fine_delay_ps
    assert 0.8 * half_ps - 1e-3 <= own_ps - start_ps <= 0.9 * half_ps + 1e-3
    assert half_ps + 0.65 * half_ps < (other_ps - start_ps) % SLOT_PS < SLOT_PS


@settings(max_examples=100, deadline=None)
@given(
    own_ps=st.integers(5_000, 2_000_000),
    apart_ps=st.integers(3_000, 7_000),
    direction=directions,
    samples_per_slot=sample_counts,
    seed=st.integers(0, 1 << 30),
)
def test_pulse_k_finds_symbol_k_in_what_plays(
    own_ps: int, apart_ps: int, direction: Direction, samples_per_slot: int, seed: int
) -> None:
    testbed = with_delays(own_ps, own_ps + apart_ps, direction, samples_per_slot)
    timing = frame_timing(testbed, "alice", direction)
    symbols, rng = FourPhases(0.75), np.random.default_rng(seed)
    drive = drive_table(symbols, v_pi_v=4.0, rf_gain=20.0, amplitude_vpp=0.5)
    frame = SymbolFrame(SLOTS, symbols.of_bytes)
    frame.draw(lambda buffer: buffer.__setitem__(slice(None), rng.bytes(len(buffer))))
    played = np.zeros(timing.lead_samples + SLOTS * samples_per_slot, np.float32)
    frame.write_waveform(drive, played, samples_per_slot=samples_per_slot, lead_samples=timing.lead_samples)
    arrivals_ps = own_ps + SLOT_PS * np.arange(SLOTS) - timing.fine_delay_ps
    at = (arrivals_ps // (SLOT_PS / samples_per_slot)).astype(int)
    level_of = dict(zip(symbols.of_bytes.tolist(), drive.tolist(), strict=True))
    expected = [level_of[code] for code in frame.at(np.arange(SLOTS, dtype=np.uint32)).tolist()]
    assert played[at].tolist() == expected


@given(own_ps=st.integers(1, 3_990), direction=directions)
def test_a_pulse_that_passes_before_the_generator_plays_is_refused(own_ps: int, direction: Direction) -> None:
    testbed = with_delays(own_ps, own_ps + SLOT_PS // 2, direction, 2)
    with pytest.raises(ValueError, match="alice: slot 0 passes before the generator plays"):
        frame_timing(testbed, "alice", direction)
